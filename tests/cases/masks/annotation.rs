//! Segmentations as annotations hold them: all forms, placed, of the real samples, and refused ones.

use super::{goldens, list, ring, size};
use featcache_heads::mask::{Rle, Segmentation};
use featcache_heads::seed::Seed;
use featcache_store::Size;
use featcache_tests::samples;
use serde_json::Value;

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
