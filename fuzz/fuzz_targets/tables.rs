//! The other tables, under the hashes that the store says they have.

#![no_main]

use featcache_fuzz::{damaged, prey};
use libfuzzer_sys::fuzz_target;

/// The table, and whether the store is complete.
const TABLES: [(&str, bool); 4] = [
    ("samples.parquet", true),
    ("annotations.parquet", true),
    ("categories.parquet", true),
    ("units/train/base/32x32/0.parquet", false),
];

fuzz_target!(|data: &[u8]| {
    let &[which, edits @ ..] = &data else { return };
    let (table, complete) = TABLES[usize::from(*which) % TABLES.len()];
    prey().open_with(table, |sound| damaged(sound, edits), complete);
});
