//! Conversions between element types, on little-endian bytes: round to nearest, ties to even; infinities
//! and signed zeros stay what they are, NaN stays NaN. Knows nothing of files or layouts.

use crate::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements converted at a time: two buffers of this many f32 stay in the first-level cache.
const LANE: usize = 1024;

/// Converts all of `source` into `target`.
///
/// Both hold the same number of elements; the caller has checked it. Surplus elements of the longer one
/// are left alone.
pub(crate) fn convert(source: &[u8], from: DType, target: &mut [u8], to: DType) {
    if from == to {
        let bytes = source.len().min(target.len());
        if let (Some(target), Some(source)) = (target.get_mut(..bytes), source.get(..bytes)) {
            target.copy_from_slice(source);
        }
        return;
    }
    let mut lane = [0f32; LANE];
    let pairs = source.chunks(LANE * from.bytes()).zip(target.chunks_mut(LANE * to.bytes()));
    for (source, target) in pairs {
        let lane = lane.get_mut(..source.len() / from.bytes()).unwrap_or_default();
        widen(source, from, lane);
        narrow(lane, target, to);
    }
}

/// The values of little-endian elements of any type: as many as both hold.
pub(crate) fn to_f32(source: &[u8], from: DType, values: &mut [f32]) {
    for (source, lane) in source.chunks(LANE * from.bytes()).zip(values.chunks_mut(LANE)) {
        widen(source, from, lane);
    }
}

/// Whether all elements are neither NaN nor infinite: none has an exponent of only ones. Written as a
/// maximum because that vectorises: it runs as fast as memory is read.
pub(crate) fn all_finite(bytes: &[u8], dtype: DType) -> bool {
    let largest_16 = |ones: i16| {
        bytes.as_chunks::<2>().0.iter().fold(0, |max: i16, &b| max.max(i16::from_le_bytes(b) & ones)) < ones
    };
    match dtype {
        DType::F16 => largest_16(0x7c00),
        DType::Bf16 => largest_16(0x7f80),
        DType::F32 => {
            const ONES: i32 = 0x7f80_0000;
            bytes.as_chunks::<4>().0.iter().fold(0, |max: i32, &b| max.max(i32::from_le_bytes(b) & ONES))
                < ONES
        }
    }
}

/// Exact: every f16 and bf16 is an f32.
fn widen(source: &[u8], from: DType, lane: &mut [f32]) {
    match from {
        DType::F32 => {
            for (value, bytes) in lane.iter_mut().zip(source.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        // A shift, written out because it vectorises; `bf16::to_f32` would quieten signalling NaN.
        DType::Bf16 => {
            for (value, bytes) in lane.iter_mut().zip(source.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; LANE];
            let halves = halves.get_mut(..lane.len()).unwrap_or_default();
            for (half, bytes) in halves.iter_mut().zip(source.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves.convert_to_f32_slice(lane);
        }
    }
}

fn narrow(lane: &[f32], target: &mut [u8], to: DType) {
    match to {
        DType::F32 => {
            for (value, bytes) in lane.iter().zip(target.as_chunks_mut::<4>().0) {
                *bytes = value.to_le_bytes();
            }
        }
        DType::Bf16 => {
            for (value, bytes) in lane.iter().zip(target.as_chunks_mut::<2>().0) {
                *bytes = bf16_bits(*value).to_le_bytes();
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; LANE];
            let halves = halves.get_mut(..lane.len()).unwrap_or_default();
            halves.convert_from_f32_slice(lane);
            for (half, bytes) in halves.iter().zip(target.as_chunks_mut::<2>().0) {
                *bytes = half.to_le_bytes();
            }
        }
    }
}

/// The nearest bf16, ties to even, without a branch: adding 0x7fff and the last kept bit carries exactly
/// where the dropped half is above one half, or is one half and the kept part is odd. Overflow becomes
/// infinity by the carry itself. NaN is kept by setting its quiet bit, since dropping the low half of its
/// payload could leave an infinity.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    let [_, _, low, high] = kept.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn one(bits: u32, to: DType) -> Vec<u8> {
        let mut out = vec![0; to.bytes()];
        convert(&bits.to_le_bytes(), DType::F32, &mut out, to);
        out
    }

    #[test]
    fn ties_go_to_even_and_specials_survive() {
        for (bits, expected) in [
            (0x3f80_8000u32, 0x3f80u16), // 1 + 2^-8: halfway, stays at even 1
            (0x3f81_8000, 0x3f82),       // halfway above odd: up
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80), // largest finite: infinity
            (0x7f80_0000, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x8000_0000, 0x8000),
            (0x7f80_0001, 0x7fc0), // a NaN whose payload is all in the dropped half
            (0xffc1_2345, 0xffc1),
        ] {
            assert_eq!(one(bits, DType::Bf16), expected.to_le_bytes(), "{bits:#x}");
        }
        assert_eq!(one(f32::INFINITY.to_bits(), DType::F16), 0x7c00u16.to_le_bytes());
        assert_eq!(one(1e6f32.to_bits(), DType::F16), 0x7c00u16.to_le_bytes());
        assert_eq!(one((-0f32).to_bits(), DType::F16), 0x8000u16.to_le_bytes());
        let nan = one(f32::NAN.to_bits(), DType::F16);
        assert!(f16::from_le_bytes([nan[0], nan[1]]).is_nan());
    }

    #[test]
    fn every_half_survives_the_way_through_f32() {
        for dtype in [DType::Bf16, DType::F16] {
            let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut wide = vec![0; all.len() * 2];
            convert(&all, dtype, &mut wide, DType::F32);
            let mut back = vec![0; all.len()];
            convert(&wide, DType::F32, &mut back, dtype);
            for (bits, back) in (0..=u16::MAX).zip(back.as_chunks::<2>().0) {
                let nan = match dtype {
                    DType::Bf16 => bf16::from_bits(bits).is_nan(),
                    _ => f16::from_bits(bits).is_nan(),
                };
                // A signalling NaN may come back quiet.
                let quiet = if dtype == DType::Bf16 { 0x40 } else { 0x200 };
                let expected = if nan { bits | quiet } else { bits };
                let back = u16::from_le_bytes(*back);
                assert_eq!(if nan { back | quiet } else { back }, expected, "{dtype} {bits:#x}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_stands() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, 1, 17, 1022] {
                    let mut values = vec![-60_000f32; 1023];
                    let encoded = |values: &[f32]| {
                        let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                        let mut bytes = vec![0; values.len() * dtype.bytes()];
                        convert(&wide, DType::F32, &mut bytes, dtype);
                        bytes
                    };
                    assert!(all_finite(&encoded(&values), dtype));
                    values[place] = value;
                    assert!(!all_finite(&encoded(&values), dtype), "{value} at {place} in {dtype}");
                }
            }
        }
        assert!(!all_finite(&0xff81u16.to_le_bytes(), DType::Bf16));
        assert!(all_finite(&[], DType::F32));
    }

    proptest! {
        #[test]
        fn rounds_as_half_does(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits());
            let f16_bytes = one(bits, DType::F16);
            let ours = f16::from_le_bytes([f16_bytes[0], f16_bytes[1]]);
            let half = f16::from_f32_const(value);
            prop_assert!(ours == half || (ours.is_nan() && half.is_nan()));
        }

        #[test]
        fn any_length_and_any_pair(len in 0usize..3000, seed: u64) {
            let values: Vec<u8> = (0..len * 4).map(|i| (seed >> (i % 57)) as u8 ^ i as u8).collect();
            for from in [DType::F32, DType::F16, DType::Bf16] {
                let source = &values[..len * from.bytes()];
                for to in [DType::F32, DType::F16, DType::Bf16] {
                    let mut whole = vec![0; len * to.bytes()];
                    convert(source, from, &mut whole, to);
                    for i in 0..len {
                        let mut single = vec![0; to.bytes()];
                        convert(&source[i * from.bytes()..][..from.bytes()], from, &mut single, to);
                        prop_assert_eq!(&single, &whole[i * to.bytes()..][..to.bytes()]);
                    }
                }
            }
        }
    }
}
