//! Datasets and a frozen backbone in, features out.
//!
//! What the features are used for is no business of this crate: its only way out is the store.

pub mod dataset;
pub mod error;
pub mod image;
pub mod preprocess;
pub mod resample;

pub use error::{Error, Result};
