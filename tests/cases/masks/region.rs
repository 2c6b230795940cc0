//! Masks of regions: targets cut out of masks, and predictions pasted into pictures.

use super::{goldens, list, ring, size};
use featcache_heads::mask::Rle;
use featcache_heads::mask::paste::{PasteConvention, paste};
use featcache_heads::mask::polygon::polygons;
use featcache_heads::mask::target::{TargetOptions, target};
use featcache_heads::seed::{Seed, Stream};
use featcache_store::Size;
use std::path::Path;
use tch::Tensor;

/// The script's `box`.
fn bounds(s: &mut Stream, size: Size) -> [f32; 4] {
    let mut pair = |side: u32| {
        let mut edge = || ((-0.2 + 1.4 * s.uniform()) * f64::from(side)) as f32;
        let (a, b) = (edge(), edge());
        [a.min(b), a.max(b)]
    };
    let ([x1, x2], [y1, y2]) = (pair(size.width), pair(size.height));
    [x1, y1, x2, y2]
}

#[test]
fn targets_equal_roi_align() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.masks.safetensors");
    let golden: std::collections::BTreeMap<String, Tensor> =
        Tensor::read_safetensors(path).unwrap().into_iter().collect();
    let area = Size::new(97, 131);
    let rings: Vec<_> = (0..3).map(|i| ring("cents", 200 + i, area)).collect();
    let masks = [
        ("drawn", polygons(area, &rings).unwrap()),
        ("full", Rle::new(area, vec![0, 97 * 131]).unwrap()),
        ("half", Rle::new(area, vec![0, 97 * 40, 97 * 91]).unwrap()),
    ];
    let kinds = [(28, 0, true), (28, 0, false), (14, 2, true), (7, 3, false), (14, 2, false), (5, 0, true)];
    for (name, mask) in &masks {
        for (i, &(side, sampling, aligned)) in kinds.iter().enumerate() {
            let mut s = Seed(7).named(&format!("target.{name}.{i}")).stream();
            let mut boxes: Vec<_> = (0..5).map(|_| bounds(&mut s, area)).collect();
            boxes.extend((0..3).map(|_| bounds(&mut s, area).map(f32::floor)));
            boxes.extend([[12.0, 8.0, 68.0, 64.0], [40.3, 20.2, 40.7, 20.4], [500.0, 500.0, 600.0, 650.0]]);
            boxes.extend([
                [-200.0, -100.0, 400.0, 300.0],
                [30.0, 30.0, 30.0, 40.0],
                [131.0, 97.0, 140.0, 99.0],
            ]);
            let options = TargetOptions { side, sampling, aligned, threshold: None };
            let soft: Vec<f32> =
                boxes.iter().flat_map(|&bounds| target(mask, bounds, &options).unwrap()).collect();
            if let Some(expected) = golden.get(&format!("target.{name}.{i}")) {
                let expected: Vec<f32> = Vec::try_from(expected.reshape([-1])).unwrap();
                assert_eq!(soft.len(), expected.len());
                for (at, (found, expected)) in soft.iter().zip(&expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= 1e-6,
                        "{name} {i} {at}: {found}, expected {expected}"
                    );
                }
            }
            let options = TargetOptions { threshold: Some(0.5), ..options };
            let hard: Vec<f32> =
                boxes.iter().flat_map(|&bounds| target(mask, bounds, &options).unwrap()).collect();
            let bits: Vec<u8> = Vec::try_from(&golden[&format!("target.{name}.{i}.bits")]).unwrap();
            for (at, found) in hard.iter().enumerate() {
                let expected = f32::from(bits[at / 8] >> (7 - at % 8) & 1);
                assert_eq!(*found, expected, "{name} {i} {at}: {}", soft[at]);
            }
        }
    }
}

#[test]
fn samples_before_the_first_pixel_take_it() {
    let mask = Rle::new(Size::new(4, 4), vec![0, 4, 12]).unwrap();
    let options = TargetOptions { side: 1, sampling: 2, aligned: true, threshold: None };
    // Samples at -0.75 and -0.25 lie on column 0; those at -1.75 and -1.25 on none.
    assert_eq!(target(&mask, [-0.5, 0.0, 0.5, 4.0], &options).unwrap(), [1.0]);
    assert_eq!(target(&mask, [-1.5, 0.0, -0.5, 4.0], &options).unwrap(), [0.0]);
}

#[test]
fn pasted_masks_equal_mmdetection_and_torchvision() {
    let goldens = goldens();
    let expected = list(&goldens["pasted"]);
    assert_eq!(expected.len(), 60);
    for case in expected {
        let draw = case[0].as_u64().unwrap() as usize;
        let mut s = Seed(7).named(&format!("paste.{draw}")).stream();
        let picture = size([[60, 80], [97, 131], [13, 200], [240, 320]][draw % 4]);
        let side = [28, 28, 14, 1, 5][draw % 5];
        let bounds = bounds(&mut s, picture);
        let probabilities: Vec<f32> = (0..side * side).map(|_| s.uniform() as f32).collect();
        for (convention, expected) in
            [(PasteConvention::MmDetection, &case[1]), (PasteConvention::Torchvision, &case[2])]
        {
            let found = paste(&probabilities, side, bounds, picture, convention).unwrap();
            assert_eq!(found.encode(), *expected, "{draw} {convention:?} {bounds:?}");
        }
    }
}
