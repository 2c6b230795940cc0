//! The command line as it was typed: one struct a command, no logic but the ranges of numbers.

mod bench;
mod group;
mod number;
mod tune;

pub use bench::{
    BenchArgs, BenchCommand, BenchExtractArgs, BenchLoaderArgs, BenchPeersArgs, BenchReadArgs, PagesArg,
};
pub use group::{
    ComputeArg, DatasetArgs, DatasetKind, LoaderArgs, MachineArgs, RecipeArgs, ResamplerArg, StoreArgs,
    WeightArgs,
};
pub use tune::{DEFAULT_MAX_LOSS, TuneArgs};

use crate::exit::EXIT_CODES_HELP;
use clap::{Args, Parser, Subcommand};
use number::{count, mebibytes, pictures, scenes, share, threads, tolerance};
use std::path::PathBuf;

/// Run the frozen giant once. Train every head from its features, at the speed of the disk.
#[derive(Debug, Parser)]
#[command(name = "featcache", version, after_help = EXIT_CODES_HELP, args_override_self = true)]
pub struct Cli {
    /// Print the result as one JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Read flags from a TOML file: a table named after the command, keys are flag names; typed flags win.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// No progress bar; warnings and errors only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Least score of detections that are drawn, by default.
pub const DEFAULT_DRAWN_SCORE: f64 = 0.3;

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what this machine has and what is missing.
    Doctor(DoctorArgs),
    /// Print rows, buckets, bytes and hours of an extraction before running it.
    Plan(PlanArgs),
    /// Run the backbone once over a dataset; the same command resumes.
    Extract(ExtractArgs),
    /// Check every byte of a store, or recompute rows with the model.
    Verify(VerifyArgs),
    /// Show a store, or render a sample's levels as pictures.
    Inspect(InspectArgs),
    /// Make a store in other encodings, or of fewer levels, views and splits; the same command resumes.
    Transcode(TranscodeArgs),
    /// Train a head from a store alone; the same command resumes.
    Train(TrainArgs),
    /// Score a trained head on a store.
    Eval(EvalArgs),
    /// Train small heads on candidate encodings and recommend one for a budget.
    Tune(TuneArgs),
    /// Run backbone and head on pictures and write overlays.
    Predict(PredictArgs),
    /// Measure reading, loading or extraction against the machine's limits, and against peers.
    Bench(BenchArgs),
    /// Draw a small data set, extract, train, score and show it.
    Demo(DemoArgs),
}

/// `featcache doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Folder whose free space is shown.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub disk: PathBuf,
}

/// `featcache plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which pictures.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// What the features are.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// How they lie on disk.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where the weights come from (the estimate needs none: random ones take as long).
    #[command(flatten)]
    pub weights: WeightArgs,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Pictures timed for the estimate of hours; 0 skips it and builds no backbone.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub time_images: usize,
}

/// `featcache extract`
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Which pictures.
    #[command(flatten)]
    pub dataset: DatasetArgs,
    /// What the features are.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// How they lie on disk.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where the weights come from.
    #[command(flatten)]
    pub weights: WeightArgs,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The store to make or go on with.
    #[arg(long, value_name = "STORE")]
    pub out: PathBuf,
    /// Pictures a forward pass, all of one bucket.
    #[arg(long, value_name = "N", value_parser = pictures)]
    pub batch: Option<usize>,
    /// Threads that decode and resize.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub decoders: Option<usize>,
    /// This worker's rank (default: from Slurm, torchrun, MPI or Kubernetes variables).
    #[arg(long)]
    pub rank: Option<u64>,
    /// Number of workers.
    #[arg(long)]
    pub world: Option<u64>,
    /// End with exit code 6 if any sample failed.
    #[arg(long)]
    pub strict: bool,
    /// Licence of the weights, kept in the manifest.
    #[arg(long, value_name = "TEXT")]
    pub weights_licence: Option<String>,
    /// Licence of the pictures, kept in the manifest.
    #[arg(long, value_name = "TEXT")]
    pub images_licence: Option<String>,
}

/// `featcache verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The store.
    pub store: PathBuf,
    /// Recompute N random rows with the model and report the differences.
    #[arg(long, value_name = "N", value_parser = count)]
    pub against_model: Option<usize>,
    /// Where the weights come from.
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Root folder of the dataset (default: where the last extraction found it).
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Seed of the choice of rows.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Largest relative difference (L2, per row and level) that still passes; default by compute and encoding.
    #[arg(long, value_name = "REL", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Verify what a store that is not finished holds so far.
    #[arg(long)]
    pub incomplete: bool,
}

/// `featcache inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The store.
    pub store: PathBuf,
    /// Show this sample.
    #[arg(long, value_name = "KEY")]
    pub sample: Option<String>,
    /// Split of the sample, where its key is in several.
    #[arg(long)]
    pub split: Option<String>,
    /// Write the sample's labels over its picture, one file a view, into this folder.
    #[arg(long, value_name = "DIR", requires = "sample")]
    pub truth: Option<PathBuf>,
    /// Root folder of the dataset: labels are drawn on its pictures, without it on PCA pictures.
    #[arg(long, value_name = "DIR", requires = "truth")]
    pub root: Option<PathBuf>,
    /// Write PCA pictures of the sample's levels into this folder.
    #[arg(long, value_name = "DIR", requires = "sample")]
    pub pca: Option<PathBuf>,
    /// Rows, spread evenly over the store, from which the PCA basis shared by all samples is computed.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count)]
    pub pca_samples: usize,
    /// Open a store that is not finished.
    #[arg(long)]
    pub incomplete: bool,
}

/// `featcache transcode`
#[derive(Debug, Args)]
pub struct TranscodeArgs {
    /// The store to read, finished; every checksum of it is checked.
    pub source: PathBuf,
    /// The store to make or go on with. Every shard is read back before it counts.
    pub target: PathBuf,
    /// Encoding of each level, such as p2=int8,p3=int8, or of all others (int8,p5=bf16); a level without one
    /// is copied as it is.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ENCODINGS")]
    pub store: String,
    /// Levels to keep, comma-separated; default: all.
    #[arg(long, value_delimiter = ',', value_name = "LEVELS")]
    pub levels: Vec<String>,
    /// Views to keep, comma-separated; default: all.
    #[arg(long, value_delimiter = ',', value_name = "VIEWS")]
    pub views: Vec<String>,
    /// Splits to keep, comma-separated; default: all.
    #[arg(long, value_delimiter = ',', value_name = "SPLIT")]
    pub split: Vec<String>,
    /// Memory for rows on their way, in MiB.
    #[arg(
        long,
        default_value_t = featcache_store::DEFAULT_TRANSCODE_BYTES >> 20,
        value_name = "MIB",
        value_parser = mebibytes
    )]
    pub memory_mib: u64,
    /// Threads that encode (default: the CPUs this process may use).
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// End with exit code 6 if any row has failed.
    #[arg(long)]
    pub strict: bool,
}

/// `featcache train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The store to train from.
    pub store: PathBuf,
    /// Head, optimiser and schedule. Given several times, each with its own --out, the heads train on one
    /// pass over the store.
    #[arg(long, value_name = "FILE", required = true)]
    pub recipe: Vec<PathBuf>,
    /// Folder of the run; an existing run goes on.
    #[arg(long, value_name = "RUN", required = true)]
    pub out: Vec<PathBuf>,
    /// Start detectors from the neck and heads in this safetensors file, in torchvision's or mmdetection's
    /// names; what matched is reported.
    #[arg(long, value_name = "FILE")]
    pub head_weights: Option<PathBuf>,
    /// Train on this split (default: the only one, else the one whose name starts with train).
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<String>,
    /// How the store is read.
    #[command(flatten)]
    pub loader: LoaderArgs,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Train from a store that is not finished.
    #[arg(long)]
    pub incomplete: bool,
}

/// `featcache eval`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// The store to score on.
    pub store: PathBuf,
    /// Score on this split (default: the only one, else the one whose name starts with val).
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<String>,
    /// Score on the rows of this view; label maps are not scored on mirrored ones.
    #[arg(long, default_value = featcache_heads::evaluate::DEFAULT_EVALUATE_VIEW, value_name = "VIEW")]
    pub view: String,
    /// Write a detector's results as COCO json: FILE.bbox.json and FILE.segm.json.
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,
    /// Write curves of precision over recall and the best and worst detections as pictures.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Root folder of the dataset: the report draws on its pictures, without it on blank ones.
    #[arg(long, value_name = "DIR", requires = "report")]
    pub root: Option<PathBuf>,
    /// How the store is read.
    #[command(flatten)]
    pub loader: LoaderArgs,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Score on a store that is not finished.
    #[arg(long)]
    pub incomplete: bool,
}

/// `featcache predict`
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// Pictures.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// Where the weights come from.
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Folder for the overlays, and for label maps or a detector's results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Detections below this score are not drawn; the results hold all.
    #[arg(long, default_value_t = DEFAULT_DRAWN_SCORE, value_name = "SCORE", value_parser = share)]
    pub score: f64,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `featcache demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder for everything the demo makes.
    #[arg(long, default_value = "demo", value_name = "DIR")]
    pub out: PathBuf,
    /// Only draw the data set.
    #[arg(long)]
    pub draw_only: bool,
    /// Training pictures.
    #[arg(long, default_value_t = 400, value_name = "N", value_parser = scenes)]
    pub train: usize,
    /// Held-out pictures.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = scenes)]
    pub val: usize,
    /// Seed of the drawing.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
