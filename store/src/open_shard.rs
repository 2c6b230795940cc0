//! Shard files that are open for reading, with their checked indexes: a bounded cache of them. Reads no
//! payload.

use crate::array::ArraySpec;
use crate::layout::{Layout, ROOT};
use crate::payload_file::{PayloadFile, drop_pages};
use crate::storage::open_file;
use crate::zarr::{array_document, check_document, parse_document};
use crate::{Error, PagePolicy, Result, ShardIndex};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An array's document is small; what is larger is not one.
pub(crate) const MAX_ARRAY_DOCUMENT_BYTES: u64 = 1 << 20;

/// One shard, open.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub(crate) file: PayloadFile,
    pub(crate) path: PathBuf,
    pub(crate) index: ShardIndex,
}

impl OpenShard {
    /// Opens shard `k` of `array` and checks its index.
    pub(crate) fn open(layout: &Layout, array: &ArraySpec, k: u64, policy: PagePolicy) -> Result<Self> {
        let path = layout.resolve(&layout.path(ROOT), &array.shard_path(k))?;
        let file = open(&path)?;
        let bytes = file.metadata().map_err(Error::io(&path))?.len();
        let index = ShardIndex::read(&file, bytes, array, k, &path)?;
        if !policy.fills_the_cache() {
            drop_pages(&file, &(index.start()..bytes));
        }
        Ok(Self { file: PayloadFile::new(file, policy, &path)?, path, index })
    }
}

/// Opens a file of a store; one that is missing is a corruption, because the store says it is there.
pub(crate) fn open(path: &Path) -> Result<File> {
    open_file(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::corrupt(path, "the file is missing"),
        _ => Error::io(path)(e),
    })
}

/// Checks that an array's document on disk is the one that its spec implies.
pub(crate) fn check_array_document(layout: &Layout, array: &ArraySpec) -> Result<()> {
    check_document_of(layout, &array.document_path(), &array_document(array))
}

/// Checks that the document at a path relative to the store is the expected one.
pub(crate) fn check_document_of(layout: &Layout, relative: &str, expected: &Value) -> Result<()> {
    let path = layout.resolve(&layout.path(ROOT), relative)?;
    let mut bytes = Vec::new();
    let file = open(&path)?;
    file.take(MAX_ARRAY_DOCUMENT_BYTES).read_to_end(&mut bytes).map_err(Error::io(&path))?;
    check_document(&path, expected, &parse_document(&bytes, &path)?)
}

/// Open shards, least recently used out first. Bounded in files and in index memory; what a batch is
/// using stays open until it is done.
#[derive(Debug)]
pub(crate) struct ShardCache {
    layout: Layout,
    shards: HashMap<Key, Entry>,
    /// Arrays whose document has been checked.
    checked: HashSet<ArrayPlace>,
    clock: u64,
    index_bytes: usize,
    max_files: usize,
    max_index_bytes: usize,
    policy: PagePolicy,
}

/// Which array of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ArrayPlace {
    /// Number of the bucket.
    pub(crate) bucket: usize,
    /// Number of the level.
    pub(crate) level: usize,
    /// Whether it is the level's array of scales and offsets.
    pub(crate) affine: bool,
}

/// An array and a shard of it.
type Key = (ArrayPlace, u64);

#[derive(Debug)]
struct Entry {
    shard: Arc<OpenShard>,
    used: u64,
}

impl ShardCache {
    pub(crate) fn new(layout: Layout, max_files: usize, max_index_bytes: usize, policy: PagePolicy) -> Self {
        Self {
            layout,
            shards: HashMap::new(),
            checked: HashSet::new(),
            clock: 0,
            index_bytes: 0,
            max_files: max_files.max(1),
            max_index_bytes,
            policy,
        }
    }

    /// Files that may be open at a time.
    pub(crate) fn max_files(&self) -> usize {
        self.max_files
    }

    /// Shard `k` of `array`, which lies at `place` of the store.
    pub(crate) fn get(&mut self, place: ArrayPlace, array: &ArraySpec, k: u64) -> Result<Arc<OpenShard>> {
        self.clock += 1;
        let key = (place, k);
        if let Some(entry) = self.shards.get_mut(&key) {
            entry.used = self.clock;
            return Ok(Arc::clone(&entry.shard));
        }
        if !self.checked.contains(&place) {
            check_array_document(&self.layout, array)?;
            self.checked.insert(place);
        }
        // Room first: at no time are more files open than allowed.
        let room = self.max_files - 1;
        while self.shards.len() > room || (self.index_bytes > self.max_index_bytes && !self.shards.is_empty())
        {
            self.evict();
        }
        let shard = Arc::new(OpenShard::open(&self.layout, array, k, self.policy)?);
        self.index_bytes += shard.index.memory_bytes();
        self.shards.insert(key, Entry { shard: Arc::clone(&shard), used: self.clock });
        Ok(shard)
    }

    fn evict(&mut self) {
        let oldest = self.shards.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
        if let Some(entry) = oldest.and_then(|key| self.shards.remove(&key)) {
            self.index_bytes -= entry.shard.index.memory_bytes();
        }
    }

    #[cfg(test)]
    pub(crate) fn open_files(&self) -> usize {
        self.shards.len()
    }
}
