//! Hostile numbers: refused by name, or answered without allocating for them.

use featcache_heads::mask::Rle;
use featcache_heads::mask::paste::{PasteConvention, paste};
use featcache_heads::mask::polygon::polygon;
use featcache_heads::mask::rle::iou_matrix;
use featcache_heads::mask::target::{TargetOptions, target};
use featcache_store::Size;

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
