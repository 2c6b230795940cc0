//! Assignment of boxes to objects, and sampling of what was assigned.

use super::{Goldens, NAN};
use featcache_heads::detection::assigner::{LowQuality, Match, MaxIouAssigner};
use featcache_heads::detection::sampler::{RandomSampler, Sample};
use featcache_heads::seed::Seed;

/// torchvision's and the goldens' numbers: a truth, -1 background, -2 ignored.
fn numbers(matches: &[Match]) -> Vec<i64> {
    let number = |found: &Match| match *found {
        Match::Truth(truth) => i64::from(truth),
        Match::Background => -1,
        Match::Ignored => -2,
    };
    matches.iter().map(number).collect()
}

fn assigner(positive: f32, negative: f32, low_quality: LowQuality) -> MaxIouAssigner {
    MaxIouAssigner { positive, negative, low_quality, crowd_share: None }
}

#[test]
fn assignment_is_the_references() {
    let golden = Goldens::read();
    let (bounds, truths) = (golden.boxes("assign.boxes"), golden.boxes("assign.truths"));
    for (name, assigner) in [
        ("restore", assigner(0.7, 0.3, LowQuality::Restore)),
        ("off", assigner(0.5, 0.4, LowQuality::Off)),
        ("claim", assigner(0.7, 0.3, LowQuality::Claim(0.3))),
        ("claim_none", assigner(0.5, 0.5, LowQuality::Claim(0.5))),
    ] {
        let found = numbers(&assigner.assign(&bounds, &truths, &[]));
        assert_eq!(found, golden.integers(&format!("assign.{name}")), "{name}");
    }
}

#[test]
fn assignment_without_truths_boxes_or_overlap() {
    let bounds = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [NAN; 4]];
    for low_quality in [LowQuality::Off, LowQuality::Restore, LowQuality::Claim(0.0)] {
        let mut assigner = assigner(0.5, 0.5, low_quality);
        assert_eq!(assigner.assign(&bounds, &[], &[]), [Match::Background; 3]);
        assert!(assigner.assign(&[], &bounds, &[]).is_empty());
        // Truths that overlap nothing claim nothing.
        let far = [[50.0, 50.0, 60.0, 60.0], [5.0, 5.0, 5.0, 5.0], [NAN; 4]];
        assert_eq!(assigner.assign(&bounds, &far, &[]), [Match::Background; 3]);
        let crowd = [[15.0, 15.0, 28.0, 40.0]];
        assert_eq!(assigner.assign(&bounds, &[], &crowd), [Match::Background; 3], "crowds are off");
        assigner.crowd_share = Some(0.5);
        let expected = [Match::Background, Match::Ignored, Match::Background];
        assert_eq!(assigner.assign(&bounds, &[], &crowd), expected);
        // Not even an exact truth takes a box from a crowd.
        assert_eq!(assigner.assign(&bounds, &bounds[1..2], &crowd), expected);
        assert_eq!(assigner.assign(&bounds, &bounds[..1], &crowd)[0], Match::Truth(0));
    }
}

#[test]
fn sampling_counts_as_mmdetection() {
    let mut matches = vec![Match::Background; 100];
    (0..30).for_each(|index| matches[index * 3] = Match::Truth(index as u32));
    (0..10).for_each(|index| matches[index * 3 + 1] = Match::Ignored);
    let is = |wanted: fn(&Match) -> bool| move |index: &usize, of: &[Match]| wanted(&of[*index]);
    let (positive, negative) = (is(|m| matches!(m, Match::Truth(_))), is(|m| *m == Match::Background));
    let sampler = |count, positive_share| RandomSampler { count, positive_share };
    for (count, share, expected) in [
        (40, 0.5, [20, 20]),
        (40, 0.25, [10, 30]),
        (80, 0.5, [30, 50]),
        (200, 0.9, [30, 60]),
        (3, 0.5, [1, 2]),
    ] {
        let found = sampler(count, share).sample(&matches, Seed(1));
        assert_eq!([found.positive.len(), found.negative.len()], expected, "{count} {share}");
        assert!(found.positive.iter().all(|index| positive(index, &matches)));
        assert!(found.negative.iter().all(|index| negative(index, &matches)));
        assert!(found.positive.is_sorted_by(|a, b| a < b) && found.negative.is_sorted_by(|a, b| a < b));
        assert_eq!(found, sampler(count, share).sample(&matches, Seed(1)));
    }
    assert_ne!(sampler(20, 0.5).sample(&matches, Seed(1)), sampler(20, 0.5).sample(&matches, Seed(2)));
    assert_eq!(sampler(20, 0.5).sample(&[], Seed(1)), Sample::default());
    assert_eq!(sampler(0, 0.5).sample(&matches, Seed(1)), Sample::default());
    // Each candidate is equally likely: 4000 draws of 3 in 10 give each 1200 ± 4 standard deviations.
    let mut drawn = [0; 10];
    for seed in 0..4000 {
        let found = sampler(3, 1.0).sample(&[Match::Truth(0); 10], Seed(seed));
        found.positive.into_iter().for_each(|index| drawn[index] += 1);
    }
    assert!(drawn.iter().all(|count| (1084..=1316).contains(count)), "{drawn:?}");
}
