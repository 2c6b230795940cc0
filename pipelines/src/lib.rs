//! The commands as a library: what `main.rs` parses is run here, and tests and the demo run it too.
//!
//! Modules in reading order: what was typed ([`cli`], [`config`]), what it names ([`dataset`], [`model`],
//! [`machine`]), what is done ([`command`]), and what people see ([`progress`], [`report`], [`exit`],
//! [`picture`], [`pyramid`], [`scene`]).

pub mod cli;
pub mod command;
pub mod config;
pub mod dataset;
pub mod doctor;
pub mod exit;
pub mod features;
pub mod interrupt;
pub mod machine;
pub mod model;
pub mod picture;
pub mod progress;
pub mod pyramid;
pub mod report;
pub mod scene;
