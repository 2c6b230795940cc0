//! Run lengths: of polygons, together, mirrored, as text, and of bitmaps.

use super::{goldens, list, ring, size};
use featcache_heads::mask::polygon::{polygon, polygons};
use featcache_heads::mask::rle::iou_matrix;
use featcache_heads::mask::{Rle, Segmentation};
use featcache_heads::seed::Seed;
use featcache_store::Size;
use proptest::prelude::*;
use serde_json::Value;

const SIZES: [[u32; 2]; 7] = [[1, 1], [1, 37], [37, 1], [16, 16], [48, 64], [97, 131], [240, 320]];

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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_cropped_mask_has_all_pixels_of_the_whole(
        (size, pixels, _) in bitmap((1..40u32, 1..40u32).prop_map(|(h, w)| Size::new(h, w))),
    ) {
        let mask = Rle::from_bitmap(size, &pixels).unwrap();
        let ([left, top, width, height], part) = mask.cropped();
        prop_assert_eq!([left, top, width, height].map(f64::from), mask.bbox());
        let mut whole = vec![0; pixels.len()];
        for (at, &inside) in (0..).zip(&part) {
            let (x, y) = (left + at % width, top + at / width);
            whole[(y * size.width + x) as usize] = inside;
        }
        prop_assert_eq!(whole, mask.to_bitmap());
    }
}
