//! The documented exit codes, and which error ends with which.

use featcache_extractor as extractor;
use featcache_heads as heads;
use featcache_store as store;

/// How the program ends. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for was done.
    Done = 0,
    /// A bug in featcache.
    Bug = 1,
    /// The command line or the config file does not make sense.
    Usage = 2,
    /// Data, weights, paths or the machine do not allow it.
    BadInput = 3,
    /// The store or run was made by another recipe, dataset or category list.
    RecipeMismatch = 4,
    /// Bytes of the store contradict what it says of them.
    CorruptStore = 5,
    /// Work is left: units missing, interrupted, or failed samples under `--strict`.
    Incomplete = 6,
}

/// Table of exit codes for `--help`.
pub const EXIT_CODES_HELP: &str = "Exit codes: 0 done, 1 bug, 2 usage, 3 bad input, 4 recipe mismatch, \
5 corrupt store, 6 incomplete or interrupted, 130 stopped at once by a second Ctrl-C.";

/// An error whose exit code the place that raised it knows best.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub code: ExitCode,
    /// One line for the user.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An `anyhow` error that ends with `code`.
pub fn failure(code: ExitCode, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { code, message: message.into() })
}

/// The exit code of an error: that of the first cause in its chain which has one.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    error.chain().find_map(code_of_cause).unwrap_or(ExitCode::Bug)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<ExitCode> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if let Some(error) = cause.downcast_ref::<store::Error>() {
        return Some(code_of_store(error));
    }
    if let Some(error) = cause.downcast_ref::<extractor::Error>() {
        return Some(match error {
            extractor::Error::Store(error) => code_of_store(error),
            extractor::Error::StagePanicked { .. } => ExitCode::Bug,
            _ => ExitCode::BadInput,
        });
    }
    if let Some(error) = cause.downcast_ref::<heads::Error>() {
        return Some(match error {
            heads::Error::Store(error) => code_of_store(error),
            heads::Error::RunMismatch { .. } => ExitCode::RecipeMismatch,
            heads::Error::Stopped { .. } => ExitCode::Incomplete,
            _ => ExitCode::BadInput,
        });
    }
    cause.is::<std::io::Error>().then_some(ExitCode::BadInput)
}

fn code_of_store(error: &store::Error) -> ExitCode {
    match error {
        store::Error::RecipeMismatch { .. } => ExitCode::RecipeMismatch,
        store::Error::Corrupt { .. } | store::Error::PathEscape { .. } => ExitCode::CorruptStore,
        store::Error::Incomplete { .. } => ExitCode::Incomplete,
        _ => ExitCode::BadInput,
    }
}

/// Runs the program; a panic, whose message is on stderr by then, ends with [`ExitCode::Bug`].
pub fn caught(run: impl FnOnce() -> ExitCode) -> ExitCode {
    // Nothing that was unwound through is used again.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(ExitCode::Bug)
}

/// The whole chain in one line: `what: where: why`, causes that the line above already holds left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line.replace('\n', " ")
}
