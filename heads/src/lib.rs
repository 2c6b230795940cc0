//! Features in, metrics out: heads trained and scored from a store, without images and without a
//! backbone.
//!
//! Modules in reading order: what is trained ([`recipe`]), in which order rows come ([`order`],
//! [`seed`]) and how ([`labels`], [`tensor`], [`loader`]); the model ([`parameter`], [`norm`], [`conv`],
//! [`neck`], [`head`], [`model`]); one step ([`loss`], [`optimizer`], [`schedule`]); the loop
//! ([`train`](mod@train), [`checkpoint`]); and what came out ([`segment`], [`metric`],
//! [`evaluate`](mod@evaluate)).

pub mod checkpoint;
pub mod conv;
pub mod error;
pub mod head;
pub mod labels;
pub mod loss;
pub mod metric;
pub mod model;
pub mod neck;
pub mod norm;
pub mod optimizer;
pub mod order;
pub mod parameter;
pub mod phase;
pub mod recipe;
pub mod schedule;
pub mod seed;
pub mod tensor;

pub use error::{Error, Result};
pub use phase::{Phase, Precision};
