//! The document that makes a folder a store: `attributes.featcache` of its root `zarr.json`. Parsing
//! checks the format version before it believes anything else; no file is read or written here.

use crate::array::{LevelArrays, StoreArrays, bucket_arrays};
use crate::bucket::Bucket;
use crate::canonical::to_value;
use crate::layout::{Layout, PLAN, ROOT, affine_name, check_name};
use crate::plan::Plan;
use crate::projections::{self, ProjectionHashes, projected};
use crate::rows::Rows;
use crate::table::TableFile;
use crate::zarr::{document_bytes, hierarchy, parse_document, root_document};
use crate::{Encodings, Error, Fingerprint, Projections, Recipe, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Longest root document, manifest or other JSON file of a store, in bytes.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Version of the format.
    pub format: u32,
    /// Fingerprint of `recipe`.
    pub fingerprint: Fingerprint,
    /// What the features are.
    pub recipe: Recipe,
    /// How each level is held on disk.
    pub encodings: Encodings,
    /// Target bytes of a shard of the finest level, at two bytes an element.
    pub shard_bytes: u64,
    /// Which dataset the samples come from.
    pub dataset: DatasetSpec,
    /// Under which terms the features may be used.
    pub licence: Licence,
    /// BLAKE3 of `plan.parquet`.
    pub plan_blake3: String,
    /// BLAKE3 of `annotations.parquet`.
    pub annotations_blake3: String,
    /// BLAKE3 of `categories.parquet`.
    pub categories_blake3: String,
    /// The bases of the levels that are held as coefficients, by level.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub projections: BTreeMap<String, ProjectionHashes>,
}

/// Which dataset a store's samples come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// `coco`, `ade20k`, `folder`.
    pub kind: String,
    /// Names of the splits, sorted.
    pub splits: Vec<String>,
    /// How many samples of each split are in the store at most, the first by key; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Terms of use, as the maker of the store states them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Licence of the backbone's weights.
    pub weights: Option<String>,
    /// Licence of the pictures.
    pub images: Option<String>,
}

impl Spec {
    /// The spec in a root document found at `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a Zarr group of something else; [`Error::TooNew`] before anything else is
    /// looked at; [`Error::Corrupt`] for whatever is not a spec that this version could have written.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let document = parse_document(bytes, path)?;
        let spec = document.pointer("/attributes/featcache").ok_or_else(|| match is_group(&document) {
            true => Error::NotFound {
                path: path.to_owned(),
                what: "attributes.featcache, which makes a Zarr group a featcache store,".to_owned(),
            },
            false => Error::corrupt(path, "no attributes.featcache: not a featcache store"),
        })?;
        check_format(spec, path)?;
        let spec = Self::deserialize(spec)
            .map_err(|e| Error::corrupt(path, format!("attributes.featcache: {e}")))?;
        spec.check().map_err(|e| Error::corrupt(path, format!("attributes.featcache: {e}")))?;
        Ok(spec)
    }

    /// Refuses a spec that contradicts itself.
    pub(crate) fn check(&self) -> Result<()> {
        self.recipe.check()?;
        let fingerprint = self.recipe.fingerprint();
        if fingerprint != self.fingerprint {
            return Err(Error::invalid(format!(
                "fingerprint: the recipe's is {fingerprint}, found {}",
                self.fingerprint
            )));
        }
        check_encodings(&self.recipe, &self.encodings)?;
        let expected: BTreeSet<&str> =
            projected(&self.recipe.levels, &self.encodings).map(|(level, _)| level.name.as_str()).collect();
        if !self.projections.keys().map(String::as_str).eq(expected.iter().copied()) {
            let shown = |names: Vec<&str>| if names.is_empty() { "none".into() } else { names.join(", ") };
            let expected = shown(expected.into_iter().collect());
            let found: String = shown(self.projections.keys().map(String::as_str).collect());
            return Err(Error::invalid(format!("projections: expected those of {expected}, found {found}")));
        }
        if !self.dataset.splits.is_sorted_by(|a, b| a < b) {
            let splits = self.dataset.splits.join(", ");
            return Err(Error::invalid(format!("dataset.splits: expected sorted names, found {splits}")));
        }
        self.dataset.splits.iter().try_for_each(|split| check_name("split", split))
    }

    /// The plan of the store at `layout`, checked against this spec and its hash.
    pub(crate) fn read_plan(&self, layout: &Layout) -> Result<Plan> {
        let file = TableFile::checked(layout, PLAN, &self.plan_blake3)?;
        let path = file.path().to_owned();
        let plan = crate::table::plan::read(file, &self.recipe, self.shard_bytes)?;
        plan.check_splits(&self.dataset.splits).map_err(|what| Error::corrupt(path, what))?;
        Ok(plan)
    }

    /// The rows of the store at `layout` and their buckets, as [`read_plan`](Self::read_plan) without the plan.
    pub(crate) fn read_rows(&self, layout: &Layout) -> Result<(Rows, Vec<Bucket>)> {
        let file = TableFile::checked(layout, PLAN, &self.plan_blake3)?;
        crate::table::plan::read_rows(file, &self.recipe, &self.dataset.splits, self.shard_bytes)
    }

    /// The arrays of the store at `layout`. [`Error::Corrupt`] if its spec asks for impossible ones.
    pub(crate) fn arrays(&self, layout: &Layout, buckets: &[Bucket]) -> Result<StoreArrays> {
        StoreArrays::new(buckets, &self.recipe.levels, &self.encodings)
            .map_err(|error| Error::corrupt(layout.path(ROOT), error.to_string()))
    }

    /// The projections of the store at `layout`, checked against this spec and its hashes.
    pub(crate) fn read_projections(&self, layout: &Layout) -> Result<Projections> {
        Projections::read(layout, &self.recipe.levels, &self.encodings, &self.projections)
    }

    /// Refuses a store at `path` that is not what this run would write, with the field that differs.
    pub(crate) fn check_same(
        &self,
        path: &Path,
        recipe: &Recipe,
        encodings: &Encodings,
        dataset: Option<&DatasetSpec>,
        shard_bytes: Option<u64>,
    ) -> Result<()> {
        let mismatch = |field: String, expected: String, found: String| Error::RecipeMismatch {
            path: path.to_owned(),
            field,
            expected,
            found,
        };
        if let Some((field, expected, found)) = recipe.difference(&self.recipe) {
            return Err(mismatch(field, expected, found));
        }
        if *encodings != self.encodings {
            return Err(mismatch("encodings".into(), encodings.to_string(), self.encodings.to_string()));
        }
        if let Some(dataset) = dataset {
            if dataset.kind != self.dataset.kind {
                return Err(mismatch("dataset.kind".into(), dataset.kind.clone(), self.dataset.kind.clone()));
            }
            if !dataset.splits.is_empty() && dataset.splits != self.dataset.splits {
                return Err(mismatch(
                    "dataset.splits".into(),
                    dataset.splits.join(", "),
                    self.dataset.splits.join(", "),
                ));
            }
            if dataset.limit != self.dataset.limit {
                let shown = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
                let (expected, found) = (shown(dataset.limit), shown(self.dataset.limit));
                return Err(mismatch("dataset.limit".into(), expected, found));
            }
        }
        match shard_bytes {
            Some(bytes) if bytes != self.shard_bytes => {
                Err(mismatch("shard_bytes".into(), bytes.to_string(), self.shard_bytes.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Every Zarr document of the store: path relative to the store → bytes, the root's under `zarr.json`.
    pub(crate) fn documents(&self, plan: &Plan) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut levels = Vec::new();
        for bucket in plan.buckets() {
            levels.extend(bucket_arrays(bucket, &self.recipe.levels, &self.encodings)?);
        }
        let mut below = hierarchy(levels.iter().flat_map(LevelArrays::iter));
        below.extend(projections::documents(&self.recipe.levels, &self.encodings));
        let root = root_document(&to_value(self), &below);
        let mut documents: BTreeMap<String, Vec<u8>> = below
            .iter()
            .map(|(folder, document)| (format!("{folder}/{ROOT}"), document_bytes(document)))
            .collect();
        documents.insert(ROOT.to_owned(), document_bytes(&root));
        Ok(documents)
    }
}

/// Refuses encodings that are not of exactly the recipe's levels, and levels whose names are those of other
/// levels' arrays.
pub(crate) fn check_encodings(recipe: &Recipe, encodings: &Encodings) -> Result<()> {
    let expected: BTreeMap<&str, ()> = recipe.levels.iter().map(|level| (level.name.as_str(), ())).collect();
    if encodings.iter().map(|(level, _)| level).eq(expected.keys().copied()) {
        for level in &recipe.levels {
            let Some(encoding) = encodings.of(&level.name) else { continue };
            encoding.check(level)?;
        }
        let taken = encodings.iter().filter(|(_, encoding)| encoding.is_quantised());
        let mut taken = taken.map(|(level, _)| affine_name(level));
        return match taken.find(|name| expected.contains_key(name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "level {name}: expected another name, since that is the array of scales of a quantised level"
            ))),
        };
    }
    let names: Vec<&str> = expected.into_keys().collect();
    Err(Error::invalid(format!("encodings {encodings}: expected one for each of {}", names.join(", "))))
}

/// Whether a document is a Zarr v3 group's, ours or not.
fn is_group(document: &Value) -> bool {
    document.get("zarr_format").and_then(Value::as_u64) == Some(3)
        && document.get("node_type").and_then(Value::as_str) == Some("group")
}

/// Refuses a document of a later format, or of none.
pub(crate) fn check_format(document: &Value, path: &Path) -> Result<()> {
    let format = document
        .get("format")
        .and_then(Value::as_u64)
        .filter(|format| *format > 0)
        .ok_or_else(|| Error::corrupt(path, "format: expected a number from 1"))?;
    if format > u64::from(FORMAT) {
        let found = u32::try_from(format).unwrap_or(u32::MAX);
        return Err(Error::TooNew { path: path.to_owned(), found, supported: FORMAT });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::recipe;

    #[test]
    fn no_level_is_named_as_the_scales_of_another() {
        let mut recipe = recipe();
        recipe.levels[1].name = "p2.affine".into();
        let parse = |text| Encodings::parse(text, &recipe.levels).unwrap();
        check_encodings(&recipe, &parse("bf16,p2.affine=int8")).unwrap();
        let error = check_encodings(&recipe, &parse("bf16,p2=int8")).unwrap_err().to_string();
        assert!(error.contains("level p2.affine: expected another name"), "{error}");
        let fewer = Encodings::parse("int8", &recipe.levels[..1]).unwrap();
        let error = check_encodings(&recipe, &fewer).unwrap_err().to_string();
        assert!(error.contains("expected one for each of p2, p2.affine"), "{error}");
    }
}
