//! Weights of a backbone: where they come from, how they are named, what they hash to.
//!
//! One canonical naming (Microsoft's) and one canonical form (every parameter a named, shaped tensor in the
//! order of the backbone's own list) stand behind all sources. Tensors are handed out one at a time, so that
//! three billion parameters never lie in memory twice. Nothing here unpickles anything.

mod hash;
mod naming;
mod parameter;
mod random;
mod report;
mod tensor_file;

pub use naming::Naming;
pub use parameter::{Init, Parameter};
pub use report::{MatchReport, Misshaped};
pub use tensor_file::TensorFile;

use crate::{Error, Result};
use naming::Piece;
use std::collections::HashMap;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// Where the weights of a backbone come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSource {
    /// A safetensors file under Microsoft, timm, Hugging Face or torchvision names.
    File(PathBuf),
    /// Drawn from a seed by featcache's own generator: same values on every platform.
    Random(u64),
}

impl WeightSource {
    /// Finds every parameter of the list in this source, or says which are missing, unexpected or of another
    /// shape. A file is mapped and only its header read. What matched is logged, and every name that did not.
    pub fn matched(&self, parameters: &[Parameter]) -> Result<Weights> {
        match self {
            Self::Random(seed) => Ok(Weights { origin: Origin::Random(*seed) }),
            Self::File(path) => {
                let file = TensorFile::open(path)?;
                let (report, pieces) = naming::matched(&file, parameters);
                match report.check(path) {
                    Ok(()) => log::info!("{}: {}", path.display(), report.summary()),
                    Err(error) => {
                        log::info!("{}: {report}", path.display());
                        return Err(error);
                    }
                }
                Ok(Weights { origin: Origin::File(Box::new(Matched { file, pieces, report })) })
            }
        }
    }
}

/// Weights of which every parameter is known to be there with its shape.
#[derive(Debug)]
pub struct Weights {
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Random(u64),
    File(Box<Matched>),
}

#[derive(Debug)]
struct Matched {
    file: TensorFile,
    /// By canonical name: contiguous byte ranges that follow each other along the first axis.
    pieces: HashMap<String, Vec<Piece>>,
    report: MatchReport,
}

impl Weights {
    /// What matched, for a file.
    pub fn report(&self) -> Option<&MatchReport> {
        match &self.origin {
            Origin::Random(_) => None,
            Origin::File(matched) => Some(&matched.report),
        }
    }

    /// The file they come from, if they do.
    pub fn file(&self) -> Option<&TensorFile> {
        match &self.origin {
            Origin::Random(_) => None,
            Origin::File(matched) => Some(&matched.file),
        }
    }

    /// BLAKE3 of the weights as lowercase hex: the same for the same values under every naming and for
    /// every stored element type that holds them exactly.
    ///
    /// Hashed are, after the line `featcache weights 1`, for every parameter in canonical order: the length of
    /// its canonical name (u64), the name, its rank (u64), its dimensions (u64 each), and its values as
    /// binary32, everything little-endian. Random weights are hashed by what determines them instead: the line
    /// `featcache random weights 1`, the seed (u64), and names, shapes and initialisations in the same order.
    pub fn blake3(&self, parameters: &[Parameter]) -> Result<String> {
        match &self.origin {
            Origin::Random(seed) => Ok(hash::of_random(*seed, parameters)),
            Origin::File(matched) => hash::of_values(parameters, |parameter| {
                let Matched { file, pieces, .. } = matched.as_ref();
                let pieces = pieces.get(&parameter.name).map_or(&[][..], Vec::as_slice);
                pieces.iter().map(|piece| (piece.dtype, file.bytes(piece.range.clone()))).collect()
            }),
        }
    }

    /// One parameter as a tensor of `kind` on `device`, shaped as the list says.
    pub fn tensor(&self, parameter: &Parameter, kind: Kind, device: Device) -> Result<Tensor> {
        let shape: Vec<i64> = parameter.shape.iter().map(|&d| d as i64).collect();
        let torch = Error::torch("load weights");
        match &self.origin {
            Origin::Random(seed) => {
                let tensor = random::tensor(*seed, parameter, &shape, kind)?;
                tensor.f_to_device(device).map_err(torch)
            }
            Origin::File(matched) => {
                let Matched { file, pieces, .. } = matched.as_ref();
                let pieces = pieces
                    .get(&parameter.name)
                    .ok_or_else(|| Error::weights(file.path(), format!("{} is missing", parameter.name)))?;
                let mut parts = Vec::with_capacity(pieces.len());
                for piece in pieces {
                    let mut part_shape = shape.clone();
                    if let Some(first) = part_shape.first_mut() {
                        *first /= pieces.len() as i64;
                    }
                    let bytes = file.bytes(piece.range.clone());
                    let stored = Tensor::f_from_data_size(bytes, &part_shape, piece.dtype.kind());
                    parts.push(stored.and_then(|t| t.f_to_kind(kind)).map_err(Error::torch("load weights"))?);
                }
                let whole = match parts.len() {
                    1 => parts.pop().ok_or_else(|| Error::invalid("no part of a weight"))?,
                    _ => Tensor::f_cat(&parts, 0).map_err(Error::torch("load weights"))?,
                };
                whole.f_to_device(device).map_err(torch)
            }
        }
    }
}
