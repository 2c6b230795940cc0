//! Metrics: the official definitions, to the last digit.

pub mod mean_iou;
