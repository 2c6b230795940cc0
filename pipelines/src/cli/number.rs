//! Ranges of the numbers that flags take.

/// Most MiB that a flag may ask for: an exabyte.
pub(super) const MOST_MIB: u64 = 1 << 40;

/// Most threads or readers that a flag may ask for: more is a slip of the finger.
const MOST_THREADS: usize = 1024;

/// A number of things of which one at least is meant.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| format!("expected a number from 1, found {text:?}"))?;
    if count == 0 { Err("expected a number from 1, found 0".to_owned()) } else { Ok(count) }
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    let refuse = || format!("expected 1 to {MOST_THREADS}, found {text}");
    text.parse().ok().filter(|count| (1..=MOST_THREADS).contains(count)).ok_or_else(refuse)
}
