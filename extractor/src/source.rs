//! A planned row's picture: read, hashed and prepared. What is wrong with the picture is an outcome; what is
//! wrong with the disk that it lies on is an error.

use crate::budget::Budget;
use crate::dataset;
use crate::image::Limits;
use crate::preprocess::{Input, Planned, Preparation};
use crate::{Error, Result};
use featcache_store::{Place, Recipe};
use std::path::{Path, PathBuf};

/// Where a recipe's pictures lie and how they are prepared. Threads that prepare at the same time share the
/// memory of one decode, [`Limits::decoded_bytes`]: ordinary pictures never wait, the largest work alone. The
/// bytes of the files come on top, up to [`Limits::file_bytes`] a thread.
#[derive(Debug)]
pub struct Source<'a> {
    root: PathBuf,
    recipe: &'a Recipe,
    preparation: Preparation,
    limits: Limits,
    memory: Budget,
}

/// One row's picture.
#[derive(Debug)]
pub struct Prepared {
    /// BLAKE3 of the file, unless it is too large to be read.
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
        let memory = Budget::new(limits.decoded_bytes);
        Ok(Self { root: root.to_owned(), recipe, preparation, limits, memory })
    }

    /// Reads and prepares the file `source` (relative to the root) as planned, in the view of this name.
    ///
    /// # Errors
    /// [`Error::SourceLost`] where a file that was planned with a size cannot be read: a mount is gone, a disk
    /// fails, descriptors run out. Nothing of that is a property of the picture, so it must not be recorded.
    pub fn prepare(
        &self,
        source: &str,
        view: &str,
        place: &std::result::Result<Place, String>,
    ) -> Result<Prepared> {
        let place = match place {
            Ok(place) => place,
            Err(reason) => return Ok(Prepared { source_blake3: None, input: Err(reason.clone()) }),
        };
        let bytes = match dataset::read_source(&self.root, source, &self.limits) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Ok(Prepared { source_blake3: None, input: Err(error.to_string()) }),
            Err(Error::Io { path, source }) => return Err(Error::SourceLost { path, source }),
            Err(error) => return Err(error),
        };
        let source_blake3 = Some(blake3::hash(&bytes).to_hex().to_string());
        let view = self.recipe.views.iter().find(|v| v.name == view);
        let view = view.ok_or_else(|| Error::invalid(format!("{source}: its view is not in the recipe")))?;
        let planned = Planned { source: place.source, valid: place.valid };
        let _share = self.memory.take(self.preparation.bytes(&bytes, planned));
        let input = self.preparation.prepare(&bytes, view, planned).map_err(|error| error.to_string());
        Ok(Prepared { source_blake3, input })
    }
}
