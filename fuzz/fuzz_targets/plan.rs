//! `plan.parquet`, under the hash that the store says it has: of a complete store and of an incomplete one.

#![no_main]

use featcache_fuzz::{damaged, prey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let &[which, edits @ ..] = &data else { return };
    prey().open_with("plan.parquet", |sound| damaged(sound, edits), which % 2 == 0);
});
