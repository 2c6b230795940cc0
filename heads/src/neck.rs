//! Necks: what stands between a store's maps and a head.

pub mod level_norm;
