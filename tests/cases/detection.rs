//! Boxes, deltas, anchors, suppression, assignment, sampling and pooling against torchvision and the
//! rules of mmdetection (`tests/parity/detection_goldens.py`), and on input that no detector should
//! produce. Tolerance where both sides round: 1e-5 of the largest value, of pooled maps 1e-5 too.

use featcache_heads::detection::anchor::{AnchorGrid, inside};
use featcache_heads::detection::assigner::{LowQuality, Match, MaxIouAssigner};
use featcache_heads::detection::boxes;
use featcache_heads::detection::delta::{DeltaCoder, clip_tensor};
use featcache_heads::detection::level_map::LevelMap;
use featcache_heads::detection::nms::{batched_nms, nms};
use featcache_heads::detection::pooling_bag::{BinRule, PoolingBag, Sampling};
use featcache_heads::detection::roi_align::{Roi, RoiAlign, rois};
use featcache_heads::detection::sampler::{RandomSampler, Sample};
use featcache_heads::detection::soft_nms::{Decay, SoftNms};
use featcache_heads::seed::Seed;
use featcache_store::Size;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const NAN: f32 = f32::NAN;
const INFINITY: f32 = f32::INFINITY;
/// Boxes that are none: reversed, empty, a line, not numbers, infinite.
const DEGENERATE: [[f32; 4]; 7] = [
    [10.0, 10.0, 5.0, 20.0],
    [10.0, 20.0, 5.0, 10.0],
    [3.0, 3.0, 3.0, 3.0],
    [3.0, 3.0, 9.0, 3.0],
    [NAN, 0.0, 10.0, 10.0],
    [0.0, 0.0, 10.0, NAN],
    [-INFINITY, 4.0, INFINITY, 4.0],
];

struct Goldens(BTreeMap<String, Tensor>);

impl Goldens {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.detection.safetensors");
        Self(Tensor::read_safetensors(path).unwrap().into_iter().collect())
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no golden {name}")).shallow_clone()
    }

    fn boxes(&self, name: &str) -> Vec<[f32; 4]> {
        boxes::from_tensor(&self.tensor(name).reshape([-1, 4])).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        Vec::try_from(self.tensor(name).reshape([-1])).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        Vec::try_from(self.tensor(name).reshape([-1])).unwrap()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.integers(name).into_iter().map(|index| index as usize).collect()
    }
}

/// Largest difference as a share of the largest expected value.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]).max(1e-30)
}

#[track_caller]
fn close(found: &Tensor, expected: &Tensor, what: &str) {
    let error = error(found, expected);
    assert!(error < 1e-5, "{what}: {error}");
}

#[track_caller]
fn close_slice(found: &[f32], expected: &[f32], what: &str) {
    close(&Tensor::from_slice(found), &Tensor::from_slice(expected), what);
}

fn gradients(output: &Tensor, direction: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    let sum = (output * direction).sum(Kind::Float);
    Tensor::run_backward(&[sum], inputs, false, false)
}

#[test]
fn overlaps_are_torchvisions() {
    let golden = Goldens::read();
    let (a, b) = (golden.boxes("overlap.a"), golden.boxes("overlap.b"));
    assert_eq!(boxes::iou_matrix(&a, &b), golden.floats("overlap.iou"));
    close_slice(&boxes::giou_matrix(&a, &b), &golden.floats("overlap.giou"), "giou");

    let (a, b) =
        (golden.tensor("giou.a").set_requires_grad(true), golden.tensor("giou.b").set_requires_grad(true));
    let giou = boxes::giou_tensor(&a, &b, 1e-7).unwrap();
    close(&giou, &golden.tensor("giou.value"), "giou of tensors");
    let found = gradients(&giou, &golden.tensor("giou.weights"), &[&a, &b]);
    close(&found[0], &golden.tensor("giou.gradient_a"), "gradient to a");
    close(&found[1], &golden.tensor("giou.gradient_b"), "gradient to b");
}

#[test]
fn degenerate_boxes_overlap_nothing() {
    let whole = [0.0, 0.0, 100.0, 100.0];
    for bounds in DEGENERATE {
        assert_eq!(boxes::area(bounds), 0.0, "{bounds:?}");
        assert!(!boxes::has_sides(bounds, 0.0), "{bounds:?}");
        for other in DEGENERATE.into_iter().chain([whole]) {
            assert_eq!(boxes::iou(bounds, other), 0.0, "{bounds:?} {other:?}");
            assert_eq!(boxes::iou(other, bounds), 0.0, "{bounds:?} {other:?}");
            assert_eq!(boxes::intersection_over_first(bounds, other), 0.0, "{bounds:?} {other:?}");
            assert!((-1.0..=0.0).contains(&boxes::giou(bounds, other)), "{bounds:?} {other:?}");
        }
        let clipped = boxes::clip(bounds, Size::new(50, 60));
        assert!(clipped.iter().all(|value| (0.0..=60.0).contains(value)), "{clipped:?}");
    }
    assert_eq!(boxes::clip([-5.0, 10.0, 70.0, 80.0], Size::new(50, 60)), [0.0, 10.0, 60.0, 50.0]);
    assert!(boxes::has_sides([0.0, 0.0, 4.0, 5.0], 4.0) && !boxes::has_sides([0.0, 0.0, 4.0, 5.0], 4.5));
    assert!(boxes::iou_matrix(&[], &[whole]).is_empty());

    // A collapsed prediction has a finite generalised IoU and finite gradients.
    let flat = Tensor::from_slice(&[3f32, 3., 3., 3., 5., 5., 1., 1.]).view([2, 4]).set_requires_grad(true);
    let truth = Tensor::from_slice(&[3f32, 3., 3., 3., 0., 0., 9., 9.]).view([2, 4]);
    let giou = boxes::giou_tensor(&flat, &truth, 1e-7).unwrap();
    let found = gradients(&giou, &Tensor::ones([2], (Kind::Float, Device::Cpu)), &[&flat]);
    assert!(
        bool::try_from(giou.isfinite().all()).unwrap() && bool::try_from(found[0].isfinite().all()).unwrap()
    );
    assert!(boxes::giou_tensor(&flat, &truth.narrow(0, 0, 1), 1e-7).is_err());
    let none = boxes::to_tensor(&[], Device::Cpu).unwrap();
    assert_eq!(none.size(), [0, 4]);
    assert_eq!(boxes::giou_tensor(&none, &none, 1e-7).unwrap().size(), [0]);
    assert!(boxes::from_tensor(&none).unwrap().is_empty());
}

#[test]
fn deltas_are_the_references() {
    let golden = Goldens::read();
    let (bounds, truths) = (golden.boxes("delta.boxes"), golden.boxes("delta.truths"));
    let torchvision = DeltaCoder::torchvision([10.0, 10.0, 5.0, 5.0]);
    let mmdetection = DeltaCoder::mmdetection([0.1, 0.1, 0.2, 0.2]);
    let encoded = torchvision.encode(&bounds, &truths).unwrap();
    close_slice(encoded.as_flattened(), &golden.floats("delta.encoded"), "encoded");
    let (at, to) = (golden.tensor("delta.boxes"), golden.tensor("delta.truths"));
    close(&torchvision.encode_tensor(&at, &to).unwrap(), &golden.tensor("delta.encoded"), "encoded tensor");

    let at = at.set_requires_grad(true);
    let codes = golden.tensor("delta.codes").set_requires_grad(true);
    for (name, coder) in [("torchvision", torchvision), ("mmdetection", mmdetection)] {
        let expected = golden.tensor(&format!("delta.{name}.decoded"));
        close(&coder.decode_tensor(&at, &codes).unwrap(), &expected, name);
        for class in 0..3 {
            let codes = boxes::from_tensor(&codes.narrow(1, class * 4, 4)).unwrap();
            let found = coder.decode(&bounds, &codes).unwrap();
            let expected = boxes::from_tensor(&expected.narrow(1, class * 4, 4)).unwrap();
            close_slice(found.as_flattened(), expected.as_flattened(), name);
        }
    }
    let found = gradients(
        &torchvision.decode_tensor(&at, &codes).unwrap(),
        &golden.tensor("delta.direction"),
        &[&codes, &at],
    );
    close(&found[0], &golden.tensor("delta.torchvision.gradient"), "gradient to deltas");
    close(&found[1], &golden.tensor("delta.torchvision.gradient_boxes"), "gradient to boxes");
    let clipped = clip_tensor(&mmdetection.decode_tensor(&at, &codes).unwrap(), Size::new(180, 260)).unwrap();
    close(&clipped, &golden.tensor("delta.mmdetection.clipped"), "clipped");
}

#[test]
fn deltas_of_degenerate_boxes_are_zero() {
    let coder = DeltaCoder::mmdetection([0.1, 0.1, 0.2, 0.2]);
    let sound = [0.0, 0.0, 10.0, 10.0];
    let mut pairs: Vec<_> =
        DEGENERATE.into_iter().flat_map(|bounds| [(bounds, sound), (sound, bounds)]).collect();
    pairs.push((sound, [1.0, 0.0, 11.0, 10.0]));
    let (bounds, truths): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let encoded = coder.encode(&bounds, &truths).unwrap();
    assert!(encoded[..14].iter().flatten().all(|value| *value == 0.0), "{encoded:?}");
    assert_eq!(encoded[14], [1.0, 0.0, 0.0, 0.0]);
    let at = boxes::to_tensor(&bounds, Device::Cpu).unwrap().set_requires_grad(true);
    let to = boxes::to_tensor(&truths, Device::Cpu).unwrap();
    let found = coder.encode_tensor(&at, &to).unwrap();
    assert_eq!(boxes::from_tensor(&found).unwrap(), encoded);

    let wild = [[NAN; 4], [INFINITY; 4], [0.0, 0.0, 1e30, -1e30]];
    let found = coder.decode(&[sound; 3], &wild).unwrap();
    assert!(found.iter().all(|&bounds| boxes::clip(bounds, Size::new(9, 9)).iter().all(|v| v.is_finite())));
    assert!(boxes::has_sides(found[2], 0.0));
    assert!(
        coder.encode(&[sound], &[]).is_err() && coder.decode(&[], &[sound[..].try_into().unwrap()]).is_err()
    );
    assert!(coder.decode(&[], &[]).unwrap().is_empty());
    let none = boxes::to_tensor(&[], Device::Cpu).unwrap();
    assert_eq!(coder.encode_tensor(&none, &none).unwrap().size(), [0, 4]);
    let deltas = Tensor::zeros([0, 12], (Kind::Float, Device::Cpu));
    assert_eq!(coder.decode_tensor(&none, &deltas).unwrap().size(), [0, 12]);
    assert_eq!(clip_tensor(&deltas, Size::new(4, 4)).unwrap().size(), [0, 12]);
}

#[test]
fn anchors_are_the_references() {
    let golden = Goldens::read();
    let ratios = [0.5, 1.0, 2.0];
    let maps = [Size::new(6, 9), Size::new(3, 5)];
    // torchvision takes the strides from the padded input, here 26 × 38.
    let grids = [
        AnchorGrid::torchvision([26 / 6, 38 / 9], &[32.0], &ratios).unwrap(),
        AnchorGrid::torchvision([26 / 3, 38 / 5], &[64.0, 90.0], &ratios).unwrap(),
    ];
    let found: Vec<_> = grids.iter().zip(maps).flat_map(|(grid, map)| grid.anchors(map)).collect();
    assert_eq!(found, golden.boxes("anchor.torchvision"));
    assert_eq!(grids[1].per_cell(), 6);
    let grid = |stride| AnchorGrid::mmdetection(stride, &[8.0], &ratios).unwrap();
    let found: Vec<_> =
        [4, 8].into_iter().zip(maps).flat_map(|(stride, map)| grid(stride).anchors(map)).collect();
    assert_eq!(found, golden.boxes("anchor.mmdetection"));
    assert_eq!(grid(4).anchors(Size::new(0, 5)), Vec::<[f32; 4]>::new());
    for (stride, scales, ratios) in [(0, [8.0], [1.0]), (4, [0.0], [1.0]), (4, [8.0], [NAN])] {
        assert!(AnchorGrid::mmdetection(stride, &scales, &ratios).is_err());
    }
    let picture = Size::new(20, 30);
    assert!(inside([0.0, 0.0, 29.9, 19.9], picture, 0.0) && !inside([0.0, 0.0, 30.0, 19.0], picture, 0.0));
    assert!(!inside([-1.0, 0.0, 9.0, 9.0], picture, 0.0) && inside([-1.0, 0.0, 30.0, 9.0], picture, 1.0));
}

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

#[test]
fn levels_are_the_references() {
    let golden = Goldens::read();
    for (name, map) in [("torchvision", LevelMap::TORCHVISION), ("mmdetection", LevelMap::MMDETECTION)] {
        let found = golden.boxes("level.boxes");
        let found: Vec<_> = found.into_iter().map(|bounds| map.level(bounds, 4)).collect();
        assert_eq!(found, golden.indices(&format!("level.{name}")), "{name}");
        assert!(DEGENERATE.into_iter().all(|bounds| map.level(bounds, 4) == 0));
        assert_eq!(map.level([0.0, 0.0, 1e30, 1e30], 4), 3);
        assert_eq!(map.level([0.0, 0.0, 1e3, 1e3], 1), 0);
    }
}

fn align(side: u16, sampling: Sampling, aligned: bool) -> RoiAlign {
    RoiAlign { rule: BinRule { side, sampling, aligned } }
}

fn channels_last(map: &Tensor) -> Tensor {
    map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

fn golden_rois(golden: &Goldens) -> Vec<Roi> {
    let pictures = golden.indices("roi.pictures").into_iter();
    golden
        .boxes("roi.bounds")
        .into_iter()
        .zip(pictures)
        .map(|(bounds, picture)| Roi { picture, bounds })
        .collect()
}

#[test]
fn pooling_is_torchvisions() {
    let golden = Goldens::read();
    let rois = golden_rois(&golden);
    for (ratio, sampling) in [(-1, Sampling::Adaptive), (2, Sampling::Fixed(2)), (3, Sampling::Fixed(3))] {
        for (name, aligned) in [("aligned", true), ("shifted", false)] {
            for channels_last_memory in [true, false] {
                let map = golden.tensor("roi.map");
                let map = if channels_last_memory { channels_last(&map) } else { map };
                let map = map.set_requires_grad(true);
                let name = format!("roi.{ratio}.{name}");
                let found = align(5, sampling, aligned).pool(&map, 1.0 / 8.0, &rois).unwrap();
                close(&found, &golden.tensor(&format!("{name}.value")), &name);
                let gradient = gradients(&found, &golden.tensor("roi.direction"), &[&map]);
                close(&gradient[0], &golden.tensor(&format!("{name}.gradient")), &name);
            }
        }
    }
}

#[test]
fn pooling_from_levels_is_torchvisions() {
    let golden = Goldens::read();
    let maps: Vec<_> = (2..6)
        .map(|level| channels_last(&golden.tensor(&format!("levels.p{level}"))).set_requires_grad(true))
        .collect();
    let scales = [1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0];
    let boxes = [golden.boxes("levels.boxes0"), golden.boxes("levels.boxes1")];
    let rois = rois(boxes.iter().map(Vec::as_slice));
    let levels = LevelMap::Canonical { side: 32.0, level: 4.0, first: 2.0 };
    let used: std::collections::BTreeSet<_> = rois.iter().map(|roi| levels.level(roi.bounds, 4)).collect();
    assert_eq!(used.len(), 4, "the golden's regions use every level");
    let roi_align = align(4, Sampling::Fixed(2), false);
    let found = roi_align.pool_levels(&maps, &scales, levels, &rois).unwrap();
    close(&found, &golden.tensor("levels.value"), "value");
    let inputs: Vec<_> = maps.iter().collect();
    let gradient = gradients(&found, &golden.tensor("levels.direction"), &inputs);
    let pooled = roi_align.pool_levels(&maps, &scales, levels, &rois).unwrap();
    let again = gradients(&pooled, &golden.tensor("levels.direction"), &inputs);
    assert!(gradient.iter().zip(&again).all(|(first, second)| first.equal(second)), "sums in one order");
    for (level, gradient) in (2..6).zip(gradient) {
        close(&gradient, &golden.tensor(&format!("levels.gradient.p{level}")), &format!("p{level}"));
    }

    // Regions of one level leave the others with a gradient of zeros; none at all does so with all.
    for rois in [&rois[..1], &[]] {
        let found = roi_align.pool_levels(&maps, &scales, levels, rois).unwrap();
        assert_eq!(found.size(), [rois.len() as i64, 2, 4, 4]);
        let gradient = gradients(&found, &found.ones_like(), &inputs);
        let touched = gradient.iter().filter(|gradient| gradient.abs().max().double_value(&[]) > 0.0).count();
        assert_eq!(touched, rois.len());
    }
    assert!(roi_align.pool_levels(&maps, &scales[1..], levels, &rois).is_err());
    assert!(roi_align.pool_levels(&[], &[], levels, &rois).is_err());
}

/// bf16 maps are summed in binary32 and rounded once, forward and backward.
#[test]
fn pooling_of_bf16_rounds_once() {
    let golden = Goldens::read();
    let rois = golden_rois(&golden);
    let roi_align = align(5, Sampling::Fixed(2), true);
    let map = golden.tensor("roi.map").to_kind(Kind::BFloat16);
    let wide = map.to_kind(Kind::Float).set_requires_grad(true);
    let map = channels_last(&map).set_requires_grad(true);
    let direction = golden.tensor("roi.direction").to_kind(Kind::BFloat16).to_kind(Kind::Float);
    let expected = roi_align.pool(&wide, 1.0 / 8.0, &rois).unwrap();
    let expected_gradient = gradients(&expected, &direction, &[&wide]);
    let found = roi_align.pool(&map, 1.0 / 8.0, &rois).unwrap();
    assert_eq!(found.kind(), Kind::BFloat16);
    let gradient = gradients(&found.to_kind(Kind::Float), &direction, &[&map]);
    assert_eq!(gradient[0].kind(), Kind::BFloat16);
    assert!(found.equal(&expected.to_kind(Kind::BFloat16)));
    assert!(gradient[0].equal(&expected_gradient[0].to_kind(Kind::BFloat16)));
}

#[test]
fn pooling_of_nothing_and_of_nonsense() {
    let options = (Kind::Float, Device::Cpu);
    let map = Tensor::ones([2, 3, 4, 6], options).set_requires_grad(true);
    let roi = |picture, bounds| Roi { picture, bounds };
    for sampling in [Sampling::Adaptive, Sampling::Fixed(2), Sampling::Fixed(0)] {
        let roi_align = align(2, sampling, true);
        let none = roi_align.pool(&map, 0.25, &[]).unwrap();
        assert_eq!(none.size(), [0, 3, 2, 2]);
        assert_eq!(gradients(&none, &none.ones_like(), &[&map])[0].abs().max().double_value(&[]), 0.0);
        // No cell at all in any bin.
        let outside = [roi(1, [900.0, 900.0, 950.0, 950.0]), roi(0, [NAN; 4]), roi(0, [INFINITY; 4])];
        let found = roi_align.pool(&map, 0.25, &outside).unwrap();
        assert_eq!(found.size(), [3, 3, 2, 2]);
        assert_eq!(found.abs().max().double_value(&[]), 0.0);
        for bounds in DEGENERATE {
            let found = roi_align.pool(&map, 0.25, &[roi(0, bounds)]).unwrap();
            assert!((0.0..=1.0).contains(&found.abs().max().double_value(&[])), "{bounds:?}");
        }
        assert!(roi_align.pool(&map, 0.25, &[roi(2, [0.0, 0.0, 9.0, 9.0])]).is_err());
        assert!(roi_align.pool(&map.get(0), 0.25, &[]).is_err());
        let empty = Tensor::ones([1, 3, 0, 6], options);
        let found = roi_align.pool(&empty, 0.25, &[roi(0, [0.0, 0.0, 9.0, 9.0])]).unwrap();
        assert_eq!((found.size(), found.abs().max().double_value(&[])), (vec![1, 3, 2, 2], 0.0));
    }
}

/// A region of a million times the map takes only the samples near the map, and misses none of them:
/// the map's share of the region's area is its share of the mean.
#[test]
fn huge_regions_cost_no_more_than_the_map() {
    let rule = BinRule { side: 2, sampling: Sampling::Adaptive, aligned: true };
    for (side, tolerance) in [(1e3_f32, 0.01), (1e5, 0.01), (1e6, 0.05)] {
        let mut bag = PoolingBag::default();
        bag.push(rule, [-side, -side, side, side], 1.0, [40, 40], 0);
        assert!(bag.cells.len() <= 4 * 1600, "{} entries for {side}", bag.cells.len());
        assert!(bag.cells.iter().all(|cell| (0..1600).contains(cell)));
        // The map lies in the lower right bin, of area side²; samples up to one cell off the map count.
        let bin: f64 = bag.weights[bag.offsets[3] as usize..].iter().map(|&weight| f64::from(weight)).sum();
        let share = bin * f64::from(side).powi(2) / 41.0_f64.powi(2);
        assert!((share - 1.0).abs() < tolerance, "{side}: {share}");
    }
    let mut bag = PoolingBag::default();
    for bounds in [[-3e6, -3e6, 3e6, 3e6], [-1e38, -1e38, 1e38, 1e38], [-3e38, 0.0, 3e38, 9.0]] {
        bag.push(rule, bounds, 1.0, [40, 40], 0);
    }
    assert_eq!((bag.offsets.len(), bag.cells.len()), (12, 0));
}
