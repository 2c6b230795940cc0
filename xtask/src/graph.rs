//! `cargo xtask graph`: who may depend on whom (docs/architecture.md, invariant 1), read from `cargo tree`.
//! The rules are data here and prose there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, output};
use crate::say;

/// A member and the packages that must not be anywhere below it, tests included.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("featcache-store", &["tch", "torch-sys", "png", "turbojpeg", "featcache-extractor", "featcache-heads"]),
    ("featcache-extractor", &["featcache-heads", "featcache"]),
    ("featcache-heads", &["featcache-extractor", "featcache", "turbojpeg"]),
    (
        "xtask",
        &["tch", "torch-sys", "featcache-store", "featcache-extractor", "featcache-heads", "featcache"],
    ),
];

/// Fails with every edge that is not allowed.
pub(crate) fn graph(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for (member, forbidden) in FORBIDDEN {
        let text =
            output(&mut cargo(root, &["tree", "--package", member, "--prefix", "none", "--edges", "all"]))
                .with_context(|| format!("failed to list what {member} depends on"))?;
        let below = below(&text);
        let found = forbidden.iter().filter(|name| below.contains(**name));
        wrong.extend(found.map(|name| format!("{member} must not depend on {name}")));
    }
    if !wrong.is_empty() {
        bail!("the dependency graph is wrong:\n  {}", wrong.join("\n  "));
    }
    say("graph: as it should be");
    Ok(())
}

/// Names of the packages below the first line, which is the member itself.
fn below(tree: &str) -> BTreeSet<&str> {
    tree.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_not_below_itself_but_its_dependencies_are() {
        let tree = "featcache-heads v0.1.0 (path)\ntch v0.24.0\ntch feature \"default\"\nlog v0.4.0 (*)\n";
        let below = below(tree);
        assert!(below.contains("tch") && below.contains("log"));
        assert!(!below.contains("featcache-heads"));
    }
}
