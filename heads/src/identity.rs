//! What a run was made from, and whether a store or another run is the same. Must not read files.

use crate::recipe::TrainRecipe;
use crate::{Error, Result};
use featcache_store::{Category, LevelSpec, Projected, ProjectionHashes, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What a run was made from: it fits stores of the same fingerprint and categories only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunIdentity {
    /// The store's fingerprint.
    pub fingerprint: String,
    /// The store's dataset kind.
    pub dataset: String,
    /// Split trained on.
    pub split: String,
    /// [`Selection::blake3`](crate::selection::Selection::blake3) of the rows trained on; only resuming
    /// asks for the same.
    pub samples: String,
    /// BLAKE3 of the file whose weights the head started from, if it did not start at its seed; only resuming
    /// asks for the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Levels read, finest first, with the channels that they were read in.
    pub levels: Vec<LevelSpec>,
    /// The bases of the levels that were read as coefficients: those of another basis mean something else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bases: BTreeMap<String, ProjectionHashes>,
    /// The store's categories, in order.
    pub categories: Vec<CategoryName>,
    /// The recipe.
    pub recipe: TrainRecipe,
}

/// A category as a run remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryName {
    /// Value in the label map.
    pub id: i64,
    /// Name.
    pub name: String,
}

impl From<&Category> for CategoryName {
    fn from(category: &Category) -> Self {
        Self { id: category.id, name: category.name.clone() }
    }
}

impl RunIdentity {
    /// The identity of a run of this recipe on a split of a store, over these of its levels. Of rows and
    /// start it knows nothing yet: `samples` is empty, `start` the seed.
    pub fn new(store: &Store, split: String, levels: Vec<LevelSpec>, recipe: TrainRecipe) -> Self {
        let fingerprint = store.fingerprint().0.clone();
        let dataset = store.spec().dataset.kind.clone();
        let categories = store.categories().iter().map(Into::into).collect();
        let bases = store.spec().projections.iter().filter(|(name, _)| {
            recipe.head.projected == Projected::Coefficients
                && levels.iter().any(|level| level.name == **name)
        });
        let bases = bases.map(|(name, hashes)| (name.clone(), hashes.clone())).collect();
        let (samples, start) = (String::new(), None);
        Self { fingerprint, dataset, split, samples, start, levels, bases, categories, recipe }
    }

    /// The first field in which a store's or a recipe's identity differs from this run's.
    pub fn check(&self, other: &Self, folder: &Path) -> Result<()> {
        let mismatch = |field: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            let (path, field) = (folder.to_owned(), field.to_owned());
            Err(Error::RunMismatch { path, field, expected: expected.to_string(), found: found.to_string() })
        };
        if self.fingerprint != other.fingerprint {
            return mismatch("fingerprint", &self.fingerprint, &other.fingerprint);
        }
        if self.dataset != other.dataset {
            return mismatch("dataset", &self.dataset, &other.dataset);
        }
        if self.categories.len() != other.categories.len() {
            return mismatch("number of categories", &self.categories.len(), &other.categories.len());
        }
        for (i, (ours, theirs)) in self.categories.iter().zip(&other.categories).enumerate() {
            if ours != theirs {
                let show = |c: &CategoryName| format!("{} {:?}", c.id, c.name);
                return mismatch(&format!("category {i}"), &show(ours), &show(theirs));
            }
        }
        if self.levels != other.levels {
            let show = |levels: &[LevelSpec]| {
                let names: Vec<_> = levels.iter().map(|l| format!("{}:{}", l.name, l.channels)).collect();
                names.join(",")
            };
            return mismatch("levels", &show(&self.levels), &show(&other.levels));
        }
        let [ours, theirs] = [&self.bases, &other.bases];
        if let Some(level) =
            ours.keys().chain(theirs.keys()).find(|level| ours.get(*level) != theirs.get(*level))
        {
            let show = |bases: &BTreeMap<String, ProjectionHashes>| {
                bases.get(level).map_or("none".to_owned(), |hashes| hashes.basis_blake3.clone())
            };
            return mismatch(&format!("basis of level {level}"), &show(ours), &show(theirs));
        }
        Ok(())
    }

    /// As [`RunIdentity::check`], and the split, its samples and the recipe too: what resuming asks for.
    /// Two stores of one recipe can hold different pictures.
    pub fn check_resume(&self, other: &Self, folder: &Path) -> Result<()> {
        self.check(other, folder)?;
        let mismatch = |field: String, expected: String, found: String| {
            Err(Error::RunMismatch { path: folder.to_owned(), field, expected, found })
        };
        if self.split != other.split {
            return mismatch("split".into(), self.split.clone(), other.split.clone());
        }
        if self.samples != other.samples {
            return mismatch("samples".into(), self.samples.clone(), other.samples.clone());
        }
        if self.start != other.start {
            let show = |start: &Option<String>| match start {
                Some(blake3) => format!("blake3 {blake3}"),
                None => "its seed".to_owned(),
            };
            return mismatch("weights of the start".into(), show(&self.start), show(&other.start));
        }
        let [ours, theirs] = [&self.recipe, &other.recipe].map(serde_json::to_value);
        let (Ok(ours), Ok(theirs)) = (ours, theirs) else {
            return Err(Error::invalid("a recipe cannot be written as JSON"));
        };
        match difference("recipe", &ours, &theirs) {
            Some((field, expected, found)) => mismatch(field, expected, found),
            None => Ok(()),
        }
    }
}

/// The first leaf in which two JSON values differ: its path and both values.
fn difference(
    path: &str,
    ours: &serde_json::Value,
    theirs: &serde_json::Value,
) -> Option<(String, String, String)> {
    use serde_json::Value;
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let get = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned();
            keys.into_iter().find_map(|key| {
                let (a, b) = (get(a, key).unwrap_or_default(), get(b, key).unwrap_or_default());
                difference(&format!("{path}.{key}"), &a, &b)
            })
        }
        (a, b) if a == b => None,
        (a, b) => Some((path.to_owned(), a.to_string(), b.to_string())),
    }
}
