//! What a dataset tells the store: its samples, and labels in the dataset's own terms.

use crate::{SampleKey, Size};

/// A dataset's split or splits as listed on disk. Pure data: the plan is a function of it.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Dataset kind: `coco`, `ade20k`, `folder`.
    pub dataset: String,
    /// Samples of all splits. Order does not matter: the plan sorts them.
    pub samples: Vec<ListedSample>,
    /// Labels of all samples, in any order; every one names a sample of the list.
    pub annotations: Vec<Annotation>,
    /// Categories, in the dataset's order.
    pub categories: Vec<Category>,
}

/// One sample as listed, before any pixel is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedSample {
    /// Split, such as `val2017`.
    pub split: String,
    /// The data set's stable name, unique in the split.
    pub key: SampleKey,
    /// Path of the file relative to the dataset's root, `/`-separated, never leaving it.
    pub source: String,
    /// Numeric id that result files need (COCO), if the dataset has one.
    pub image_id: Option<i64>,
    /// Size of the picture as decoding will give it (orientation applied if the recipe applies it),
    /// read from the file's header; or why the header could not be read.
    pub size: std::result::Result<Size, String>,
}

/// One label, in original image coordinates.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Split of the sample.
    pub split: String,
    /// Key of the sample.
    pub key: SampleKey,
    /// The dataset's own id of this label, if it has one.
    pub id: Option<i64>,
    /// Kind and content.
    pub label: Label,
}

/// Content of a label.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// A COCO object.
    Object {
        /// The dataset's category id (COCO: 1..90 with gaps).
        category_id: i64,
        /// x, y, width, height in pixels of the original picture, as in the json.
        bbox: [f64; 4],
        /// Area as in the json.
        area: f64,
        /// A crowd region.
        iscrowd: bool,
        /// Polygons or RLE exactly as in the json (JSON text), if any.
        segmentation: Option<String>,
    },
    /// A dense label map: the bytes of the original PNG.
    LabelMap {
        /// The file, unchanged.
        png: Vec<u8>,
    },
}

/// One category.
#[derive(Debug, Clone, PartialEq)]
pub struct Category {
    /// The dataset's id (COCO: 1..90 with gaps; ADE20K: 1..150, the value in the label map).
    pub id: i64,
    /// Name.
    pub name: String,
    /// Group, if the dataset has one.
    pub supercategory: Option<String>,
}
