//! `cargo xtask check`: the one gate, the same here and in CI. It only orders the steps, cheapest first; the
//! first failure ends it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cargo::{cargo, run_cargo};
use crate::{graph, say, setup, test, tidy};

/// Runs every step.
pub(crate) fn check(root: &Path) -> Result<()> {
    run_cargo(root, &["fmt", "--all", "--check"])?;
    tidy::tidy(root)?;
    graph::graph(root)?;
    setup::setup(root)?;
    run_cargo(root, &["test", "--release", "--package", "featcache-store", "--package", "xtask"])?;
    // On clippy's own command line: a set RUSTFLAGS would rebuild everything.
    run_cargo(
        root,
        &["clippy", "--release", "--workspace", "--lib", "--bins", "--tests", "--", "-D", "warnings"],
    )?;
    docs(root)?;
    test::test(root, &[])?;
    say("check passed");
    Ok(())
}

fn docs(root: &Path) -> Result<()> {
    let arguments = ["doc", "--release", "--workspace", "--no-deps", "--document-private-items"];
    say(&format!("$ RUSTDOCFLAGS=\"-D warnings\" cargo {}", arguments.join(" ")));
    let status = cargo(root, &arguments).env("RUSTDOCFLAGS", "-D warnings").status()?;
    if !status.success() {
        bail!("the documentation has errors (above)");
    }
    Ok(())
}
