//! The levels of a store as a head reads them: those that are held as coefficients have as many channels as
//! coefficients where it asks for these. Must not read features.

use featcache_store::{LevelSpec, Projected, Store};

/// All levels of a store, finest first, with the channels that they are handed out in.
pub(crate) fn read_levels(store: &Store, projected: Projected) -> Vec<LevelSpec> {
    let as_read = |level: &LevelSpec| {
        let encoding = store.encodings().of(&level.name).filter(|_| projected == Projected::Coefficients);
        let channels = encoding.map_or(level.channels, |encoding| encoding.coefficients(level.channels));
        LevelSpec { channels, ..level.clone() }
    };
    store.recipe().levels.iter().map(as_read).collect()
}
