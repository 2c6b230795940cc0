//! Which page policy a run takes where the user leaves it to us: by the store's size, the memory and, where
//! the store does not fit, a short test of the disk.

use crate::doctor::limits;
use anyhow::Result;
use featcache_store::{PagePolicy, SelfTest, Store};
use std::fmt;
use std::str::FromStr;

/// What `--pages` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageChoice {
    /// The one that suits store, memory and disk.
    Auto,
    /// This one.
    Policy(PagePolicy),
}

impl FromStr for PageChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            policy => policy.parse().map(Self::Policy).map_err(|_| {
                let known = PagePolicy::ALL.map(|policy| policy.to_string()).join(", ");
                format!("expected auto or one of {known}")
            }),
        }
    }
}

impl fmt::Display for PageChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Policy(policy) => policy.fmt(f),
        }
    }
}

impl PageChoice {
    /// The policy for reading this store again and again.
    ///
    /// # Errors
    /// Reading the store's disk fails.
    pub fn of(self, store: &Store) -> Result<PagePolicy> {
        let bytes = match (self, store.manifest()) {
            (Self::Policy(policy), _) => return Ok(policy),
            // Of a store that is being written, pages are there anyway.
            (Self::Auto, None) => return Ok(PagePolicy::Mapped),
            (Self::Auto, Some(manifest)) => manifest.files.iter().map(|file| file.bytes).sum(),
        };
        if fits(bytes, limits::free_memory_bytes()) {
            return Ok(PagePolicy::Mapped);
        }
        let test = SelfTest::of_store(store)?;
        let policy = test.and_then(|test| test.fastest_around_the_cache()).unwrap_or_default();
        log::info!("pages: {policy}, because the store does not fit into memory (--pages takes another)");
        Ok(policy)
    }
}

/// Whether what is read once can be expected to be still there an epoch later.
fn fits(store_bytes: u64, free_bytes: Option<u64>) -> bool {
    free_bytes.is_none_or(|free| store_bytes <= free / 5 * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_fits_if_it_leaves_a_fifth_of_the_memory() {
        assert!(fits(79, Some(100)) && fits(0, Some(0)) && fits(u64::MAX, None));
        assert!(!fits(81, Some(100)) && !fits(1, Some(0)));
    }

    #[test]
    fn choices_are_read_as_they_are_shown() {
        for text in ["auto", "buffered", "mapped", "dontcache", "direct"] {
            assert_eq!(text.parse::<PageChoice>().map(|choice| choice.to_string()).as_deref(), Ok(text));
        }
        assert!("mmap".parse::<PageChoice>().unwrap_err().contains("buffered, mapped, dontcache, direct"));
    }
}
