//! Reads ground truth from an `instances_*.json`. Segmentations stay the text of the file; pictures are not looked at.

use super::ground_truth::{GroundTruth, Object, Picture};
use super::list::List;
use crate::{Error, Result};
use featcache_store::{Category, Size};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::path::Path;

#[derive(Deserialize)]
#[serde(expecting = "an object with images, annotations and categories")]
struct Content<'a> {
    images: Vec<ImageRow>,
    #[serde(borrow)]
    annotations: List<AnnotationRow<'a>>,
    categories: Vec<CategoryRow>,
}

#[derive(Deserialize)]
#[serde(expecting = "an image object")]
struct ImageRow {
    id: i64,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
#[serde(expecting = "an annotation object")]
struct AnnotationRow<'a> {
    id: Option<i64>,
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    area: Option<f64>,
    iscrowd: Option<Flag>,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "a category object")]
struct CategoryRow {
    id: i64,
    name: String,
    supercategory: Option<String>,
}

/// 0 or 1, or the booleans that some exporters write.
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match <&RawValue>::deserialize(deserializer)?.get() {
            "0" | "false" => Ok(Self(false)),
            "1" | "true" => Ok(Self(true)),
            _ => Err(serde::de::Error::custom("iscrowd is neither 0 nor 1")),
        }
    }
}

impl GroundTruth {
    /// Reads an instances file: the official ones and exports of their form.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] naming the file and the entry for what is not such a file or contradicts
    /// itself.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::parse(&bytes).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
    }

    /// The same from the bytes of a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`read`](Self::read), without a path.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let content: Content<'_> =
            serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("not COCO instances: {e}")))?;
        let size = |image: &ImageRow| image.height.zip(image.width).map(|(h, w)| Size::new(h, w));
        let pictures = content.images.iter().map(|i| Picture { id: i.id, size: size(i) }).collect();
        let categories = content.categories.into_iter().map(|row| Category {
            id: row.id,
            name: row.name,
            supercategory: row.supercategory,
        });
        let objects = content.annotations.0.into_iter().map(|row| {
            let bbox = row.bbox;
            Object {
                id: row.id,
                image_id: row.image_id,
                category_id: row.category_id,
                bbox,
                area: row.area.unwrap_or(bbox[2] * bbox[3]),
                crowd: row.iscrowd.is_some_and(|flag| flag.0),
                segmentation: row.segmentation.map(|text| text.get().to_owned()),
            }
        });
        Self::new(categories.collect(), pictures, objects.collect())
    }
}
