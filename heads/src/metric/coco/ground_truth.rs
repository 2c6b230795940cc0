//! What is true of the pictures that are evaluated. Holds the checks that make it usable; where it comes from is
//! [`instances`](super::instances) or a store.

use crate::mask::{Rle, Segmentation};
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, Category, RowId, Size, Store};
use std::collections::{HashMap, HashSet};

/// A picture that is evaluated, whether or not it has objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// The data set's id.
    pub id: i64,
    /// Size of the original; needed to evaluate masks.
    pub size: Option<Size>,
}

/// A labelled object in the coordinates of its original picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The data set's id of the label, if it has one.
    pub id: Option<i64>,
    /// Id of its picture.
    pub image_id: i64,
    /// Id of its category.
    pub category_id: i64,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
    /// Square pixels as the data set states them; decides which area ranges it counts in.
    pub area: f64,
    /// A crowd region: detections inside it count neither for nor against.
    pub crowd: bool,
    /// Polygons or RLE as JSON text; needed to evaluate masks, and not read before that.
    pub segmentation: Option<String>,
}

/// The pictures of an evaluation with their objects, checked and indexed.
#[derive(Debug, Clone)]
pub struct GroundTruth {
    categories: Vec<Category>,
    pictures: Vec<Picture>,
    objects: Vec<Object>,
    /// Positions in `pictures` and `categories` of every object.
    places: Vec<[u32; 2]>,
    by_picture: HashMap<i64, u32>,
    by_category: HashMap<i64, u32>,
}

impl GroundTruth {
    /// The truth of `pictures`; objects stay in the order given, which decides between equal overlaps.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the entry: ids that are there twice, an object of an unknown picture or category,
    /// numbers that are not finite, no categories.
    pub fn new(
        mut categories: Vec<Category>,
        mut pictures: Vec<Picture>,
        objects: Vec<Object>,
    ) -> Result<Self> {
        // Official order: ties between pictures are decided by ascending id.
        categories.sort_by_key(|category| category.id);
        pictures.sort_by_key(|picture| picture.id);
        let by_category = index("category", categories.iter().map(|category| category.id))?;
        let by_picture = index("image", pictures.iter().map(|picture| picture.id))?;
        if categories.is_empty() {
            return Err(Error::invalid("no categories to evaluate"));
        }
        let mut truth =
            Self { categories, pictures, objects: Vec::new(), places: Vec::new(), by_picture, by_category };
        let mut ids = HashSet::with_capacity(objects.len());
        for (number, object) in objects.iter().enumerate() {
            let fault = match object.id {
                Some(id) if !ids.insert(id) => Some("its id is there twice".into()),
                _ if !object.bbox.iter().chain([&object.area]).all(|v| v.is_finite()) => {
                    Some(format!("bbox {:?}, area {}: expected finite numbers", object.bbox, object.area))
                }
                _ => None,
            };
            let place = match fault {
                Some(fault) => Err(fault),
                None => truth.place(object.image_id, object.category_id),
            };
            let place = place.map_err(|what| Error::invalid(format!("{}: {what}", name(object, number))))?;
            truth.places.push(place);
        }
        if let Some(object) = objects.iter().find(|object| object.id == Some(0)) {
            log::warn!(
                "an annotation of image {} has the id 0: pycocotools takes matches with it for misses, so its numbers may be lower than these",
                object.image_id
            );
        }
        truth.objects = objects;
        Ok(truth)
    }

    /// The truth of rows of a store, from its annotations and nothing else. Label maps beside the objects, of
    /// COCO-stuff, are passed over.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) and of reading the store; [`Error::Invalid`] for a row whose dataset has no
    /// numeric image ids.
    pub fn of_store(store: &Store, rows: &[RowId]) -> Result<Self> {
        let (mut pictures, mut objects) = (Vec::with_capacity(rows.len()), Vec::new());
        for &id in rows {
            let row = store.row(id)?;
            let Some(image_id) = row.image_id else {
                let what =
                    format!("sample {}: no image id, expected a dataset with numeric image ids", row.key);
                return Err(Error::invalid(what));
            };
            pictures.push(Picture { id: image_id, size: row.source_size });
            for annotation in store.annotations(id)? {
                objects.extend(object(annotation, image_id));
            }
        }
        Self::new(store.categories().to_vec(), pictures, objects)
    }

    /// Categories by ascending id.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// Pictures by ascending id.
    pub fn pictures(&self) -> &[Picture] {
        &self.pictures
    }

    /// Objects in the order given.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Reads the mask of every object, as an evaluation of masks will.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first object without a mask, or with one that cannot be read or does not fit
    /// its picture.
    pub fn check_masks(&self) -> Result<()> {
        (0..self.objects.len()).try_for_each(|index| self.mask(index).map(drop))
    }

    /// The mask of an object at its picture's size.
    pub(super) fn mask(&self, index: usize) -> Result<Rle> {
        let (object, [picture, _]) = (&self.objects[index], self.places[index]);
        let picture = self.pictures[picture as usize];
        let mask = match (object.segmentation.as_deref(), picture.size) {
            (_, None) => Err(Error::invalid("its image has no size in the ground truth, needed for masks")),
            (None, _) => Err(Error::invalid("no segmentation, needed to evaluate masks")),
            (Some(text), Some(size)) => {
                Segmentation::parse(text).and_then(|segmentation| segmentation.rle(size))
            }
        };
        mask.map_err(|error| Error::invalid(format!("{}: {error}", name(object, index))))
    }

    /// Positions of a picture and a category; what is unknown as text.
    pub(super) fn place(&self, image_id: i64, category_id: i64) -> Result<[u32; 2], String> {
        let unknown = |what: &str, id: i64, list: &str, count: usize| {
            format!("{what} {id} is not among the {count} {list} of the ground truth")
        };
        let picture = self
            .by_picture
            .get(&image_id)
            .ok_or_else(|| unknown("image", image_id, "images", self.pictures.len()))?;
        let category = self
            .by_category
            .get(&category_id)
            .ok_or_else(|| unknown("category", category_id, "categories", self.categories.len()))?;
        Ok([*picture, *category])
    }

    /// Positions in pictures and categories of every object.
    pub(super) fn places(&self) -> &[[u32; 2]] {
        &self.places
    }
}

/// How an object is named in errors.
fn name(object: &Object, number: usize) -> String {
    match object.id {
        Some(id) => format!("annotation {id} of image {}", object.image_id),
        None => format!("annotation number {number} of image {}", object.image_id),
    }
}

fn index(what: &str, ids: impl Iterator<Item = i64>) -> Result<HashMap<i64, u32>> {
    let mut positions = HashMap::new();
    for (position, id) in ids.enumerate() {
        let position = u32::try_from(position)
            .map_err(|_| Error::invalid(format!("more than {} {what} ids", u32::MAX)))?;
        if positions.insert(id, position).is_some() {
            return Err(Error::invalid(format!("{what} id {id} is there twice")));
        }
    }
    Ok(positions)
}

/// An annotation as the truth has it; `None` of a label map.
pub(crate) fn object(annotation: Annotation, image_id: i64) -> Option<Object> {
    match annotation.label {
        Label::Object { category_id, bbox, area, iscrowd, segmentation } => Some(Object {
            id: annotation.id,
            image_id,
            category_id,
            bbox,
            area,
            crowd: iscrowd,
            segmentation,
        }),
        Label::LabelMap { .. } => None,
    }
}
