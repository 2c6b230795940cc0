//! `cargo xtask demo`: set up if needed, build the program, let it run its own demonstration. What the
//! demonstration shows is decided in `pipelines`.

use std::path::Path;

use anyhow::Result;

use crate::cargo::run;
use crate::program::{Build, build};
use crate::setup::setup;

/// Runs `featcache demo --out demo`; what follows the command is handed on.
pub(crate) fn demo(root: &Path, rest: &[String]) -> Result<()> {
    setup(root)?;
    run(build(root, Build::Program)?.args(["demo", "--out", "demo"]).args(rest))
}
