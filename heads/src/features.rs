//! `features.json` in a run's folder, and `projections.safetensors` beside it where levels are held as
//! coefficients: what the features are that the head was trained on, so that a picture can be turned into the
//! same ones without the store. Must not know how features are made.

use crate::checkpoint::replace;
use crate::version::Version;
use crate::{Error, Result};
use featcache_store::{Encodings, Projection, Projections, Recipe, Store};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a run's folder.
pub const FEATURES_FILE: &str = "features.json";

/// Name of the file of bases, `<level>.basis` `[K, c]` and `<level>.mean` `[c]`.
pub const PROJECTIONS_FILE: &str = "projections.safetensors";

/// What a run's features are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFeatures {
    /// How they were made.
    pub recipe: Recipe,
    /// What they went through before the head saw them, by level: the store's encodings, or those of another
    /// version that it trained on.
    pub encodings: Encodings,
    /// The bases of the levels that it held as coefficients; in a file of their own.
    #[serde(skip)]
    pub projections: Projections,
}

impl RunFeatures {
    /// Those of a store, or of another version of it.
    pub fn of(store: &Store, version: Option<&Version>) -> Self {
        let Version { encodings, projections } = version.cloned().unwrap_or_else(|| Version::of(store));
        Self { recipe: store.recipe().clone(), encodings, projections }
    }

    /// Writes them into the run's folder, in place of what is there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (level, projection) in self.projections.iter() {
            let (k, c) = (projection.coefficients(), projection.channels());
            tensors.push((format!("{level}.basis"), vec![k, c], bytes_of(projection.basis())));
            tensors.push((format!("{level}.mean"), vec![c], bytes_of(projection.mean())));
        }
        if !tensors.is_empty() {
            let invalid = |e: safetensors::SafeTensorError| {
                Error::invalid(format!("bases cannot be written as safetensors: {e}"))
            };
            let view = |(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape, bytes)?));
            let views =
                tensors.iter().map(|(name, shape, bytes)| view((name, shape.clone(), bytes.as_slice())));
            let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(invalid)?;
            let bytes = safetensors::serialize(views, None).map_err(invalid)?;
            let path = run.join(PROJECTIONS_FILE);
            replace(&path, |path| std::fs::write(path, &bytes).map_err(Error::io(path)))?;
        }
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
        let mut features: Self =
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
        features.projections = read_projections(run, &features)?;
        Ok(features)
    }
}

/// The bases that the encodings ask for.
fn read_projections(run: &Path, features: &RunFeatures) -> Result<Projections> {
    let mut projections = Projections::default();
    let projected = features.encodings.iter().filter(|(_, encoding)| encoding.projection.is_some());
    let levels: Vec<&str> = projected.map(|(level, _)| level).collect();
    if levels.is_empty() {
        return Ok(projections);
    }
    let path = run.join(PROJECTIONS_FILE);
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let corrupt = |what: String| Error::corrupt(&path, what);
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| corrupt(e.to_string()))?;
    for level in levels {
        let tensor = |name: &str| -> Result<Vec<f32>> {
            let name = format!("{level}.{name}");
            let view = tensors.tensor(&name).map_err(|e| corrupt(format!("tensor {name}: {e}")))?;
            if view.dtype() != Dtype::F32 {
                return Err(corrupt(format!("tensor {name} is {:?}, expected F32", view.dtype())));
            }
            Ok(view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
        };
        let projection = Projection::new(tensor("basis")?, tensor("mean")?);
        projections.insert(level, projection.map_err(|e| corrupt(format!("level {level}: {e}")))?);
    }
    projections.check(&features.recipe.levels, &features.encodings).map_err(|e| corrupt(e.to_string()))?;
    Ok(projections)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
