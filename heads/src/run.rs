//! A trained run as others use it: its model at the last checkpoint and what it was made from. Must not
//! train.

use crate::checkpoint::Checkpoint;
use crate::detector::Detector;
use crate::identity::RunIdentity;
use crate::model::SemanticModel;
use crate::read_levels::read_levels;
use crate::task::TaskModel;
use crate::{Error, Result};
use featcache_store::{Category, Store};
use std::path::{Path, PathBuf};
use tch::Device;

/// A run folder, opened.
#[derive(Debug)]
pub struct Run {
    /// The model with the checkpoint's values.
    pub model: TaskModel,
    /// What it was made from.
    pub identity: RunIdentity,
    /// Steps trained.
    pub step: u64,
    folder: PathBuf,
}

impl Run {
    /// Opens the run in `folder` at its newest checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a checkpoint, [`Error::Corrupt`] where tensors do not fit the
    /// recipe.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let path = Checkpoint::latest(folder);
        let Checkpoint { state, model: values, .. } = Checkpoint::read(&path)?;
        let identity = state.run;
        let corrupt = |what: String| Error::corrupt(&path, what);
        identity.recipe.check().map_err(corrupt)?;
        let categories: Vec<_> = identity
            .categories
            .iter()
            .map(|category| Category { id: category.id, name: category.name.clone(), supercategory: None })
            .collect();
        let levels = identity.levels.clone();
        let model = match TaskModel::new(&identity.recipe, levels, &categories, device) {
            Err(Error::Invalid { what }) => return Err(corrupt(what)),
            model => model?,
        };
        model.parameters().load(values).map_err(|e| corrupt(e.to_string()))?;
        Ok(Self { model, identity, step: state.step, folder: folder.to_owned() })
    }

    /// The semantic head.
    ///
    /// # Errors
    /// The run is of another task.
    pub fn semantic(&self) -> Result<&SemanticModel> {
        match &self.model {
            TaskModel::Segmentation(model) => Ok(model),
            TaskModel::Detection(_) => Err(self.other_task("a detector", "label maps")),
        }
    }

    /// The detector.
    ///
    /// # Errors
    /// The run is of another task.
    pub fn detector(&self) -> Result<&Detector> {
        match &self.model {
            TaskModel::Detection(model) => Ok(model),
            TaskModel::Segmentation(_) => Err(self.other_task("a semantic head", "objects")),
        }
    }

    fn other_task(&self, found: &str, expected: &str) -> Error {
        Error::invalid(format!(
            "{}: the run is of {found}, expected one of {expected}",
            self.folder.display()
        ))
    }

    /// Names of the categories, in the order of the store's list.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        self.identity.categories.iter().map(|category| category.name.as_str())
    }

    /// Refuses a store of another fingerprint, dataset, category list or set of levels, naming the
    /// field.
    pub fn check_store(&self, store: &Store) -> Result<()> {
        let wanted = &self.identity.levels;
        let as_read = read_levels(store, self.identity.recipe.head.projected);
        let found = as_read.into_iter().filter(|level| wanted.iter().any(|w| w.name == level.name));
        let Self { identity, folder, .. } = self;
        let recipe = identity.recipe.clone();
        let other = RunIdentity::new(store, identity.split.clone(), found.collect(), recipe);
        identity.check(&other, folder)
    }
}
