//! `cargo xtask bench`: the commands that write the tables of docs/benchmarks.md. What is measured, how, and how
//! a table looks is `featcache bench`.

use std::path::Path;

use anyhow::Result;

use crate::cargo::run;
use crate::program::{Build, build};
use crate::say;
use crate::setup::setup;

/// The page that the tables are appended to, under their sections.
const PAGE: &str = "docs/benchmarks.md";

/// Measures extraction, and reading from each store that is named after the command.
pub(crate) fn bench(root: &Path, stores: &[String]) -> Result<()> {
    setup(root)?;
    measure(root, &["extract", "--backbone", "swinv2-t,swinv2-b"])?;
    stores.iter().try_for_each(|store| measure(root, &["read", store]))
}

fn measure(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = build(root, Build::Program)?;
    say(&format!("$ featcache bench {} --markdown {PAGE}", arguments.join(" ")));
    run(command.arg("bench").args(arguments).args(["--markdown", PAGE]))
}
