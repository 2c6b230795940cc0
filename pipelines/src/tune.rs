//! Which encodings a store should have: what `featcache tune` knows besides training and scoring.
//!
//! Modules in reading order: the bases that some encodings need ([`bases`]), what encodings cost and lose on the
//! levels of a store ([`measure`]), which policies are worth a head ([`candidate`]), what the heads say of them ([`curve`]), which of them to take
//! ([`choice`]), and what people see of it ([`page`]).

pub mod bases;
pub mod candidate;
pub mod choice;
pub mod curve;
pub mod measure;
pub mod page;
