//! Which rows exist and where they lie: a pure function of recipe, dataset listing and shard size. Does
//! no input or output; its table is `table/plan.rs`.

use crate::array::bucket_arrays;
use crate::bucket::{Bucket, Unit, bucket_of};
use crate::layout::{check_name, check_relative};
use crate::{
    Encodings, Error, Fingerprint, LevelSpec, ListedSample, Listing, Recipe, Result, RowId, SampleKey, Size,
};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

mod check;
mod place;

pub(crate) use check::{PlanCheck, PlanRowRef, duplicate, unknown_split};
pub use place::{MAX_INPUT_PIXELS, MAX_INPUT_SIDE, Place};

/// Target bytes of a shard of the finest level, counted at two bytes an element.
pub const DEFAULT_SHARD_BYTES: u64 = 1 << 30;

/// Longest sample key, source path and reason of a failure, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Longest reason of a failure that is kept, in characters.
pub(crate) const MAX_REASON_CHARS: usize = 500;

/// The rows of a store, in the order of their [`RowId`]: by split (name), view (recipe), bucket (height,
/// width) and row; last those whose file could not be read at listing, by split, view and key.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    rows: Vec<PlanRow>,
    buckets: Vec<Bucket>,
    levels: Vec<LevelSpec>,
    shard_bytes: u64,
}

/// One sample in one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    /// The data set's name of the sample.
    pub key: SampleKey,
    /// File relative to the dataset's root.
    pub source: String,
    /// Numeric id that result files need, if the dataset has one.
    pub image_id: Option<i64>,
    /// Split.
    pub split: Arc<str>,
    /// View.
    pub view: Arc<str>,
    /// Where its features lie, or why there will be none.
    pub place: std::result::Result<Place, String>,
}

impl PlanRow {
    /// What no two rows of a plan have in common: split, view and key.
    fn names(&self) -> (&str, &str, &str) {
        (&self.split, &self.view, &self.key.0)
    }

    /// The same row, borrowed.
    pub(crate) fn borrowed(&self) -> PlanRowRef<'_> {
        PlanRowRef {
            key: &self.key.0,
            source: &self.source,
            image_id: self.image_id,
            split: &self.split,
            view: &self.view,
            place: self.place.as_ref().map(|place| *place).map_err(String::as_str),
        }
    }
}

impl Plan {
    /// The plan of a dataset: the same whatever the order of the listing.
    ///
    /// # Errors
    /// [`Error::Invalid`]: a recipe that makes no store, no samples, a key that occurs twice in a split, a
    /// name that cannot be part of a path, a source that leaves the dataset.
    pub fn new(recipe: &Recipe, listing: &Listing, shard_bytes: u64) -> Result<Self> {
        recipe.check()?;
        let samples = sorted_samples(listing)?;
        let mut names = Names::default();
        let mut rows = Vec::with_capacity(samples.len() * recipe.views.len());
        for sample in samples {
            for view in &recipe.views {
                let place = sample.size.clone().and_then(|size| Place::new(&recipe.preprocess, view, size));
                rows.push(PlanRow {
                    key: sample.key.clone(),
                    source: sample.source.clone(),
                    image_id: sample.image_id,
                    split: names.get(&sample.split),
                    view: names.get(&view.name),
                    place: place.map_err(|reason| kept_reason(&reason)),
                });
            }
        }
        Self::arranged(recipe, rows, shard_bytes)
    }

    /// The plan of these rows, which may come in any order and with any numbers in their buckets.
    pub(crate) fn arranged(recipe: &Recipe, mut rows: Vec<PlanRow>, shard_bytes: u64) -> Result<Self> {
        rows.sort_unstable_by(|a, b| {
            (bucket_order(recipe, a), &a.key).cmp(&(bucket_order(recipe, b), &b.key))
        });
        let fingerprint = recipe.fingerprint();
        for members in rows.chunk_by_mut(|a, b| bucket_order(recipe, a) == bucket_order(recipe, b)) {
            let Some(PlanRow { split, view, place: Ok(Place { bucket: size, .. }), .. }) = members.first()
            else {
                continue;
            };
            let name = format!("{split}/{view}/{size}");
            shuffle(members, &fingerprint, &name);
            for (number, row) in (0..).zip(members) {
                if let Ok(place) = &mut row.place {
                    place.row = number;
                }
            }
        }
        Self::from_rows(recipe, rows, shard_bytes).map_err(Error::invalid)
    }

    /// A plan from rows in plan order, as its table holds them.
    ///
    /// # Errors
    /// What is wrong with the rows, for the caller to say where they come from.
    pub(crate) fn from_rows(
        recipe: &Recipe,
        rows: Vec<PlanRow>,
        shard_bytes: u64,
    ) -> std::result::Result<Self, String> {
        let mut check = PlanCheck::new(recipe);
        rows.iter().try_for_each(|row| check.row(&row.borrowed()))?;
        if let Some(id) = first_duplicate(rows.iter().map(PlanRow::names)) {
            return Err(duplicate(id, rows.get(id).map_or(("", "", ""), PlanRow::names)));
        }
        let buckets = check.buckets(shard_bytes);
        Ok(Self { rows, buckets, levels: recipe.levels.clone(), shard_bytes })
    }

    /// All rows; a row's index is its [`RowId`].
    pub fn rows(&self) -> &[PlanRow] {
        &self.rows
    }

    /// The row of this id.
    pub fn row(&self, id: RowId) -> Option<&PlanRow> {
        self.rows.get(usize::try_from(id.0).ok()?)
    }

    /// All buckets, in the order of their rows.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The recipe's levels, finest first.
    pub fn levels(&self) -> &[LevelSpec] {
        &self.levels
    }

    /// Target bytes of a shard of the finest level.
    pub fn shard_bytes(&self) -> u64 {
        self.shard_bytes
    }

    /// All units, in the order of their rows.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        self.buckets.iter().enumerate().flat_map(|(index, bucket)| {
            (0..bucket.unit_count()).map(move |number| bucket.unit(index, number))
        })
    }

    /// Number of units.
    pub fn unit_count(&self) -> u64 {
        self.buckets.iter().map(Bucket::unit_count).sum()
    }

    /// Index of the bucket that holds the row; `None` for a row without a place.
    pub fn bucket_of(&self, id: RowId) -> Option<usize> {
        bucket_of(&self.buckets, id)
    }

    /// Bytes of each level's shards if every row has features, in the recipe's order; a close upper bound.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a level has no encoding.
    pub fn level_bytes(&self, encodings: &Encodings) -> Result<Vec<(String, u64)>> {
        let mut totals: Vec<(String, u64)> =
            self.levels.iter().map(|level| (level.name.clone(), 0)).collect();
        for bucket in &self.buckets {
            let arrays = bucket_arrays(bucket, &self.levels, encodings)?;
            for ((_, total), level) in totals.iter_mut().zip(&arrays) {
                for array in level.iter() {
                    let shards = (0..array.shards()).map(|k| array.geometry.shard_bytes(array.shard_rows(k)));
                    *total = shards.fold(*total, u64::saturating_add);
                }
            }
        }
        Ok(totals)
    }

    /// Refuses rows of splits that are not among these, with what is wrong.
    pub(crate) fn check_splits(&self, splits: &[String]) -> std::result::Result<(), String> {
        let wrong =
            self.rows.iter().enumerate().find_map(|(id, row)| unknown_split(id, &row.borrowed(), splits));
        wrong.map_or(Ok(()), Err)
    }
}

/// Where a row's bucket comes: by split, view and size, and rows without a place last.
fn bucket_order<'a>(recipe: &Recipe, row: &'a PlanRow) -> (bool, &'a str, Option<usize>, Option<Size>) {
    let size = row.place.as_ref().ok().map(|place| place.bucket);
    let view = recipe.views.iter().position(|view| *view.name == *row.view);
    (size.is_none(), &row.split, view, size)
}

/// Shared copies of the few split and view names that all rows carry.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
    /// Almost always the next one too.
    last: Option<Arc<str>>,
}

impl Names {
    pub(crate) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(last) = self.last.as_ref().filter(|last| ***last == *name) {
            return Arc::clone(last);
        }
        let found = self.known.get(name).map_or_else(|| name.into(), Arc::clone);
        self.known.insert(Arc::clone(&found));
        self.last = Some(Arc::clone(&found));
        found
    }
}

/// The first row whose split, view and key an earlier one has.
pub(crate) fn first_duplicate<'a>(
    rows: impl Iterator<Item = (&'a str, &'a str, &'a str)> + Clone,
) -> Option<usize> {
    // Eight bytes a row tell almost always that there is none.
    let state = RandomState::new();
    let mut hashes: Vec<u64> = rows.clone().map(|row| state.hash_one(row)).collect();
    hashes.sort_unstable();
    if hashes.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let mut seen = HashSet::new();
    rows.enumerate().find(|(_, row)| !seen.insert(*row)).map(|(id, _)| id)
}

/// A reason as stores keep it: what the rest of a long one says is for logs.
pub(crate) fn kept_reason(reason: &str) -> String {
    reason.chars().take(MAX_REASON_CHARS).collect()
}

/// Samples by split and key, each key once in its split.
fn sorted_samples(listing: &Listing) -> Result<Vec<&ListedSample>> {
    if listing.samples.is_empty() {
        return Err(Error::invalid(format!("the {} dataset lists no samples", listing.dataset)));
    }
    let mut samples: Vec<&ListedSample> = listing.samples.iter().collect();
    samples.sort_unstable_by(|a, b| (&a.split, &a.key, &a.source).cmp(&(&b.split, &b.key, &b.source)));
    for pair in samples.windows(2) {
        if let [a, b] = pair
            && (&a.split, &a.key) == (&b.split, &b.key)
        {
            return Err(Error::invalid(format!(
                "sample key {:?} occurs twice in split {}: {} and {}",
                a.key.0, a.split, a.source, b.source
            )));
        }
    }
    for sample in &samples {
        check_name("split", &sample.split)?;
        check_relative(&sample.source)?;
        let key = sample.key.0.as_str();
        if key.is_empty() || key.len() > MAX_TEXT_BYTES || key.contains('\0') {
            return Err(Error::invalid(format!(
                "sample key of {}: expected 1 to {MAX_TEXT_BYTES} bytes without NUL, found {} bytes",
                sample.source,
                key.len()
            )));
        }
    }
    Ok(samples)
}

/// Seeded Fisher-Yates: the i-th draw takes eight bytes (little-endian) of BLAKE3's extended output over
/// `fingerprint ‖ "/" ‖ bucket name` and maps them to `0..=i` by multiplying and shifting.
fn shuffle<T>(items: &mut [T], fingerprint: &Fingerprint, bucket: &str) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(fingerprint.0.as_bytes()).update(b"/").update(bucket.as_bytes());
    let mut stream = hasher.finalize_xof();
    for i in (1..items.len()).rev() {
        let mut draw = [0; 8];
        stream.fill(&mut draw);
        // At most `i`, which is a usize.
        let j = (u128::from(u64::from_le_bytes(draw)) * (i as u128 + 1)) >> 64;
        items.swap(i, usize::try_from(j).unwrap_or(i));
    }
}

#[cfg(test)]
mod tests;
