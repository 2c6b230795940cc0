//! Which rows of a store a run reads: split, views, what is left out and what is held out. Must not read
//! features.

use crate::order::OrderRow;
use crate::seed::Seed;
use crate::{Error, Result};
use featcache_store::{SampleKey, SampleRow, Status, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What no two rows of a batch have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepApart {
    /// Only the sample, of which an epoch visits one view.
    #[default]
    Nothing,
    /// The source file: the clips of one video, the tiles of one picture.
    Source,
    /// The folder of the source file: frames that lie together.
    Folder,
}

/// Rows of a split, by sample.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The split.
    pub split: String,
    /// For every sample the rows of the wanted views that have features.
    pub samples: Vec<Vec<OrderRow>>,
    /// Rows without features because their sample failed at extraction.
    pub failed: u64,
    /// Rows whose unit is not in the store yet.
    pub missing: u64,
    /// BLAKE3 of which rows these are: split, key, view and number of each, in the order of `samples`.
    pub blake3: String,
}

impl Selection {
    /// The rows of a split in the given views; no views: all of the store's.
    ///
    /// # Errors
    /// A split or view that the store does not have, named with those that it has; no row with
    /// features.
    pub fn new(store: &Store, split: &str, views: &[String]) -> Result<Self> {
        let known = &store.recipe().views;
        if let Some(view) = views.iter().find(|view| !known.iter().any(|spec| spec.name == **view)) {
            let names: Vec<_> = known.iter().map(|spec| spec.name.as_str()).collect();
            let names = names.join(", ");
            return Err(Error::invalid(format!("view {view:?} is not in the store, which has {names}")));
        }
        let mut samples = BTreeMap::<String, Vec<OrderRow>>::new();
        let (mut failed, mut missing) = (0, 0);
        let wanted = |view: &str| views.is_empty() || views.iter().any(|name| name == view);
        for row in store.rows().iter().filter(|row| &*row.split == split && wanted(&row.view)) {
            match (&row.status, row.bucket, store.bucket_of(row.id)) {
                (Status::Ok, Some(size), Some(bucket)) => {
                    let row_of_view = OrderRow { row: row.id, bucket, size };
                    samples.entry(row.key.0).or_default().push(row_of_view);
                }
                (Status::Missing, ..) => missing += 1,
                _ => failed += 1,
            }
        }
        if samples.is_empty() {
            let text =
                format!("split {split:?} has no features: {failed} rows failed, {missing} are missing");
            return Err(Error::invalid(text));
        }
        let samples: Vec<_> = samples.into_values().collect();
        let blake3 = hash(store, &samples)?;
        Ok(Self { split: split.to_owned(), samples, failed, missing, blake3 })
    }

    /// The group of every sample whose rows are to be kept apart, numbered as they come.
    ///
    /// # Errors
    /// None for a selection of this store.
    pub fn groups(&self, store: &Store, apart: KeepApart) -> Result<Vec<u32>> {
        let mut numbers = HashMap::<String, u32>::new();
        let group = |views: &Vec<OrderRow>| {
            let Some(first) = views.first() else { return Ok(0) };
            let source = store.row(first.row)?.source;
            let name = match apart {
                KeepApart::Nothing => return Ok(0),
                KeepApart::Source => source,
                KeepApart::Folder => {
                    source.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.into())
                }
            };
            let next = numbers.len() as u32;
            Ok(*numbers.entry(name).or_insert(next))
        };
        self.samples.iter().map(group).collect()
    }

    /// Leaves out the samples whose row `keep` refuses; it is asked about one row of each, the first of
    /// its views.
    ///
    /// # Errors
    /// The first that `keep` fails with; no sample is left.
    pub fn retain(&mut self, store: &Store, keep: impl Fn(&SampleRow) -> Result<bool>) -> Result<()> {
        let listed = self.samples.len();
        let mut kept = Vec::with_capacity(listed);
        for views in std::mem::take(&mut self.samples) {
            if let Some(first) = views.first()
                && keep(&store.row(first.row)?)?
            {
                kept.push(views);
            }
        }
        if kept.is_empty() {
            let text = format!("split {:?}: none of its {listed} samples is kept", self.split);
            return Err(Error::invalid(text));
        }
        if kept.len() < listed {
            self.blake3 = hash(store, &kept)?;
        }
        self.samples = kept;
        Ok(())
    }
}

/// Samples of a split that are kept from training and scored on: where a store has no split for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldOut {
    keys: BTreeSet<SampleKey>,
}

impl HoldOut {
    /// A share of the split's samples that have features, drawn by seed and key: at least one, and not all.
    /// All views of a sample are held together.
    ///
    /// # Errors
    /// A split of fewer than two samples.
    pub fn new(store: &Store, split: &str, share: f64, seed: Seed) -> Result<Self> {
        let with_features =
            store.rows().iter().filter(|row| &*row.split == split && row.status == Status::Ok);
        let keys: BTreeSet<SampleKey> = with_features.map(|row| row.key).collect();
        if keys.len() < 2 {
            let found = keys.len();
            return Err(Error::invalid(format!(
                "split {split:?} has {found} samples with features, expected 2 or more to hold some out"
            )));
        }
        let count = ((keys.len() as f64 * share).round() as usize).clamp(1, keys.len() - 1);
        let mut drawn: Vec<_> = keys.into_iter().map(|key| (seed.named(&key.0).0, key)).collect();
        drawn.sort_unstable();
        Ok(Self { keys: drawn.into_iter().take(count).map(|(_, key)| key).collect() })
    }

    /// Whether a sample is held out.
    pub fn holds(&self, key: &SampleKey) -> bool {
        self.keys.contains(key)
    }
}

/// BLAKE3 of split, key, view and number of rows, in order.
fn hash(store: &Store, samples: &[Vec<OrderRow>]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for row in samples.iter().flatten() {
        let row = store.row(row.row)?;
        for text in [&*row.split, &row.key.0, &*row.view] {
            // Lengths keep `a`, `bc` and `ab`, `c` apart.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&row.id.0.to_le_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The split to read: the one asked for, else the only one, else the one whose name starts with
/// `prefix` (`train`, `val`).
pub fn choose_split(store: &Store, asked: Option<&str>, prefix: &str) -> Result<String> {
    let splits = store.splits();
    let names = || splits.join(", ");
    if let Some(asked) = asked {
        if splits.iter().any(|split| split == asked) {
            return Ok(asked.to_owned());
        }
        return Err(Error::invalid(format!("split {asked:?} is not in the store, which has {}", names())));
    }
    match splits {
        [only] => return Ok(only.clone()),
        _ => {
            let mut matching = splits.iter().filter(|split| split.starts_with(prefix));
            if let (Some(split), None) = (matching.next(), matching.next()) {
                return Ok(split.clone());
            }
        }
    }
    Err(Error::invalid(format!("which split to read is not clear: the store has {}; name one", names())))
}
