//! Masks of objects, from an annotation's text to a metric's overlap, without torch: run lengths and
//! what is counted on them ([`rle`]), how they come from polygons ([`polygon`]) and annotations
//! ([`segmentation`]), what a mask head learns from them ([`target`]), and how its answer becomes run
//! lengths again ([`paste`](mod@paste)). Must not know tensors, models or stores.

pub mod paste;
pub mod polygon;
pub mod rle;
pub mod segmentation;
pub mod target;

pub use rle::Rle;
pub use segmentation::Segmentation;
