//! A run's folder and the checkpoint in it: one safetensors file with everything that a resume or an
//! evaluation needs, replaced as a whole or not at all. Must not know how training uses it.
//!
//! ```text
//! RUN/
//!   recipe.toml                     the recipe with every default written out
//!   features.json                   what the features are: see [`crate::features`]
//!   log.jsonl                       one JSON object a line
//!   checkpoint-latest.safetensors   `model.*`, `optimizer.*`; its metadata holds a [`CheckpointState`]
//!                                   and the BLAKE3 of all that follows the file's first eight bytes
//! ```

use crate::identity::RunIdentity;
use crate::order::Position;
use crate::tensor::bytes_of;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
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

/// How a header begins as safetensors writes it.
const OPENING: &str = "{\"__metadata__\":{";

/// What follows the opening, and is followed by the 64 digits of the hash, for which zeros stand while it is
/// computed. No safetensors reader checks the numbers themselves.
const SEAL: &str = "\"blake3\":\"";

/// Digits of a hash that is not known yet.
const UNKNOWN: [u8; 64] = [b'0'; 64];

/// Place of the hash's digits in the file.
const DIGITS: Range<usize> = 8 + OPENING.len() + SEAL.len()..8 + OPENING.len() + SEAL.len() + UNKNOWN.len();

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
        let metadata = metadata(&bytes)
            .map_err(|what| Error::corrupt(path, format!("not a safetensors file: {what}")))?;
        check_seal(&bytes).map_err(|what| Error::corrupt(path, what))?;
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
/// fsync, rename, fsync of the folder. Tensors leave their device one at a time; the first that cannot
/// be copied is the error, and the old checkpoint stays.
///
/// The file is written here and not by `safetensors`, whose writer cannot be told that a tensor failed
/// and names its temporary file anew each time, so that kills would leave one after the other.
pub fn write_checkpoint<'a>(
    path: &Path,
    state: &CheckpointState,
    model: impl Iterator<Item = (String, &'a Tensor)>,
    optimizer: impl Iterator<Item = (String, &'a Tensor)>,
) -> Result<()> {
    let as_json = |e| Error::invalid(format!("checkpoint state cannot be written as JSON: {e}"));
    let json = serde_json::to_string(state).map_err(as_json)?;
    let named = model
        .map(|(name, tensor)| (format!("model.{name}"), tensor))
        .chain(optimizer.map(|(name, tensor)| (format!("optimizer.{name}"), tensor)));
    let tensors: BTreeMap<String, &Tensor> = named.collect();
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        if tensor.f_kind()? != Kind::Float {
            return Err(Error::invalid(format!("a checkpoint holds binary32, found {:?}", tensor.kind())));
        }
        let shape: Vec<usize> = tensor.size().iter().map(|&side| side as usize).collect();
        let start = end;
        end += tensor.numel() * Kind::Float.elt_size_in_bytes();
        infos.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) }));
    }
    let metadata = Metadata::new(Some(HashMap::from([(STATE_KEY.to_owned(), json)])), infos)
        .map_err(|e| Error::invalid(format!("checkpoint cannot be written as safetensors: {e}")))?;
    let header = serde_json::to_string(&metadata).map_err(as_json)?;
    let rest = header
        .strip_prefix(OPENING)
        .ok_or_else(|| Error::invalid(format!("checkpoint header begins otherwise than with {OPENING}")))?;
    let mut header = [OPENING.as_bytes(), SEAL.as_bytes(), &UNKNOWN, b"\",", rest.as_bytes()].concat();
    // Tensors start at a multiple of eight bytes: spaces are part of the header.
    header.resize(header.len().next_multiple_of(8), b' ');
    replace(path, |temporary| {
        let io = Error::io;
        let mut file = File::create(temporary).map_err(io(temporary))?;
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io(temporary))?;
        file.write_all(&header).map_err(io(temporary))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        for tensor in tensors.values() {
            let bytes = bytes_of(tensor)?;
            hasher.update(&bytes);
            file.write_all(&bytes).map_err(io(temporary))?;
        }
        let digits = hasher.finalize().to_hex();
        file.write_all_at(digits.as_bytes(), DIGITS.start as u64).map_err(io(temporary))
    })
}

/// The header of a safetensors file, whose offsets are bounded before the library adds them up: it would
/// overflow on hostile ones.
fn metadata(bytes: &[u8]) -> Result<Metadata, String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let header = rest.get(..length).ok_or_else(|| format!("header of {length} bytes in {}", bytes.len()))?;
    let header: Metadata = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let data = rest.len() - length;
    let inside =
        |info: &&TensorInfo| info.data_offsets.0 <= info.data_offsets.1 && info.data_offsets.1 <= data;
    if !header.tensors().values().all(inside) {
        return Err(format!("a tensor lies outside of the {data} bytes of data"));
    }
    SafeTensors::read_metadata(bytes).map(|(_, metadata)| metadata).map_err(|e| e.to_string())
}

/// Compares a file with the hash in it. Checkpoints of before there was one have none.
fn check_seal(bytes: &[u8]) -> Result<(), String> {
    let opening = [OPENING.as_bytes(), SEAL.as_bytes()].concat();
    let (Some(before), Some(digits)) = (bytes.get(8..DIGITS.start), bytes.get(DIGITS)) else { return Ok(()) };
    if before != opening {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&UNKNOWN).update(&bytes[DIGITS.end..]);
    let found = hasher.finalize().to_hex();
    if digits != found.as_bytes() {
        let digits = String::from_utf8_lossy(digits);
        return Err(format!("blake3 is {found}, expected {digits}: bytes have changed since it was written"));
    }
    Ok(())
}

/// Replaces the file at `path` by what `write` puts at the temporary path that it is given: at every
/// moment it is the old one or the new one. The temporary name is fixed, so that what a kill leaves is
/// overwritten by the next attempt; the caller sees to it that one process at a time writes this file.
///
/// # Errors
/// What `write` fails with; the system's refusal to sync or rename. The old file stays.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".tmp-{name}"));
    let publish = || {
        let file = File::open(&temporary).map_err(Error::io(&temporary))?;
        file.sync_all().map_err(Error::io(&temporary))?;
        std::fs::rename(&temporary, path).map_err(Error::io(path))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
    };
    let result = write(&temporary).and_then(|()| publish());
    if result.is_err() {
        // The error is already on its way; a temporary that stays is overwritten by the next attempt.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}
