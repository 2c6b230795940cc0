//! `features.json` in a run's folder: what the features are that the head was trained on, so that a
//! picture can be turned into the same ones without the store. Must not know how features are made.

use crate::checkpoint::replace;
use crate::{Error, Result};
use featcache_store::{Encodings, Recipe, Store};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a run's folder.
pub const FEATURES_FILE: &str = "features.json";

/// What a run's features are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFeatures {
    /// How they were made.
    pub recipe: Recipe,
    /// How the store held them, by level: reading rounded them to this.
    pub encodings: Encodings,
}

impl RunFeatures {
    /// Those of a store.
    pub fn of(store: &Store) -> Self {
        Self { recipe: store.recipe().clone(), encodings: store.encodings().clone() }
    }

    /// Writes them into the run's folder, in place of what is there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::invalid(format!("features cannot be written as JSON: {e}")))?;
        replace(&run.join(FEATURES_FILE), |path| std::fs::write(path, &json).map_err(Error::io(path)))
    }

    /// Reads those of a run whose features have this fingerprint.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no file; [`Error::Corrupt`] where it is not what this module writes;
    /// [`Error::RunMismatch`] where the fingerprint is another.
    pub fn read(run: &Path, fingerprint: &str) -> Result<Self> {
        let path = run.join(FEATURES_FILE);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let features: Self =
            serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(&path, e.to_string()))?;
        features.recipe.check()?;
        let found = features.recipe.fingerprint().0;
        if found != fingerprint {
            let (field, expected) = ("fingerprint".to_owned(), fingerprint.to_owned());
            return Err(Error::RunMismatch { path, field, expected, found });
        }
        if let Some(level) =
            features.recipe.levels.iter().find(|level| features.encodings.of(&level.name).is_none())
        {
            return Err(Error::corrupt(&path, format!("level {} has no encoding", level.name)));
        }
        Ok(features)
    }
}
