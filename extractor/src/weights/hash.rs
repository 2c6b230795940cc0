//! Identity of weights: BLAKE3 in canonical order. [`super::Weights::blake3`] defines what is hashed.

use super::tensor_file::StoredType;
use super::{Init, Parameter};
use crate::Result;

/// Values converted at a time.
const CHUNK: usize = 1 << 16;

/// Hash of the values that `pieces` gives for each parameter, in canonical order.
pub(crate) fn of_values<'a>(
    parameters: &[Parameter],
    pieces: impl Fn(&Parameter) -> Vec<(StoredType, &'a [u8])>,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"featcache weights 1\n");
    let mut values = Vec::with_capacity(CHUNK * 4);
    for parameter in parameters {
        name_and_shape(&mut hasher, parameter);
        for (stored, bytes) in pieces(parameter) {
            if stored == StoredType::F32 {
                hasher.update(bytes);
                continue;
            }
            for chunk in bytes.chunks(CHUNK * 2) {
                values.clear();
                stored.widen(chunk, &mut values);
                hasher.update(&values);
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Hash of what determines random weights.
pub(crate) fn of_random(seed: u64, parameters: &[Parameter]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"featcache random weights 1\n");
    hasher.update(&seed.to_le_bytes());
    for parameter in parameters {
        name_and_shape(&mut hasher, parameter);
        let (kind, value) = match parameter.init {
            Init::Constant(value) => (0u8, value),
            Init::Bell(std) => (1, std),
        };
        hasher.update(&[kind]);
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn name_and_shape(hasher: &mut blake3::Hasher, parameter: &Parameter) {
    hasher.update(&(parameter.name.len() as u64).to_le_bytes());
    hasher.update(parameter.name.as_bytes());
    hasher.update(&(parameter.shape.len() as u64).to_le_bytes());
    for &dimension in &parameter.shape {
        hasher.update(&(dimension as u64).to_le_bytes());
    }
}
