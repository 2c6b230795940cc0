//! What detectors are made of besides layers: boxes and their overlap, deltas, anchors, suppression,
//! assignment and sampling of truth, pooling of regions. Must not know a detector.
//!
//! Boxes are `[x1, y1, x2, y2]` in pixels of the padded input, the right and lower edge exclusive (no
//! `+ 1`). They are slices; tensors appear only where gradients flow.

pub mod anchor;
pub mod assigner;
pub mod boxes;
pub mod delta;
pub mod level_map;
pub mod nms;
pub mod pooling_bag;
pub mod roi_align;
pub mod sampler;
pub mod soft_nms;
