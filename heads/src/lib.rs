//! Features in, metrics out: heads trained and scored from a store, without images and without a
//! backbone.
//!
//! Modules in reading order: what is trained ([`recipe`], [`precision`]), on which rows ([`selection`],
//! [`order`], [`seed`]) and what comes of them ([`labels`], the shapes of objects in [`mask`],
//! [`truth`], [`objects`], [`tensor`], [`loader`]); the model ([`parameter`], [`phase`], [`norm`],
//! [`conv`], [`dense`], [`neck`], [`head`], [`model`]), detectors ([`detector`]) and what they are made of
//! ([`detection`]); one step ([`loss`], [`losses`], [`optimizer`], [`schedule`]); the loop ([`task`],
//! [`train`](mod@train), [`identity`], [`features`], [`checkpoint`], [`log`]); and what came out ([`run`],
//! [`segment`], [`found`], [`metric`], [`evaluate`](mod@evaluate)). [`bench_loader`] measures.

pub mod bench_loader;
pub mod checkpoint;
pub mod conv;
pub mod dense;
pub mod detection;
pub mod detector;
pub mod error;
pub mod evaluate;
pub mod features;
pub mod found;
pub mod head;
pub mod identity;
pub mod labels;
pub mod loader;
pub mod log;
pub mod loss;
pub mod losses;
pub mod mask;
mod meter;
pub mod metric;
pub mod model;
pub mod neck;
pub mod norm;
pub mod objects;
pub mod optimizer;
pub mod order;
pub mod parameter;
pub mod phase;
pub mod precision;
mod read_levels;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod seed;
pub mod segment;
pub mod selection;
mod shared_maps;
pub mod task;
pub mod tensor;
mod tensor_memory;
pub mod train;
mod trainee;
pub mod truth;
pub mod version;

pub use error::{Error, Result};
pub use evaluate::{EvaluateSettings, Report, evaluate};
pub use model::SemanticModel;
pub use phase::Phase;
pub use precision::Precision;
pub use recipe::TrainRecipe;
pub use run::Run;
pub use segment::{LabelMap, SegmentSizes};
pub use task::TaskModel;
pub use train::{TrainJob, TrainProgress, TrainSettings, TrainSummary, train, train_together};
pub use version::Version;
