//! The crate's one error: every variant says what the caller can do about it.

use featcache_store::SampleKey;
use std::path::{Path, PathBuf};

/// What training, evaluation or prediction can fail with. Messages are fragments that read after
/// "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store refused or is damaged.
    #[error(transparent)]
    Store(#[from] featcache_store::Error),
    /// A recipe that cannot be trained with; the text names the key.
    #[error("{}: {what}", path.display())]
    Recipe {
        /// The recipe file.
        path: PathBuf,
        /// Key, expected and found.
        what: String,
    },
    /// A sample's label map does not fit its sample or its categories.
    #[error("label map of sample {key}: {what}")]
    Label {
        /// The sample.
        key: SampleKey,
        /// Expected and found.
        what: String,
    },
    /// An annotation that no detector can learn from; the table in [`crate::objects`] says which.
    #[error("annotation {} of sample {key}: {what}", id.map_or("without id".to_owned(), |id| id.to_string()))]
    Object {
        /// The sample.
        key: SampleKey,
        /// The dataset's id of the annotation.
        id: Option<i64>,
        /// Expected and found.
        what: String,
    },
    /// A run and a store, or a run and a recipe, that do not belong together.
    #[error("{}: {field} differs: the run has {expected}, found {found}", path.display())]
    RunMismatch {
        /// The run folder.
        path: PathBuf,
        /// The field that differs.
        field: String,
        /// What the run was made with.
        expected: String,
        /// What was given now.
        found: String,
    },
    /// Loss or gradients stopped being numbers; the last good checkpoint is untouched.
    #[error("{what} is not finite at step {step} (rows {rows})")]
    NotFinite {
        /// `loss` and its part, `loss` or `gradient norm`.
        what: String,
        /// Step whose batch did it.
        step: u64,
        /// Keys and views of the batch.
        rows: String,
    },
    /// A run folder's file contradicts itself or its recipe.
    #[error("{}: corrupt: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        what: String,
    },
    /// The run folder holds no run.
    #[error("{what} not found in {}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// A torch operation failed: out of memory or a bug.
    #[error("torch: {what}")]
    Torch {
        /// First line of torch's message.
        what: String,
    },
    /// The caller asked to stop before the end.
    #[error("{what}")]
    Stopped {
        /// What was stopped, and after how much of it.
        what: String,
    },
    /// The caller's input is not valid.
    #[error("{what}")]
    Invalid {
        /// What was expected and what was found.
        what: String,
    },
    /// The operating system refused.
    #[error("{}", path.display())]
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

    /// A contradiction found in the file at `path`.
    pub fn corrupt(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// Invalid input from the caller.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

impl From<tch::TchError> for Error {
    /// Keeps the first line: the rest of torch's message is a C++ stack trace.
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        Self::Torch { what: text.lines().next().unwrap_or_default().to_owned() }
    }
}
