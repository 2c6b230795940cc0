//! Where everything lies in a store, and the refusal of any path that would leave it. Touches the disk
//! only to follow symbolic links.

use crate::bucket::{Bucket, Unit};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The root's Zarr group document; its presence is the store's existence.
pub const ROOT: &str = "zarr.json";
/// The rows of the store.
pub const PLAN: &str = "plan.parquet";
/// Labels in the dataset's terms.
pub const ANNOTATIONS: &str = "annotations.parquet";
/// Categories in the dataset's order.
pub const CATEGORIES: &str = "categories.parquet";
/// Rows with their outcome, written at finish.
pub const SAMPLES: &str = "samples.parquet";
/// Every file with length and hash, written last.
pub const MANIFEST: &str = "manifest.json";
/// Folder of commit records.
pub const UNITS: &str = "units";
/// Folder of the arrays.
pub const FEATURES: &str = "features";
/// Folder of the bases of projected levels.
pub const PROJECTIONS: &str = "projections";
/// Folder of provenance, outside the content hash.
pub const RUNS: &str = "runs";

/// What a claim's name starts with, in the folder of its unit's record.
pub(crate) const CLAIM_PREFIX: &str = ".claim-";
/// Lock under which the units of one folder are published.
pub(crate) const PUBLISH_LOCK: &str = ".publish";
/// Lock under which a store is created.
pub(crate) const CREATE_LOCK: &str = ".create";

const MAX_NAME_BYTES: usize = 128;

/// Paths of one store.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the store at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The full path of a `/`-separated path in the store, as the functions of this module make it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The full path of a path that a file of the store names: checked by [`check_relative`], and
    /// refused if symbolic links lead out of the store. The file need not exist.
    pub fn resolve(&self, named_by: &Path, relative: &str) -> Result<PathBuf> {
        let escape = || Error::PathEscape { path: named_by.to_owned(), found: relative.to_owned() };
        check_relative(relative).map_err(|_| escape())?;
        let path = self.path(relative);
        let root = self.root.canonicalize().map_err(Error::io(&self.root))?;
        // What does not exist yet cannot be a link; its nearest existing ancestor can.
        let mut existing = path.as_path();
        loop {
            match existing.canonicalize() {
                Ok(real) if real.starts_with(&root) => return Ok(path),
                Ok(_) => return Err(escape()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && !existing.is_symlink() => {
                    existing = existing.parent().ok_or_else(escape)?;
                }
                Err(_) if existing.is_symlink() => return Err(escape()),
                Err(e) => return Err(Error::io(existing)(e)),
            }
        }
    }
}

/// `split/view/HxW` of a bucket: its folder under `units` and `features`.
pub fn bucket_folder(bucket: &Bucket) -> String {
    format!("{}/{}/{}", bucket.split, bucket.view, bucket.size)
}

/// Folder of the records of a bucket's units.
pub fn record_folder(bucket: &Bucket) -> String {
    format!("{UNITS}/{}", bucket_folder(bucket))
}

/// Commit record of unit `number` of a bucket.
pub fn record(bucket: &Bucket, number: u64) -> String {
    format!("{}/{number}.parquet", record_folder(bucket))
}

/// The unit number of a record's file name.
pub fn record_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".parquet")?;
    let number = digits.parse().ok()?;
    // Only the one spelling: no sign, no leading zeros.
    (format!("{number}") == digits).then_some(number)
}

/// Folder of a bucket's arrays.
pub fn features_folder(bucket: &Bucket) -> String {
    format!("{FEATURES}/{}", bucket_folder(bucket))
}

/// Folder of an array of a bucket: a level's payload array has the level's name.
pub fn array_folder(bucket: &Bucket, array: &str) -> String {
    format!("{}/{array}", features_folder(bucket))
}

/// Name of a quantised level's array of scales and offsets.
pub fn affine_name(level: &str) -> String {
    format!("{level}.affine")
}

/// Folder of the array of a projected level's basis.
pub fn basis(level: &str) -> String {
    format!("{PROJECTIONS}/{level}/basis")
}

/// Folder of the array of the mean beside it.
pub fn mean(level: &str) -> String {
    format!("{PROJECTIONS}/{level}/mean")
}

/// Lock file of a unit that is being computed.
pub(crate) fn claim(bucket: &Bucket, number: u64) -> String {
    format!("{}/{CLAIM_PREFIX}{number}", record_folder(bucket))
}

/// Provenance of a run.
pub(crate) fn run(id: &str) -> String {
    format!("{RUNS}/{id}.json")
}

/// A unit's name in records, messages and claims: `split/view/HxW/k`.
pub fn unit_name(bucket: &Bucket, unit: &Unit) -> String {
    format!("{}/{}", bucket_folder(bucket), unit.number)
}

/// Accepts a name that becomes one component of a path (split, view, level): 1 to 128 bytes of
/// `A-Z a-z 0-9 . _ -`, not starting with a dot.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('.') || !name.bytes().all(legal) {
        return Err(Error::invalid(format!(
            "{what} {name:?}: expected 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ - and no dot in front"
        )));
    }
    Ok(())
}

/// Accepts a `/`-separated path that stays below the folder it is relative to: not empty, not absolute, no
/// `..`, `.` or empty component, no NUL, no backslash.
pub fn check_relative(path: &str) -> Result<()> {
    let plain = |component: &str| !matches!(component, "" | "." | "..");
    let legal = |byte: u8| !matches!(byte, 0 | b'\\');
    if path.len() <= 4096 && path.bytes().all(legal) && path.split('/').all(plain) {
        return Ok(());
    }
    Err(Error::invalid(format!("path {path:?}: expected a relative path that stays in its folder")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_that_leave_are_refused() {
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\0", "é", &"x".repeat(129)] {
            assert!(check_name("split", name).is_err(), "{name:?}");
        }
        check_name("split", "val2017-a_b.c").unwrap();
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b", "a\\b"] {
            assert!(check_relative(path).is_err(), "{path:?}");
        }
        check_relative("features/val/p2/c.0.0.0").unwrap();
        check_relative("images/Grüße 1.jpg").unwrap();
    }

    #[test]
    fn links_out_of_the_store_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("store"), folder.path().join("outside"));
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", root.join("dangling")).unwrap();
        std::os::unix::fs::symlink(root.join("inside"), root.join("in")).unwrap();
        let layout = Layout::new(&root);
        let manifest = root.join(MANIFEST);
        for path in ["out/x", "out", "dangling", "dangling/x", "../outside"] {
            let error = layout.resolve(&manifest, path).unwrap_err();
            assert!(matches!(error, Error::PathEscape { .. }), "{path}: {error}");
        }
        for path in ["in/x", "inside/x/y", "not/there/yet"] {
            layout.resolve(&manifest, path).unwrap();
        }
    }

    #[test]
    fn record_numbers_have_one_spelling() {
        assert_eq!(record_number("12.parquet"), Some(12));
        for name in ["012.parquet", "+1.parquet", "x.parquet", "1", ".tmp-1.parquet"] {
            assert_eq!(record_number(name), None, "{name}");
        }
    }
}
