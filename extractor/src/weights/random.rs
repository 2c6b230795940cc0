//! Random weights by seed: featcache's own generator, the same values on every platform and in every version.
//!
//! Value i of a parameter is made of the 64 bits `splitmix64(start + i · 0x9e3779b97f4a7c15)`, where `start` is
//! the first eight bytes (little-endian) of BLAKE3 over the seed (u64, little-endian) and the canonical name.
//! The four 16-bit words of those bits are added as integers; the sum minus its mean 131070, times
//! `std / 37837.23`, is a bell of standard deviation `std` (Irwin-Hall of four, cut at 3.46 deviations). Only
//! integer arithmetic and one binary32 product: nothing that a platform could round otherwise.

use super::{Init, Parameter};
use crate::{Error, Result};
use half::bf16;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Standard deviation of a sum of four uniform 16-bit integers: sqrt(4 · (65536² − 1) / 12).
const WORD_SUM_STD: f32 = 37_837.23;
/// Values drawn by one task.
const CHUNK: usize = 1 << 16;

/// The parameter filled by its initialisation. With [`Kind::BFloat16`] the values are written as bfloat16 at
/// once: a model of three billion parameters is never held in binary32.
pub(crate) fn tensor(seed: u64, parameter: &Parameter, shape: &[i64], kind: Kind) -> Result<Tensor> {
    let torch = Error::torch("draw random weights");
    match parameter.init {
        Init::Constant(value) => {
            Tensor::f_full(shape, f64::from(value), (kind, tch::Device::Cpu)).map_err(torch)
        }
        Init::Bell(std) => {
            let bell = Bell::new(seed, &parameter.name, std);
            let mut bytes;
            if kind == Kind::BFloat16 {
                bytes = vec![0u8; parameter.elements() * 2];
                bytes.par_chunks_mut(CHUNK * 2).enumerate().for_each(|(chunk, out)| {
                    for (i, value) in out.chunks_exact_mut(2).enumerate() {
                        value.copy_from_slice(&bf16::from_f32(bell.value(chunk * CHUNK + i)).to_le_bytes());
                    }
                });
                Tensor::f_from_data_size(&bytes, shape, kind).map_err(torch)
            } else {
                bytes = vec![0u8; parameter.elements() * 4];
                bytes.par_chunks_mut(CHUNK * 4).enumerate().for_each(|(chunk, out)| {
                    for (i, value) in out.chunks_exact_mut(4).enumerate() {
                        value.copy_from_slice(&bell.value(chunk * CHUNK + i).to_le_bytes());
                    }
                });
                let drawn = Tensor::f_from_data_size(&bytes, shape, Kind::Float);
                drawn.and_then(|t| t.f_to_kind(kind)).map_err(torch)
            }
        }
    }
}

/// The values of one parameter.
#[derive(Debug, Clone, Copy)]
struct Bell {
    start: u64,
    scale: f32,
}

impl Bell {
    fn new(seed: u64, name: &str, std: f32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut start = [0; 8];
        hasher.finalize_xof().fill(&mut start);
        Self { start: u64::from_le_bytes(start), scale: std / WORD_SUM_STD }
    }

    fn value(self, index: usize) -> f32 {
        let mut z = self.start.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let words = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
        (words as i32 - 131_070) as f32 * self.scale
    }
}
