//! pipelines

pub mod doctor;
pub mod picture;
pub mod scene;
