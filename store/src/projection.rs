//! Cells held as coefficients in a basis of their level: of `c` channels `K` numbers, because features have far
//! fewer directions than channels. Basis and mean are calibrated elsewhere; here they are checked and applied.
//!
//! ```text
//! coefficients = (x − mean) · basisᵀ        x ≈ coefficients · basis + mean
//! ```
//!
//! Sums run over ascending channels or coefficients, every product and sum rounded to binary32 on its own: all
//! instruction sets, and so all machines, give the same bits.

use crate::conversion::{all_finite, convert, to_f32};
use crate::instruction_set::InstructionSet;
use crate::quantised::{NOT_FINITE, TOO_LARGE};
use crate::{Block, DType, Error, NumberFormat, Result};
use product::{Panels, Product, TILE};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

mod product;
#[cfg(test)]
mod tests;

/// Largest difference between the basis times its transpose and the identity.
const TOLERANCE: f32 = 1e-4;
/// Most elements of a basis: 256 MiB.
pub(crate) const MAX_ELEMENTS: usize = 1 << 26;
/// Numbers of cells that are multiplied at a time: they stay in the second-level cache.
const STRIP: usize = 1 << 16;
/// What coefficients and mean together must stay below, so that no value of theirs leaves binary32 or bf16:
/// 2^126.
const MOST: f32 = 85_070_591_730_234_615_865_843_651_857_942_052_864.0;

/// As what the levels that are held as coefficients are handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projected {
    /// As the channels that the backbone gave, as well as the coefficients tell.
    #[default]
    Channels,
    /// As the coefficients themselves: the level has `K` channels.
    Coefficients,
}

/// Basis and mean of one level.
#[derive(Clone)]
pub struct Projection {
    /// `[K, c]`, orthonormal rows.
    basis: Vec<f32>,
    /// `[c]`.
    mean: Vec<f32>,
    /// `[c, K]`: from channels to coefficients.
    onto: Panels,
    /// `[K, c]`: back.
    back: Panels,
}

/// Memory for cells on their way, used again.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    /// Numbers of cells in binary32, little-endian.
    bytes: Vec<u8>,
    values: Vec<f32>,
    tiles: Vec<f32>,
}

impl Projection {
    /// A projection of a basis `[K, c]`, the leading direction first, and a mean `[c]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they do not fit each other, are too large (2^26 elements), hold a number that is
    /// not finite, or the rows of the basis are not orthonormal.
    pub fn new(basis: Vec<f32>, mean: Vec<f32>) -> Result<Self> {
        let c = mean.len();
        let fits = c > 0 && basis.len().is_multiple_of(c) && (1..=c).contains(&(basis.len() / c.max(1)));
        if !fits || basis.len() > MAX_ELEMENTS {
            return Err(Error::invalid(format!(
                "basis of {} elements for {c} channels: expected 1 to {c} rows, at most {MAX_ELEMENTS} elements",
                basis.len()
            )));
        }
        for (name, values) in [("basis", &basis), ("mean", &mean)] {
            if let Some(at) = values.iter().position(|value| !value.is_finite() || value.abs() >= MOST) {
                let found = values.get(at).copied().unwrap_or_default();
                return Err(Error::invalid(format!(
                    "{name}: element {at}: expected a number, found {found}"
                )));
            }
        }
        let k = basis.len() / c;
        let element = |row: usize, channel: usize| basis.get(row * c + channel).copied().unwrap_or_default();
        let onto = Panels::new(c, k, |channel, row| element(row, channel), &[]);
        let back = Panels::new(k, c, element, &mean);
        let projection = Self { basis, mean, onto, back };
        projection.check_orthonormal()?;
        Ok(projection)
    }

    /// The projection onto the `k` leading directions of this one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has fewer.
    pub fn first(&self, k: NonZeroU32) -> Result<Self> {
        let elements = (k.get() as usize).checked_mul(self.channels());
        let basis = elements.and_then(|elements| self.basis.get(..elements)).ok_or_else(|| {
            Error::invalid(format!("basis of {} rows: expected at least {k}", self.coefficients()))
        })?;
        Self::new(basis.to_vec(), self.mean.clone())
    }

    /// Coefficients of a cell, `K`.
    pub fn coefficients(&self) -> usize {
        self.basis.len() / self.mean.len()
    }

    /// Channels of a cell, `c`.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// `[K, c]`, row by row.
    pub fn basis(&self) -> &[f32] {
        &self.basis
    }

    /// `[c]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The coefficients `[h, w, K]` in f32 of a block `[h, w, c]` whose bytes fit its shape; why its row can
    /// have none, if so.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a block of other channels.
    pub(crate) fn project(
        &self,
        block: &Block,
        coefficients: &mut Block,
        strip: &mut Strip,
    ) -> Result<std::result::Result<(), &'static str>> {
        let ([h, w, c], k) = (block.shape, self.coefficients());
        if c != self.channels() {
            return Err(Error::invalid(format!(
                "block of {c} channels: expected the {} of its level's basis",
                self.channels()
            )));
        }
        coefficients.shape = [h, w, k];
        coefficients.bytes.resize(h * w * k * size_of::<f32>(), 0);
        let cells = strip_cells(c);
        let targets = coefficients.bytes.chunks_mut(cells * k * size_of::<f32>());
        for (bytes, target) in block.bytes.chunks(cells * c * block.dtype.bytes()).zip(targets) {
            strip.values.resize(bytes.len() / block.dtype.bytes(), 0.0);
            to_f32(bytes, block.dtype, &mut strip.values);
            for cell in strip.values.chunks_exact_mut(c) {
                cell.iter_mut().zip(&self.mean).for_each(|(value, mean)| *value -= mean);
            }
            self.onto.tile(strip.values.iter().copied(), &mut strip.tiles);
            let target = target.as_chunks_mut::<4>().0;
            InstructionSet::best().run(Product { tiles: &strip.tiles, panels: &self.onto, target });
        }
        if !all_finite(&coefficients.bytes, DType::F32) {
            return Ok(Err(NOT_FINITE));
        }
        let numbers =
            coefficients.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes).abs());
        let largest = numbers.fold(0.0, f32::max);
        Ok(if largest * (k as f32) < MOST { Ok(()) } else { Err(TOO_LARGE) })
    }

    /// Decodes whole cells of a payload of coefficients to channels, elements of `dtype`.
    pub(crate) fn reconstruct(
        &self,
        format: NumberFormat,
        payload: &[u8],
        affine: &[f32],
        target: &mut [u8],
        dtype: DType,
        strip: &mut Strip,
    ) {
        let (k, c) = (self.coefficients(), self.channels());
        let numbers = u32::try_from(k).unwrap_or(u32::MAX);
        let cell_bytes = format.payload_channels(numbers) as usize * format.payload_element().bytes();
        let cells = strip_cells(k);
        let strips = payload.chunks(cells * cell_bytes).zip(target.chunks_mut(cells * c * dtype.bytes()));
        for (payload, target) in strips {
            strip.bytes.resize(payload.len() / cell_bytes * k * size_of::<f32>(), 0);
            format.decode(payload, affine, &mut strip.bytes, DType::F32);
            let numbers = strip.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            self.back.tile(numbers, &mut strip.tiles);
            let (set, tiles, panels) = (InstructionSet::best(), &strip.tiles, &self.back);
            match dtype {
                DType::Bf16 => set.run(Product { tiles, panels, target: target.as_chunks_mut::<2>().0 }),
                DType::F32 => set.run(Product { tiles, panels, target: target.as_chunks_mut::<4>().0 }),
                DType::F16 => {
                    strip.bytes.resize(target.len() / 2 * size_of::<f32>(), 0);
                    set.run(Product { tiles, panels, target: strip.bytes.as_chunks_mut::<4>().0 });
                    convert(&strip.bytes, DType::F32, target, DType::F16);
                }
            }
        }
    }

    /// Refuses a basis whose rows are not orthonormal.
    fn check_orthonormal(&self) -> Result<()> {
        let (k, c) = (self.coefficients(), self.channels());
        let mut tiles = Vec::new();
        for (strip, rows) in self.basis.chunks(strip_cells(c) * c).enumerate() {
            self.onto.tile(rows.iter().copied(), &mut tiles);
            let mut products = vec![[0; 4]; rows.len() / c * k];
            InstructionSet::best().run(Product { tiles: &tiles, panels: &self.onto, target: &mut products });
            for (i, product) in products.iter().enumerate() {
                let (a, b) = (strip * strip_cells(c) + i / k, i % k);
                let (expected, found) = (f32::from(u8::from(a == b)), f32::from_le_bytes(*product));
                if (found - expected).abs() <= TOLERANCE {
                    continue;
                }
                return Err(Error::invalid(format!(
                    "basis: rows {a} and {b}: expected a product of {expected}, as they are orthonormal, found {found}"
                )));
            }
        }
        Ok(())
    }
}

/// Cells of a strip, of so many numbers each.
fn strip_cells(numbers: usize) -> usize {
    (STRIP / numbers.max(1)).max(1).next_multiple_of(TILE)
}

impl PartialEq for Projection {
    fn eq(&self, other: &Self) -> bool {
        self.basis == other.basis && self.mean == other.mean
    }
}

impl std::fmt::Debug for Projection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shape = [self.coefficients(), self.channels()];
        f.debug_struct("Projection").field("shape", &shape).finish_non_exhaustive()
    }
}
