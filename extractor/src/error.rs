//! The crate's one error: every variant says what the caller can do about it.
//!
//! What is wrong with one picture is not an error of a run but a recorded outcome of one row: that is
//! [`crate::image::ImageError`], and it never becomes one of these.

use std::path::{Path, PathBuf};

/// What an extraction can fail with. Messages are fragments that read after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The dataset on disk is not in the layout, or does not say what it must.
    #[error("{}: {what}", path.display())]
    Dataset {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong: expected and found.
        what: String,
    },
    /// A weights file is not usable for the backbone.
    #[error("{}: {what}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong: the tensor, expected and found.
        what: String,
    },
    /// No backbone, level, device or dataset kind has this name.
    #[error("{kind} {name:?} is unknown: expected {expected}")]
    Unknown {
        /// What was named: `backbone`, `device`, `resampler`, ….
        kind: &'static str,
        /// The name found.
        name: String,
        /// The names there are.
        expected: String,
    },
    /// The device cannot be used, and why.
    #[error("device {device}: {reason}")]
    Device {
        /// Which one was asked for.
        device: String,
        /// Why it is not there.
        reason: String,
    },
    /// The caller's input is not valid.
    #[error("{what}")]
    Invalid {
        /// What was expected and what was found.
        what: String,
    },
    /// libtorch refused an operation.
    #[error("{doing}: libtorch")]
    Torch {
        /// What was being done.
        doing: &'static str,
        /// Why it was refused.
        #[source]
        source: tch::TchError,
    },
    /// A stage of the pipeline panicked: a bug. What was committed before stays.
    #[error("the {stage} stage panicked{}", source_file.as_ref().map(|file| format!(" at {file}")).unwrap_or_default())]
    StagePanicked {
        /// The stage.
        stage: &'static str,
        /// The picture that it had in hand, relative to the dataset's root, if it is known.
        source_file: Option<String>,
    },
    /// A file that was there when the dataset was listed cannot be read any more: the disk, the mount or the
    /// folder has changed. No outcome of its row, since the next run may find it again.
    #[error("{}: was there when the dataset was listed, cannot be read now", path.display())]
    SourceLost {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] featcache_store::Error),
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

    /// A libtorch error with what was being done, for `map_err`.
    pub fn torch(doing: &'static str) -> impl FnOnce(tch::TchError) -> Self {
        move |source| Self::Torch { doing, source: first_line(source) }
    }

    /// Something that is wrong with the dataset at `path`.
    pub fn dataset(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Dataset { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// Something that is wrong with the weights at `path`.
    pub fn weights(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Weights { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// Invalid input from the caller.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

/// Without libtorch's C++ backtrace: what was refused stands in the first line.
fn first_line(error: tch::TchError) -> tch::TchError {
    match error {
        tch::TchError::Torch(text) => {
            tch::TchError::Torch(text.lines().next().unwrap_or_default().trim_end().to_owned())
        }
        other => other,
    }
}
