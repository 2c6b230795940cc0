//! pipelines

pub mod picture;
pub mod scene;
