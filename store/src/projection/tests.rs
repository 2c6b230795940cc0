//! Projections of every size on every kind of row, with every instruction set, held to plain sums.

use super::*;
use crate::fixture::projection;
use crate::{Encoding, conversion};
use proptest::prelude::*;
use std::sync::Arc;

fn block(shape: [usize; 3], values: &[f32], dtype: DType) -> Block {
    let wide: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut bytes = vec![0; values.len() * dtype.bytes()];
    conversion::convert(&wide, DType::F32, &mut bytes, dtype);
    Block { shape, dtype, bytes }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

fn wave(i: usize) -> f32 {
    (i * 7919 % 1009) as f32 / 504.5 - 1.0
}

/// `[rows, depth]` times `[depth, width]` plus a bias, in the order that the module promises.
fn plain(
    numbers: &[f32],
    depth: usize,
    width: usize,
    matrix: impl Fn(usize, usize) -> f32,
    bias: &[f32],
) -> Vec<f32> {
    let mut all = Vec::new();
    for cell in numbers.chunks(depth) {
        for column in 0..width {
            let sum =
                cell.iter().enumerate().fold(0.0, |sum, (row, number)| sum + number * matrix(row, column));
            all.push(sum + bias.get(column).unwrap_or(&0.0));
        }
    }
    all
}

#[test]
fn all_instruction_sets_give_the_sums_to_the_last_bit() {
    for (cells, depth, width) in
        [(1, 1, 1), (7, 3, 5), (8, 32, 32), (9, 33, 31), (20, 64, 96), (33, 5, 257), (3, 300, 7)]
    {
        let numbers: Vec<f32> = (0..cells * depth).map(wave).collect();
        let matrix = |row: usize, column: usize| wave(row * 31 + column * 17 + 5);
        let bias: Vec<f32> = (0..width).map(|i| wave(i + 3)).collect();
        let panels = Panels::new(depth, width, matrix, &bias);
        let expected = plain(&numbers, depth, width, matrix, &bias);
        let mut tiles = vec![9.0; 3];
        panels.tile(numbers.iter().copied(), &mut tiles);
        for set in InstructionSet::all() {
            let (mut wide, mut halves) = (vec![[0u8; 4]; cells * width], vec![[0u8; 2]; cells * width]);
            set.run(Product { tiles: &tiles, panels: &panels, target: &mut wide });
            set.run(Product { tiles: &tiles, panels: &panels, target: &mut halves });
            for ((wide, half), expected) in wide.iter().zip(halves).zip(&expected) {
                assert_eq!(
                    f32::from_le_bytes(*wide).to_bits(),
                    expected.to_bits(),
                    "{set:?} {depth} {width}"
                );
                assert_eq!(half::bf16::from_le_bytes(half), half::bf16::from_f32(*expected), "{set:?}");
            }
        }
    }
}

#[test]
fn coefficients_and_channels_are_what_the_formulas_say() {
    for (k, c) in [(1, 1), (1, 9), (8, 8), (20, 96), (33, 100)] {
        let projection = projection(k, c);
        let values: Vec<f32> = (0..6 * c).map(wave).collect();
        let centred: Vec<f32> =
            values.iter().zip(projection.mean().iter().cycle()).map(|(v, m)| v - m).collect();
        let coefficients = plain(&centred, c, k, |channel, row| projection.basis()[row * c + channel], &[]);
        let channels = plain(
            &coefficients,
            k,
            c,
            |row, channel| projection.basis()[row * c + channel],
            projection.mean(),
        );
        let shared = Arc::new(projection);
        let encoding = Encoding { projection: NonZeroU32::new(k as u32), ..NumberFormat::F32.into() };
        let row = block([2, 3, c], &values, DType::F32);
        for (projected, expected) in
            [(Projected::Coefficients, &coefficients), (Projected::Channels, &channels)]
        {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let found = encoding.round_trip(&row, Some(&shared), projected, dtype).unwrap();
                assert_eq!(found, block([2, 3, c], expected, dtype).bytes, "{k} {c} {projected:?} {dtype}");
            }
        }
        // All directions lose nothing but rounding.
        if k == c {
            for (value, found) in values.iter().zip(&channels) {
                assert!((value - found).abs() < 1e-5, "{value} {found}");
            }
        }
    }
}

/// What is orthogonal to the basis is lost, and nothing but rounding besides.
#[test]
fn rows_of_every_kind_keep_their_bound() {
    let (k, c) = (12, 33);
    let shared = Arc::new(projection(k, c));
    type Value = Box<dyn Fn(usize) -> f32>;
    let rows: [(&str, Value); 7] = [
        ("usual", Box::new(wave)),
        ("all zero", Box::new(|_| 0.0)),
        ("far from zero", Box::new(|i| 1000.0 + wave(i))),
        ("one huge channel", Box::new(|i| if i % 33 == 4 { wave(i) * 1e30 } else { wave(i) })),
        ("one huge element", Box::new(|i| if i == 50 { 1e30 } else { wave(i) })),
        ("subnormal", Box::new(|i| wave(i) * 1e-41)),
        ("the largest of bf16, a channel in eight", Box::new(|i| if i % 8 == 0 { 1e35 } else { 0.0 })),
    ];
    for (name, value) in rows {
        let values: Vec<f32> = (0..35 * c).map(value).collect();
        let row = block([5, 7, c], &values, DType::F32);
        for format in NumberFormat::ALL {
            let encoding = Encoding { projection: NonZeroU32::new(k as u32), ..format.into() };
            let trip = |projected| match encoding.round_trip(&row, Some(&shared), projected, DType::F32) {
                // Numbers that binary16 does not hold are infinities.
                Err(error) => {
                    assert!(
                        format == NumberFormat::F16 && error.to_string().contains("not finite"),
                        "{error}"
                    );
                    None
                }
                Ok(bytes) => Some(floats(&bytes)),
            };
            let (Some(held), Some(found)) = (trip(Projected::Coefficients), trip(Projected::Channels)) else {
                assert!(name.contains("huge") || name.contains("largest"), "{name}");
                continue;
            };
            let exact = Encoding { format: NumberFormat::F32, ..encoding };
            let exact =
                floats(&exact.round_trip(&row, Some(&shared), Projected::Coefficients, DType::F32).unwrap());
            let cells = values.chunks(c).zip(found.chunks(c)).zip(held.chunks(k)).zip(exact.chunks(k));
            for (((values, found), held), exact) in cells {
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let all =
                    norm(&mut values.iter().zip(shared.mean()).map(|(v, m)| f64::from(*v) - f64::from(*m)));
                let kept = norm(&mut exact.iter().map(|v| f64::from(*v)));
                let rounding = norm(&mut held.iter().zip(exact).map(|(h, e)| f64::from(*h) - f64::from(*e)));
                let lost = norm(&mut values.iter().zip(found).map(|(v, f)| f64::from(*v) - f64::from(*f)));
                let arithmetic = 1e-5 * (all + 1.0);
                let bound = ((all * all - kept * kept).max(0.0) + rounding * rounding).sqrt();
                assert!(
                    lost <= 1.0001 * bound + arithmetic + 1e-3 * all,
                    "{name} {format}: {lost} > {bound}"
                );
            }
        }
    }
}

#[test]
fn rows_that_no_coefficients_hold_are_refused() {
    let shared = Arc::new(projection(3, 8));
    for format in NumberFormat::ALL {
        let encoding = Encoding { projection: NonZeroU32::new(3), ..format.into() };
        let refused = |value: f32, place: usize, dtype: DType| {
            let mut values = vec![0.25; 8 * 50];
            values[place] = value;
            let row = block([5, 10, 8], &values, dtype);
            let error =
                encoding.round_trip(&row, Some(&shared), Projected::Channels, DType::Bf16).unwrap_err();
            error.to_string()
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (place, dtype) in [(0, DType::F32), (17, DType::Bf16), (399, DType::F16)] {
                let error = refused(bad, place, dtype);
                assert!(error.contains("features are not finite"), "{format} {bad}: {error}");
            }
        }
        let error = refused(f32::MAX, 1, DType::F32);
        assert!(error.contains("not finite") || error.contains("too large"), "{format}: {error}");
    }
}

#[test]
fn what_is_no_basis_is_refused() {
    let good = projection(3, 5);
    let (basis, mean) = (good.basis().to_vec(), good.mean().to_vec());
    assert_eq!(Projection::new(basis.clone(), mean.clone()).unwrap(), good);
    let with = |at: usize, value: f32| {
        let mut basis = basis.clone();
        basis[at] = value;
        Projection::new(basis, mean.clone())
    };
    let mut no_mean = mean.clone();
    no_mean[4] = f32::INFINITY;
    for (bad, what) in [
        (with(7, f32::NAN), "basis: element 7: expected a number, found NaN"),
        (with(3, basis[3] + 1e-3), "rows 0 and"),
        (with(11, 2.0), "orthonormal"),
        (Projection::new(basis.clone(), no_mean), "mean: element 4: expected a number, found inf"),
        (Projection::new(basis[..14].to_vec(), mean.clone()), "14 elements for 5 channels"),
        (Projection::new(vec![], mean.clone()), "0 elements for 5 channels"),
        (Projection::new(basis.clone(), vec![]), "15 elements for 0 channels"),
        (Projection::new([&basis[..], &basis].concat(), mean.clone()), "expected 1 to 5 rows"),
        (Projection::new([&basis[..5], &basis[..5]].concat(), mean.clone()), "rows 0 and 1"),
    ] {
        let error = bad.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let two = good.first(NonZeroU32::new(2).unwrap()).unwrap();
    assert_eq!((two.basis(), two.coefficients()), (&basis[..10], 2));
    assert!(good.first(NonZeroU32::new(4).unwrap()).is_err());
    // A block or an encoding of other channels.
    let (row, shared) = (block([1, 1, 4], &[0.0; 4], DType::F32), Arc::new(good));
    for (text, given) in [("pca3+int8", true), ("int8", true), ("pca2+int8", true), ("pca3+int8", false)] {
        let encoding: Encoding = text.parse().unwrap();
        let given = given.then_some(&shared);
        let error =
            encoding.round_trip(&row, given, Projected::Channels, DType::F32).unwrap_err().to_string();
        assert!(error.contains("projection of 4 channels in"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_row_comes_back_as_well_as_its_directions_tell(
        cells in 1usize..40, c in 1usize..70, share in 0f64..1.0, exponent in -20i32..20,
        draws in prop::collection::vec(-1f32..1.0, 1..200),
    ) {
        let k = 1 + (share * (c - 1) as f64) as usize;
        let projection = projection(k, c);
        // Cells that lie in the plane of the basis.
        let mut values = Vec::new();
        for cell in 0..cells {
            let drawn = |row: usize| draws[(cell * k + row) % draws.len()] * 2f32.powi(exponent);
            for channel in 0..c {
                let sum: f32 = (0..k).map(|row| drawn(row) * projection.basis()[row * c + channel]).sum();
                values.push(sum + projection.mean()[channel]);
            }
        }
        let encoding = Encoding { projection: NonZeroU32::new(k as u32), ..NumberFormat::F32.into() };
        let row = block([1, cells, c], &values, DType::F32);
        let found = encoding.round_trip(&row, Some(&Arc::new(projection)), Projected::Channels, DType::F32).unwrap();
        let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        for (value, found) in values.iter().zip(floats(&found)) {
            prop_assert!((value - found).abs() <= 2e-5 * largest, "{} {}", value, found);
        }
    }
}

/// `cargo test --release -p featcache-store projection_rates -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn projection_rates() {
    use std::hint::black_box;
    use std::time::Instant;
    const BYTES: usize = 64 << 20;
    let source = vec![2u8; BYTES];
    let mut target = vec![1u8; BYTES];
    let mut strip = Strip::default();
    for (k, c) in [(32, 128), (64, 256), (64, 512), (128, 512), (256, 1024)] {
        let projection = projection(k, c);
        let cells = BYTES / 2 / c;
        for format in [NumberFormat::Bf16, NumberFormat::Int8] {
            let payload = vec![7u8; cells * k * format.payload_element().bytes()];
            let affine = vec![0.5f32; 2 * k];
            let (mut copies, mut decodes, mut encodes) = (Vec::new(), Vec::new(), Vec::new());
            let row =
                Block { shape: [1, cells / 8, c], dtype: DType::Bf16, bytes: vec![0; cells / 8 * c * 2] };
            let mut coefficients = Block { shape: [0; 3], dtype: DType::F32, bytes: vec![] };
            for _ in 0..5 {
                let start = Instant::now();
                target.copy_from_slice(black_box(&source));
                copies.push(start.elapsed().as_secs_f64());
                let start = Instant::now();
                projection.reconstruct(
                    format,
                    black_box(&payload),
                    &affine,
                    &mut target,
                    DType::Bf16,
                    &mut strip,
                );
                decodes.push(start.elapsed().as_secs_f64());
                black_box(&mut target);
                let start = Instant::now();
                projection.project(black_box(&row), &mut coefficients, &mut strip).unwrap().unwrap();
                encodes.push(start.elapsed().as_secs_f64() * 8.0);
            }
            let median = |times: &mut Vec<f64>| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            let [copy, decode, encode] = [&mut copies, &mut decodes, &mut encodes].map(median);
            println!(
                "pca{k}+{format} of {c}: {:.2} GB/s of bf16 ({:.0} GFLOP/s), memcpy {:.1}; encodes {:.2} GB/s ({:.0} GFLOP/s)",
                BYTES as f64 / decode / 1e9,
                2.0 * (cells * k * c) as f64 / decode / 1e9,
                BYTES as f64 / copy / 1e9,
                BYTES as f64 / encode / 1e9,
                2.0 * (cells * k * c) as f64 / encode / 1e9,
            );
        }
    }
}
