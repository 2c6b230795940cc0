//! Datasets and a frozen backbone in, features out.
//!
//! What the features are used for is no business of this crate: its only way out is the store.

pub mod backbone;
pub mod dataset;
pub mod device;
pub mod error;
pub mod gemm_peak;
pub mod image;
pub mod preprocess;
pub mod resample;
pub mod weights;

pub use error::{Error, Result};
