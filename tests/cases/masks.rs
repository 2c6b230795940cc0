//! Masks against pycocotools, torchvision, mmdetection's formulas and OpenCV: what
//! `tests/parity/masks_goldens.py` wrote down. Run lengths, areas, boxes and overlaps are equal to the
//! last digit; mask targets to 1e-6, and equal once cut at one half.

use featcache_heads::mask::paste::{PasteConvention, paste};
use featcache_heads::mask::polygon::{polygon, polygons};
use featcache_heads::mask::rle::iou_matrix;
use featcache_heads::mask::target::{TargetOptions, target};
use featcache_heads::mask::{Rle, Segmentation};
use featcache_heads::seed::{Seed, Stream};
use featcache_store::Size;
use featcache_tests::samples;
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;
use tch::Tensor;

const SIZES: [[u32; 2]; 7] = [[1, 1], [1, 37], [37, 1], [16, 16], [48, 64], [97, 131], [240, 320]];

fn goldens() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.masks.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn size(sides: [u32; 2]) -> Size {
    Size::new(sides[0], sides[1])
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn below(stream: &mut Stream, count: usize) -> usize {
    (stream.uniform() * count as f64) as usize
}

/// The script's `ring`.
fn ring(kind: &str, index: usize, size: Size) -> Vec<f64> {
    let mut s = Seed(7).named(&format!("polygon.{kind}.{index}")).stream();
    let (h, w) = (f64::from(size.height), f64::from(size.width));
    let count = 3 + below(&mut s, 12);
    let point = |s: &mut Stream, low: f64, high: f64| {
        let x = (low + (high - low) * s.uniform()) * w;
        [x, (low + (high - low) * s.uniform()) * h]
    };
    let mut points: Vec<[f64; 2]> = Vec::new();
    match kind {
        "cents" | "whole" | "tenths" => {
            let steps = if kind == "cents" {
                100.0
            } else if kind == "whole" {
                1.0
            } else {
                10.0
            };
            points.extend((0..count).map(|_| point(&mut s, 0.0, 1.0).map(|v| (v * steps).floor() / steps)));
        }
        "real" => points.extend((0..count).map(|_| point(&mut s, 0.0, 1.0))),
        "overhang" => points.extend((0..count).map(|_| point(&mut s, -1.0, 2.0))),
        "far" => points.extend((0..count).map(|_| point(&mut s, -300.0, 300.0))),
        "outside" => {
            let sx = below(&mut s, 3) as f64 - 1.0;
            let sy = below(&mut s, 3) as f64 - 1.0;
            points.extend(
                (0..count)
                    .map(|_| point(&mut s, 0.0, 1.0))
                    .map(|[x, y]| [x + sx * 1.5 * w, y + sy * 1.5 * h]),
            );
        }
        "line" => {
            let (a, b) = (point(&mut s, -0.2, 1.2), point(&mut s, -0.2, 1.2));
            points.extend((0..count).map(|_| {
                let t = below(&mut s, 9) as f64 / 8.0;
                [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]
            }));
        }
        "point" => {
            let a = point(&mut s, 0.0, 1.0);
            points.extend((0..count).map(|_| {
                let x = a[0] + s.uniform() * 1.2;
                [x, a[1] + s.uniform() * 1.2]
            }));
        }
        "repeated" => {
            for _ in 0..count {
                let a = point(&mut s, -0.1, 1.1);
                points.extend(std::iter::repeat_n(a, 1 + below(&mut s, 3)));
            }
            points.push(points[0]);
        }
        "sliver" => {
            let (a, b) = (point(&mut s, 0.0, 1.0), point(&mut s, 0.0, 1.0));
            let x = b[0] + s.uniform() * 0.7;
            points.extend([a, b, [x, b[1] + s.uniform() * 0.7], [a[0] + 0.3, a[1] + 0.3]]);
        }
        "border" => {
            let places = [0.0, 0.5, 1.0, -0.1, 0.1, 0.9];
            points.extend((0..count).map(|_| {
                let (x, y) = (below(&mut s, 12), below(&mut s, 12));
                [(x / 6) as f64 * w + places[x % 6], (y / 6) as f64 * h + places[y % 6]]
            }));
        }
        _ => unreachable!("{kind}"),
    }
    points.concat()
}

/// Counts, area and box as the script's `described`.
fn assert_described(found: &Rle, expected: &[Value], what: &str) {
    assert_eq!(found.area(), expected[0].as_u64().unwrap(), "{what}");
    let bbox: Vec<f64> = serde_json::from_value(expected[1].clone()).unwrap();
    assert_eq!(found.bbox().to_vec(), bbox, "{what}");
}

#[test]
fn polygons_equal_pycocotools() {
    let goldens = goldens();
    let kinds = goldens["polygons"].as_object().unwrap();
    assert_eq!(kinds.len(), 12);
    for (kind, expected) in kinds {
        for (i, expected) in list(expected).iter().enumerate() {
            let size = size(SIZES[i % SIZES.len()]);
            let found = polygon(size, &ring(kind, i, size)).unwrap();
            assert_eq!(found.encode(), expected[0].as_str().unwrap(), "{kind} {i} {size}");
            assert_described(&found, &list(expected)[1..], &format!("{kind} {i} {size}"));
        }
    }
    for case in list(&goldens["large"]) {
        let (kind, index) = (case[1].as_str().unwrap(), case[2].as_u64().unwrap() as usize);
        let size = size(serde_json::from_value(case[0].clone()).unwrap());
        let found = polygon(size, &ring(kind, index, size)).unwrap();
        assert_described(&found, &list(case)[4..], &format!("{kind} {index} {size}"));
        assert_eq!(Seed(7).named(&found.encode()).0.to_string(), case[3].as_str().unwrap(), "{kind} {index}");
    }
}

#[test]
fn unions_overlaps_and_mirrors_equal_pycocotools() {
    let goldens = goldens();
    let expected = &goldens["together"];
    let area = Size::new(97, 131);
    let parts = [("cents", 1), ("cents", 3), ("overhang", 2), ("sliver", 4), ("far", 1), ("outside", 1)];
    let rings = parts.map(|(kind, parts)| (0..parts).map(|i| ring(kind, 200 + i, area)).collect::<Vec<_>>());
    let mut masks: Vec<_> = rings.iter().map(|rings| polygons(area, rings).unwrap()).collect();
    masks.push(Rle::empty(area).unwrap());
    masks.push(Rle::new(area, vec![0, 97 * 131]).unwrap());
    for (i, mask) in masks.iter().enumerate() {
        assert_eq!(mask.encode(), expected["masks"][i], "mask {i}");
        assert_eq!(mask.mirror().encode(), expected["mirrored"][i], "mask {i} mirrored");
        assert_eq!(mask.mirror().mirror(), *mask);
    }
    let masks: Vec<_> = masks.iter().collect();
    for (i, three) in masks.windows(3).enumerate() {
        assert_eq!(Rle::merge(three, false).unwrap().encode(), expected["union"][i], "union {i}");
        assert_eq!(
            Rle::merge(three, true).unwrap().encode(),
            expected["intersection"][i],
            "intersection {i}"
        );
    }
    let crowd: Vec<bool> = list(&expected["crowd"]).iter().map(|flag| *flag == 1).collect();
    let matrix = iou_matrix(&masks, &masks, &crowd).unwrap();
    for (i, row) in matrix.chunks(masks.len()).enumerate() {
        for (j, &found) in row.iter().enumerate() {
            let expected: f64 = expected["iou"][i][j].as_str().unwrap().parse().unwrap();
            assert_eq!(found, expected, "{i} {j}");
            assert_eq!(Rle::iou(masks[i], masks[j], crowd[j]), found);
        }
    }
}

#[test]
fn placed_masks_equal_mmdetection() {
    let places = [
        ([97, 131], [160, 216], [160, 224]),
        ([97, 131], [41, 55], [64, 64]),
        ([48, 64], [48, 64], [64, 64]),
        ([37, 1], [70, 3], [96, 32]),
        ([5, 7], [333, 466], [352, 480]),
    ];
    let goldens = goldens();
    let expected = list(&goldens["placed"]);
    assert_eq!(expected.len(), 10);
    for (i, expected) in expected.iter().enumerate() {
        let (source, valid, padded) = places[i / 2];
        let (source, valid, padded) = (size(source), size(valid), size(padded));
        let rings = ["cents", "real"].map(|kind| ring(kind, 300 + i / 2, source)).to_vec();
        let shape = Segmentation::Polygons(rings);
        let runs = Segmentation::Rle(shape.rle(source).unwrap());
        for (shape, expected) in [(shape, &expected[0]), (runs, &expected[1])] {
            let found = shape.place(source, valid, i % 2 == 1, padded).unwrap();
            assert_eq!(found.encode(), *expected, "{i} {shape:?}");
        }
    }
}

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

/// All annotations of the real samples, polygons and crowds, by the hash of their counts.
#[test]
fn real_annotations_equal_pycocotools() {
    let Some(samples) = samples() else { return };
    let goldens = goldens();
    for (split, expected) in goldens["samples"].as_object().unwrap() {
        let path = samples.join(format!("coco/annotations/instances_{split}.json"));
        let listing: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let side = |image: &Value, key: &str| image[key].as_u64().unwrap() as u32;
        let sizes: std::collections::HashMap<_, _> = list(&listing["images"])
            .iter()
            .map(|image| (&image["id"], Size::new(side(image, "height"), side(image, "width"))))
            .collect();
        let (mut hash, mut area, mut crowds) = (Seed(7), 0, 0);
        for annotation in list(&listing["annotations"]) {
            let source = sizes[&annotation["image_id"]];
            let shape = Segmentation::parse(&annotation["segmentation"].to_string()).unwrap();
            let mask = shape.rle(source).unwrap();
            let text = mask.encode();
            assert_eq!(Rle::decode(source, &text).unwrap(), mask);
            assert_eq!(shape.place(source, source, false, source).unwrap(), mask);
            hash = hash.derive(Seed(7).named(&text).0);
            area += mask.area();
            crowds += usize::from(matches!(shape, Segmentation::Rle(_)));
        }
        let found =
            serde_json::json!([hash.0.to_string(), area, list(&listing["annotations"]).len(), crowds]);
        assert_eq!(found, *expected, "{split}");
    }
}

#[test]
fn segmentations_are_read_in_all_forms_and_refused_by_name() {
    let parse = |text: &str| Segmentation::parse(text);
    let runs = Rle::new(Size::new(3, 4), vec![2, 5, 5]).unwrap();
    let text = format!(r#"{{"size": [3, 4], "counts": {:?}}}"#, runs.encode());
    for text in [r#" {"counts": [2, 5, 5], "size": [3, 4], "other": 1}"#, &text] {
        assert_eq!(parse(text).unwrap(), Segmentation::Rle(runs.clone()), "{text}");
    }
    let rings = vec![vec![1.0, 2.0, 3.5, 4.0, 5.0, 6.0]];
    assert_eq!(parse("[[1, 2, 3.5, 4, 5, 6]]").unwrap(), Segmentation::Polygons(rings));
    // A number of 17 digits that a careless reader rounds to its neighbour.
    let Segmentation::Polygons(rings) = parse("[[0.20049059689288634, 0, 5, 1e-7, 2.50, -0.0]]").unwrap()
    else {
        unreachable!("polygons")
    };
    assert_eq!(rings[0][..5], [0.20049059689288634, 0.0, 5.0, 1e-7, 2.5]);
    for (text, what) in [
        ("[]", "segmentation has no polygons, expected at least one"),
        ("[[1, 2, 3, 4]]", "segmentation part 0: polygon has 2 points, expected 3 or more"),
        ("[[1,2,3,4,5,6], [1,2,3,4,5,6,7]]", "segmentation part 1: polygon has 7 numbers, expected pairs"),
        (
            "[[1,2,3,4,5,6e8]]",
            "segmentation part 0: polygon has the coordinate 600000000, expected -1e8 to 1e8",
        ),
        ("[1,2,3,4,5,6]", "segmentation is no list of polygons: "),
        ("[[1,2,3,4,5,NaN]]", "segmentation is no list of polygons: "),
        ("[[1,2,3,4,5,1e999]]", "segmentation part 0: polygon has the coordinate inf, expected -1e8 to 1e8"),
        (r#"[[1,2,3,4,5,"6"]]"#, "segmentation part 0: polygon has \"6\", expected a number"),
        ("[[1,2,3,4,[5],6]]", "segmentation part 0: polygon has [5], expected a number"),
        ("null", "segmentation is no list of polygons or run lengths: "),
        ("", "segmentation is no list of polygons or run lengths: "),
        (r#"{"counts": [1]}"#, "segmentation is no list of polygons or run lengths: missing field `size`"),
        (r#"{"size": [3, 4], "counts": [2, 5]}"#, "counts of a 3x4 mask cover 7 pixels, expected 12"),
        (r#"{"size": [3, 4], "counts": [2, -5, 15]}"#, "segmentation is no list or string of counts: "),
        (r#"{"size": [3, 4], "counts": [4294967295, 4294967295]}"#, "counts of a 3x4 mask cover 8589934590 "),
        (r#"{"size": [0, 4], "counts": []}"#, "mask size 0x4, expected sides of 1 to 65535"),
        (r#"{"size": [70000, 4], "counts": [280000]}"#, "mask size 70000x4, expected sides of 1 to 65535"),
        (r#"{"size": [3, 4], "counts": "2 5"}"#, "counts string of a 3x4 mask: a character outside of "),
        (r#"{"size": [3, 4], "counts": "é"}"#, "counts string of a 3x4 mask: a character outside of "),
        (r#"{"size": [3, 4], "counts": "2P"}"#, "counts string of a 3x4 mask ends within a count"),
        (r#"{"size": [3, 4], "counts": "N"}"#, "counts string of a 3x4 mask: a count below 0 or of "),
        (r#"{"size": [3, 4], "counts": "PPPPPPPPPP0"}"#, "counts string of a 3x4 mask: a count of more than"),
        (r#"{"size": [3, 4], "counts": "PPPPPP?"}"#, "counts string of a 3x4 mask: a count below 0 or of "),
    ] {
        let found = parse(text).unwrap_err().to_string();
        assert!(found.starts_with(what), "{text}: {found}");
    }
    let place = |shape: &Segmentation, source, valid, padded| {
        shape.place(size(source), size(valid), true, size(padded)).unwrap_err().to_string()
    };
    let shape = Segmentation::Rle(runs);
    assert_eq!(place(&shape, [4, 4], [4, 4], [4, 4]), "mask is 3x4, its picture is 4x4");
    assert_eq!(place(&shape, [3, 4], [4, 4], [3, 4]), "valid size 4x4 passes the padded size 3x4");
    assert_eq!(place(&shape, [3, 4], [0, 4], [3, 4]), "a mask of 3x4 placed at 0x4, expected sides above 0");
    assert_eq!(shape.rle(Size::new(4, 3)).unwrap_err().to_string(), "mask is 3x4, its picture is 4x3");
}

#[test]
fn hostile_numbers_are_refused_without_being_allocated() {
    let area = Size::new(32_768, 32_768);
    for value in [f64::NAN, f64::INFINITY, -1e300, 1.1e8] {
        let text = polygon(area, &[0.0, 0.0, 5.0, value, 9.0, 9.0]).unwrap_err().to_string();
        assert_eq!(text, format!("polygon has the coordinate {value}, expected -1e8 to 1e8"));
    }
    let covered = polygon(area, &[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]).unwrap();
    assert_eq!((covered.counts(), covered.area()), (&[0, 1 << 30][..], 1 << 30));
    let to_and_fro: Vec<f64> = (0..4000).flat_map(|i| [f64::from(i % 2) * 32_768.0, f64::from(i)]).collect();
    let text = polygon(area, &to_and_fro).unwrap_err().to_string();
    assert!(text.starts_with("polygon of 4000 points crosses 131"), "{text}");
    assert!(polygon(Size::new(0, 9), &to_and_fro).is_err());
    assert!(Rle::merge(&[], false).is_err());

    let one = Rle::new(Size::new(2, 3), vec![1, 5]).unwrap();
    let other = Rle::new(Size::new(3, 2), vec![1, 5]).unwrap();
    assert_eq!(Rle::iou(&one, &other, false), -1.0);
    let text = "masks of different sizes, 2x3 and 3x2";
    assert_eq!(Rle::merge(&[&one, &other], true).unwrap_err().to_string(), text);
    assert_eq!(iou_matrix(&[&one], &[&other], &[false]).unwrap_err().to_string(), text);
    assert_eq!(iou_matrix(&[&one], &[&one], &[]).unwrap_err().to_string(), "1 truths, 0 crowd flags");
    assert!(Rle::from_bitmap(Size::new(2, 3), &[0; 5]).is_err());

    for convention in [PasteConvention::MmDetection, PasteConvention::Torchvision] {
        let paste = |values: &[f32], bounds| paste(values, 2, bounds, Size::new(5, 7), convention);
        assert_eq!(paste(&[0.0; 3], [0.0; 4]).unwrap_err().to_string(), "3 probabilities, expected 2 x 2");
        assert!(paste(&[1.0; 4], [0.0, f32::NAN, 1.0, 1.0]).is_err());
        for bounds in [[3.0; 4], [4.0, 1.0, 2.0, 5.0], [90.0, 0.0, 99.0, 5.0], [-9.0, -9.0, -2.0, -2.0]] {
            assert_eq!(paste(&[1.0; 4], bounds).unwrap().area(), 0, "{bounds:?}");
        }
        assert_eq!(paste(&[1.0; 4], [-1e30, -1e30, 1e30, 1e30]).unwrap().area(), 35);
        assert_eq!(paste(&[f32::NAN; 4], [0.0, 0.0, 7.0, 5.0]).unwrap().area(), 0);
        // A probability of exactly one half is inside for the one, outside for the other.
        let found = paste(&[0.5; 4], [-7.0, -5.0, 14.0, 10.0]).unwrap().area();
        assert_eq!(found, if convention == PasteConvention::MmDetection { 35 } else { 0 });
    }
    let options = TargetOptions::default();
    for bounds in [[f32::NAN; 4], [0.0, 0.0, 2e6, 1.0]] {
        assert!(target(&one, bounds, &options).is_err());
    }
    for side in [0, 100_000] {
        assert!(target(&one, [0.0, 0.0, 1.0, 1.0], &TargetOptions { side, ..options }).is_err());
    }
    let huge = Rle::new(Size::new(2048, 2048), vec![0, 1 << 22]).unwrap();
    let found = target(&huge, [-1e6, -1e6, 1e6, 1e6], &options).unwrap();
    assert_eq!(found.iter().sum::<f32>(), 0.0);
}

/// Sizes and a row-major bitmap of them with long and short runs.
fn bitmap(size: impl Strategy<Value = Size>) -> impl Strategy<Value = (Size, Vec<u8>, Vec<u8>)> {
    let pixels = |area: usize| {
        (prop::collection::vec(any::<bool>(), area), 1..40usize)
            .prop_map(|(bits, run)| bits.iter().enumerate().map(|(i, _)| u8::from(bits[i / run])).collect())
    };
    size.prop_flat_map(move |size| {
        let area = size.area() as usize;
        (Just(size), pixels(area), pixels(area))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn run_lengths_say_what_bitmaps_say(
        (size, a, b) in bitmap((1..30u32, 1..30u32).prop_map(|(h, w)| Size::new(h, w))),
    ) {
        let masks = [&a, &b].map(|pixels| Rle::from_bitmap(size, pixels).unwrap());
        let width = size.width as usize;
        for (mask, pixels) in masks.iter().zip([&a, &b]) {
            prop_assert_eq!(&mask.to_bitmap(), pixels);
            prop_assert_eq!(mask.area(), pixels.iter().map(|&pixel| u64::from(pixel)).sum::<u64>());
            prop_assert_eq!(&Rle::decode(size, &mask.encode()).unwrap(), mask);
            prop_assert_eq!(&Rle::new(size, mask.counts().to_vec()).unwrap(), mask);
            let mirrored: Vec<u8> =
                pixels.chunks(width).flat_map(|line| line.iter().rev().copied()).collect();
            prop_assert_eq!(mask.mirror().to_bitmap(), mirrored);
            let inside: Vec<_> = (0..pixels.len()).filter(|&i| pixels[i] == 1).collect();
            let edges = inside.iter().map(|i| [i % width, i / width]).fold(None, |edges, [x, y]| {
                let [l, t, r, b] = edges.unwrap_or([x, y, 0, 0]);
                Some([l.min(x), t.min(y), r.max(x + 1), b.max(y + 1)])
            });
            prop_assert_eq!(mask.bounds(), edges.map(|edges| edges.map(|edge| edge as f32)));
            let shape = Segmentation::Rle(mask.clone());
            let padded = Size::new(size.height + 3, size.width + 2);
            let placed = shape.place(size, size, true, padded).unwrap();
            prop_assert_eq!(placed.bounds(), mask.mirror().bounds());
            prop_assert_eq!(placed.area(), mask.area());
        }
        let count = |pick: fn(u8, u8) -> bool| {
            a.iter().zip(&b).filter(|&(&a, &b)| pick(a, b)).count() as u64
        };
        let (both, any) = (count(|a, b| a + b == 2), count(|a, b| a + b > 0));
        let [m, n] = [&masks[0], &masks[1]];
        for (intersect, area) in [(true, both), (false, any)] {
            let merged = Rle::merge(&[m, n], intersect).unwrap();
            let pixels: Vec<u8> =
                a.iter().zip(&b).map(|(a, b)| if intersect { a & b } else { a | b }).collect();
            prop_assert_eq!(merged.area(), area);
            prop_assert_eq!(merged, Rle::from_bitmap(size, &pixels).unwrap());
        }
        let share = |whole: u64| if both == 0 { 0.0 } else { both as f64 / whole as f64 };
        prop_assert_eq!(Rle::iou(m, n, false), share(any));
        prop_assert_eq!(Rle::iou(m, n, true), share(m.area()));
    }

    #[test]
    fn runs_of_no_pixels_change_nothing(counts in prop::collection::vec(0..4u32, 1..40), height in 1..6u32) {
        let sum: u32 = counts.iter().sum();
        let width = sum / height + 1;
        let counts: Vec<_> = counts.into_iter().chain([height * width - sum]).collect();
        let mask = Rle::new(Size::new(height, width), counts).unwrap();
        let plain = Rle::from_bitmap(mask.size(), &mask.to_bitmap()).unwrap();
        prop_assert_eq!(mask.area(), plain.area());
        prop_assert_eq!(mask.bbox(), plain.bbox());
        prop_assert_eq!(mask.mirror(), plain.mirror());
        prop_assert_eq!(&Rle::merge(&[&mask, &mask], false).unwrap(), &plain);
        prop_assert_eq!(&Rle::decode(mask.size(), &mask.encode()).unwrap(), &mask);
        prop_assert_eq!(Rle::iou(&mask, &plain, false), if plain.area() == 0 { 0.0 } else { 1.0 });
    }

    /// Any text is a mask or an error, and a mask's own text is the one it came from.
    #[test]
    fn strings_never_panic(bytes in prop::collection::vec(40..120u8, 0..12)) {
        let text: String = bytes.into_iter().map(char::from).collect();
        if let Ok(mask) = Rle::decode(Size::new(4, 5), &text) {
            prop_assert_eq!(mask.to_bitmap().len(), 20);
        }
    }
}
