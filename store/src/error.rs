//! The crate's one error: every variant says what the caller can do about it.

use std::path::{Path, PathBuf};

/// What a store operation can fail with. Messages are fragments that read after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is there: no store, no such sample, level or split.
    #[error("{what} not found in {}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// Bytes on disk contradict what the store says of them.
    #[error("{}: corrupt: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Row, level, expected and found.
        what: String,
    },
    /// The store was made by another recipe, plan or dataset.
    #[error("{}: {field} differs: store has {found}, this run has {expected}", path.display())]
    RecipeMismatch {
        /// The store.
        path: PathBuf,
        /// The field that differs.
        field: String,
        /// What this run has.
        expected: String,
        /// What the store has.
        found: String,
    },
    /// The store was written by a later version of featcache.
    #[error("{}: format {found} is newer than {supported}, the newest this version reads", path.display())]
    TooNew {
        /// The store.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// Units are missing and the caller did not ask for an incomplete store.
    #[error("{}: incomplete: {missing} of {total} units are missing (first: {first})", path.display())]
    Incomplete {
        /// The store.
        path: PathBuf,
        /// Units without a commit record.
        missing: usize,
        /// Units of the plan.
        total: usize,
        /// Name of the first missing unit.
        first: String,
    },
    /// The row exists and has no features: its sample could not be read at extraction.
    #[error("sample {key} has no features: {reason}")]
    FailedSample {
        /// The sample's key.
        key: String,
        /// Why extraction failed.
        reason: String,
    },
    /// A path in a manifest or table leaves its root.
    #[error("{}: path {found:?} leaves the folder", path.display())]
    PathEscape {
        /// The file that names it.
        path: PathBuf,
        /// The path found.
        found: String,
    },
    /// The caller's input is not valid.
    #[error("{what}")]
    Invalid {
        /// What was expected and what was found.
        what: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error with its path, for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// A corruption found at `path`.
    pub fn corrupt(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// Invalid input from the caller.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}
