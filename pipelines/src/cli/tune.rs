//! `featcache tune` as it was typed.

use super::group::{LoaderArgs, MachineArgs};
use super::number::{byte_count, count, loss, part};
use clap::Args;
use std::path::PathBuf;

/// Loss that the recommended policy may have where no budget is given.
pub const DEFAULT_MAX_LOSS: f64 = 0.005;

/// Heads of a candidate, by default.
const DEFAULT_SEEDS: usize = 3;

/// Share of the samples that is held out where a store has one split, by default.
const DEFAULT_HOLD_OUT: f64 = 0.2;

/// Rows that errors and rates are measured on, by default.
const DEFAULT_MEASURE_ROWS: usize = 32;

/// `featcache tune`
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing but heads is written: a batch is read once, every level goes through every encoding once, and each head \
learns from its own version of the features. Heads of one seed see the same rows in the same order and start from \
the same weights, so losses are differences within a seed.

Candidates by default: the store's own encodings as the reference; int8, e4m3fn and int4 for all levels; and mixed \
policies of up to 3/8, 1/4, 1/8 and 1/16 of bf16's bytes, and of up to --bytes-per-image. These come from a search over \
the errors of every level in these and in int8 and int4 after a projection to a half, a quarter and an eighth of its \
channels, measured first: from the most exact, the level and encoding that add least squared relative error for a byte \
saved, again and again.

A loss is the median over the seeds. With --bytes-per-image alone the recommended policy is the one of least loss \
that fits; otherwise the one of fewest bytes that loses no more than --max-loss. If nothing meets the budget the \
nearest is named, and the exit code is 3.

OUT holds tune.json, curve.png and the runs (runs/REFERENCE/CANDIDATE/seed-N), which `featcache eval` opens. The same \
command goes on where it was interrupted.")]
pub struct TuneArgs {
    /// The store, finely encoded (bf16 or f32): its encodings are the reference.
    pub store: PathBuf,
    /// Recipe of the head that judges, as `train --recipe` takes it: a small one that trains in minutes.
    #[arg(long, value_name = "FILE")]
    pub head: PathBuf,
    /// Folder for the curve and the runs.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A candidate as `extract --store` takes it, in place of the default list; several, or divided by ';'.
    #[arg(long, value_name = "ENCODINGS", value_delimiter = ';')]
    pub candidate: Vec<String>,
    /// Heads of every candidate, of the recipe's seed and those after it.
    #[arg(long, default_value_t = DEFAULT_SEEDS, value_name = "N", value_parser = count)]
    pub seeds: usize,
    /// Most bytes of an image, such as 60kB.
    #[arg(long, value_name = "BYTES", value_parser = byte_count)]
    pub bytes_per_image: Option<f64>,
    /// Greatest loss of the metric relative to the reference, such as 0.5% or 0.005 [default: 0.5%, without
    /// --bytes-per-image].
    #[arg(long, value_name = "LOSS", value_parser = loss)]
    pub max_loss: Option<f64>,
    /// Train on this split (default: the only one, else the one whose name starts with train).
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<String>,
    /// Score on this split (default: the only one, else the one whose name starts with val).
    #[arg(long, value_name = "SPLIT")]
    pub eval_split: Option<String>,
    /// Share of the samples that is held out to score on, drawn by the recipe's seed, where both splits are one;
    /// 0: heads are scored on what they learned.
    #[arg(long, default_value_t = DEFAULT_HOLD_OUT, value_name = "SHARE", value_parser = part)]
    pub hold_out: f64,
    /// Score on the rows of this view.
    #[arg(long, default_value = featcache_heads::evaluate::DEFAULT_EVALUATE_VIEW, value_name = "VIEW")]
    pub view: String,
    /// Training rows that errors and rates of encodings are measured on.
    #[arg(long, default_value_t = DEFAULT_MEASURE_ROWS, value_name = "N", value_parser = count)]
    pub measure_rows: usize,
    /// How the store is read.
    #[command(flatten)]
    pub loader: LoaderArgs,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Tune on a store that is not finished.
    #[arg(long)]
    pub incomplete: bool,
}
