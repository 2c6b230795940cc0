//! The levels of a store in numbers: their bytes, and their values in binary32. Reads no files itself.

use featcache_store::layout::{affine_name, array_folder};
use featcache_store::{Compression, LevelSpec, Manifest, Status, Store};
use std::collections::BTreeSet;

/// Bytes that each level's features take as they are encoded, in the recipe's order: of the rows that have
/// features. Of a compressed level its files' bytes once the store is finished, and until then what it takes
/// before compression.
pub fn payload_bytes(store: &Store) -> Vec<u64> {
    let bytes = |level: &LevelSpec| {
        let Some(encoding) = store.encodings().of(&level.name) else { return 0 };
        if let (Some(manifest), true) = (store.manifest(), encoding.compression != Compression::None) {
            return file_bytes(store, manifest, level);
        }
        let with_features = store.rows().iter().filter(|row| row.status == Status::Ok);
        let sizes = with_features.filter_map(|row| row.bucket);
        sizes.map(|size| encoding.sample_bytes(level.shape(size))).sum()
    };
    store.recipe().levels.iter().map(bytes).collect()
}

/// Bytes of a level's shards.
fn file_bytes(store: &Store, manifest: &Manifest, level: &LevelSpec) -> u64 {
    let names = [level.name.clone(), affine_name(&level.name)];
    let folders =
        store.buckets().iter().flat_map(|bucket| names.each_ref().map(|name| array_folder(bucket, name)));
    let folders: BTreeSet<String> = folders.collect();
    let is_shard = |path: &str| {
        path.rsplit_once('/').is_some_and(|(folder, name)| name.starts_with("c.") && folders.contains(folder))
    };
    manifest.files.iter().filter(|file| is_shard(&file.path)).map(|file| file.bytes).sum()
}

/// The values of a level that was read in binary32.
pub fn values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value))
}
