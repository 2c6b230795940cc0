//! `cargo xtask bench`: the commands whose output docs/benchmarks.md shows. It runs them and keeps what they
//! print under `runs/bench`; what is measured and how is `featcache bench`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cargo::output;
use crate::program::{Build, build};
use crate::say;
use crate::setup::setup;

/// Name of the raw file and the arguments after `featcache bench`.
const RUNS: [(&str, &[&str]); 2] = [
    ("extract-swinv2-t", &["extract", "--backbone", "swinv2-t", "--json"]),
    ("extract-swinv2-b", &["extract", "--backbone", "swinv2-b", "--json"]),
];

/// Runs every benchmark; each store named after the command adds the reading benchmark on it.
pub(crate) fn bench(root: &Path, stores: &[String]) -> Result<()> {
    setup(root)?;
    let folder = root.join("runs/bench");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for (name, arguments) in RUNS {
        keep(root, &folder.join(format!("{name}.json")), arguments)?;
    }
    for (number, store) in stores.iter().enumerate() {
        keep(root, &folder.join(format!("read-{number}.json")), &["read", store, "--json"])?;
    }
    Ok(())
}

fn keep(root: &Path, path: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = build(root, Build::Program)?;
    say(&format!("$ featcache bench {}", arguments.join(" ")));
    let text = output(command.arg("bench").args(arguments))?;
    say(text.trim_end());
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}
