//! Filling a store, whoever does it: which unit next, when to end early, what is counted. Makes no features.

mod counters;
mod halt;
mod units;

pub use counters::FillCounters;
pub use halt::{Halt, Working};
pub use units::Units;
