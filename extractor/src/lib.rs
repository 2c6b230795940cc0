//! Datasets and a frozen backbone in, features out.
//!
//! In reading order: which samples exist ([`dataset`]), how a file becomes pixels ([`image`], [`resample`])
//! and pixels the network's input ([`preprocess`]), which network makes features of it ([`backbone`],
//! [`weights`], [`device`]). What the features are used for is no business of this crate: its only way out
//! is the store.

pub mod backbone;
pub mod budget;
pub mod counters;
pub mod dataset;
pub mod device;
pub mod error;
pub mod extract;
pub mod gemm_peak;
pub mod image;
pub mod preprocess;
pub mod resample;
pub mod source;
pub mod weights;
pub mod worker;

pub use error::{Error, Result};
