//! `featcache bench` as it was typed.

use super::group::{ComputeArg, MachineArgs};
use super::number::{count, pictures, threads};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `featcache bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub which: BenchCommand,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Random reads, whole and in part, by every page policy, as a ratio to raw reads of the same ranges.
    Read(BenchReadArgs),
    /// Shuffled batches, read ahead, as tensors: as a ratio to raw preadv of the same ranges.
    Loader(BenchLoaderArgs),
    /// Images a second, the ratio to the matrix-product peak, and the cost of writing.
    Extract(BenchExtractArgs),
}

/// `featcache bench read`
#[derive(Debug, Args)]
pub struct BenchReadArgs {
    /// The stores: of several sizes of sample, or encodings of the same features.
    #[arg(required = true)]
    pub stores: Vec<PathBuf>,
    /// Rows read a repetition.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = count)]
    pub samples: usize,
    /// Rows a read asks for at once.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = count)]
    pub batch: usize,
    /// Repetitions of each measurement.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = count)]
    pub repeats: usize,
    /// Thread counts.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "N,…", value_parser = threads)]
    pub threads: Vec<usize>,
    /// Append the table to this Markdown file, under its section.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// `featcache bench loader`
#[derive(Debug, Args)]
pub struct BenchLoaderArgs {
    /// The store.
    pub store: PathBuf,
    /// Rows of an epoch.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = count)]
    pub samples: usize,
    /// Rows of a batch.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = count)]
    pub batch: usize,
    /// Epochs of each measurement.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = count)]
    pub repeats: usize,
    /// Counts of reading threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "N,…", value_parser = threads)]
    pub threads: Vec<usize>,
    /// Append the table to this Markdown file, under its section.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// `featcache bench extract`
#[derive(Debug, Args)]
pub struct BenchExtractArgs {
    /// Backbones, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "swinv2-t,swinv2-b")]
    pub backbone: Vec<String>,
    /// Arithmetic of the forward pass.
    #[arg(long, value_enum, default_value = "bf16")]
    pub compute: ComputeArg,
    /// Height and width of the pictures drawn for it.
    #[arg(long, default_value = "800x1216", value_name = "HxW")]
    pub size: String,
    /// Pictures a run.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = pictures)]
    pub images: usize,
    /// Runs of each kind, interleaved.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count)]
    pub repeats: usize,
    /// Where the runs write: a folder of their own is made in it and removed again.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Append the table to this Markdown file, under its section.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}
