//! A COCO annotation file: its rows as they stand in the json, and the checks that make them usable.
//!
//! Rows are parsed straight into structs, without a tree of values; segmentations stay the very text of
//! the file. Nothing here looks at pictures.

use crate::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The parts of the file that are used; others are skipped.
#[derive(Deserialize)]
#[serde(expecting = "an object with images, annotations and categories")]
pub(super) struct Content<'a> {
    pub(super) images: Option<Vec<ImageRow>>,
    #[serde(borrow)]
    pub(super) annotations: Option<Vec<AnnotationRow<'a>>>,
    pub(super) categories: Option<Vec<CategoryRow>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an image object")]
pub(super) struct ImageRow {
    pub(super) id: i64,
    pub(super) file_name: String,
    pub(super) width: Option<f64>,
    pub(super) height: Option<f64>,
    /// Text in the official files, anything in others.
    coco_url: Option<serde_json::Value>,
}

impl ImageRow {
    /// The folder that the picture's address names, if that can be the name of a folder here.
    pub(super) fn url_folder(&self) -> Option<&str> {
        let (folders, _) = self.coco_url.as_ref()?.as_str()?.rsplit_once('/')?;
        let (_, folder) = folders.rsplit_once('/')?;
        let is_name = super::relative(folder).is_some_and(|path| path.as_os_str() == folder);
        is_name.then_some(folder)
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an annotation object")]
pub(super) struct AnnotationRow<'a> {
    pub(super) id: Option<i64>,
    pub(super) image_id: i64,
    pub(super) category_id: Option<i64>,
    pub(super) bbox: Option<[f64; 4]>,
    pub(super) area: Option<f64>,
    #[serde(default, deserialize_with = "flag")]
    pub(super) iscrowd: bool,
    #[serde(borrow)]
    pub(super) segmentation: Option<&'a RawValue>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a category object")]
pub(super) struct CategoryRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) supercategory: Option<String>,
}

/// 0 or 1, or the booleans that some exporters write.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("0 or 1")
        }

        fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
            match value {
                0 | 1 => Ok(value == 1),
                _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(value), &self)),
            }
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<bool, E> {
            u64::try_from(value).map_err(E::custom).and_then(|value| self.visit_u64(value))
        }

        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<bool, E> {
            match value {
                0.0 => Ok(false),
                1.0 => Ok(true),
                _ => Err(E::invalid_value(serde::de::Unexpected::Float(value), &self)),
            }
        }

        fn visit_unit<E>(self) -> Result<bool, E> {
            Ok(false)
        }
    }
    deserializer.deserialize_any(Flag).map_err(|error| D::Error::custom(format!("iscrowd: {error}")))
}

/// A checked file.
pub(super) struct Instances<'a> {
    pub(super) images: Vec<ImageRow>,
    pub(super) annotations: Vec<AnnotationRow<'a>>,
    pub(super) categories: Vec<CategoryRow>,
    /// Position in `images` by image id.
    pub(super) by_id: HashMap<i64, usize>,
}

/// Parses and checks the bytes of the file at `path`.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Instances<'a>> {
    let wrong = |what: String| Error::dataset(path, what);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let content: Content<'a> =
        serde_json::from_slice(bytes).map_err(|error| wrong(format!("not COCO json: {error}")))?;
    let missing =
        |name: &str| wrong(format!("not COCO json: no {name}, expected images, annotations and categories"));
    let images = content.images.ok_or_else(|| missing("images"))?;
    let annotations = content.annotations.unwrap_or_default();
    let categories = match content.categories {
        Some(categories) => categories,
        None if annotations.is_empty() => Vec::new(),
        None => return Err(missing("categories")),
    };
    let mut by_id = HashMap::with_capacity(images.len());
    for (position, image) in images.iter().enumerate() {
        if let Some(first) = by_id.insert(image.id, position) {
            return Err(wrong(format!(
                "image id {} twice: {:?} and {:?}",
                image.id, images[first].file_name, image.file_name
            )));
        }
    }
    let mut known = HashSet::with_capacity(categories.len());
    for category in &categories {
        if !known.insert(category.id) {
            return Err(wrong(format!("category id {} twice (second: {:?})", category.id, category.name)));
        }
    }
    let mut ids = HashSet::with_capacity(annotations.len());
    for (number, row) in annotations.iter().enumerate() {
        let name = || row.id.map_or_else(|| format!("number {number}"), |id| id.to_string());
        if row.id.is_some_and(|id| !ids.insert(id)) {
            return Err(wrong(format!("annotation id {} twice", name())));
        }
        if !by_id.contains_key(&row.image_id) {
            return Err(wrong(format!(
                "annotation {}: image {} is not among the {} images",
                name(),
                row.image_id,
                images.len()
            )));
        }
        let Some(category) = row.category_id else {
            return Err(wrong(format!(
                "annotation {}: no category_id, expected an instances file and not one of captions or panoptic segments",
                name()
            )));
        };
        if !known.contains(&category) {
            return Err(wrong(format!(
                "annotation {}: category {category} is not among the {} categories",
                name(),
                categories.len()
            )));
        }
        if row.bbox.is_none() {
            return Err(wrong(format!("annotation {}: no bbox, expected [x, y, width, height]", name())));
        }
    }
    Ok(Instances { images, annotations, categories, by_id })
}
