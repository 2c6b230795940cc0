//! COCO-stuff maps as mmdetection's HTC reads them (`stuffthingmaps_trainval2017`): one 8-bit PNG a picture,
//! named as the picture is, values 0 to 182 the classes (an object's category id less 1), 255 not labelled.
//! Must not know objects.

use super::super::label_map::LabelMap;
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Annotation, ListedSample};
use rayon::prelude::*;
use std::path::Path;

/// Folder below the dataset's root that holds the maps of a split, unless another is named.
pub(super) const FOLDER: &str = "stuffthingmaps";

/// Largest class.
const LAST: usize = 182;
/// Value of pixels that are not labelled.
const UNLABELLED: usize = 255;

/// What a map is, for errors.
const EXPECTED: &str = "a stuff map of 8-bit values, 0 to 182 and 255";

/// The maps of a split's samples in `folder`. A picture without one is a sample without a map; one whose
/// map is broken or of another size is a recorded failure, as with ADE20K: the pair cannot be trusted.
///
/// # Errors
/// [`Error::Dataset`] for maps of another encoding, or where no picture has one; [`Error::Io`].
pub(super) fn read(folder: &Path, samples: &mut [ListedSample]) -> Result<Vec<Annotation>> {
    let found: Vec<Found> =
        samples.par_iter_mut().map(|sample| of_sample(folder, sample)).collect::<Result<_>>()?;
    let mut without = samples.iter().zip(&found).filter(|(_, found)| matches!(found, Found::Nothing));
    if let Some((first, _)) = without.next() {
        let (count, of) = (1 + without.count(), samples.len());
        if count == of {
            let what = format!("none of {of} pictures has a stuff map: expected {}.png", first.key);
            return Err(Error::dataset(folder, what));
        }
        log::warn!("{}: {count} of {of} pictures have no stuff map (first: {})", folder.display(), first.key);
    }
    let map = |found| match found {
        Found::Map(annotation) => Some(annotation),
        Found::Nothing | Found::Unusable => None,
    };
    Ok(found.into_iter().filter_map(map).collect())
}

/// What lies at the place of a sample's map.
enum Found {
    /// Its map.
    Map(Annotation),
    /// No file.
    Nothing,
    /// A file that made the sample a failure, or one of a sample that was one before.
    Unusable,
}

fn of_sample(folder: &Path, sample: &mut ListedSample) -> Result<Found> {
    let path = folder.join(format!("{}.png", sample.key));
    let map = match LabelMap::read(&path, EXPECTED)? {
        None => return Ok(Found::Nothing),
        Some(Ok(map)) => map,
        Some(Err(error)) => {
            sample.size = Err(format!("stuff map: {error}"));
            return Ok(Found::Unusable);
        }
    };
    let Ok(size) = sample.size else { return Ok(Found::Unusable) };
    if size != map.size {
        sample.size = Err(format!("stuff map is {}, its picture {size}", map.size));
        return Ok(Found::Unusable);
    }
    if let Some(value) = (LAST + 1..UNLABELLED).find(|&value| map.values[value]) {
        return Err(Error::dataset(path, format!("value {value}: expected {EXPECTED}")));
    }
    let (split, key) = (sample.split.clone(), sample.key.clone());
    Ok(Found::Map(Annotation { split, key, id: None, label: Label::LabelMap { png: map.png } }))
}
