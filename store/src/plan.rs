//! Which rows exist and where they lie: a pure function of recipe, dataset listing and shard size. Does
//! no input or output; its table is `table/plan.rs`.

use crate::bucket::{Bucket, Unit, bucket_of, unit_rows};
use crate::layout::{check_name, check_relative};
use crate::spec::bucket_arrays;
use crate::{
    Encodings, Error, Fingerprint, LevelSpec, ListedSample, Listing, Recipe, Result, RowId, SampleKey, Size,
    ViewSpec,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Target bytes of a shard of the finest level, counted at two bytes an element.
pub const DEFAULT_SHARD_BYTES: u64 = 1 << 30;

/// Longest side of a padded input, in pixels.
pub const MAX_INPUT_SIDE: u32 = 32_768;

/// Pixels of the largest padded input. A picture that would become larger is a failed row.
pub const MAX_INPUT_PIXELS: u64 = 1 << 26;

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

/// Where a row's features lie and what sizes lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Padded input size: the bucket.
    pub bucket: Size,
    /// Row of the bucket's arrays.
    pub row: u64,
    /// Size of the original picture.
    pub source: Size,
    /// Size after resizing, before padding.
    pub valid: Size,
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
                match place(recipe, spec, &sample.size) {
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
                    check_place(place, divisor).map_err(wrong)?;
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
            for ((_, total), (_, arrays)) in totals.iter_mut().zip(arrays) {
                for array in arrays {
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

/// A sample's place except for its row, or why it cannot have one.
fn place(
    recipe: &Recipe,
    view: &ViewSpec,
    size: &std::result::Result<Size, String>,
) -> std::result::Result<Place, String> {
    let source = size.clone()?;
    if source.area() == 0 {
        return Err(format!("the picture is empty: {source}"));
    }
    let valid = view.valid_size(recipe.preprocess.resize.apply(source));
    let bucket = valid.padded(recipe.preprocess.pad_divisor);
    let place = Place { bucket, row: 0, source, valid };
    check_place(&place, recipe.preprocess.pad_divisor).map(|()| place)
}

fn check_place(place: &Place, divisor: u32) -> std::result::Result<(), String> {
    let Place { bucket, source, valid, .. } = place;
    if source.area() == 0 || valid.area() == 0 || valid.padded(divisor) != *bucket {
        return Err(format!("sizes {source}, {valid} and {bucket} do not fit padding to {divisor}"));
    }
    if bucket.height.max(bucket.width) > MAX_INPUT_SIDE || bucket.area() > MAX_INPUT_PIXELS {
        return Err(format!(
            "padded input of {bucket}: expected sides up to {MAX_INPUT_SIDE} and up to {MAX_INPUT_PIXELS} pixels"
        ));
    }
    Ok(())
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
mod tests {
    use super::*;
    use crate::fixture::{listing, recipe};
    use crate::{Listing, ResizeRule};
    use proptest::prelude::*;

    fn sample(split: &str, key: &str) -> ListedSample {
        ListedSample {
            split: split.into(),
            key: SampleKey(key.into()),
            source: format!("{key}.jpg"),
            image_id: None,
            size: Ok(Size::new(64, 64)),
        }
    }

    #[test]
    fn rows_are_ordered_and_units_tile_the_buckets() {
        let plan = Plan::new(&recipe(), &listing(97), 20_000).unwrap();
        assert_eq!(plan.rows().len(), 2 * 97);
        let mut next = 0;
        for (index, bucket) in plan.buckets().iter().enumerate() {
            assert_eq!(bucket.rows.start.0, next);
            next = bucket.rows.end.0;
            for id in bucket.rows.start.0..bucket.rows.end.0 {
                let row = plan.row(RowId(id)).unwrap();
                let place = row.place.as_ref().unwrap();
                assert_eq!((place.bucket, place.row), (bucket.size, id - bucket.rows.start.0));
                assert_eq!((&row.split, &row.view), (&bucket.split, &bucket.view));
                assert_eq!(plan.bucket_of(RowId(id)), Some(index));
            }
        }
        for (id, row) in plan.rows().iter().enumerate().skip(next as usize) {
            assert!(row.place.is_err());
            assert_eq!(plan.bucket_of(RowId(id as u64)), None);
        }
        assert!((next as usize) < plan.rows().len());

        let mut covered = 0;
        for unit in plan.units() {
            assert_eq!(unit.rows.start.0, covered);
            let bucket = &plan.buckets()[unit.bucket];
            // p2 has stride 4, 8 channels, two bytes.
            let row_bytes = 2 * bucket.size.area() / 16 * 8;
            let expected = (20_000 / row_bytes).clamp(1, bucket.row_count());
            assert_eq!(bucket.unit_rows, expected);
            assert!(unit.row_count() == expected || unit.rows.end == bucket.rows.end);
            covered = unit.rows.end.0;
        }
        assert_eq!(covered, next);
        assert_eq!(plan.units().count() as u64, plan.unit_count());
        assert!(plan.units().any(|unit| unit.number > 1), "the fixture should have buckets of many units");
    }

    #[test]
    fn rows_of_a_bucket_are_shuffled_by_fingerprint() {
        let rows = |recipe: &Recipe| {
            let plan = Plan::new(recipe, &listing(97), 1 << 20).unwrap();
            let largest = plan.buckets().iter().max_by_key(|bucket| bucket.row_count()).unwrap().clone();
            let ids = largest.rows.start.0 as usize..largest.rows.end.0 as usize;
            plan.rows()[ids].iter().map(|row| row.key.clone()).collect::<Vec<_>>()
        };
        let keys = rows(&recipe());
        let mut sorted = keys.clone();
        sorted.sort();
        assert_ne!(keys, sorted);
        let mut other = recipe();
        other.backbone.options.clear();
        let others = rows(&other);
        assert_ne!(keys, others);
        let mut others_sorted = others;
        others_sorted.sort();
        assert_eq!(sorted, others_sorted);
    }

    #[test]
    fn duplicate_keys_are_refused_within_a_split_only() {
        let mut listing = Listing { dataset: "folder".into(), ..Listing::default() };
        listing.samples = vec![sample("train", "a"), sample("val", "a")];
        Plan::new(&recipe(), &listing, 1).unwrap();
        listing.samples.push(ListedSample { source: "b/a.png".into(), ..sample("val", "a") });
        let error = Plan::new(&recipe(), &listing, 1).unwrap_err().to_string();
        assert_eq!(error, "sample key \"a\" occurs twice in split val: a.jpg and b/a.png");
    }

    #[test]
    fn names_sources_and_empty_listings_are_checked() {
        let mut listing = Listing { dataset: "coco".into(), ..Listing::default() };
        assert!(Plan::new(&recipe(), &listing, 1).unwrap_err().to_string().contains("lists no samples"));
        for bad in [
            sample("../val", "a"),
            ListedSample { source: "/etc/passwd".into(), ..sample("val", "a") },
            ListedSample { source: "a/../../b".into(), ..sample("val", "a") },
            sample("val", ""),
        ] {
            listing.samples = vec![bad.clone()];
            assert!(matches!(Plan::new(&recipe(), &listing, 1), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }

    #[test]
    fn sizes_beyond_the_limit_and_empty_pictures_are_failed_rows() {
        let mut recipe = recipe();
        recipe.preprocess.resize = ResizeRule::None;
        let mut listing = listing(0);
        listing.samples = [Size::new(u32::MAX, u32::MAX), Size::new(40_000, 8), Size::new(0, 8)]
            .into_iter()
            .enumerate()
            .map(|(i, size)| ListedSample { size: Ok(size), ..sample("val", &i.to_string()) })
            .collect();
        let plan = Plan::new(&recipe, &listing, 1).unwrap();
        assert_eq!(plan.buckets(), []);
        let reasons: Vec<_> = plan.rows().iter().take(3).map(|row| row.place.clone().unwrap_err()).collect();
        assert!(reasons[0].contains("4294967295") && reasons[1].contains("40000"), "{reasons:?}");
        assert!(reasons[2].contains("empty"), "{reasons:?}");
    }

    #[test]
    fn rows_that_contradict_each_other_or_the_spec_are_refused() {
        let plan = Plan::new(&recipe(), &listing(40), 20_000).unwrap();
        plan.check_splits(&["train".into(), "val".into()]).unwrap();
        let error = plan.check_splits(&["train".into()]).unwrap_err();
        assert!(error.contains("expected a split of train, found \"val\""), "{error}");
        // Of a bucket, and of the rows without a place.
        let failed = plan.rows().iter().position(|row| row.place.is_err()).unwrap();
        for at in [1, failed + 1] {
            let mut rows = plan.rows().to_vec();
            rows[at].key = rows[at - 1].key.clone();
            let error = Plan::from_rows(&recipe(), rows, 20_000).map(|_| ()).unwrap_err();
            assert!(error.contains(&format!("row {at} ")) && error.contains("occurs twice"), "{error}");
        }
    }

    #[test]
    fn a_million_names_take_no_time() {
        let mut names = Names::default();
        for i in 0..1_000_000 {
            names.get(&i.to_string());
        }
        assert!(Arc::ptr_eq(&names.get("77"), &names.get("77")));
    }

    #[test]
    fn long_reasons_are_cut() {
        let mut listing = listing(0);
        listing.samples = vec![ListedSample { size: Err("é".repeat(5000)), ..sample("val", "a") }];
        let plan = Plan::new(&recipe(), &listing, 1).unwrap();
        assert_eq!(plan.rows()[0].place, Err("é".repeat(MAX_REASON_CHARS)));
    }

    proptest! {
        #[test]
        fn the_order_of_the_listing_does_not_matter(
            count in 1..60usize, shard_bytes in 1..100_000u64, seed in any::<u64>(),
        ) {
            let sorted = listing(count);
            let mut shuffled = sorted.clone();
            shuffle(&mut shuffled.samples, &Fingerprint(seed.to_string()), "x");
            prop_assert_eq!(
                Plan::new(&recipe(), &sorted, shard_bytes).unwrap(),
                Plan::new(&recipe(), &shuffled, shard_bytes).unwrap()
            );
        }
    }
}
