//! `cargo xtask test`: set up if needed, build, run every test of the workspace. Decides nothing else; what
//! follows the command is handed to `cargo test` (a filter, `-- --nocapture`).

use std::path::Path;

use anyhow::Result;

use crate::cargo::{cargo, run};
use crate::program::{Build, build};
use crate::setup::setup;
use crate::{say, tensorstore};

/// Builds the program, which tests start, and the tests; then runs them.
pub(crate) fn test(root: &Path, rest: &[String]) -> Result<()> {
    setup(root)?;
    build(root, Build::ProgramAndTests)?;
    let mut arguments = vec!["test", "--release", "--workspace"];
    arguments.extend(rest.iter().map(String::as_str));
    say(&format!("$ cargo {}", arguments.join(" ")));
    run(cargo(root, &arguments).envs(tensorstore::environment(root)))
}
