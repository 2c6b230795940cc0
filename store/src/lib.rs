//! The featcache store: an open, crash-safe format for the multi-scale features of a frozen backbone.
//!
//! No torch, no images, no models: what the two sides of the store need of a model is data in its
//! [`Recipe`]. Modules in reading order: what features are ([`recipe`], [`geometry`], [`view`]), which
//! samples exist ([`listing`], [`plan`]), how bytes lie on disk ([`block`], [`encoding`]), how they get
//! there and how they come back.

pub mod array;
pub mod block;
mod canonical;
pub mod chunk;
mod conversion;
pub mod encoding;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod geometry;
pub mod key;
pub mod layout;
pub mod listing;
pub mod plan;
pub mod recipe;
pub mod shard;
pub mod shard_index;
pub mod staged;
pub mod storage;
pub mod table;
pub mod view;
pub mod zarr;

pub use array::ArraySpec;
pub use block::{Block, DType};
pub use encoding::{Encoding, Encodings};
pub use error::{Error, Result};
pub use geometry::{ResizeRule, Size};
pub use key::{RowId, SampleKey};
pub use layout::Layout;
pub use listing::{Annotation, Category, ListedSample, Listing};
pub use plan::{Bucket, DEFAULT_SHARD_BYTES, Place, Plan, PlanRow, Unit};
pub use recipe::{BackboneSpec, Compute, Fingerprint, LevelSpec, Preprocess, Recipe};
pub use shard::ShardWriter;
pub use shard_index::ShardIndex;
pub use staged::{Digest, Staged};
pub use storage::{FsStorage, Storage, StorageFile};
pub use view::{ViewGeometry, ViewSpec};
