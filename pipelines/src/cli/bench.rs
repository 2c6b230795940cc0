//! `featcache bench` as it was typed.

use super::group::{ComputeArg, MachineArgs};
use super::number::{count, pictures, threads, workers};
use clap::{Args, Subcommand, ValueEnum};
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
    /// The same bytes through other formats and their loaders, against ours and raw preadv.
    Peers(BenchPeersArgs),
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

/// Scripts of the peers that are measured unless told otherwise.
const PEERS: &str = "preadv,memmap,safetensors_files,tensorstore_arrays,webdataset_tar,mds,litdata_chunks,hdf5,\
    lmdb_values,lance_blobs";

/// `featcache bench peers`
#[derive(Debug, Clone, Args)]
pub struct BenchPeersArgs {
    /// The store; its levels are bf16.
    pub store: PathBuf,
    /// Python with the peers' packages; one that lacks a package loses a row, not the table.
    #[arg(long, default_value = "python3", value_name = "PROGRAM")]
    pub python: PathBuf,
    /// Where the peers' copies are written, on the store's disk: a folder of their own is made in it and removed again.
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// Folder of the peers' scripts (docs/benchmarks.md, tests/peers/README.md).
    #[arg(long, default_value = "tests/peers", value_name = "DIR")]
    pub scripts: PathBuf,
    /// Peers, by the names of their scripts.
    #[arg(long, value_delimiter = ',', default_value = PEERS, value_name = "NAMES")]
    pub peers: Vec<String>,
    /// Rows a pass; as many as fit into 256 MB, but 4 to 2048, unless given.
    #[arg(long, value_name = "N", value_parser = count)]
    pub samples: Option<usize>,
    /// Rows of a batch.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = pictures)]
    pub batch: usize,
    /// Passes of each kind.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count)]
    pub repeats: usize,
    /// Thread counts of bare reads; processes for peers that threads do not speed up.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_name = "N,…", value_parser = threads)]
    pub threads: Vec<usize>,
    /// Page cache of bare reads.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "warm,cold", value_name = "STATES")]
    pub pages: Vec<PagesArg>,
    /// Worker counts tried for each loader; its best is measured.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2", value_name = "N,…", value_parser = workers)]
    pub workers: Vec<usize>,
    /// Epochs of a loader's pass.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = count)]
    pub epochs: usize,
    /// Seconds that a peer may take for one answer.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub limit_s: u64,
    /// Put the tables into this Markdown file, under the section of this sample size.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Whether pages are in the page cache before a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PagesArg {
    /// All of them.
    Warm,
    /// None: dropped before each pass.
    Cold,
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
