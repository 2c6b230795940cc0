//! Metrics: the official definitions, to the last digit.

pub mod coco;
pub mod mean_iou;
