//! Datasets in their official layouts, as a [`Listing`] of samples and labels.
//!
//! Listing reads of every picture no more than its header, in parallel, and keeps labels in the
//! dataset's own terms. What is wrong with one picture is recorded with its sample; what is wrong with
//! the dataset is an error of one line that names the file.

mod ade20k;
mod coco;
mod folder;
mod label_map;

pub use ade20k::Ade20k;
pub use coco::Coco;
pub use folder::Folder;

use crate::image::{self, ExifRule, ImageError, Limits};
use crate::{Error, Result};
use featcache_store::{ListedSample, Listing, Preprocess, SampleKey};
use rayon::prelude::*;
use std::path::{Component, Path, PathBuf};

/// A dataset on disk.
pub trait Dataset: Send + Sync {
    /// Kind, as in `--dataset` and in the store: `coco`, `ade20k`, `folder`.
    fn kind(&self) -> &'static str;

    /// The folder that the samples' sources are relative to.
    fn root(&self) -> &Path;

    /// Lists samples and labels of all its splits. Sizes are those that decoding by this
    /// preprocessing will give.
    ///
    /// # Errors
    /// [`Error::Dataset`] or [`Error::Io`] where the layout or the labels are not usable.
    fn list(&self, preprocess: &Preprocess) -> Result<Listing>;
}

/// Kinds that [`open`] knows.
pub const KINDS: [&str; 3] = ["coco", "ade20k", "folder"];

/// What is wanted of a dataset.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Splits; none: all that the folder has.
    pub splits: Vec<String>,
    /// Folder of COCO-stuff maps, `<split>/<name of the picture>.png` in it; left out: `stuffthingmaps`
    /// below the root, where it is there.
    pub stuff: Option<PathBuf>,
}

/// The dataset of a kind at `root`.
///
/// # Errors
/// [`Error::Unknown`] where there is no such kind, [`Error::Dataset`] where the folder is none, or stuff maps
/// are wanted of another kind than `coco`.
pub fn open(kind: &str, root: &Path, wanted: &Wanted) -> Result<Box<dyn Dataset>> {
    let Wanted { splits, stuff } = wanted;
    if !root.is_dir() {
        return Err(Error::dataset(root, format!("not a folder: expected the root of a {kind} dataset")));
    }
    for split in splits {
        if relative(split).is_none_or(|name| name.as_os_str() != split.as_str()) || split.contains('/') {
            return Err(Error::dataset(root, format!("split {split:?} is not a folder name")));
        }
    }
    if let Some(stuff) = stuff.as_ref().filter(|_| kind != "coco") {
        return Err(Error::dataset(stuff, format!("stuff maps for a {kind} dataset: expected coco")));
    }
    let (root, splits) = (root.to_owned(), splits.clone());
    match kind {
        "coco" => Ok(Box::new(Coco::new(root, splits, stuff.clone()))),
        "ade20k" => Ok(Box::new(Ade20k::new(root, splits))),
        "folder" => Ok(Box::new(Folder::new(root, &splits)?)),
        _ => Err(Error::Unknown { kind: "dataset", name: kind.into(), expected: KINDS.join(", ") }),
    }
}

/// Reads the file of a sample. The inner error is to be recorded with the row.
///
/// # Errors
/// As [`image::read_file`]; [`Error::Dataset`] where the path leaves the dataset.
pub fn read_source(root: &Path, source: &str, limits: &Limits) -> Result<Result<Vec<u8>, ImageError>> {
    let below = relative(source)
        .ok_or_else(|| Error::dataset(root, format!("path {source:?} leaves the dataset")))?;
    image::read_file(&root.join(below), limits)
}

/// A sample before its header is read.
struct Unprobed {
    split: String,
    key: String,
    source: String,
    image_id: Option<i64>,
}

/// Reads the headers, in parallel, in order.
fn probe_all(root: &Path, samples: Vec<Unprobed>, preprocess: &Preprocess) -> Vec<ListedSample> {
    let rule = ExifRule::of(preprocess);
    let limits = Limits::default();
    samples
        .into_par_iter()
        .map(|sample| ListedSample {
            size: image::probe_file(&root.join(&sample.source), rule, &limits).map_err(|e| e.to_string()),
            split: sample.split,
            key: SampleKey(sample.key),
            source: sample.source,
            image_id: sample.image_id,
        })
        .collect()
}

/// The path, without any `.` in it, if it is relative and goes only down.
fn relative(path: &str) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    // A backslash is a separator on other systems; a NUL ends a path in system calls.
    (!below.as_os_str().is_empty() && !path.contains(['\\', '\0'])).then_some(below)
}

/// Names in a folder, sorted, hidden ones left out (`._x.jpg` of macOS is no picture).
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let name =
            name.into_string().map_err(|name| Error::dataset(folder.join(name), "the name is not UTF-8"))?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The name without its last suffix.
fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, suffix)) if !stem.is_empty() && !suffix.contains('/') => stem,
        _ => name,
    }
}

/// Whether a file is named like a picture. What it is, its bytes decide.
fn named_like_picture(name: &str) -> bool {
    const SUFFIXES: [&str; 12] =
        ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic"];
    name.rsplit_once('.').is_some_and(|(_, suffix)| SUFFIXES.iter().any(|s| suffix.eq_ignore_ascii_case(s)))
}
