//! COCO 2017 and the folder layouts that exporters make of it.
//!
//! Official: `annotations/instances_<split>.json` and `<split>/<file_name>`. Also found: `image_info_<split>.json`
//! (test pictures without labels), pictures under `images/<split>` or in the folder that their `coco_url` names
//! (those of `test-dev2017` are some of `test2017`'s), Roboflow's `<split>/_annotations.coco.json`, and one
//! `annotations.json` beside its pictures (split `all`).
//! COCO-stuff maps (`stuffthingmaps/<split>/*.png`) travel beside the objects where they are there.
//! Sizes come from the pictures' headers: where the json states others, the header counts.

mod json;
mod stuff;

use super::{Dataset, Unprobed, names, probe_all, relative, stem};
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, Category, ListedSample, Listing, Preprocess, SampleKey};
use json::{CategoryRow, ImageRow, Instances};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Split of a lone `annotations.json`.
const ALL: &str = "all";

/// A COCO dataset: boxes, polygons, crowds and stuff maps of some splits.
#[derive(Debug, Clone)]
pub struct Coco {
    root: PathBuf,
    splits: Vec<String>,
    stuff: Option<PathBuf>,
}

impl Coco {
    /// The dataset at `root`; without `splits`, all that have an annotation file. Stuff maps are taken from
    /// `<split>` in the folder `stuff`; without one, from `stuffthingmaps/<split>` where that is there.
    pub fn new(root: PathBuf, splits: Vec<String>, stuff: Option<PathBuf>) -> Self {
        Self { root, splits, stuff }
    }

    /// Splits that have an annotation file, sorted. `instances_` wins over `image_info_`.
    fn found_splits(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let annotations = self.root.join("annotations");
        if annotations.is_dir() {
            for name in names(&annotations)? {
                let split = name
                    .strip_suffix(".json")
                    .and_then(|s| s.strip_prefix("instances_").or_else(|| s.strip_prefix("image_info_")));
                found.extend(split.map(str::to_owned));
            }
        }
        for name in names(&self.root)? {
            if self.root.join(&name).join("_annotations.coco.json").is_file() {
                found.push(name);
            }
        }
        if found.is_empty() && self.annotation_file(ALL).is_some() {
            found.push(ALL.into());
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The annotation file of a split, relative to the root.
    fn annotation_file(&self, split: &str) -> Option<String> {
        let mut candidates = vec![
            format!("annotations/instances_{split}.json"),
            format!("annotations/image_info_{split}.json"),
            format!("{split}/_annotations.coco.json"),
        ];
        if split == ALL {
            candidates.extend(["annotations.json".into(), "_annotations.coco.json".into()]);
        }
        candidates.into_iter().find(|file| self.root.join(file).is_file())
    }

    /// The folder, relative to the root and ending in `/` unless it is the root, that the file names
    /// of a split are relative to: where most of the first names are.
    fn picture_folder(&self, split: &str, images: &[ImageRow]) -> Result<String> {
        let mut candidates =
            vec![format!("{split}/"), format!("images/{split}/"), format!("{split}/images/")];
        if let Some(folder) = images.first().and_then(ImageRow::url_folder).filter(|name| *name != split) {
            candidates.extend([format!("{folder}/"), format!("images/{folder}/")]);
        }
        candidates.extend(["images/".into(), String::new()]);
        let first = &images[..images.len().min(16)];
        let holds = |folder: &String| {
            first.iter().filter(|image| self.root.join(folder).join(&image.file_name).is_file()).count()
        };
        let (best, count) = candidates
            .iter()
            .map(|folder| (folder, holds(folder)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .unwrap_or((&candidates[0], 0));
        let there = |folder: &&String| !folder.is_empty() && self.root.join(folder).is_dir();
        match candidates.iter().find(there) {
            _ if count > 0 => Ok(best.clone()),
            // None of the first pictures is there, but a folder for them is: each is a recorded failure.
            Some(folder) => Ok(folder.clone()),
            None => Err(Error::dataset(
                &self.root,
                format!(
                    "no pictures of split {split}: expected {split}/ or images/{split}/ beside the annotations"
                ),
            )),
        }
    }

    fn list_split(&self, split: &str, preprocess: &Preprocess, listing: &mut Listing) -> Result<()> {
        let Some(file) = self.annotation_file(split) else {
            return Err(Error::dataset(
                &self.root,
                format!(
                    "no annotations of split {split}: expected annotations/instances_{split}.json, found splits {:?}",
                    self.found_splits()?
                ),
            ));
        };
        let path = self.root.join(file);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let instances = json::parse(&path, &bytes)?;
        merge_categories(&path, &instances.categories, &mut listing.categories)?;
        let unprobed = self.unprobed(&path, split, &instances.images)?;
        let mut samples = probe_all(&self.root, unprobed, preprocess);
        warn_of_sizes(&path, &instances.images, &samples);
        let maps = match self.stuff_folder(split)? {
            Some(folder) => stuff::read(&folder, &mut samples)?,
            None => Vec::new(),
        };
        annotations(instances, split, &samples, &mut listing.annotations);
        listing.annotations.extend(maps);
        listing.samples.extend(samples);
        Ok(())
    }

    /// The folder of a split's stuff maps; one that was named must be there.
    fn stuff_folder(&self, split: &str) -> Result<Option<PathBuf>> {
        let folder = match &self.stuff {
            Some(named) => named.join(split),
            None => self.root.join(stuff::FOLDER).join(split),
        };
        match (folder.is_dir(), &self.stuff) {
            (true, _) => Ok(Some(folder)),
            (false, None) => Ok(None),
            (false, Some(_)) => {
                Err(Error::dataset(folder, format!("not a folder: expected the stuff maps of split {split}")))
            }
        }
    }

    /// Samples of the file's images; names that leave the folder or collide are refused.
    fn unprobed(&self, path: &Path, split: &str, images: &[ImageRow]) -> Result<Vec<Unprobed>> {
        let wrong = |what: String| Error::dataset(path, what);
        let below = |image: &ImageRow| {
            let below = relative(&image.file_name);
            below.and_then(|path| path.into_os_string().into_string().ok()).ok_or_else(|| {
                wrong(format!(
                    "image {}: file_name {:?} leaves the folder of pictures",
                    image.id, image.file_name
                ))
            })
        };
        // Without the `./` that some exporters begin names with.
        let names: Vec<String> = images.iter().map(below).collect::<Result<_>>()?;
        let folder = self.picture_folder(split, images)?;
        let mut keys: HashMap<&str, &str> = HashMap::with_capacity(images.len());
        images
            .iter()
            .zip(&names)
            .map(|(image, name)| {
                let key = stem(name);
                if let Some(first) = keys.insert(key, name) {
                    return Err(wrong(format!("sample {key:?} twice: {first:?} and {name:?}")));
                }
                Ok(Unprobed {
                    split: split.into(),
                    key: key.into(),
                    source: format!("{folder}{name}"),
                    image_id: Some(image.id),
                })
            })
            .collect()
    }
}

impl Dataset for Coco {
    fn kind(&self) -> &'static str {
        "coco"
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, preprocess: &Preprocess) -> Result<Listing> {
        let splits = if self.splits.is_empty() { self.found_splits()? } else { self.splits.clone() };
        if splits.is_empty() {
            return Err(Error::dataset(
                &self.root,
                "not a COCO dataset: expected annotations/instances_<split>.json",
            ));
        }
        let mut listing = Listing { dataset: self.kind().into(), ..Listing::default() };
        for split in &splits {
            self.list_split(split, preprocess, &mut listing)?;
        }
        Ok(listing)
    }
}

/// Categories must be the same in all splits; a file without any goes with every other.
fn merge_categories(path: &Path, rows: &[CategoryRow], categories: &mut Vec<Category>) -> Result<()> {
    let rows: Vec<Category> = rows
        .iter()
        .map(|row| Category { id: row.id, name: row.name.clone(), supercategory: row.supercategory.clone() })
        .collect();
    if categories.is_empty() {
        *categories = rows;
    } else if !rows.is_empty() && *categories != rows {
        let of = |list: &[Category]| list.iter().map(|c| format!("{} {}", c.id, c.name)).collect::<Vec<_>>();
        let (expected, found) = (of(categories), of(&rows));
        let differs = expected.iter().zip(&found).find(|(a, b)| a != b);
        return Err(Error::dataset(
            path,
            match differs {
                Some((a, b)) => {
                    format!("categories differ from the other splits': expected {a:?}, found {b:?}")
                }
                None => format!(
                    "categories differ from the other splits': expected {}, found {}",
                    expected.len(),
                    found.len()
                ),
            },
        ));
    }
    Ok(())
}

/// Says how many sizes in the json are wrong; the header's is used.
fn warn_of_sizes(path: &Path, images: &[ImageRow], samples: &[ListedSample]) {
    let mut wrong = images.iter().zip(samples).filter_map(|(image, sample)| {
        let (size, height, width) = (sample.size.as_ref().ok()?, image.height?, image.width?);
        let differs = height != f64::from(size.height) || width != f64::from(size.width);
        differs.then(|| format!("{}: json {height}x{width}, file {size}", image.file_name))
    });
    if let Some(first) = wrong.next() {
        log::warn!(
            "{}: {} of {} pictures have another size than the json states; the file counts (first: {first})",
            path.display(),
            1 + wrong.count(),
            images.len()
        );
    }
}

fn annotations(instances: Instances<'_>, split: &str, samples: &[ListedSample], out: &mut Vec<Annotation>) {
    out.reserve(instances.annotations.len());
    for row in instances.annotations {
        // The parser has refused rows without these.
        let (Some(&position), Some(category_id), Some(bbox)) =
            (instances.by_id.get(&row.image_id), row.category_id, row.bbox)
        else {
            continue;
        };
        out.push(Annotation {
            split: split.into(),
            key: SampleKey(samples[position].key.0.clone()),
            id: row.id,
            label: Label::Object {
                category_id,
                bbox,
                area: row.area.unwrap_or(bbox[2] * bbox[3]),
                iscrowd: row.iscrowd,
                segmentation: row.segmentation.map(|text| text.get().to_owned()),
            },
        });
    }
}
