//! Which rows exist and where they lie: a pure function of recipe, dataset listing and shard size. Does
//! no input or output; its table is `table/plan.rs`.

use crate::array::bucket_arrays;
use crate::bucket::{Bucket, Unit, bucket_of, unit_rows};
use crate::layout::{check_name, check_relative};
use crate::{
    Encodings, Error, Fingerprint, LevelSpec, ListedSample, Listing, Recipe, Result, RowId, SampleKey,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

mod place;

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

impl Plan {
    /// The plan of a dataset: the same whatever the order of the listing.
    ///
    /// # Errors
    /// [`Error::Invalid`]: a recipe that makes no store, no samples, a key that occurs twice in a split, a
    /// name that cannot be part of a path, a source that leaves the dataset.
    pub fn new(recipe: &Recipe, listing: &Listing, shard_bytes: u64) -> Result<Self> {
        recipe.check()?;
        let samples = sorted_samples(listing)?;
        // By split, index of the view, and bucket.
        let mut placed: BTreeMap<_, Vec<(&ListedSample, Place)>> = BTreeMap::new();
        let mut failed: BTreeMap<_, Vec<(&ListedSample, String)>> = BTreeMap::new();
        for sample in samples {
            let split = sample.split.as_str();
            for (view, spec) in recipe.views.iter().enumerate() {
                match sample.size.clone().and_then(|size| Place::new(&recipe.preprocess, spec, size)) {
                    Ok(place) => {
                        placed.entry((split, view, place.bucket)).or_default().push((sample, place));
                    }
                    Err(reason) => {
                        failed.entry((split, view)).or_default().push((sample, kept_reason(&reason)));
                    }
                }
            }
        }

        let mut names = Names::default();
        let fingerprint = recipe.fingerprint();
        let mut rows = Vec::with_capacity(listing.samples.len() * recipe.views.len());
        let view_name = |view: usize| recipe.views.get(view).map_or("", |view| view.name.as_str());
        let mut row = |sample: &ListedSample, view: &str, place| {
            rows.push(PlanRow {
                key: sample.key.clone(),
                source: sample.source.clone(),
                image_id: sample.image_id,
                split: names.get(&sample.split),
                view: names.get(view),
                place,
            });
        };
        for ((split, view, size), mut members) in placed {
            let view = view_name(view);
            shuffle(&mut members, &fingerprint, &format!("{split}/{view}/{size}"));
            for (number, (sample, place)) in members.into_iter().enumerate() {
                row(sample, view, Ok(Place { row: number as u64, ..place }));
            }
        }
        for ((_, view), members) in failed {
            for (sample, reason) in members {
                row(sample, view_name(view), Err(reason));
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
        let view_index = |view: &str| recipe.views.iter().position(|spec| spec.name == view);
        let divisor = recipe.preprocess.pad_divisor;
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut place_of_last = None;
        for (id, row) in rows.iter().enumerate() {
            let wrong = |what: String| format!("row {id} ({}): {what}", row.key);
            check_name("split", &row.split).map_err(|e| wrong(e.to_string()))?;
            check_relative(&row.source).map_err(|e| wrong(e.to_string()))?;
            let view = view_index(&row.view)
                .ok_or_else(|| wrong(format!("view {:?} is not in the recipe", row.view)))?;
            let start = id as u64;
            let bucket = match &row.place {
                Ok(place) => {
                    place.check(divisor).map_err(wrong)?;
                    Some(place.bucket)
                }
                Err(_) => None,
            };
            // `None < Some`, and rows without a place come last.
            let place = (bucket.is_none(), Arc::clone(&row.split), view, bucket);
            match buckets.last_mut() {
                Some(last) if bucket.is_some() && place_of_last.as_ref() == Some(&place) => {
                    last.rows.end = RowId(start + 1);
                }
                _ => {
                    if place_of_last.as_ref().is_some_and(|last| *last > place) {
                        return Err(wrong("expected rows in the order of split, view and size".into()));
                    }
                    if let Some(size) = bucket {
                        buckets.push(Bucket {
                            split: Arc::clone(&row.split),
                            view: Arc::clone(&row.view),
                            size,
                            rows: RowId(start)..RowId(start + 1),
                            unit_rows: 1,
                        });
                    }
                }
            }
            if let (Ok(place), Some(bucket)) = (&row.place, buckets.last()) {
                let expected = start - bucket.rows.start.0;
                if place.row != expected {
                    return Err(wrong(format!("expected row {expected} of its bucket, found {}", place.row)));
                }
            }
            place_of_last = Some(place);
        }
        if let Some(id) = first_duplicate(&rows) {
            let row = rows
                .get(id)
                .map_or_else(String::new, |row| format!("{} in {}, {}", row.key, row.split, row.view));
            return Err(format!("row {id} ({row}): the key occurs twice"));
        }
        for bucket in &mut buckets {
            bucket.unit_rows = unit_rows(&recipe.levels, bucket, shard_bytes);
        }
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
        let known: BTreeSet<&str> = splits.iter().map(String::as_str).collect();
        match self.rows.iter().enumerate().find(|(_, row)| !known.contains(&*row.split)) {
            None => Ok(()),
            Some((id, row)) => {
                let known = splits.join(", ");
                Err(format!("row {id} ({}): expected a split of {known}, found {:?}", row.key, row.split))
            }
        }
    }

    pub(crate) fn into_parts(self) -> (Vec<PlanRow>, Vec<Bucket>) {
        (self.rows, self.buckets)
    }
}

/// Shared copies of the few split and view names that all rows carry.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    pub(crate) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

/// The first row whose split, view and key an earlier one has.
fn first_duplicate(rows: &[PlanRow]) -> Option<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.iter().position(|row| !seen.insert((&*row.split, &*row.view, row.key.0.as_str())))
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
