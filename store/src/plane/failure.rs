//! Why a batch could not be read, in words: which file, row, level and band; and which row it was, for
//! readers that go on without it.

use crate::Error;
use crate::band::RequestedLevel;
use crate::fetch::{Cause, Fault};
use crate::open_shard::OpenShard;

/// Why a batch could not be read.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Position in the request of the row that it is about, if it is about one.
    pub(crate) slot: Option<usize>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, slot: None }
    }
}

impl Failure {
    /// An error about the row at this position of the request, for `map_err`.
    pub(crate) fn of(slot: usize) -> impl FnOnce(Error) -> Self {
        move |error| Self { error, slot: Some(slot) }
    }

    /// What is wrong with a chunk.
    pub(crate) fn of_piece(
        fault: Fault,
        levels: &[RequestedLevel<'_>],
        name: &dyn Fn(usize) -> String,
    ) -> Self {
        let Fault { place, shard, cause } = fault;
        let path = shard.path.clone();
        let error = match cause {
            Cause::Io(source) => Error::Io { path, source },
            Cause::Ends(_) | Cause::Checksum { .. } | Cause::Frame(_) => {
                let level = levels.get(place.level).map_or("?", |level| level.name());
                let place = format!("{}, level {level}, band {}", name(place.slot), place.band);
                Error::corrupt(path, format!("{place}: {cause}"))
            }
        };
        Self { error, slot: Some(place.slot) }
    }
}

/// A row that should have features and has none.
pub(crate) fn no_features(
    shard: &OpenShard,
    slot: usize,
    name: &dyn Fn(usize) -> String,
    level: &RequestedLevel<'_>,
) -> Failure {
    let what = format!("{}, level {}: no features", name(slot), level.name());
    Failure::of(slot)(Error::corrupt(&shard.path, what))
}
