//! Whoever reads samples, ours or a peer: one trait, so that passes of all can interleave.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a pass does. Its JSON is the line that a peer's script gets.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pass {
    /// What is asked for.
    #[serde(rename = "do")]
    pub(super) kind: PassKind,
    /// Numbers of samples, each once.
    pub(super) order: Vec<usize>,
    /// Samples of a batch.
    pub(super) batch: usize,
    /// Threads that read; of a loader its workers.
    pub(super) threads: usize,
    /// How often a loader goes through all samples; 1 for bare reads, which read `order` once.
    pub(super) epochs: usize,
    /// Every how many words a sample is summed.
    pub(super) stride: usize,
    /// Whether all samples are summed, within the time, or only those that are held at the end, after it.
    pub(super) all: bool,
}

/// Kinds of passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PassKind {
    /// Whole samples in the order asked for, into owned memory.
    Bare,
    /// Shuffled batches as tensors, in an order of the loader's own.
    Loader,
}

/// What a pass gave.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    /// From the first read to the last sample.
    pub(super) seconds: f64,
    /// Samples that came.
    pub(super) samples: usize,
    /// Sums of samples, in any order.
    pub(super) checks: Vec<u64>,
}

/// Reads samples.
pub(super) trait Contestant {
    /// Lets go of files, so that their pages can be dropped.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn rest(&mut self) -> Result<()>;

    /// One pass.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn pass(&mut self, pass: &Pass) -> Result<Answer>;
}
