//! The command line as it was typed: one struct a command, no logic but the ranges of numbers.

use crate::exit::EXIT_CODES_HELP;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Run the frozen giant once. Train every head from its features, at the speed of the disk.
#[derive(Debug, Parser)]
#[command(name = "featcache", version, after_help = EXIT_CODES_HELP, args_override_self = true)]
pub struct Cli {
    /// Print the result as one JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Read flags from a TOML file: table [COMMAND], keys are flag names; typed flags win.
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

/// Most MiB that a flag may ask for: an exabyte.
const MOST_MIB: u64 = 1 << 40;

/// Most threads or readers that a flag may ask for: more is a slip of the finger.
const MOST_THREADS: usize = 1024;

/// A number of things of which one at least is meant.
fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| format!("expected a number from 1, found {text:?}"))?;
    if count == 0 { Err("expected a number from 1, found 0".to_owned()) } else { Ok(count) }
}

/// A number of threads.
fn threads(text: &str) -> Result<usize, String> {
    let refuse = || format!("expected 1 to {MOST_THREADS}, found {text}");
    text.parse().ok().filter(|count| (1..=MOST_THREADS).contains(count)).ok_or_else(refuse)
}

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
    /// Train a head from a store alone; the same command resumes.
    Train(TrainArgs),
    /// Score a trained head on a store.
    Eval(EvalArgs),
    /// Run backbone and head on pictures and write overlays.
    Predict(PredictArgs),
    /// Measure reading or extraction against the machine's limits.
    Bench(BenchArgs),
    /// Draw a small data set, extract, train, score and show it.
    Demo(DemoArgs),
}

/// Datasets in their official layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DatasetKind {
    /// COCO 2017: annotations/instances_SPLIT.json and SPLIT/*.jpg.
    Coco,
    /// ADE20K SceneParsing: images/SPLIT/*.jpg and annotations/SPLIT/*.png.
    Ade20k,
    /// Any folder of JPEG and PNG pictures.
    Folder,
}

/// Arithmetic of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ComputeArg {
    /// binary32.
    Fp32,
    /// bfloat16 matrix products.
    Bf16,
}

/// Resampling filter, always in Pillow's order up to version 12: horizontal pass first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResamplerArg {
    /// Triangle filter with antialiasing.
    Bilinear,
    /// Cubic filter, a = -0.5, with antialiasing.
    Bicubic,
}

/// Which pictures.
#[derive(Debug, Clone, Args)]
pub struct DatasetArgs {
    /// Layout of the dataset.
    #[arg(value_enum)]
    pub dataset: DatasetKind,
    /// Root folder of the dataset.
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Splits, comma-separated (coco: val2017; ade20k: validation); default: all that are found.
    #[arg(long, value_delimiter = ',', value_name = "SPLIT")]
    pub split: Vec<String>,
    /// Keep only the first N samples of each split, by key.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// What the features are.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// Backbone: swinv2-t, -s, -b, -l, -h, -giant, -g, -demo, or fake.
    #[arg(long, value_name = "NAME")]
    pub backbone: String,
    /// Levels to keep, finest first.
    #[arg(long, value_delimiter = ',', default_value = "p2,p3,p4,p5", value_name = "LEVELS")]
    pub levels: Vec<String>,
    /// Resize rule: SHORT,LONG (mmdetection) · shortest:SHORT,LONG (detectron2) · square:N · longest:N · none.
    #[arg(long, default_value = "800,1333", value_name = "RULE")]
    pub resize: String,
    /// Resampling filter.
    #[arg(long, value_enum, default_value = "bilinear")]
    pub resampler: ResamplerArg,
    /// Views of each sample: base, hflip, and scaleN or scaleN-hflip with N in hundredths (scale50).
    #[arg(long, value_delimiter = ',', default_value = "base", value_name = "VIEWS")]
    pub views: Vec<String>,
    /// Apply EXIF orientation (COCO's and ADE20K's labels are made without).
    #[arg(long)]
    pub exif: bool,
    /// Arithmetic of the forward pass.
    #[arg(long, value_enum, default_value = "bf16")]
    pub compute: ComputeArg,
    /// Attention window in cells of each stage's map.
    #[arg(long, value_name = "CELLS")]
    pub window: Option<u32>,
    /// Windows the weights were pretrained with, one a stage (such as 12,12,12,6).
    #[arg(long, value_name = "W,W,W,W")]
    pub pretrained_window: Option<String>,
}

/// Where the weights come from.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct WeightArgs {
    /// Weights in safetensors form (Microsoft, timm, Hugging Face or torchvision names).
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Seeded random weights instead of a file.
    #[arg(long, value_name = "SEED")]
    pub random_weights: Option<u64>,
}

/// What the machine should use.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Device: auto, cpu, cuda, cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads of the backbone or the head (default: the CPUs this process may use).
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// How a store is read ahead of a head.
#[derive(Debug, Clone, Args)]
pub struct LoaderArgs {
    /// Threads that read the store ahead.
    #[arg(
        long,
        default_value_t = featcache_heads::loader::DEFAULT_PREFETCH_THREADS,
        value_name = "N",
        value_parser = threads
    )]
    pub reader_threads: usize,
    /// Memory for features that are read ahead or in use, in MiB.
    #[arg(
        long,
        default_value_t = featcache_heads::loader::DEFAULT_PREFETCH_BYTES >> 20,
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(..=MOST_MIB)
    )]
    pub prefetch_mib: u64,
}

/// How features lie on disk.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Encoding: one for all levels (bf16, f16, f32) or one a level (p2=bf16,p5=f32).
    #[arg(long, default_value = "bf16", value_name = "ENCODINGS")]
    pub store: String,
    /// Size of a shard of the finest level, in MiB.
    #[arg(
        long,
        default_value_t = featcache_store::DEFAULT_SHARD_BYTES >> 20,
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(..=MOST_MIB)
    )]
    pub shard_mib: u64,
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
    #[arg(long, value_name = "N", value_parser = count)]
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
    #[arg(long, value_name = "REL")]
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
    #[arg(long, default_value_t = DEFAULT_DRAWN_SCORE, value_name = "SCORE")]
    pub score: f64,
    /// What the machine should use.
    #[command(flatten)]
    pub machine: MachineArgs,
}

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
    /// Random whole-sample reads as a ratio to raw preadv of the same ranges.
    Read(BenchReadArgs),
    /// Images a second, the ratio to the matrix-product peak, and the cost of writing.
    Extract(BenchExtractArgs),
}

/// `featcache bench read`
#[derive(Debug, Args)]
pub struct BenchReadArgs {
    /// The store.
    pub store: PathBuf,
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
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = count)]
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
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = count)]
    pub train: usize,
    /// Held-out pictures.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = count)]
    pub val: usize,
    /// Seed of the drawing.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
