//! From values to codes: scale and offset of every channel of a row, then the codes. Memory is used again
//! from row to row.

use super::coding::{Coding, Extent};
use super::{Affine, Code, e4m3fn};
use crate::Block;
use crate::conversion::to_f32;
use crate::instruction_set::{InstructionSet, Loop};
use std::marker::PhantomData;

/// Channels of one step where two become a byte.
const LANE: usize = 32;
/// Values in f32 at a time: they stay in the second-level cache.
const STRIP: usize = 1 << 15;
/// Values that clipping is chosen by, about: cells spread evenly over the map, but no fewer than
/// [`LEAST_SAMPLE`] of them.
const SAMPLE: usize = 1 << 18;
const LEAST_SAMPLE: usize = 256;
/// Shares of a channel's range that int4 may keep, besides all of it; what lies outside is clipped.
const CLIPPINGS: [f32; 8] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6];
/// Adding it rounds to a whole number, ties to even, whose low byte is then the sum's: 1.5 · 2^23.
const ROUND: f32 = 12_582_912.0;
/// Why a row cannot be held.
pub(crate) const NOT_FINITE: &str = "are not finite";
pub(crate) const TOO_LARGE: &str = "are too large to be quantised";

/// Makes codes of values.
#[derive(Debug)]
pub(crate) struct Quantiser {
    set: InstructionSet,
    payload: Vec<u8>,
    /// The row of the array of scales and offsets.
    affine: Vec<u8>,
    extent: Extent,
    chosen: Coding,
    trial: Coding,
    strip: Vec<f32>,
    loss: Vec<f32>,
    least_loss: Vec<f32>,
}

impl Default for Quantiser {
    fn default() -> Self {
        Self::with(InstructionSet::best())
    }
}

impl Quantiser {
    pub(super) fn with(set: InstructionSet) -> Self {
        Self {
            set,
            payload: Vec::new(),
            affine: Vec::new(),
            extent: Extent::default(),
            chosen: Coding::default(),
            trial: Coding::default(),
            strip: Vec::new(),
            loss: Vec::new(),
            least_loss: Vec::new(),
        }
    }

    /// Quantises a block whose bytes fit its shape; why it cannot be held, if not.
    pub(crate) fn quantise(&mut self, code: Code, block: &Block) -> Result<(), &'static str> {
        let channels = block.shape[2].max(1);
        self.measure(block, channels);
        if !self.extent.sum.iter().all(|sum| sum.is_finite()) {
            return Err(NOT_FINITE);
        }
        self.chosen.cover(&self.extent, code, block.shape[0] * block.shape[1]);
        if code == Code::Int4 {
            self.clip(block, channels);
        }
        if !self.chosen.is_bounded(code) {
            return Err(TOO_LARGE);
        }
        self.affine.clear();
        let values = self.chosen.scale.iter().chain(&self.chosen.offset);
        self.affine.extend(values.flat_map(|value| value.to_le_bytes()));
        self.encode(code, block, channels);
        Ok(())
    }

    /// The row's payload.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The row of the array of scales and offsets.
    pub(crate) fn affine(&self) -> &[u8] {
        &self.affine
    }

    fn measure(&mut self, block: &Block, channels: usize) {
        let Extent { least, greatest, sum } = &mut self.extent;
        refill(least, channels, f32::INFINITY);
        refill(greatest, channels, f32::NEG_INFINITY);
        refill(sum, channels, 0.0);
        let cells = (STRIP / channels).max(1);
        for bytes in block.bytes.chunks(cells * channels * block.dtype.bytes()) {
            self.strip.resize(bytes.len() / block.dtype.bytes(), 0.0);
            to_f32(bytes, block.dtype, &mut self.strip);
            self.set.run(Measure { strip: &self.strip, least, greatest, sum });
        }
    }

    /// Takes the share of every channel's range whose mean square error is least.
    fn clip(&mut self, block: &Block, channels: usize) {
        let cell_bytes = channels * block.dtype.bytes();
        let cells = block.bytes.len() / cell_bytes;
        let step = cells.div_ceil((SAMPLE / channels).max(LEAST_SAMPLE)).max(1);
        let sample = cells.div_ceil(step);
        self.strip.resize(sample * channels, 0.0);
        let picked = block.bytes.chunks_exact(cell_bytes).step_by(step);
        for (values, bytes) in self.strip.chunks_exact_mut(channels).zip(picked) {
            to_f32(bytes, block.dtype, values);
        }
        refill(&mut self.least_loss, channels, 0.0);
        let whole = self.chosen.clone();
        let (sample, unit) = (&self.strip, &whole.inverse);
        self.set.run(Loss { sample, coding: &whole, unit, loss: &mut self.least_loss });
        for share in CLIPPINGS {
            self.trial.narrow(&whole, share);
            refill(&mut self.loss, channels, 0.0);
            self.set.run(Loss { sample, coding: &self.trial, unit, loss: &mut self.loss });
            let losses = self.least_loss.iter_mut().zip(&self.loss);
            for ((least, loss), (chosen, trial)) in losses.zip(self.chosen.iter_mut().zip(self.trial.iter()))
            {
                if loss < least {
                    *least = *loss;
                    let ([scale, offset, inverse], values) = (chosen, trial);
                    [*scale, *offset, *inverse] = values;
                }
            }
        }
    }

    fn encode(&mut self, code: Code, block: &Block, channels: usize) {
        let cell_bytes = code.cell_bytes(channels);
        self.payload.resize(block.shape[0] * block.shape[1] * cell_bytes, 0);
        let cells = (STRIP / channels).max(1);
        let strips = block.bytes.chunks(cells * channels * block.dtype.bytes());
        for (bytes, target) in strips.zip(self.payload.chunks_mut(cells * cell_bytes)) {
            self.strip.resize(bytes.len() / block.dtype.bytes(), 0.0);
            to_f32(bytes, block.dtype, &mut self.strip);
            let (strip, coding) = (&self.strip, &self.chosen);
            match code {
                Code::Int8 => self.set.run(Bytes::<Int8> { strip, coding, target, codes: PhantomData }),
                Code::E4m3fn => self.set.run(Bytes::<E4m3fn> { strip, coding, target, codes: PhantomData }),
                Code::Int4 => self.set.run(Nibbles { strip, coding, target }),
            }
        }
    }
}

fn refill<T: Copy>(values: &mut Vec<T>, len: usize, value: T) {
    values.clear();
    values.resize(len, value);
}

struct Measure<'a> {
    strip: &'a [f32],
    least: &'a mut [f32],
    greatest: &'a mut [f32],
    sum: &'a mut [f64],
}

impl Loop for Measure<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for cell in self.strip.chunks_exact(self.least.len().max(1)) {
            let channels = self.least.iter_mut().zip(&mut *self.greatest).zip(&mut *self.sum);
            for (((least, greatest), sum), value) in channels.zip(cell) {
                // Comparisons and not `min`: one instruction. NaN goes into the sum.
                *least = if *value < *least { *value } else { *least };
                *greatest = if *value > *greatest { *value } else { *greatest };
                *sum += f64::from(*value);
            }
        }
    }
}

/// The sum of the squares of what int4 loses.
struct Loss<'a> {
    sample: &'a [f32],
    coding: &'a Coding,
    /// What the losses are multiplied by, so that no square overflows.
    unit: &'a [f32],
    loss: &'a mut [f32],
}

impl Loop for Loss<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (Affine { scale, offset }, inverse) = (self.coding.affine(), &self.coding.inverse);
        for cell in self.sample.chunks_exact(self.loss.len().max(1)) {
            let channels = scale.iter().zip(offset).zip(inverse).zip(self.unit).zip(cell);
            for (loss, ((((scale, offset), inverse), unit), value)) in self.loss.iter_mut().zip(channels) {
                let number = clamp((value - offset) * inverse, 0.0, 15.0) + ROUND - ROUND;
                let lost = (value - (number * scale + offset)) * unit;
                *loss += lost * lost;
            }
        }
    }
}

/// The code nearest to a number.
trait Codes {
    fn code(number: f32) -> u8;
}

struct Int8;

impl Codes for Int8 {
    #[inline(always)]
    fn code(number: f32) -> u8 {
        low_byte(clamp(number, -128.0, 127.0) + ROUND)
    }
}

struct E4m3fn;

impl Codes for E4m3fn {
    #[inline(always)]
    fn code(number: f32) -> u8 {
        e4m3fn::code(clamp(number, -e4m3fn::MAX, e4m3fn::MAX))
    }
}

struct Unsigned;

impl Codes for Unsigned {
    #[inline(always)]
    fn code(number: f32) -> u8 {
        low_byte(clamp(number, 0.0, 15.0) + ROUND)
    }
}

#[inline(always)]
fn clamp(value: f32, least: f32, greatest: f32) -> f32 {
    let value = if value < least { least } else { value };
    if value > greatest { greatest } else { value }
}

#[inline(always)]
fn low_byte(value: f32) -> u8 {
    let [byte, ..] = value.to_bits().to_le_bytes();
    byte
}

struct Bytes<'a, C> {
    strip: &'a [f32],
    coding: &'a Coding,
    target: &'a mut [u8],
    codes: PhantomData<C>,
}

impl<C: Codes> Loop for Bytes<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (Affine { offset, .. }, inverse) = (self.coding.affine(), &self.coding.inverse);
        let channels = offset.len().max(1);
        for (cell, target) in self.strip.chunks_exact(channels).zip(self.target.chunks_exact_mut(channels)) {
            for (((value, offset), inverse), target) in cell.iter().zip(offset).zip(inverse).zip(target) {
                *target = C::code((value - offset) * inverse);
            }
        }
    }
}

struct Nibbles<'a> {
    strip: &'a [f32],
    coding: &'a Coding,
    target: &'a mut [u8],
}

impl Loop for Nibbles<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (Affine { offset, .. }, inverse) = (self.coding.affine(), &self.coding.inverse);
        let channels = offset.len().max(1);
        let targets = self.target.chunks_exact_mut(Code::Int4.cell_bytes(channels));
        for (cell, target) in self.strip.chunks_exact(channels).zip(targets) {
            let (lanes, tail) = cell.as_chunks::<LANE>();
            let (offsets, offset_tail) = offset.as_chunks::<LANE>();
            let (inverses, inverse_tail) = inverse.as_chunks::<LANE>();
            let (targets, target_tail) = target.split_at_mut(lanes.len() * (LANE / 2));
            let targets = targets.as_chunks_mut::<{ LANE / 2 }>().0;
            for (((values, offsets), inverses), target) in
                lanes.iter().zip(offsets).zip(inverses).zip(targets)
            {
                *target = packed(values, offsets, inverses);
            }
            let mut rest = [[0.0; LANE]; 3];
            for (rest, tail) in rest.iter_mut().zip([tail, offset_tail, inverse_tail]) {
                rest.iter_mut().zip(tail).for_each(|(rest, tail)| *rest = *tail);
            }
            let [values, offsets, inverses] = &rest;
            target_tail.iter_mut().zip(packed(values, offsets, inverses)).for_each(|(t, byte)| *t = byte);
        }
    }
}

/// Two codes a byte. Where a cell has no channel any more, all is zero, and so is the code.
#[inline(always)]
fn packed(values: &[f32; LANE], offsets: &[f32; LANE], inverses: &[f32; LANE]) -> [u8; LANE / 2] {
    let mut codes = [0; LANE];
    for (((value, offset), inverse), code) in values.iter().zip(offsets).zip(inverses).zip(&mut codes) {
        *code = Unsigned::code((value - offset) * inverse);
    }
    let mut bytes = [0; LANE / 2];
    for (byte, [low, high]) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = low | high << 4;
    }
    bytes
}
