//! The featcache store: an open, crash-safe format for the multi-scale features of a frozen backbone.
//!
//! No torch, no images, no models: what the two sides of the store need of a model is data in its
//! [`Recipe`]. Modules in reading order: what features are ([`recipe`], [`geometry`], [`view`]), which
//! samples exist ([`listing`], [`plan`], [`bucket`]), how bytes lie on disk ([`block`], [`element`],
//! [`encoding`], [`projection`], [`loss`], [`mod@array`], [`shard`]), how they get there ([`writer`],
//! [`encoded_row`], [`mod@unit`], [`finish`]) and how they come back ([`store`], [`read`]), or go into another
//! store ([`mod@transcode`]). On disk: `docs/format.md`.

#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::host_endian_bytes)
)]

pub mod allocation;
pub mod array;
pub mod band;
pub mod batch;
pub mod bench_read;
pub mod block;
pub mod bucket;
mod bus_guard;
mod canonical;
mod checksum;
pub mod chunk;
pub mod claim;
pub mod compression;
mod conversion;
#[cfg(test)]
mod crash;
pub mod element;
pub mod encoded_row;
mod encoder;
pub mod encoding;
pub mod encodings;
pub mod error;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod faulty;
mod fetch;
pub mod fill;
pub mod finish;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod fork;
pub mod geometry;
mod instruction_set;
pub mod key;
pub mod layout;
mod level_encoder;
pub mod listing;
pub mod loss;
pub mod manifest;
mod mapped_file;
pub mod number_format;
mod open_shard;
pub mod ordered;
pub mod page_policy;
mod payload_file;
pub mod plan;
mod plane;
pub mod projection;
pub mod projections;
mod quantised;
pub mod raw_read;
pub mod read;
mod read_pool;
pub mod recipe;
pub mod rows;
pub mod run;
pub mod self_test;
pub mod shard;
pub mod shard_index;
pub mod sink;
pub mod spec;
pub mod spread;
pub mod staged;
pub mod storage;
pub mod store;
mod streaming;
pub mod table;
pub mod transcode;
pub mod trial;
pub mod unit;
pub mod verify;
pub mod view;
pub mod writer;
pub mod zarr;

pub use array::{ArraySpec, LevelArrays};
pub use band::RowBand;
pub use batch::{AllocateMemory, Batch, BatchMemory, LevelBatch};
pub use bench_read::{BenchReadOptions, Portion, ReadBench, ReadKind, ReadMeasurement, bench_read};
pub use block::{Block, DType};
pub use bucket::{Bucket, Unit};
pub use claim::{Claim, Poison, PoisonGuard};
pub use compression::Compression;
pub use element::ElementType;
pub use encoded_row::EncodedRow;
pub use encoding::Encoding;
pub use encodings::Encodings;
pub use error::{Error, Result};
pub use finish::Finish;
pub use geometry::{ResizeRule, Size};
pub use key::{LevelId, RowId, SampleKey};
pub use layout::Layout;
pub use listing::{Annotation, Category, ListedSample, Listing};
pub use loss::{LevelLoss, Loss, WorstRow};
pub use manifest::Manifest;
pub use number_format::NumberFormat;
pub use ordered::ordered;
pub use page_policy::PagePolicy;
pub use plan::{DEFAULT_SHARD_BYTES, Place, Plan, PlanRow};
pub use projection::{Projected, Projection};
pub use projections::{NewStore, ProjectionHashes, Projections};
pub use read::{OnCorrupt, ReadCounts, ReadOptions, Reader, Verify};
pub use recipe::{BackboneSpec, Compute, Fingerprint, LevelSpec, Preprocess, Recipe};
pub use rows::{Rows, SampleRow, Status};
pub use run::Run;
pub use self_test::{PolicyRate, SelfTest};
pub use shard::ShardWriter;
pub use shard_index::ShardIndex;
pub use sink::{Appended, Commit, FeatureSink, NullSink, RowOutcome, UnitSink};
pub use spec::{DatasetSpec, FORMAT, Licence, Spec};
pub use spread::Spread;
pub use staged::{Digest, Staged};
pub use storage::{FsStorage, Storage, StorageFile};
pub use store::{OpenOptions, Store};
pub use transcode::{DEFAULT_TRANSCODE_BYTES, Selection, Transcode, TranscodeCounters, TranscodeOptions};
pub use trial::{RateMemory, Trial, TrialReport};
pub use unit::UnitWriter;
pub use verify::{Problem, Verification, VerifyOptions, verify};
pub use view::{ViewGeometry, ViewSpec};
pub use writer::{StoreWriter, WriterOptions};
