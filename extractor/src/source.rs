//! A planned row's picture: read, hashed and prepared. What is wrong with it is an outcome, not an error.

use crate::Result;
use crate::dataset;
use crate::image::Limits;
use crate::preprocess::{Input, Planned, Preparation};
use featcache_store::{Place, Recipe};
use std::path::{Path, PathBuf};

/// Where a recipe's pictures lie and how they are prepared.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    root: PathBuf,
    recipe: &'a Recipe,
    preparation: Preparation,
    limits: Limits,
}

/// One row's picture.
#[derive(Debug)]
pub struct Prepared {
    /// BLAKE3 of the file, if it could be read.
    pub source_blake3: Option<String>,
    /// The network input, or why there is none.
    pub input: std::result::Result<Input, String>,
}

impl<'a> Source<'a> {
    /// Pictures below `root`, prepared as `recipe` says.
    ///
    /// # Errors
    /// The recipe names a decoder or resampler that does not exist.
    pub fn new(root: &Path, recipe: &'a Recipe) -> Result<Self> {
        let limits = Limits::default();
        let preparation = Preparation::of(&recipe.preprocess, limits)?;
        Ok(Self { root: root.to_owned(), recipe, preparation, limits })
    }

    /// Reads and prepares the file `source` (relative to the root) as planned, in the view of this name.
    pub fn prepare(&self, source: &str, view: &str, place: &std::result::Result<Place, String>) -> Prepared {
        let bytes = match dataset::read_source(&self.root, source, &self.limits) {
            Ok(bytes) => bytes,
            Err(error) => return Prepared { source_blake3: None, input: Err(error.to_string()) },
        };
        let source_blake3 = Some(blake3::hash(&bytes).to_hex().to_string());
        let input = place.clone().and_then(|place| {
            let view = self.recipe.views.iter().find(|v| v.name == view);
            let view = view.ok_or_else(|| "its view is not in the recipe".to_owned())?;
            let planned = Planned { source: place.source, valid: place.valid };
            self.preparation.prepare(&bytes, view, planned).map_err(|error| error.to_string())
        });
        Prepared { source_blake3, input }
    }
}
