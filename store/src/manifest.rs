//! `manifest.json`: the truth of a finished store. Every file with length and hash; no time and no host,
//! so equal inputs give equal manifests. Reads and writes no files.

use crate::canonical::{canonical_json, to_value};
use crate::layout::check_relative;
use crate::loss::LevelLoss;
use crate::spec::{DatasetSpec, Licence, Spec, check_format};
use crate::table::record::FileEntry;
use crate::zarr::{document_bytes, parse_document};
use crate::{Encodings, Error, Fingerprint, Recipe, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The truth of a finished store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// As in the spec.
    pub fingerprint: Fingerprint,
    /// As in the spec.
    pub recipe: Recipe,
    /// As in the spec.
    pub encodings: Encodings,
    /// As in the spec.
    pub dataset: DatasetSpec,
    /// As in the spec.
    pub licence: Licence,
    /// Counts by split.
    pub splits: BTreeMap<String, SplitCounts>,
    /// What encodings have lost, by level: of the levels that came out other than they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub losses: BTreeMap<String, LevelLoss>,
    /// Every file but this one and `runs/`, by path.
    pub files: Vec<FileEntry>,
    /// BLAKE3 of this document's canonical JSON without this field: the identity of the store's content.
    pub content_blake3: String,
}

/// Counts of a split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCounts {
    /// Samples.
    pub samples: u64,
    /// Rows: samples times views.
    pub rows: u64,
    /// Rows with features.
    pub ok: u64,
    /// Rows without.
    pub failed: u64,
}

impl Manifest {
    pub(crate) fn new(
        spec: &Spec,
        splits: BTreeMap<String, SplitCounts>,
        losses: BTreeMap<String, LevelLoss>,
        mut files: Vec<FileEntry>,
    ) -> Self {
        files.sort_unstable();
        let mut manifest = Self {
            format: spec.format,
            fingerprint: spec.fingerprint.clone(),
            recipe: spec.recipe.clone(),
            encodings: spec.encodings.clone(),
            dataset: spec.dataset.clone(),
            licence: spec.licence.clone(),
            splits,
            losses,
            files,
            content_blake3: String::new(),
        };
        manifest.content_blake3 = manifest.content();
        manifest
    }

    /// Parses a manifest found at `path`.
    ///
    /// # Errors
    /// [`Error::TooNew`] before anything else is looked at; [`Error::PathEscape`] if a file's path could
    /// leave the store; [`Error::Corrupt`] if it is not what this version could have written.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let document = parse_document(bytes, path)?;
        check_format(&document, path)?;
        let manifest = Self::deserialize(&document).map_err(|e| Error::corrupt(path, e.to_string()))?;
        for file in &manifest.files {
            check_relative(&file.path)
                .map_err(|_| Error::PathEscape { path: path.to_owned(), found: file.path.clone() })?;
        }
        // Whoever adds the sizes up must not have to expect that they pass 64 bits.
        if manifest.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.bytes)).is_none() {
            return Err(Error::corrupt(path, "files: expected bytes that add up, found more than 2^64"));
        }
        let content = manifest.content();
        if content != manifest.content_blake3 {
            let found = &manifest.content_blake3;
            return Err(Error::corrupt(path, format!("content_blake3: expected {content}, found {found}")));
        }
        Ok(manifest)
    }

    /// The entry of a file, by its path relative to the store.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        let index = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        self.files.get(index)
    }

    /// The file's bytes.
    pub(crate) fn document(&self) -> Vec<u8> {
        document_bytes(&to_value(self))
    }

    fn content(&self) -> String {
        let mut document = to_value(self);
        if let Some(fields) = document.as_object_mut() {
            fields.remove("content_blake3");
        }
        blake3::hash(canonical_json(&document).as_bytes()).to_hex().to_string()
    }
}
