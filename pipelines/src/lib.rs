//! The commands as a library: what `main.rs` parses is run here, and tests and the demo run it too.
//!
//! Modules in reading order: what was typed ([`cli`], [`config`]); what it names ([`dataset`], [`model`],
//! [`machine`]); what is done ([`command`]) and how it is stopped ([`interrupt`]); what a store's levels
//! look like ([`level`], [`pyramid`], [`picture`]), which bases some are held in ([`calibration`]) and how
//! encodings are chosen ([`tune`]), what the demo draws ([`scene`]), what this machine has ([`doctor`]); and what
//! people see of it all ([`progress`], [`report`], [`exit`]).

pub mod calibration;
pub mod cli;
pub mod command;
pub mod config;
pub mod dataset;
pub mod doctor;
pub mod exit;
pub mod instance;
pub mod interrupt;
pub mod level;
pub mod machine;
pub mod model;
pub mod page_choice;
pub mod picture;
pub mod progress;
pub mod pyramid;
pub mod report;
pub mod scene;
pub mod tune;
