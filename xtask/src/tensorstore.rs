//! The Python packages with which one test reads stores as others do: TensorStore and what it needs,
//! pinned, in a folder of their own that no other Python sees. Nothing else needs them, so a machine that
//! cannot fetch them is told so and goes on; what a missing one means to the tests is decided there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::output;
use crate::say;

/// All of it, so that pip resolves nothing.
const PINS: [&str; 3] = ["tensorstore==0.1.86", "numpy==2.4.6", "ml_dtypes==0.6.0"];

/// Says inside the folder what it holds and for which Python.
const MARKER: &str = "featcache-packages";

/// Environment of the tests: which Python has TensorStore, and where. Empty where there is none, which is
/// said, and where the user has named a Python with it.
pub(crate) fn environment(root: &Path) -> Vec<(&'static str, OsString)> {
    if std::env::var_os("FEATCACHE_PYTHON").is_some() {
        return Vec::new();
    }
    match ensure(root) {
        Ok(folder) => {
            let before = std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty());
            let paths = std::iter::once(folder).chain(before.into_iter().map(PathBuf::from));
            // A folder with a colon in its name cannot be in a path list; then it stands alone.
            let paths = std::env::join_paths(paths).unwrap_or_else(|_| folder_of(root).into());
            vec![("FEATCACHE_PYTHON", "python3".into()), ("PYTHONPATH", paths)]
        }
        Err(error) => {
            say(&format!("no TensorStore, the test that reads a store with it will be skipped: {error:#}"));
            Vec::new()
        }
    }
}

fn folder_of(root: &Path) -> PathBuf {
    root.join(".tensorstore")
}

/// The folder, filled if it is not for these packages and this Python already. It is made beside its place
/// and moved there when it is whole.
fn ensure(root: &Path) -> Result<PathBuf> {
    let folder = folder_of(root);
    let python = output(Command::new("python3").arg("-c").arg("import sys; print(sys.version)"))?;
    let marker = marker(&python);
    if fs::read_to_string(folder.join(MARKER)).is_ok_and(|found| found == marker) {
        return Ok(folder);
    }
    let lock = root.join(".libtorch.lock");
    let file = fs::File::create(&lock).with_context(|| format!("failed to create {}", lock.display()))?;
    file.lock().with_context(|| format!("failed to lock {}", lock.display()))?;
    if fs::read_to_string(folder.join(MARKER)).is_ok_and(|found| found == marker) {
        return Ok(folder);
    }
    let partial = root.join(".tensorstore.partial");
    remove(&partial)?;
    say(&format!("fetching {} by pip (40 MB, once)", PINS.join(", ")));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
        .args(["--retries", "1", "--timeout", "15", "--only-binary=:all:", "--target"])
        .arg(&partial)
        .args(PINS);
    output(&mut pip).context("pip could not fetch it")?;
    let mut import = Command::new("python3");
    output(import.args(["-c", "import numpy, tensorstore"]).env("PYTHONPATH", &partial))
        .context("it was fetched but does not load")?;
    let path = partial.join(MARKER);
    fs::write(&path, &marker).with_context(|| format!("failed to write {}", path.display()))?;
    remove(&folder)?;
    fs::rename(&partial, &folder).with_context(|| format!("failed to move {}", partial.display()))?;
    Ok(folder)
}

fn marker(python: &str) -> String {
    format!("{}\n{}\n", PINS.join("\n"), python.trim())
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_are_those_with_which_the_golden_values_were_read() {
        let readme = include_str!("../../tests/golden/v1/README.md");
        let version = PINS[0].split_once("==").expect("a pin names a version").1;
        assert!(readme.contains(&format!("TensorStore {version}")), "{readme}");
    }

    #[test]
    fn a_folder_for_another_python_or_other_packages_is_not_taken() {
        assert_ne!(marker("3.11.7"), marker("3.12.1"));
        assert!(PINS.iter().all(|pin| marker("3.11.7").contains(pin)));
        assert!(PINS.iter().all(|pin| pin.contains("==")), "every package is pinned");
    }
}
