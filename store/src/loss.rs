//! What an encoding loses: of one row of one level, and of all rows of a level. Encodes nothing itself.
//!
//! Sums run in binary64 over a fixed number of lanes, and Rust neither fuses nor reorders them, so that every
//! instruction set comes to the same figures.

use crate::conversion::to_f32;
use crate::instruction_set::{InstructionSet, Loop};
use crate::{Block, DType, Encoding};
use serde::{Deserialize, Serialize};

/// Values compared at a time: both forms stay in the second-level cache.
const STRIP: usize = 1 << 14;
/// Sums that run side by side.
const LANES: usize = 16;
/// Decimal figures of what a manifest tells.
const FIGURES: usize = 6;

/// What an encoding has lost of one row of one level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// ‖decoded − given‖₂ / ‖given‖₂, from 0.
    pub relative_l2: f32,
    /// Cosine between decoded and given, -1 to 1.
    pub cosine: f32,
}

/// What an encoding has lost of the rows of a level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelLoss {
    /// Rows that were measured.
    pub rows: u64,
    /// Root of the mean of the squares of the rows' relative L2 losses.
    pub relative_l2: f64,
    /// Mean of the rows' cosines.
    pub cosine: f64,
    /// The row that has lost most, the first of them.
    pub worst: WorstRow,
}

/// The row of a level that has lost most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorstRow {
    /// Its number in the store.
    pub row: u64,
    /// Its sample's split.
    pub split: String,
    /// Its view.
    pub view: String,
    /// Its sample's key.
    pub key: String,
    /// What it has lost.
    pub relative_l2: f64,
}

impl Loss {
    /// A loss as tables hold it; what is wrong with it, if it is none.
    pub(crate) fn checked(relative_l2: f32, cosine: f32) -> Result<Self, String> {
        match relative_l2.is_finite() && relative_l2 >= 0.0 && (-1.0..=1.0).contains(&cosine) {
            true => Ok(Self { relative_l2, cosine }),
            false => Err(format!("a loss of {relative_l2} with a cosine of {cosine}")),
        }
    }
}

/// Whether blocks of this type come back from this encoding other than they were given.
pub(crate) fn is_lossy(encoding: Encoding, given: DType) -> bool {
    let held = encoding.value_dtype();
    // Every f16 and bf16 is an f32.
    encoding.is_quantised() || encoding.projection.is_some() || (held != given && held != DType::F32)
}

/// Measures rows, in memory that is used again.
#[derive(Debug)]
pub(crate) struct LossMeter {
    set: InstructionSet,
    given: Vec<f32>,
    /// In binary32, as bytes.
    decoded: Vec<u8>,
}

impl Default for LossMeter {
    fn default() -> Self {
        Self { set: InstructionSet::best(), given: Vec::new(), decoded: Vec::new() }
    }
}

impl LossMeter {
    /// What is lost of `block`, whose bytes fit its shape, if `decode` makes binary32 values of cells: it is
    /// given the number of the first and fills what it is given.
    pub(crate) fn measure(&mut self, block: &Block, mut decode: impl FnMut(usize, &mut [u8])) -> Loss {
        let channels = block.shape[2].max(1);
        let cells = (STRIP / channels).max(1);
        let mut sums = Sums::default();
        for (strip, bytes) in block.bytes.chunks(cells * channels * block.dtype.bytes()).enumerate() {
            let values = bytes.len() / block.dtype.bytes();
            self.given.resize(values, 0.0);
            self.decoded.resize(values * size_of::<f32>(), 0);
            to_f32(bytes, block.dtype, &mut self.given);
            decode(strip * cells, &mut self.decoded);
            let (given, decoded) = (&self.given, self.decoded.as_chunks().0);
            self.set.run(Compare { given, decoded, sums: &mut sums });
        }
        sums.loss()
    }
}

/// Squares of what was given, squares of what was lost, and their products.
#[derive(Debug, Default)]
struct Sums {
    given: [f64; LANES],
    lost: [f64; LANES],
    product: [f64; LANES],
}

impl Sums {
    #[inline(always)]
    fn add(&mut self, given: &[f32; LANES], decoded: &[[u8; 4]; LANES]) {
        let lanes = self.given.iter_mut().zip(&mut self.lost).zip(&mut self.product);
        for (((squares, losses), products), (given, decoded)) in lanes.zip(given.iter().zip(decoded)) {
            let lost = f64::from(f32::from_le_bytes(*decoded) - given);
            let given = f64::from(*given);
            *squares += given * given;
            *losses += lost * lost;
            *products += given * lost;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "shares of numbers that f32 holds, rounded to it")]
    fn loss(&self) -> Loss {
        let [given, lost, product] =
            [&self.given, &self.lost, &self.product].map(|lanes| lanes.iter().sum::<f64>());
        if lost == 0.0 {
            return Loss { relative_l2: 0.0, cosine: 1.0 };
        }
        // Of nothing given, all of it: only so much, as a table wants a number.
        let relative_l2 = (lost / given).sqrt().min(f64::from(f32::MAX));
        let decoded = given + 2.0 * product + lost;
        let cosine = (given + product) / (given * decoded.max(0.0)).sqrt();
        let cosine = if cosine.is_finite() { cosine.clamp(-1.0, 1.0) } else { 0.0 };
        Loss { relative_l2: relative_l2 as f32, cosine: cosine as f32 }
    }
}

struct Compare<'a> {
    given: &'a [f32],
    decoded: &'a [[u8; 4]],
    sums: &'a mut Sums,
}

impl Loop for Compare<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (given, given_tail) = self.given.as_chunks::<LANES>();
        let (decoded, decoded_tail) = self.decoded.as_chunks::<LANES>();
        for (given, decoded) in given.iter().zip(decoded) {
            self.sums.add(given, decoded);
        }
        let (mut given, mut decoded) = ([0.0; LANES], [[0; 4]; LANES]);
        given.iter_mut().zip(given_tail).for_each(|(lane, value)| *lane = *value);
        decoded.iter_mut().zip(decoded_tail).for_each(|(lane, value)| *lane = *value);
        self.sums.add(&given, &decoded);
    }
}

/// Adds up the losses of a level's rows.
#[derive(Debug, Default)]
pub(crate) struct LevelLossSum {
    rows: u64,
    squares: f64,
    cosines: f64,
    worst: Option<(f32, u64)>,
}

impl LevelLossSum {
    /// Adds row number `row` of the store; rows come in order.
    pub(crate) fn add(&mut self, row: u64, loss: Loss) {
        self.rows += 1;
        self.squares += f64::from(loss.relative_l2) * f64::from(loss.relative_l2);
        self.cosines += f64::from(loss.cosine);
        if self.worst.is_none_or(|(worst, _)| loss.relative_l2 > worst) {
            self.worst = Some((loss.relative_l2, row));
        }
    }

    /// The level's loss, if a row was added; `name` makes split, view and key of a row's number.
    pub(crate) fn finish(self, name: impl FnOnce(u64) -> [String; 3]) -> Option<LevelLoss> {
        let (relative_l2, row) = self.worst?;
        let [split, view, key] = name(row);
        let rows = self.rows as f64;
        let worst = WorstRow { row, split, view, key, relative_l2: rounded(f64::from(relative_l2)) };
        let relative_l2 = rounded((self.squares / rows).sqrt());
        Some(LevelLoss { rows: self.rows, relative_l2, cosine: rounded(self.cosines / rows), worst })
    }
}

/// The nearest number of [`FIGURES`] decimal figures.
fn rounded(value: f64) -> f64 {
    format!("{value:.*e}", FIGURES - 1).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(values: &[f32], channels: usize) -> Block {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Block { shape: [1, values.len() / channels, channels], dtype: DType::F32, bytes }
    }

    /// The decoding of a store that holds `values`.
    fn held(values: &[f32], channels: usize) -> impl FnMut(usize, &mut [u8]) {
        move |cell, target: &mut [u8]| {
            for (target, value) in target.as_chunks_mut::<4>().0.iter_mut().zip(&values[cell * channels..]) {
                *target = value.to_le_bytes();
            }
        }
    }

    #[test]
    fn a_loss_is_that_of_the_definition_in_every_instruction_set() {
        let given: Vec<f32> = (0..7 * 12_345).map(|i| ((i * 7919) % 1013) as f32 / 100.0 - 3.0).collect();
        let decoded: Vec<f32> = given.iter().enumerate().map(|(i, v)| v + (i % 5) as f32 * 0.01).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let lost: Vec<f32> = given.iter().zip(&decoded).map(|(a, b)| b - a).collect();
        let relative = (dot(&lost, &lost) / dot(&given, &given)).sqrt();
        let cosine = dot(&given, &decoded) / (dot(&given, &given) * dot(&decoded, &decoded)).sqrt();
        let measured: Vec<Loss> = InstructionSet::all()
            .into_iter()
            .map(|set| {
                let mut meter = LossMeter { set, ..LossMeter::default() };
                meter.measure(&block(&given, 7), held(&decoded, 7))
            })
            .collect();
        for loss in &measured {
            assert_eq!(*loss, measured[0]);
            assert!((f64::from(loss.relative_l2) / relative - 1.0).abs() < 1e-6, "{loss:?} {relative}");
            assert!((f64::from(loss.cosine) - cosine).abs() < 1e-7, "{loss:?} {cosine}");
        }
    }

    #[test]
    fn rows_of_zeros_and_of_the_largest_numbers_have_a_loss() {
        let mut meter = LossMeter::default();
        let mut measure = |given: &[f32], decoded: &[f32]| meter.measure(&block(given, 3), held(decoded, 3));
        assert_eq!(measure(&[0.0; 9], &[0.0; 9]), Loss { relative_l2: 0.0, cosine: 1.0 });
        assert_eq!(measure(&[1.5; 9], &[1.5; 9]), Loss { relative_l2: 0.0, cosine: 1.0 });
        assert_eq!(measure(&[0.0; 9], &[1.0; 9]), Loss { relative_l2: f32::MAX, cosine: 0.0 });
        assert_eq!(measure(&[2.0; 9], &[0.0; 9]), Loss { relative_l2: 1.0, cosine: 0.0 });
        let huge = measure(&[3e38; 9], &[2.9e38; 9]);
        assert!((huge.relative_l2 - 1.0 / 30.0).abs() < 1e-5 && huge.cosine == 1.0, "{huge:?}");
        for loss in [measure(&[1e-40; 9], &[0.0; 9]), huge] {
            Loss::checked(loss.relative_l2, loss.cosine).unwrap();
        }
        for (relative, cosine) in
            [(f32::NAN, 1.0), (-1.0, 1.0), (0.0, f32::NAN), (0.0, 1.1), (f32::INFINITY, 0.0)]
        {
            assert!(Loss::checked(relative, cosine).is_err());
        }
    }

    #[test]
    fn a_levels_loss_is_of_all_rows_and_names_the_worst() {
        let mut sum = LevelLossSum::default();
        for (row, relative_l2, cosine) in [(3, 0.01f32, 0.999f32), (5, 0.03, 0.99), (9, 0.03, 1.0)] {
            sum.add(row, Loss { relative_l2, cosine });
        }
        let loss = sum.finish(|row| ["val", "base", &format!("k{row}")].map(str::to_owned)).unwrap();
        assert_eq!((loss.rows, loss.worst.row, loss.worst.key.as_str()), (3, 5, "k5"));
        assert_eq!((loss.relative_l2, loss.cosine, loss.worst.relative_l2), (0.0251661, 0.996333, 0.03));
        assert_eq!(LevelLossSum::default().finish(|_| unreachable!()), None);
    }

    #[test]
    fn only_encodings_that_change_values_are_lossy() {
        for (encoding, given, lossy) in [
            ("bf16", DType::Bf16, false),
            ("bf16+zstd", DType::Bf16, false),
            ("bf16", DType::F32, true),
            ("f16", DType::Bf16, true),
            ("f32", DType::Bf16, false),
            ("int8", DType::Bf16, true),
            ("pca4+f32", DType::Bf16, true),
        ] {
            assert_eq!(is_lossy(encoding.parse().unwrap(), given), lossy, "{encoding} of {given}");
        }
    }
}
