//! How fast a disk reads by each page policy: a short measurement that helps to choose one. Writes nothing
//! into a store.

use crate::batch::AlignedBytes;
use crate::fetch::DIRECT_SCRATCH_BYTES;
use crate::payload_file::{COLD_REQUEST_BYTES, PayloadFile, Way, drop_pages};
use crate::raw_read::on_threads;
use crate::{Error, PagePolicy, Result, Store};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that are read by each policy at most.
const TEST_BYTES: u64 = 96 << 20;
/// What differs where pages are cold: by `Mapped` large reads are those of `Buffered`.
const POLICIES: [PagePolicy; 3] = [PagePolicy::Buffered, PagePolicy::DontCache, PagePolicy::Direct];
const BLOCK_BYTES: u64 = COLD_REQUEST_BYTES as u64;
/// Passes by each policy, of which the best counts: a test so short is easily disturbed.
const PASSES: usize = 2;

/// Cold reading by one policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyRate {
    /// The policy.
    pub pages: PagePolicy,
    /// 10⁹ bytes a second; `None` where the file system refuses it.
    pub gb_per_s: Option<f64>,
}

/// What the self-test has found: by `buffered`, `dontcache` and `direct`.
#[derive(Debug, Clone, Serialize)]
pub struct SelfTest {
    /// Of each policy.
    pub rates: Vec<PolicyRate>,
}

impl SelfTest {
    /// Measures the disk under `folder` with a temporary file there, which is gone afterwards.
    ///
    /// # Errors
    /// [`Error::Io`], for a folder that cannot be written, or a disk that is full.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(format!(".featcache-self-test-{}", std::process::id()));
        let mut file =
            File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        // Without a name nobody has to remove it, whatever ends this.
        std::fs::remove_file(&path).map_err(Error::io(&path))?;
        // What a disk cannot make smaller.
        let mut noise = vec![0; COLD_REQUEST_BYTES];
        for number in 0..TEST_BYTES / BLOCK_BYTES {
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut noise);
            file.write_all(&noise).map_err(Error::io(&path))?;
        }
        file.sync_all().map_err(Error::io(&path))?;
        Self::of_file(&file, TEST_BYTES, &path)
    }

    /// Measures with a shard of the store. `None` if it holds none that is worth it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_store(store: &Store) -> Result<Option<Self>> {
        let shards = store.manifest().into_iter().flat_map(|manifest| &manifest.files);
        let largest = shards.max_by_key(|entry| entry.bytes).filter(|entry| entry.bytes >= TEST_BYTES / 8);
        let Some(entry) = largest else { return Ok(None) };
        let root = store.layout().path(crate::layout::ROOT);
        let path = store.layout().resolve(&root, &entry.path)?;
        let file = crate::open_shard::open(&path)?;
        let bytes = file.metadata().map_err(Error::io(&path))?.len().min(entry.bytes).min(TEST_BYTES);
        Self::of_file(&file, bytes, &path).map(Some)
    }

    fn of_file(file: &File, bytes: u64, path: &Path) -> Result<Self> {
        let mut best = [None; POLICIES.len()];
        for _ in 0..PASSES {
            for (pages, best) in POLICIES.into_iter().zip(&mut best) {
                let rate = rate(file, bytes, pages, path)?;
                *best = rate.map(|rate| best.map_or(rate, |best: f64| best.max(rate)));
            }
        }
        let rates = POLICIES.into_iter().zip(best);
        Ok(Self { rates: rates.map(|(pages, gb_per_s)| PolicyRate { pages, gb_per_s }).collect() })
    }

    /// The faster of the policies that leave the page cache alone, if there is one.
    pub fn fastest_around_the_cache(&self) -> Option<PagePolicy> {
        let known = self.rates.iter().filter(|rate| !rate.pages.fills_the_cache());
        let known = known.filter_map(|rate| Some((rate.pages, rate.gb_per_s?)));
        known.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(pages, _)| pages)
    }
}

/// Of one pass over cold pages; `None` where the file system refuses the policy.
fn rate(file: &File, bytes: u64, pages: PagePolicy, path: &Path) -> Result<Option<f64>> {
    drop_pages(file, &(0..bytes));
    let file = match PayloadFile::new(file.try_clone().map_err(Error::io(path))?, pages, path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported => return Ok(None),
        file => file?,
    };
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        // As readers have it: a huge page, without which direct requests are cut up.
        let mut block = AlignedBytes::default();
        block.grow(DIRECT_SCRATCH_BYTES).map_err(Error::io(path))?;
        loop {
            let start = next.fetch_add(BLOCK_BYTES, Ordering::Relaxed);
            if start >= bytes {
                return Ok(());
            }
            let read = file.read(start..(start + BLOCK_BYTES).min(bytes), &mut block, Way::Read);
            read.map_err(|failure| failure.error(path))?;
        }
    };
    let start = Instant::now();
    on_threads(pages.threads(1), work)?;
    Ok(Some(bytes as f64 / start.elapsed().as_secs_f64() / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_measured_and_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let test = SelfTest::of_folder(folder.path()).unwrap();
        assert_eq!(test.rates.iter().map(|rate| rate.pages).collect::<Vec<_>>(), POLICIES);
        for rate in &test.rates {
            assert!(rate.gb_per_s.is_none_or(|gb_per_s| gb_per_s > 0.0 && gb_per_s.is_finite()), "{rate:?}");
        }
        assert!(test.rates[0].gb_per_s.is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(matches!(SelfTest::of_folder(&folder.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn the_faster_policy_around_the_cache_is_chosen() {
        let test = |rates: [Option<f64>; 3]| SelfTest {
            rates: POLICIES
                .into_iter()
                .zip(rates)
                .map(|(pages, gb_per_s)| PolicyRate { pages, gb_per_s })
                .collect(),
        };
        let chosen = |rates| test(rates).fastest_around_the_cache();
        assert_eq!(chosen([Some(9.0), Some(1.0), Some(2.0)]), Some(PagePolicy::Direct));
        assert_eq!(chosen([Some(9.0), Some(2.0), Some(1.0)]), Some(PagePolicy::DontCache));
        assert_eq!(chosen([Some(9.0), Some(1.0), None]), Some(PagePolicy::DontCache));
        assert_eq!(chosen([Some(9.0), None, None]), None);
    }
}
