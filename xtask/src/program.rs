//! Builds the `featcache` program and says where it is. Every command builds it through here, with one
//! choice of packages: another choice would give shared dependencies other features, and compile them twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::cargo;
use crate::say;

/// The program alone, or the test binaries with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    Program,
    ProgramAndTests,
}

/// Builds and returns a command that starts the program in the workspace's root.
pub(crate) fn build(root: &Path, what: Build) -> Result<Command> {
    let mut arguments = vec!["build", "--release", "--workspace", "--bins"];
    if what == Build::ProgramAndTests {
        arguments.push("--tests");
    }
    say(&format!("$ cargo {}", arguments.join(" ")));
    // Cargo itself says where the program is: the target folder can be anywhere.
    arguments.push("--message-format=json-render-diagnostics");
    let output =
        cargo(root, &arguments).stderr(Stdio::inherit()).output().context("failed to start cargo")?;
    if !output.status.success() {
        bail!("the build failed (above)");
    }
    let program = executable(&String::from_utf8_lossy(&output.stdout), "featcache")
        .context("failed to find the program in what cargo says it built")?;
    let mut command = Command::new(program);
    command.current_dir(root).stdin(Stdio::null());
    Ok(command)
}

/// The path of a binary in cargo's messages, one JSON object a line.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    let kind = "\"kind\":[\"bin\"]";
    let name = format!("\"name\":\"{binary}\"");
    let line = messages
        .lines()
        .find(|line| line.contains(kind) && line.contains(&name) && line.contains("\"executable\":\""))?;
    let (_, rest) = line.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once("\",")?;
    Some(PathBuf::from(path.replace("\\\"", "\"").replace("\\\\", "\\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_path_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"featcache"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"xtask"},"executable":"/t/release/xtask","fresh":true}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"featcache"},"executable":"/a b/release/featcache","fresh":true}
"#;
        assert_eq!(executable(messages, "featcache"), Some(PathBuf::from("/a b/release/featcache")));
        assert_eq!(executable(messages, "other"), None);
    }
}
