//! NMS and soft-NMS.

use super::{DEGENERATE, Goldens, NAN, close_slice};
use featcache_heads::detection::nms::{batched_nms, nms};
use featcache_heads::detection::soft_nms::{Decay, SoftNms};

#[test]
fn suppression_is_torchvisions() {
    let golden = Goldens::read();
    let (bounds, scores) = (golden.boxes("nms.boxes"), golden.floats("nms.scores"));
    let classes = golden.indices("nms.classes");
    for threshold in [0.3, 0.5, 0.7] {
        let expected = golden.indices(&format!("nms.plain.{threshold}"));
        assert_eq!(nms(&bounds, &scores, threshold, usize::MAX), expected);
        assert_eq!(nms(&bounds, &scores, threshold, 7), expected[..7]);
        let expected = golden.indices(&format!("nms.batched.{threshold}"));
        assert_eq!(batched_nms(&bounds, &scores, &classes, threshold, usize::MAX), expected);
        assert_eq!(batched_nms(&bounds, &scores, &classes, threshold, 30), expected[..30]);
    }
    assert!(nms(&[], &[], 0.5, 9).is_empty());
    assert!(nms(&bounds, &scores, 0.5, 0).is_empty());
}

/// An IoU that equals the threshold suppresses only where the threshold in binary64 is below it.
#[test]
fn suppression_compares_in_binary64() {
    // IoU 3/10 in binary32 is above 3/10 in binary64; 7/10 is below.
    let with_overlap = |tenths: f32| [[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, tenths, 1.0]];
    assert_eq!(nms(&with_overlap(3.0), &[0.9, 0.8], 0.3, 9), [0]);
    assert_eq!(nms(&with_overlap(7.0), &[0.9, 0.8], 0.7, 9), [0, 1]);
    assert_eq!(nms(&with_overlap(5.0), &[0.9, 0.8], 0.5, 9), [0, 1]);
}

#[test]
fn suppression_keeps_degenerate_boxes_and_drops_scores_that_are_none() {
    let mut bounds = DEGENERATE.to_vec();
    bounds.extend(DEGENERATE);
    bounds.extend([[0.0, 0.0, 100.0, 100.0]; 2]);
    let mut scores = vec![0.5; bounds.len()];
    scores[3] = NAN;
    scores[15] = 0.6;
    let expected: Vec<usize> = [15].into_iter().chain((0..14).filter(|&index| index != 3)).collect();
    assert_eq!(nms(&bounds, &scores, 0.5, usize::MAX), expected);
    let classes = vec![0; bounds.len()];
    let soft = SoftNms::default().pick(&bounds, &scores, &classes, usize::MAX);
    assert_eq!(soft.len(), 14, "the two whole boxes overlap by 1, so that linear decay leaves one");
    assert_eq!(soft[0], (15, 0.6));
}

#[test]
fn soft_suppression_is_mmcvs() {
    let golden = Goldens::read();
    let (bounds, scores) = (golden.boxes("nms.boxes"), golden.floats("soft_nms.scores"));
    let classes = golden.indices("nms.classes");
    for (name, decay) in [("linear", Decay::Linear(0.3)), ("gaussian", Decay::Gaussian(0.5))] {
        let soft = SoftNms { decay, ..Default::default() };
        let (indices, scores): (Vec<_>, Vec<_>) =
            soft.pick(&bounds, &scores, &classes, usize::MAX).into_iter().unzip();
        assert_eq!(indices, golden.indices(&format!("soft_nms.{name}.index")), "{name}");
        close_slice(&scores, &golden.floats(&format!("soft_nms.{name}.score")), name);
        let first = soft.pick(&bounds, &golden.floats("soft_nms.scores"), &classes, 20);
        assert_eq!(first.iter().map(|pair| pair.0).collect::<Vec<_>>(), indices[..20]);
    }
    assert!(SoftNms::default().pick(&[], &[], &[], 5).is_empty());
}
