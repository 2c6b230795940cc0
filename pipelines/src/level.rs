//! The levels of a store in numbers: their bytes, and their values in binary32. Reads no files itself.

use featcache_store::{Status, Store};

/// Bytes that each level's features take as they are encoded, in the recipe's order: of the rows that have
/// features.
pub fn payload_bytes(store: &Store) -> Vec<u64> {
    let bytes = |level: &featcache_store::LevelSpec| {
        let Some(encoding) = store.encodings().of(&level.name) else { return 0 };
        let with_features = store.rows().iter().filter(|row| row.status == Status::Ok);
        let sizes = with_features.filter_map(|row| row.bucket);
        sizes.map(|size| encoding.sample_bytes(level.shape(size))).sum()
    };
    store.recipe().levels.iter().map(bytes).collect()
}

/// The values of a level that was read in binary32.
pub fn values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value))
}
