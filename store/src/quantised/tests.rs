//! Every encoding on every kind of row, with every instruction set, held to its error bound, to the formula
//! that its arrays carry, and to the portable loops bit by bit.

use super::*;
use crate::Block;
use crate::instruction_set::InstructionSet;
use half::bf16;
use proptest::prelude::*;

const CODES: [Code; 3] = [Code::Int8, Code::Int4, Code::E4m3fn];

fn block(shape: [usize; 3], values: &[f32]) -> Block {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Block { shape, dtype: DType::F32, bytes }
}

/// What the row's arrays are, and the values that they stand for.
struct Held {
    payload: Vec<u8>,
    affine: Vec<f32>,
    values: Vec<f32>,
}

fn quantised(set: InstructionSet, code: Code, block: &Block) -> Result<Held, &'static str> {
    let mut quantiser = Quantiser::with(set);
    quantiser.quantise(code, block)?;
    let mut affine = vec![0.0; 2 * block.shape[2]];
    Affine::read(quantiser.affine(), &mut affine).unwrap();
    let payload = quantiser.payload().to_vec();
    let values = decoded(set, code, &payload, &affine, DType::F32);
    let values = values.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    Ok(Held { payload, affine, values })
}

fn decoded(set: InstructionSet, code: Code, payload: &[u8], affine: &[f32], dtype: DType) -> Vec<u8> {
    let affine = Affine::new(affine);
    let cells = payload.len() / code.cell_bytes(affine.channels());
    let mut target = vec![0; cells * affine.channels() * dtype.bytes()];
    decode::decode(set, code, payload, affine, &mut target, dtype);
    target
}

/// The formula, element by element.
fn by_formula(code: Code, payload: &[u8], affine: &[f32], cells: usize) -> Vec<f32> {
    let affine = Affine::new(affine);
    let channels = affine.channels();
    let number = |cell: usize, channel: usize| {
        let byte = |i: usize| payload[cell * code.cell_bytes(channels) + i];
        match code {
            Code::Int8 => f32::from(byte(channel) as i8),
            Code::Int4 => f32::from(byte(channel / 2) >> (channel % 2 * 4) & 15),
            Code::E4m3fn => e4m3fn::number(byte(channel)),
        }
    };
    let value = |i: usize| {
        let (cell, channel) = (i / channels, i % channels);
        number(cell, channel) * affine.scale[channel] + affine.offset[channel]
    };
    (0..cells * channels).map(value).collect()
}

/// Cells of bytes that nobody quantised.
fn noise(code: Code, cells: usize, channels: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut payload = vec![0; cells * code.cell_bytes(channels)];
    stream.fill(&mut payload);
    let mut words = vec![0; 8 * channels];
    stream.fill(&mut words);
    let word = |bytes: &[u8; 4]| f32::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 1024.0;
    let mut affine: Vec<f32> = words.as_chunks().0.iter().map(word).collect();
    affine.iter_mut().skip(channels).for_each(|offset| *offset -= 32.0);
    (payload, affine)
}

#[test]
fn all_instruction_sets_decode_what_the_formula_says() {
    for code in CODES {
        for channels in (1..=67).chain([96, 100, 127, 128, 192, 4095]) {
            let cells = 1 + 300 / channels;
            let (payload, affine) = noise(code, cells, channels, channels as u64);
            let expected = by_formula(code, &payload, &affine, cells);
            for set in InstructionSet::all() {
                let wide = decoded(set, code, &payload, &affine, DType::F32);
                let halves = decoded(set, code, &payload, &affine, DType::Bf16);
                let f16s = decoded(set, code, &payload, &affine, DType::F16);
                assert_eq!(wide.len(), expected.len() * 4);
                for (i, value) in expected.iter().enumerate() {
                    let context = format!("{code:?} {set:?} {channels} channels, element {i}: {value}");
                    let found = f32::from_le_bytes(wide[4 * i..][..4].try_into().unwrap());
                    let half = bf16::from_le_bytes(halves[2 * i..][..2].try_into().unwrap());
                    let f16 = half::f16::from_le_bytes(f16s[2 * i..][..2].try_into().unwrap());
                    if value.is_nan() {
                        assert!(found.is_nan() && half.is_nan() && f16.is_nan(), "{context}");
                    } else {
                        assert_eq!(found.to_bits(), value.to_bits(), "{context}");
                        assert_eq!(half, bf16::from_f32(*value), "{context}");
                        assert_eq!(f16, half::f16::from_f32_const(*value), "{context}");
                    }
                }
            }
        }
    }
}

/// What an element may lose: half a step of integers, half of the last place of floats, and roundings of
/// the arithmetic itself.
fn check_bound(code: Code, shape: [usize; 3], values: &[f32], held: &Held) {
    let channels = shape[2];
    let affine = Affine::new(&held.affine);
    for (i, (value, found)) in values.iter().zip(&held.values).enumerate() {
        let (scale, offset) = (affine.scale[i % channels], affine.offset[i % channels]);
        let arithmetic = 4.0 * f32::EPSILON * (value.abs() + offset.abs() + 256.0 * scale) + 1e-35;
        let step = match code {
            Code::Int8 => 0.5 * scale,
            // Clipping may cost what it cuts off, which is less than half of the range on either side.
            Code::Int4 => {
                let beyond = (offset - value).max(value - (offset + 15.0 * scale)).max(0.0);
                let of_channel = || values.iter().skip(i % channels).step_by(channels);
                let range = of_channel().fold(f32::MIN, |a, b| a.max(*b))
                    - of_channel().fold(f32::MAX, |a, b| a.min(*b));
                assert!(beyond <= 0.21 * range + arithmetic, "{value}: clipped by {beyond} of {range}");
                (0.5 * scale).max(beyond)
            }
            Code::E4m3fn => ((value - offset).abs() / 16.0).max(scale * 2f32.powi(-10)),
        };
        assert!(
            (value - found).abs() <= step * 1.0001 + arithmetic,
            "{code:?} element {i}: {value} became {found}, scale {scale}, offset {offset}"
        );
    }
}

#[test]
fn rows_of_every_kind_keep_their_bound() {
    type Value = Box<dyn Fn(usize) -> f32>;
    let shape = [5, 7, 33];
    let elements: usize = shape.iter().product();
    let wave = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * (1.0 + (i % 33) as f32);
    let rows: [(&str, Value); 9] = [
        ("usual", Box::new(wave)),
        ("all zero", Box::new(|_| 0.0)),
        ("constant", Box::new(|i| (i % 33) as f32 * 0.1 - 1.0)),
        ("far from zero", Box::new(move |i| 1000.0 + wave(i))),
        ("one huge channel", Box::new(move |i| if i % 33 == 4 { wave(i) * 1e30 } else { wave(i) })),
        ("one huge element", Box::new(move |i| if i == 500 { 1e30 } else { wave(i) })),
        ("subnormal", Box::new(move |i| wave(i) * 1e-41)),
        ("nearly subnormal", Box::new(move |i| wave(i) * 1e-36)),
        ("the largest of bf16", Box::new(|i| if i % 2 == 0 { 1.6e38 } else { -1.6e38 })),
    ];
    for (name, value) in rows {
        let values: Vec<f32> = (0..elements).map(value).collect();
        for code in CODES {
            let portable = quantised(InstructionSet::all()[0], code, &block(shape, &values)).unwrap();
            println!("{name} {code:?}");
            check_bound(code, shape, &values, &portable);
            let exact = matches!(name, "all zero" | "constant");
            assert!(!exact || portable.values == values, "{name} {code:?}: {:?}", &portable.values[..33]);
            for set in InstructionSet::all() {
                let held = quantised(set, code, &block(shape, &values)).unwrap();
                assert!(held.payload == portable.payload, "{name} {code:?} {set:?}");
                assert_eq!(held.affine, portable.affine, "{name} {code:?} {set:?}");
            }
        }
    }
}

#[test]
fn a_huge_channel_costs_the_others_nothing() {
    let shape = [8, 8, 16];
    let value = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 3.0;
    let usual: Vec<f32> = (0..1024).map(value).collect();
    let huge: Vec<f32> = (0..1024).map(|i| if i % 16 == 3 { 1e25 * value(i) } else { value(i) }).collect();
    for code in CODES {
        let [usual, huge] = [usual.as_slice(), &huge].map(|values| {
            let held = quantised(InstructionSet::best(), code, &block(shape, values)).unwrap();
            held.values.into_iter().enumerate().filter(|(i, _)| i % 16 != 3).collect::<Vec<_>>()
        });
        assert_eq!(usual, huge, "{code:?}");
    }
}

#[test]
fn rows_that_no_code_holds_are_refused() {
    for code in CODES {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 1, 31, 32, 98, 99 * 40 - 1] {
                let mut values = vec![0.25; 99 * 40];
                values[place] = bad;
                for dtype in [DType::F32, DType::Bf16, DType::F16] {
                    let mut block = block([4, 10, 99], &values);
                    let wide = std::mem::take(&mut block.bytes);
                    block.bytes = vec![0; values.len() * dtype.bytes()];
                    crate::conversion::convert(&wide, DType::F32, &mut block.bytes, dtype);
                    block.dtype = dtype;
                    for set in InstructionSet::all() {
                        let refused = quantised(set, code, &block).err();
                        assert_eq!(refused, Some(NOT_FINITE), "{code:?} {bad} at {place} of {dtype}");
                    }
                }
            }
        }
        // Finite, but its code would be infinite in bf16.
        for values in [[f32::MAX, 0.0], [f32::MAX, f32::MIN]] {
            let refused = quantised(InstructionSet::best(), code, &block([2, 1, 1], &values)).err();
            assert_eq!(refused, Some("are too large to be quantised"), "{code:?} {values:?}");
        }
    }
}

#[test]
fn scales_and_offsets_that_are_no_numbers_are_named() {
    let read = |affine: [f32; 6]| {
        let bytes: Vec<u8> = affine.iter().flat_map(|value| value.to_le_bytes()).collect();
        Affine::read(&bytes, &mut [0.0; 6]).map_err(|what| what.chars().take(22).collect::<String>())
    };
    assert_eq!(read([0.0, 1.0, 2.0, -1.0, 0.0, 3e38]), Ok(()));
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(read([0.0, 1.0, bad, 0.0, 0.0, 0.0]), Err("scale of channel 2: ex".into()), "{bad}");
    }
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        assert_eq!(read([0.0, 1.0, 1.0, 0.0, bad, 0.0]), Err("offset of channel 1: e".into()), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_row_keeps_its_bound(
        h in 1usize..6, w in 1usize..6, c in 1usize..70, exponent in -30i32..30, centre in -4f32..4.0,
        draws in prop::collection::vec(-1f32..1.0, 1..200),
    ) {
        let unit = 2f32.powi(exponent);
        let values: Vec<f32> = draws.iter().cycle().take(h * w * c).map(|d| (d + centre) * unit).collect();
        for code in CODES {
            let held = quantised(InstructionSet::best(), code, &block([h, w, c], &values)).unwrap();
            prop_assert_eq!(held.payload.len(), h * w * code.cell_bytes(c));
            check_bound(code, [h, w, c], &values, &held);
        }
    }
}

/// Seconds that this thread has been on a processor: what else the machine does counts less.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// `cargo test --release -p featcache-store decode_rates -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn decode_rates() {
    use std::hint::black_box;
    // A batch larger than any cache; the payload as the read plane has it: a block that was just read.
    const BYTES: usize = 192 << 20;
    let mut target = vec![1u8; BYTES];
    let source = vec![2u8; BYTES];
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        BYTES as f64 / times[times.len() / 2] / 1e9
    };
    for channels in [96, 768] {
        for code in CODES {
            let cells = BYTES / 2 / channels;
            let (payload, affine) = noise(code, cells, channels, 1);
            let affine = Affine::new(&affine);
            for set in InstructionSet::all() {
                let (mut copies, mut decodes) = (Vec::new(), Vec::new());
                for _ in 0..9 {
                    let start = cpu_seconds();
                    target.copy_from_slice(black_box(&source));
                    copies.push(cpu_seconds() - start);
                    black_box(&mut target);
                    let start = cpu_seconds();
                    let target = &mut target[..cells * channels * 2];
                    decode::decode(set, code, black_box(&payload), affine, target, DType::Bf16);
                    decodes.push(cpu_seconds() - start);
                    black_box(target);
                }
                let (copy, decode) = (median(&mut copies), median(&mut decodes));
                println!(
                    "{channels:4} channels {code:?} {set:?}: {decode:.1} GB/s of bf16, memcpy {copy:.1}: {:.2}",
                    decode / copy
                );
            }
        }
        let values: Vec<f32> = (0..20_000 * channels).map(|i| (i * 7919 % 1009) as f32).collect();
        let mut row = block([200, 100, channels], &values);
        let wide = std::mem::take(&mut row.bytes);
        (row.dtype, row.bytes) = (DType::Bf16, vec![0; wide.len() / 2]);
        crate::conversion::convert(&wide, DType::F32, &mut row.bytes, DType::Bf16);
        for code in CODES {
            for set in InstructionSet::all() {
                let mut quantiser = Quantiser::with(set);
                let mut times: Vec<f64> = (0..9)
                    .map(|_| {
                        let start = cpu_seconds();
                        quantiser.quantise(code, black_box(&row)).unwrap();
                        cpu_seconds() - start
                    })
                    .collect();
                times.sort_by(f64::total_cmp);
                println!(
                    "{channels:4} channels {code:?} {set:?}: encodes {:.2} GB/s of bf16",
                    row.bytes.len() as f64 / times[4] / 1e9
                );
            }
        }
    }
}
