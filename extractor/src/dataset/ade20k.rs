//! ADE20K SceneParsing (ADEChallengeData2016): `images/<split>/*.jpg` with label maps of the same name in
//! `annotations/<split>/*.png`, 0 = not labelled, k = category k.
//!
//! Label maps travel as the bytes of their files, after all of their pixels have been read once. A picture without one is a sample without a label. A
//! label map that is broken or of another size than its picture makes the sample a recorded failure,
//! not an unlabelled one: the pair cannot be trusted, and a training set must not shrink in silence.
//! The full ADE20K release encodes labels in RGB; it is recognised and refused.

use super::label_map::{LabelMap, Values};
use super::{Dataset, Unprobed, named_like_picture, names, probe_all, stem};
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, Category, ListedSample, Listing, Preprocess};
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Names of the 150 categories, beside the folders.
const OBJECT_INFO: &str = "objectInfo150.txt";
/// Names of other label sets: one a line, the k-th line is the name of label value k. Without any names
/// file, categories are counted from the label maps of the splits that are listed.
const NAMES: &str = "categories.txt";

/// What a label map is, for errors.
const EXPECTED: &str = "SceneParsing's 8-bit values 0..150, not the RGB of the full ADE20K release";

/// An ADE20K SceneParsing dataset.
#[derive(Debug, Clone)]
pub struct Ade20k {
    root: PathBuf,
    splits: Vec<String>,
}

impl Ade20k {
    /// The dataset at `root`; without `splits`, all folders under `images`.
    pub fn new(root: PathBuf, splits: Vec<String>) -> Self {
        Self { root, splits }
    }

    fn found_splits(&self) -> Result<Vec<String>> {
        let images = self.root.join("images");
        if !images.is_dir() {
            return Err(Error::dataset(&self.root, self.what_it_is_instead()?));
        }
        Ok(names(&images)?.into_iter().filter(|name| images.join(name).is_dir()).collect())
    }

    fn what_it_is_instead(&self) -> Result<String> {
        let expected = "expected images/<split> and annotations/<split>";
        let inside = names(&self.root)?;
        Ok(if inside.iter().any(|name| name.ends_with("_seg.png")) {
            format!("the full ADE20K release (RGB labels in *_seg.png): {expected} of SceneParsing")
        } else if self.root.join("ADEChallengeData2016/images").is_dir() {
            format!("not the dataset's own folder: {expected}, found them in ADEChallengeData2016")
        } else {
            format!("not an ADE20K SceneParsing dataset: {expected}")
        })
    }

    /// Adds a split to the listing, and the values of its label maps to `used`.
    fn list_split(
        &self,
        split: &str,
        preprocess: &Preprocess,
        listing: &mut Listing,
        used: &mut Values,
    ) -> Result<()> {
        let folder = self.root.join("images").join(split);
        if !folder.is_dir() {
            return Err(Error::dataset(
                &folder,
                format!("no such split: expected one of {:?}", self.found_splits()?),
            ));
        }
        let mut unprobed: Vec<Unprobed> = Vec::new();
        // Not neighbours, though names are sorted: `a.jpg`, `a0.jpg`, `a.png`.
        let mut keys = HashSet::new();
        for name in names(&folder)?.into_iter().filter(|name| named_like_picture(name)) {
            if name.ends_with("_seg.png") {
                return Err(Error::dataset(
                    folder.join(name),
                    "a label of the full ADE20K release among the pictures: expected SceneParsing, with labels in annotations/",
                ));
            }
            let key = stem(&name).to_owned();
            if !keys.insert(key.clone()) {
                return Err(Error::dataset(folder.join(name), format!("sample {key:?} twice")));
            }
            let source = format!("images/{split}/{name}");
            unprobed.push(Unprobed { split: split.into(), key, source, image_id: None });
        }
        if unprobed.is_empty() {
            return Err(Error::dataset(&folder, "no pictures: expected *.jpg right in this folder"));
        }
        let mut samples = probe_all(&self.root, unprobed, preprocess);
        let labels: Vec<Option<(Annotation, Values)>> =
            samples.par_iter_mut().map(|sample| self.label(sample)).collect::<Result<_>>()?;
        self.warn_of_orphans(split, &samples)?;
        for (annotation, values) in labels.into_iter().flatten() {
            listing.annotations.push(annotation);
            used.iter_mut().zip(values).for_each(|(used, here)| *used |= here);
        }
        listing.samples.extend(samples);
        Ok(())
    }

    /// The label of a sample, if it has one, and its values; a label that does not fit turns the sample into a
    /// failure.
    fn label(&self, sample: &mut ListedSample) -> Result<Option<(Annotation, Values)>> {
        let path = self.root.join("annotations").join(&sample.split).join(format!("{}.png", sample.key));
        let Some(map) = LabelMap::read(&path, EXPECTED)? else { return Ok(None) };
        let map = match map {
            Ok(map) => map,
            Err(error) => {
                sample.size = Err(format!("label map: {error}"));
                return Ok(None);
            }
        };
        if let Ok(size) = sample.size
            && size != map.size
        {
            sample.size = Err(format!("label map is {}, its picture {size}", map.size));
            return Ok(None);
        }
        let (split, key) = (sample.split.clone(), sample.key.clone());
        Ok(Some((Annotation { split, key, id: None, label: Label::LabelMap { png: map.png } }, map.values)))
    }

    fn warn_of_orphans(&self, split: &str, samples: &[ListedSample]) -> Result<()> {
        let folder = self.root.join("annotations").join(split);
        if !folder.is_dir() {
            return Ok(());
        }
        let known: HashSet<&str> = samples.iter().map(|sample| sample.key.0.as_str()).collect();
        let orphans: Vec<String> =
            names(&folder)?.into_iter().filter(|name| !known.contains(stem(name))).collect();
        if let Some(first) = orphans.first() {
            log::warn!(
                "{}: {} label maps without a picture (first: {first})",
                folder.display(),
                orphans.len()
            );
        }
        Ok(())
    }

    /// Categories from the names file that is there, or else from the values that label maps use.
    fn categories(&self, used: &Values) -> Result<Vec<Category>> {
        for (name, parse) in [
            (OBJECT_INFO, object_info as fn(&Path, &str) -> Result<Vec<Category>>),
            (NAMES, one_a_line as fn(&Path, &str) -> Result<Vec<Category>>),
        ] {
            let path = self.root.join(name);
            if path.is_file() {
                let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
                return parse(&path, &text);
            }
        }
        // Up to the largest, without gaps: a small split need not show every category. 255 is how other
        // tools write "not labelled".
        let last = (1..255).rev().find(|&value| used[value]).unwrap_or(0);
        Ok((1..=last as i64).map(|id| category(id, format!("label {id}"))).collect())
    }
}

impl Dataset for Ade20k {
    fn kind(&self) -> &'static str {
        "ade20k"
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, preprocess: &Preprocess) -> Result<Listing> {
        let found = self.found_splits()?;
        let splits = if self.splits.is_empty() { found } else { self.splits.clone() };
        let mut listing = Listing { dataset: self.kind().into(), ..Listing::default() };
        let mut used = [false; 256];
        for split in &splits {
            self.list_split(split, preprocess, &mut listing, &mut used)?;
        }
        if listing.samples.is_empty() {
            return Err(Error::dataset(
                self.root.join("images"),
                "no splits: expected training or validation",
            ));
        }
        listing.categories = self.categories(&used)?;
        Ok(listing)
    }
}

fn category(id: i64, name: String) -> Category {
    Category { id, name, supercategory: None }
}

/// `objectInfo150.txt`: tab-separated, a header line with `Idx` and `Name`.
fn object_info(path: &Path, text: &str) -> Result<Vec<Category>> {
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or_default().split('\t').map(str::trim).collect();
    let column = |name: &str| {
        columns.iter().position(|column| *column == name).ok_or_else(|| {
            Error::dataset(path, format!("no column {name}: expected Idx and Name, found {columns:?}"))
        })
    };
    let (index, name) = (column("Idx")?, column("Name")?);
    lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            match (fields.get(index).and_then(|id| id.parse().ok()), fields.get(name)) {
                (Some(id), Some(name)) => Ok(category(id, (*name).to_owned())),
                _ => Err(Error::dataset(path, format!("line {}: no Idx and Name in {line:?}", number + 2))),
            }
        })
        .collect()
}

fn one_a_line(_: &Path, text: &str) -> Result<Vec<Category>> {
    let named = (1..).zip(text.lines()).filter(|(_, name)| !name.trim().is_empty());
    Ok(named.map(|(id, name)| category(id, name.trim().to_owned())).collect())
}
