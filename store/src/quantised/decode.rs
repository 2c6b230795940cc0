//! From codes to the values of a batch, in one pass over the payload: the number of the code, times the
//! channel's scale, plus its offset, rounded to what the batch holds.

use super::{Affine, Code, e4m3fn};
use crate::DType;
use crate::conversion::convert;
use crate::instruction_set::{InstructionSet, Loop};
use std::marker::PhantomData;

/// Elements of one step: a cache line of bf16. Every set's registers divide it.
const LANE: usize = 32;
/// Bytes of codes that are decoded at a time where the batch holds neither bf16 nor f32.
const F16_BYTES: usize = 4096;

/// Decodes whole cells, as many as payload and target both hold.
pub(super) fn decode(
    set: InstructionSet,
    code: Code,
    payload: &[u8],
    affine: Affine<'_>,
    target: &mut [u8],
    dtype: DType,
) {
    match dtype {
        DType::Bf16 => decode_to(set, code, payload, affine, target.as_chunks_mut::<2>().0),
        DType::F32 => decode_to(set, code, payload, affine, target.as_chunks_mut::<4>().0),
        DType::F16 => {
            let channels = affine.channels().max(1);
            let cells = (F16_BYTES / channels).max(1);
            let mut wide = vec![0; cells * channels * size_of::<f32>()];
            let bytes = cells * code.cell_bytes(channels);
            for (payload, target) in payload.chunks(bytes).zip(target.chunks_mut(cells * channels * 2)) {
                decode_to(set, code, payload, affine, wide.as_chunks_mut::<4>().0);
                let wide = wide.get(..target.len() * 2).unwrap_or_default();
                convert(wide, DType::F32, target, DType::F16);
            }
        }
    }
}

fn decode_to<T: Element>(
    set: InstructionSet,
    code: Code,
    payload: &[u8],
    affine: Affine<'_>,
    target: &mut [T],
) {
    match code {
        Code::Int8 => set.run(Bytes::<Int8, T> { payload, affine, target, numbers: PhantomData }),
        Code::E4m3fn => set.run(Bytes::<E4m3fn, T> { payload, affine, target, numbers: PhantomData }),
        Code::Int4 => set.run(Nibbles { payload, affine, target }),
    }
}

/// An element of a batch, little-endian.
pub(crate) trait Element: Copy + Default {
    fn of(value: f32) -> Self;
}

/// bf16: to nearest, ties to even. The only NaN here is that of E4M3's codes, whose low half is zero: the
/// carry cannot make an infinity of it.
impl Element for [u8; 2] {
    #[inline(always)]
    fn of(value: f32) -> Self {
        let bits = value.to_bits();
        let [_, _, low, high] = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)).to_le_bytes();
        [low, high]
    }
}

impl Element for [u8; 4] {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value.to_le_bytes()
    }
}

/// The numbers that the bytes of a payload stand for.
trait Numbers {
    fn number(byte: u8) -> f32;
}

struct Int8;

impl Numbers for Int8 {
    #[inline(always)]
    fn number(byte: u8) -> f32 {
        f32::from(byte.cast_signed())
    }
}

struct E4m3fn;

impl Numbers for E4m3fn {
    #[inline(always)]
    fn number(byte: u8) -> f32 {
        e4m3fn::number(byte)
    }
}

struct Unsigned;

impl Numbers for Unsigned {
    #[inline(always)]
    fn number(byte: u8) -> f32 {
        f32::from(byte)
    }
}

/// Cells of a byte a channel.
struct Bytes<'a, N, T> {
    payload: &'a [u8],
    affine: Affine<'a>,
    target: &'a mut [T],
    numbers: PhantomData<N>,
}

impl<N: Numbers, T: Element> Loop for Bytes<'_, N, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Affine { scale, offset } = self.affine;
        let channels = self.affine.channels().max(1);
        for (cell, target) in self.payload.chunks_exact(channels).zip(self.target.chunks_exact_mut(channels))
        {
            let (lanes, tail) = cell.as_chunks::<LANE>();
            let (scales, scale_tail) = scale.as_chunks::<LANE>();
            let (offsets, offset_tail) = offset.as_chunks::<LANE>();
            let (targets, target_tail) = target.as_chunks_mut::<LANE>();
            for (((bytes, scale), offset), target) in lanes.iter().zip(scales).zip(offsets).zip(targets) {
                lane::<N, T>(bytes, scale, offset, target);
            }
            for (((byte, scale), offset), target) in
                tail.iter().zip(scale_tail).zip(offset_tail).zip(target_tail)
            {
                *target = T::of(N::number(*byte) * scale + offset);
            }
        }
    }
}

/// Cells of half a byte a channel.
struct Nibbles<'a, T> {
    payload: &'a [u8],
    affine: Affine<'a>,
    target: &'a mut [T],
}

impl<T: Element> Loop for Nibbles<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Affine { scale, offset } = self.affine;
        let channels = self.affine.channels().max(1);
        let cells = self.payload.chunks_exact(Code::Int4.cell_bytes(channels));
        for (cell, target) in cells.zip(self.target.chunks_exact_mut(channels)) {
            // Lanes of bytes and of channels must end at the same channel, also where a cell's last half byte
            // is of none.
            let (lanes, tail) = cell.split_at(channels / LANE * (LANE / 2));
            let lanes = lanes.as_chunks::<{ LANE / 2 }>().0;
            let (scales, scale_tail) = scale.as_chunks::<LANE>();
            let (offsets, offset_tail) = offset.as_chunks::<LANE>();
            let (targets, target_tail) = target.as_chunks_mut::<LANE>();
            for (((bytes, scale), offset), target) in lanes.iter().zip(scales).zip(offsets).zip(targets) {
                let mut codes = [0; LANE];
                for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
                    *pair = [byte & 15, byte >> 4];
                }
                lane::<Unsigned, T>(&codes, scale, offset, target);
            }
            let codes = tail.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            for (((code, scale), offset), target) in codes.zip(scale_tail).zip(offset_tail).zip(target_tail) {
                *target = T::of(f32::from(code) * scale + offset);
            }
        }
    }
}

#[inline(always)]
fn lane<N: Numbers, T: Element>(
    codes: &[u8; LANE],
    scale: &[f32; LANE],
    offset: &[f32; LANE],
    target: &mut [T; LANE],
) {
    for (((code, scale), offset), target) in codes.iter().zip(scale).zip(offset).zip(target) {
        *target = T::of(N::number(*code) * scale + offset);
    }
}
