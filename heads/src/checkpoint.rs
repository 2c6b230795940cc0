//! A run's folder and the checkpoint in it: one safetensors file with everything that a resume or an
//! evaluation needs, replaced as a whole or not at all. Must not know how training uses it.
//!
//! ```text
//! RUN/
//!   recipe.toml                     the recipe with every default written out
//!   log.jsonl                       one JSON object a line
//!   checkpoint-latest.safetensors   `model.*`, `optimizer.*`; its metadata holds a [`CheckpointState`]
//! ```

use crate::identity::RunIdentity;
use crate::order::Position;
use crate::tensor::bytes_of;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// Version of the checkpoint's layout.
pub const CHECKPOINT_FORMAT: u32 = 1;

/// Name of the recipe in a run's folder.
pub const RECIPE_FILE: &str = "recipe.toml";

/// Name of the log in a run's folder.
pub const LOG_FILE: &str = "log.jsonl";

/// Name of the newest checkpoint in a run's folder.
pub const LATEST_FILE: &str = "checkpoint-latest.safetensors";

/// Key of the state in the file's metadata.
const STATE_KEY: &str = "featcache";

/// Everything of a checkpoint that is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointState {
    /// [`CHECKPOINT_FORMAT`].
    pub format: u32,
    /// What the run was made from.
    pub run: RunIdentity,
    /// Steps done.
    pub step: u64,
    /// Position of the loader.
    pub position: Position,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// What is not a tensor.
    pub state: CheckpointState,
    /// The model's tensors by name.
    pub model: BTreeMap<String, Tensor>,
    /// The optimizer's tensors by name.
    pub optimizer: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Path of the newest checkpoint of a run.
    pub fn latest(folder: &Path) -> PathBuf {
        folder.join(LATEST_FILE)
    }

    /// Reads and checks a checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(path).to_owned();
                Error::NotFound { path: folder, what: format!("checkpoint {LATEST_FILE}") }
            }
            _ => Error::Io { path: path.to_owned(), source },
        })?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::corrupt(path, format!("not a safetensors file: {e}")))?;
        let json =
            metadata.metadata().as_ref().and_then(|map| map.get(STATE_KEY)).ok_or_else(|| {
                Error::corrupt(path, "has no state of featcache: not one of its checkpoints")
            })?;
        let format = serde_json::from_str::<serde_json::Value>(json)
            .ok()
            .and_then(|state| state.get("format").and_then(serde_json::Value::as_u64));
        if let Some(found) = format.filter(|&format| format > u64::from(CHECKPOINT_FORMAT)) {
            let text =
                format!("format {found} is newer than {CHECKPOINT_FORMAT}, the newest this version reads");
            return Err(Error::invalid(format!("{}: {text}", path.display())));
        }
        let state: CheckpointState =
            serde_json::from_str(json).map_err(|e| Error::corrupt(path, format!("state: {e}")))?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::corrupt(path, format!("not a safetensors file: {e}")))?;
        let (mut model, mut optimizer) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in tensors.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(Error::corrupt(
                    path,
                    format!("tensor {name} is {:?}, expected F32", view.dtype()),
                ));
            }
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?;
            if let Some(name) = name.strip_prefix("model.") {
                model.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("optimizer.") {
                optimizer.insert(name.to_owned(), tensor);
            } else {
                return Err(Error::corrupt(
                    path,
                    format!("tensor {name} is neither model.* nor optimizer.*"),
                ));
            }
        }
        Ok(Self { state, model, optimizer })
    }
}

/// Writes a checkpoint so that `path` holds the old or the new one at every moment: temporary file,
/// fsync, rename, fsync of the folder. Tensors leave their device one at a time.
pub fn write_checkpoint<'a>(
    path: &Path,
    state: &CheckpointState,
    model: impl Iterator<Item = (String, &'a Tensor)>,
    optimizer: impl Iterator<Item = (String, &'a Tensor)>,
) -> Result<()> {
    let json = serde_json::to_string(state)
        .map_err(|e| Error::invalid(format!("checkpoint state cannot be written as JSON: {e}")))?;
    let named = model
        .map(|(name, tensor)| (format!("model.{name}"), tensor))
        .chain(optimizer.map(|(name, tensor)| (format!("optimizer.{name}"), tensor)));
    let tensors = named.map(|(name, tensor)| Ok((name, Stored::new(tensor)?))).collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(STATE_KEY.to_owned(), json)]);
    replace(path, |temporary| {
        safetensors::serialize_to_file(tensors, Some(metadata), temporary)
            .map_err(|e| Error::io(temporary)(std::io::Error::other(e)))
    })
}

/// Replaces the file at `path` by what `write` puts at the temporary path that it is given.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".tmp-{name}-{}", std::process::id()));
    let result = write(&temporary).and_then(|()| {
        let file = File::open(&temporary).map_err(Error::io(&temporary))?;
        file.sync_all().map_err(Error::io(&temporary))?;
        std::fs::rename(&temporary, path).map_err(Error::io(path))?;
        let folder = path.parent().unwrap_or(path);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
    });
    if result.is_err() {
        // The error is already on its way; a temporary that stays is overwritten by the next attempt.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// A tensor that gives its bytes only when the writer comes to it.
struct Stored<'a> {
    tensor: &'a Tensor,
    shape: Vec<usize>,
}

impl<'a> Stored<'a> {
    fn new(tensor: &'a Tensor) -> Result<Self> {
        if tensor.f_kind()? != Kind::Float {
            return Err(Error::invalid(format!("a checkpoint holds binary32, found {:?}", tensor.kind())));
        }
        Ok(Self { tensor, shape: tensor.size().iter().map(|&side| side as usize).collect() })
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The trait cannot fail. Copying a binary32 tensor out fails only if its device is gone; the
        // writer then finds too few bytes and refuses the file.
        bytes_of(self.tensor).unwrap_or_default().into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * 4
    }
}
