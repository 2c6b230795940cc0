//! The objects of a picture as a detector learns them: a store's annotations put where the row's view has
//! them. Must not read features and holds no tensor, for it runs on the loader's threads.
//!
//! What is left out follows mmdetection's `CocoDataset`, except where said:
//!
//! | annotation | what becomes of it |
//! | --- | --- |
//! | box without overlap with its picture, narrower or lower than 1 pixel, area of 0 or less | left out |
//! | `iscrowd` | its box goes to [`Objects::crowd`] |
//! | no segmentation, or polygons of which none has three points | box and class are learned, no mask (mmdetection ignores the object) |
//! | box that is no number, category that the store does not list, segmentation that cannot be read or is of another size | an error that names sample and annotation |

use crate::labels::{LabelRule, Placement, Target};
use crate::mask::{Rle, Segmentation};
use crate::selection::Selection;
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, RowId, SampleRow, Size, Store, ViewGeometry};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The truth of one picture, in the coordinates of its padded input.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The part of the input that is picture.
    pub valid: Size,
    /// Boxes x1, y1, x2, y2 in pixels of the padded input, within `valid`.
    pub boxes: Vec<[f32; 4]>,
    /// Class of each box: the rank of its category in the store's list.
    pub classes: Vec<usize>,
    /// Mask of each box, at padded size; `None` where it has no usable one.
    pub masks: Vec<Option<Rle>>,
    /// Boxes of crowd regions: no objects. What lies in them is background, as in all published settings
    /// of mmdetection (`ignore_iof_thr=-1`) and in torchvision, which drops crowds.
    pub crowd: Vec<[f32; 4]>,
    /// The picture's label map at padded size, where the recipe asks for one and the store has it.
    pub semantic: Option<Target>,
}

/// Pictures without objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyPictures {
    /// They are trained on: all is background.
    Keep,
    /// They are left out: mmdetection's `filter_empty_gt`, torchvision's reference training. A picture
    /// with nothing but a crowd is not empty.
    Drop,
}

/// Which objects a detector learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectOptions {
    /// Number of values in label maps for a semantic branch; `None`: maps are not read.
    pub semantic_classes: Option<usize>,
}

/// Annotations left out so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LeftOut {
    /// Boxes under one pixel, of no area or outside of their picture.
    pub boxes: u64,
    /// Objects without a usable mask: their boxes are learned.
    pub masks: u64,
}

/// Objects of a store's rows.
#[derive(Debug)]
pub struct ObjectTruth<'a> {
    store: &'a Store,
    class_of: HashMap<i64, usize>,
    semantic: Option<LabelRule>,
    boxes_left_out: AtomicU64,
    masks_left_out: AtomicU64,
}

/// One annotation that counts.
struct Placed {
    bbox: [f32; 4],
    class: usize,
    crowd: bool,
}

impl<'a> ObjectTruth<'a> {
    /// The objects of a store's rows.
    ///
    /// # Errors
    /// A store without categories, or with an id twice.
    pub fn new(store: &'a Store, options: &ObjectOptions) -> Result<Self> {
        let categories = store.categories();
        if categories.is_empty() {
            return Err(Error::invalid("the store has no categories: a detector needs at least one"));
        }
        let class_of: HashMap<i64, usize> = (0..).zip(categories).map(|(rank, c)| (c.id, rank)).collect();
        if class_of.len() != categories.len() {
            return Err(Error::invalid("two categories of the store have the same id"));
        }
        let semantic = options.semantic_classes.map(LabelRule::raw);
        let (boxes_left_out, masks_left_out) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { store, class_of, semantic, boxes_left_out, masks_left_out })
    }

    /// Refuses a selection without objects, and one without label maps where they are asked for.
    pub fn check(&self, selection: &Selection) -> Result<()> {
        let (mut objects, mut maps) = (false, self.semantic.is_none());
        for views in &selection.samples {
            for view in views.iter().take(1) {
                for annotation in self.store.annotations(view.row)? {
                    match annotation.label {
                        Label::Object { .. } => objects = true,
                        Label::LabelMap { .. } => maps = true,
                    }
                }
            }
            if objects && maps {
                return Ok(());
            }
        }
        let split = &selection.split;
        Err(Error::invalid(match objects {
            false => format!("no sample of split {split:?} has objects: a detector has nothing to learn"),
            true => format!("no sample of split {split:?} has a label map, which the semantic branch needs"),
        }))
    }

    /// Whether a picture has anything to learn: an object or a crowd that is not left out.
    pub fn has_objects(&self, id: RowId) -> Result<bool> {
        let row = &self.store.row(id)?;
        let geometry = self.geometry(row)?;
        for annotation in self.store.annotations(id)? {
            if self.place(row, &annotation, &geometry)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A row's objects in the coordinates of its padded input.
    ///
    /// # Errors
    /// [`Error::Object`] or [`Error::Label`] with the sample; the table above says for what.
    pub fn placed(&self, id: RowId) -> Result<Objects> {
        let row = &self.store.row(id)?;
        let geometry = self.geometry(row)?;
        let (source, valid, padded) = sizes(row)?;
        let hflip = self.hflip(row);
        let mut objects = Objects {
            valid,
            boxes: Vec::new(),
            classes: Vec::new(),
            masks: Vec::new(),
            crowd: Vec::new(),
            semantic: None,
        };
        let mut left_out = LeftOut::default();
        for annotation in self.store.annotations(id)? {
            let segmentation = match &annotation.label {
                Label::Object { segmentation, .. } => segmentation.as_deref(),
                Label::LabelMap { png } => {
                    if let (Some(rule), None) = (&self.semantic, &objects.semantic) {
                        let refuse = |what| Error::Label { key: row.key.clone(), what };
                        let target = rule.target(png, source).map_err(refuse)?;
                        objects.semantic = Some(target.place(Placement { valid, hflip, padded }));
                    }
                    continue;
                }
            };
            let Some(placed) = self.place(row, &annotation, &geometry)? else {
                left_out.boxes += 1;
                continue;
            };
            if placed.crowd {
                objects.crowd.push(placed.bbox);
                continue;
            }
            let refuse = |what: String| refuse(row, &annotation, what);
            let mask = segmentation
                .and_then(|text| usable(text).transpose())
                .map(|shape| shape.and_then(|shape| shape.place(source, valid, hflip, padded)))
                .transpose()
                .map_err(|error| refuse(error.to_string()))?;
            left_out.masks += u64::from(mask.is_none());
            objects.boxes.push(placed.bbox);
            objects.classes.push(placed.class);
            objects.masks.push(mask);
        }
        self.count(row, left_out);
        Ok(objects)
    }

    /// What was left out of the rows asked for so far.
    pub fn left_out(&self) -> LeftOut {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LeftOut { boxes: load(&self.boxes_left_out), masks: load(&self.masks_left_out) }
    }

    /// Counts, and warns of the first of each kind.
    fn count(&self, row: &SampleRow, left_out: LeftOut) {
        let add = |count: &AtomicU64, more: u64| more > 0 && count.fetch_add(more, Ordering::Relaxed) == 0;
        if add(&self.boxes_left_out, left_out.boxes) {
            log::warn!(
                "sample {}: a box under one pixel or outside of the picture is left out, as all like it",
                row.key
            );
        }
        if add(&self.masks_left_out, left_out.masks) {
            log::warn!(
                "sample {}: an object has no usable mask; of this and all like it the box alone is learned",
                row.key
            );
        }
    }

    /// Box and class of an annotation; `None` where it is a label map or left out.
    fn place(
        &self,
        row: &SampleRow,
        annotation: &Annotation,
        geometry: &ViewGeometry,
    ) -> Result<Option<Placed>> {
        let Label::Object { category_id, bbox, area, iscrowd, .. } = annotation.label else {
            return Ok(None);
        };
        if bbox.iter().any(|side| !side.is_finite()) {
            return Err(refuse(row, annotation, format!("box {bbox:?} is not finite")));
        }
        let Some(&class) = self.class_of.get(&category_id) else {
            let text = format!("category {category_id} is not among the store's {}", self.class_of.len());
            return Err(refuse(row, annotation, text));
        };
        let (source, valid, _) = sizes(row)?;
        let [x, y, w, h] = bbox;
        let inside = |from: f64, length: f64, side: u32| (from + length).min(side.into()) > from.max(0.0);
        let seen = inside(x, w, source.width) && inside(y, h, source.height);
        if !seen || w < 1.0 || h < 1.0 || area.is_nan() || area <= 0.0 {
            return Ok(None);
        }
        let [x, y, w, h] = geometry.box_to_view(bbox);
        let clip = |v: f64, side: u32| v.clamp(0.0, side.into()) as f32;
        let bbox = [
            clip(x, valid.width),
            clip(y, valid.height),
            clip(x + w, valid.width),
            clip(y + h, valid.height),
        ];
        Ok(Some(Placed { bbox, class, crowd: iscrowd }))
    }

    fn geometry(&self, row: &SampleRow) -> Result<ViewGeometry> {
        let (source, valid, _) = sizes(row)?;
        let views = &self.store.recipe().views;
        let view = views.iter().find(|view| view.name == *row.view);
        let view = view.ok_or_else(|| Error::invalid(format!("view {:?} is not in the store", row.view)))?;
        Ok(view.geometry(source, valid)?)
    }

    fn hflip(&self, row: &SampleRow) -> bool {
        self.store.recipe().views.iter().any(|view| view.name == *row.view && view.hflip)
    }
}

/// Sizes of a row: of its picture, of its input without padding, and with.
pub(crate) fn sizes(row: &SampleRow) -> Result<(Size, Size, Size)> {
    match (row.source_size, row.valid_size, row.bucket) {
        (Some(source), Some(valid), Some(padded)) => Ok((source, valid, padded)),
        _ => Err(Error::invalid(format!("sample {} has no size in the store", row.key))),
    }
}

/// The shape that a text describes, without polygons of fewer than three points or half a point, which
/// mmdetection and detectron2 leave out too; `None` where nothing is left.
fn usable(text: &str) -> Result<Option<Segmentation>> {
    let error = match Segmentation::parse(text) {
        Ok(shape) => return Ok(Some(shape)),
        Err(error) => error,
    };
    let Ok(mut rings) = serde_json::from_str::<Vec<Vec<f64>>>(text) else { return Err(error) };
    let listed = rings.len();
    rings.retain(|ring| ring.len() >= 6 && ring.len().is_multiple_of(2));
    match rings.as_slice() {
        [] => Ok(None),
        rest if rest.len() == listed => Err(error),
        rest => {
            let text = serde_json::to_string(rest).map_err(|e| Error::invalid(format!("polygons: {e}")))?;
            Segmentation::parse(&text).map(Some)
        }
    }
}

fn refuse(row: &SampleRow, annotation: &Annotation, what: String) -> Error {
    Error::Object { key: row.key.clone(), id: annotation.id, what }
}
