//! The levels of a store in numbers: their bytes, and their values in binary32. Reads no files itself.

use featcache_store::{Status, Store};

/// Bytes that each level's features take, in the recipe's order, before compression: of the rows that have
/// features.
pub fn payload_bytes(store: &Store) -> Vec<u64> {
    let bytes = |level: &featcache_store::LevelSpec| {
        let element = store.encodings().of(&level.name).map_or(0, |e| e.payload_dtype().bytes());
        let with_features = store.rows().iter().filter(|row| row.status == Status::Ok);
        let elements = with_features.filter_map(|row| row.bucket).map(|size| {
            let [h, w, c] = level.shape(size);
            (h * w * c) as u64
        });
        elements.sum::<u64>() * element as u64
    };
    store.recipe().levels.iter().map(bytes).collect()
}

/// The values of a level that was read in binary32.
pub fn values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value))
}
