//! A version of a store's features: encodings that they go through before a head sees them. Must not know
//! where batches come from.

use featcache_store::{Encodings, Projections, Store};

/// What a store of other encodings would hand out of the same rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// The encoding of every level.
    pub encodings: Encodings,
    /// The bases of exactly those levels that these hold as coefficients.
    pub projections: Projections,
}

impl Version {
    /// The features as the store holds them.
    pub fn of(store: &Store) -> Self {
        Self { encodings: store.encodings().clone(), projections: store.projections().clone() }
    }
}
