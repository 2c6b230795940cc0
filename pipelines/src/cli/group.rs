//! Groups of arguments that several verbs take: which pictures, which features, with what, how stored and
//! read.

use super::number::{MOST_MIB, threads};
use crate::page_choice::PageChoice;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

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
    /// Folder of COCO-stuff maps, SPLIT/*.png in it [default: ROOT/stuffthingmaps, where it is there].
    #[arg(long, value_name = "DIR")]
    pub stuff: Option<PathBuf>,
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
    /// What reading does with the page cache: buffered (keeps what was read), mapped (and copies it out of a
    /// memory map from then on), dontcache, direct (around it); auto maps a store that fits into memory and tests the
    /// disk for one that does not.
    #[arg(long, default_value_t = PageChoice::Auto, value_name = "POLICY")]
    pub pages: PageChoice,
    /// Go on without rows that are corrupt on disk, and count them.
    #[arg(long)]
    pub skip_corrupt: bool,
}

/// How features lie on disk.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Encoding: one for all levels, one a level (p2=int8,p3=bf16), or both (int8,p5=bf16).
    ///
    /// An encoding is [pcaK+]FORMAT[+zstd]. FORMAT: bf16, f16, f32; int8, int4, e4m3fn with scales a row and channel.
    /// pcaK: K coefficients a cell in a basis that is calibrated on a sample of rows (pca64 is pca64+bf16).
    /// zstd: chunks are compressed on top.
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
