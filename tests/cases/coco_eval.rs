//! COCO's detection metric against pycocotools: drawn cases bit for bit, the official fake results, and inputs that
//! nobody should trust.

use crate::drawn_coco::{case, categories, whole_set};
use featcache_heads::mask::{Rle, Segmentation};
use featcache_heads::metric::coco::results::{self, Parts};
use featcache_heads::metric::coco::{
    CategoryMode, CocoOptions, Detection, Evaluation, Fate, GroundTruth, IouType, MaskArea, Matches, Object,
    Picture, Selection, evaluate, matches,
};
use featcache_heads::seed::Seed;
use featcache_store::{OpenOptions, Size, Store};
use std::path::Path;
use tch::Tensor;

const TYPES: [IouType; 2] = [IouType::Bbox, IouType::Segm];
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn golden(name: &str) -> Tensor {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/coco_eval.safetensors");
    let tensors = Tensor::read_safetensors(path).unwrap();
    tensors.into_iter().find(|(found, _)| found == name).unwrap().1
}

fn numbers(name: &str) -> Vec<f64> {
    Vec::try_from(golden(name).reshape([-1])).unwrap()
}

fn case_options(number: u64) -> CocoOptions {
    let mut options = CocoOptions { mask_area: MaskArea::OfBox, threads: 1, ..CocoOptions::default() };
    if number % 5 == 4 {
        options.categories = CategoryMode::Pooled;
    }
    if number % 7 == 3 {
        options.max_detections = vec![20, 1, 3];
    }
    options
}

/// Sum of the bits of all numbers, each times an odd number that depends on its place.
fn bits_sum(values: &[f64]) -> u64 {
    let weight = |i: u64| i.wrapping_mul(GOLDEN) | 1;
    values.iter().zip(0..).fold(0, |sum, (v, i)| sum.wrapping_add(v.to_bits().wrapping_mul(weight(i))))
}

fn mix(x: u64) -> u64 {
    // The first number of a stream is the mix of its seed and one step.
    Seed(x.wrapping_sub(GOLDEN)).stream().bits()
}

fn match_sum(matches: &Matches) -> u64 {
    matches.detections.iter().zip(1u64..).filter(|(status, _)| status.fate != Fate::BeyondLimit).fold(
        0,
        |sum, (status, id)| {
            // The drawn objects have the ids 1, 2, …
            let object = status.object.map_or(0, |object| object as u64 + 1);
            let code = 2 * object + u64::from(status.fate == Fate::Ignored);
            sum.wrapping_add(mix(id).wrapping_mul(code + 1))
        },
    )
}

fn sums(evaluation: &Evaluation, matches: &Matches) -> [u64; 4] {
    let arrays = [evaluation.precision(), evaluation.recall(), evaluation.scores()];
    let [precision, recall, scores] = arrays.map(bits_sum);
    [precision, recall, scores, match_sum(matches)]
}

#[test]
fn equals_pycocotools_on_drawn_cases() {
    let (stats, expected) = (numbers("stats"), golden("sums"));
    let expected: Vec<i64> = Vec::try_from(expected.reshape([-1])).unwrap();
    assert_eq!(stats.len(), 500 * 2 * 12);
    let mut limited = 0;
    for number in 0..500 {
        let (truth, detections) = case(number);
        let options = case_options(number);
        for (i, iou) in TYPES.into_iter().enumerate() {
            let at = number as usize * 2 + i;
            let evaluation = evaluate(&truth, &detections, iou, &options).unwrap();
            let found = evaluation.summary().stats();
            assert_eq!(found, stats[at * 12..][..12], "case {number}, {iou:?}");
            let matches = matches(&truth, &detections, iou, 0.5, &options).unwrap();
            let expected = &expected[at * 4..][..4];
            assert_eq!(sums(&evaluation, &matches).map(|sum| sum as i64), expected, "case {number}, {iou:?}");
            limited += matches.detections.iter().filter(|s| s.fate == Fate::BeyondLimit).count();
        }
    }
    assert!(limited > 1000, "{limited} detections beyond the limit");
}

#[test]
fn thresholds_are_numpys() {
    let options = CocoOptions::default();
    assert_eq!(options.thresholds, numbers("thresholds"));
    assert_eq!(options.recalls, numbers("recalls"));
}

#[test]
fn equals_cocos_numbers_for_its_fake_results() {
    let Some(samples) = featcache_tests::samples() else { return };
    let folder = samples.join("coco/golden_eval/cocoapi_fake100");
    let text = std::fs::read(folder.join("expected_stats.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let truth = GroundTruth::read(&folder.join("annotations/instances_val2014_100.json")).unwrap();
    let by_category = numbers("fake100");
    for (i, iou) in TYPES.into_iter().enumerate() {
        let name = iou.name();
        let path = folder.join(format!("results/instances_val2014_fake{name}100_results.json"));
        let detections = results::read(&path, &truth).unwrap();
        let evaluation = evaluate(&truth, &detections, iou, &CocoOptions::default()).unwrap();
        for (number, found) in evaluation.summary().stats().into_iter().enumerate() {
            let expected = expected[name][number].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-15, "{name} {number}: {found}, expected {expected}");
        }
        let mut objects = 0;
        for (k, score) in evaluation.category_scores().into_iter().enumerate() {
            let found =
                [score.ap, score.ap50, score.ap75, score.ap_small, score.ap_medium, score.ap_large, score.ar];
            let expected = &by_category[(i * 80 + k) * 7..][..7];
            for (found, expected) in found.into_iter().zip(expected) {
                let found = found.unwrap_or(-1.0);
                assert!((found - expected).abs() < 1e-15, "{name} {}: {found}, {expected}", score.name);
            }
            objects += score.objects;
        }
        assert_eq!(objects, truth.objects().iter().filter(|object| !object.crowd).count());

        // What is written is what was read.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("results.json");
        results::write(&copy, &detections, Parts::Both).unwrap();
        assert_eq!(results::read(&copy, &truth).unwrap(), detections);
    }
}

#[test]
fn a_stores_truth_is_its_datasets() {
    let Some(samples) = featcache_tests::samples() else { return };
    let root = samples.join("coco");
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    featcache_tests::done(&format!(
        "--quiet extract coco --root {} --split val2017 --backbone fake --compute fp32 --resize square:32 --out {}",
        root.display(),
        store.display()
    ));
    let store = Store::open(&store, OpenOptions::default()).unwrap();
    let rows: Vec<_> = store.rows().iter().map(|row| row.id).collect();
    let found = GroundTruth::of_store(&store, &rows).unwrap();
    let expected = GroundTruth::read(&root.join("annotations/instances_val2017.json")).unwrap();
    assert_eq!(found.categories(), expected.categories());
    assert_eq!(found.pictures(), expected.pictures());
    let by_id = |truth: &GroundTruth| {
        let mut objects = truth.objects().to_vec();
        objects.sort_by_key(|object| object.id);
        objects
    };
    assert_eq!(by_id(&found), by_id(&expected));

    // The truth itself, found with certainty, is found.
    let perfect = found.objects().iter().filter(|object| !object.crowd).map(|object| {
        let size =
            found.pictures().iter().find(|picture| picture.id == object.image_id).unwrap().size.unwrap();
        let mask = Segmentation::parse(object.segmentation.as_ref().unwrap()).unwrap().rle(size).unwrap();
        let Object { image_id, category_id, bbox, .. } = *object;
        Detection { image_id, category_id, score: 1.0, bbox: Some(bbox), mask: Some(mask) }
    });
    let perfect: Vec<_> = perfect.collect();
    for iou in TYPES {
        let summary = evaluate(&found, &perfect, iou, &CocoOptions::default()).unwrap().summary();
        assert!(summary.ap.unwrap() > 1.0 - 1e-9, "{summary:?}");
    }
    let twice = [rows[0], rows[0]];
    let text = GroundTruth::of_store(&store, &twice).unwrap_err().to_string();
    assert!(text.ends_with("is there twice"), "{text}");
}

/// One picture of 100 × 100 with an object of 20 × 20 and a crowd, in category 7 of 7 and 9.
fn small_truth() -> GroundTruth {
    let object = |id, bbox: [f64; 4], crowd| Object {
        id: Some(id),
        image_id: 5,
        category_id: 7,
        bbox,
        area: bbox[2] * bbox[3],
        crowd,
        segmentation: None,
    };
    let objects = vec![object(1, [50.0, 50.0, 50.0, 50.0], true), object(2, [0.0, 0.0, 20.0, 20.0], false)];
    let pictures = [5, 6].map(|id| Picture { id, size: Some(Size::new(100, 100)) });
    GroundTruth::new(categories(&[9, 7]), pictures.to_vec(), objects).unwrap()
}

fn detection(score: f64, bbox: [f64; 4]) -> Detection {
    Detection { image_id: 5, category_id: 7, score, bbox: Some(bbox), mask: None }
}

#[test]
fn every_detection_has_a_fate() {
    let truth = small_truth();
    let mut detections = vec![
        detection(0.5, [0.0, 0.0, 20.0, 20.0]),
        detection(0.9, [0.0, 0.0, 20.0, 16.0]),
        detection(0.4, [60.0, 60.0, 10.0, 10.0]),
        detection(0.3, [30.0, 0.0, 10.0, 10.0]),
    ];
    let options = CocoOptions { max_detections: vec![3], ..CocoOptions::default() };
    let found = matches(&truth, &detections, IouType::Bbox, 0.5, &options).unwrap();
    let fates: Vec<_> =
        found.detections.iter().map(|status| (status.fate, status.object, status.iou)).collect();
    assert_eq!(
        fates,
        [
            (Fate::FalsePositive, None, 1.0),
            (Fate::TruePositive, Some(1), 0.8),
            (Fate::Ignored, Some(0), 1.0),
            (Fate::BeyondLimit, None, 0.0),
        ]
    );
    assert!(found.missed.is_empty());
    let strict = matches(&truth, &detections, IouType::Bbox, 0.9, &options).unwrap();
    assert_eq!(strict.detections[0].fate, Fate::TruePositive);
    assert_eq!((strict.detections[1].fate, strict.detections[1].iou), (Fate::FalsePositive, 0.8));
    detections.remove(0);
    assert_eq!(matches(&truth, &detections, IouType::Bbox, 0.9, &options).unwrap().missed, [1]);
    // A threshold of 1 is reached by what only rounding keeps from it.
    let almost = [detection(0.5, [0.0, 0.0, 20.0, 20.0 - 1e-11])];
    let status = matches(&truth, &almost, IouType::Bbox, 1.0, &options).unwrap().detections[0];
    assert!(status.fate == Fate::TruePositive && status.iou < 1.0, "{status:?}");
    assert_eq!(
        matches(&truth, &detections, IouType::Bbox, f64::NAN, &options).unwrap_err().to_string(),
        "IoU threshold is NaN, expected 0 to 1"
    );
}

#[test]
fn curves_and_absent_categories() {
    let truth = small_truth();
    let options = CocoOptions::default();
    let nothing = evaluate(&truth, &[], IouType::Bbox, &options).unwrap();
    // Category 9 has no objects and does not count; 7 has one, which nobody found.
    assert_eq!(nothing.summary().stats()[..6], [0.0, 0.0, 0.0, 0.0, -1.0, -1.0]);
    let detections = [detection(0.9, [0.0, 0.0, 20.0, 16.0]), detection(0.8, [40.0, 0.0, 5.0, 5.0])];
    let evaluation = evaluate(&truth, &detections, IouType::Bbox, &options).unwrap();
    let counts = evaluation.counts();
    assert_eq!(evaluation.precision().len(), 10 * 101 * 2 * 4 * 3);
    assert_eq!((counts.categories, evaluation.objects()), (2, &[1, 1, 0, 0, 0, 0, 0, 0][..]));
    // .5 to .8 are reached, .85 to .95 are not.
    let ap = evaluation.summary().ap.unwrap();
    assert!((ap - 0.7).abs() < 1e-12, "{ap}");
    let pick = |category, threshold| Selection { category, threshold, ..Selection::default() };
    let curve = evaluation.curve(&pick(Some(7), Some(0.5))).unwrap().unwrap();
    assert_eq!((curve.recall.len(), curve.recall[100]), (101, 1.0));
    assert!(curve.precision.iter().all(|&p| p > 0.999) && curve.scores.iter().all(|&s| s == 0.9));
    let mean = evaluation.curve(&pick(None, None)).unwrap().unwrap();
    assert!((mean.precision[50] - 0.7).abs() < 1e-12);
    assert_eq!(evaluation.curve(&pick(Some(9), None)).unwrap(), None);
    assert_eq!(
        evaluation.curve(&pick(Some(8), None)).unwrap_err().to_string(),
        "category 8 was not evaluated, expected one of 2 categories"
    );
    assert!(evaluation.curve(&pick(None, Some(0.52))).is_err());
    let threads = |threads| {
        evaluate(&truth, &detections, IouType::Bbox, &CocoOptions { threads, ..options.clone() }).unwrap()
    };
    assert_eq!(threads(1).precision(), threads(2).precision());
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let truth = small_truth();
    let options = CocoOptions::default();
    let fails =
        |detection: Detection, iou| evaluate(&truth, &[detection], iou, &options).unwrap_err().to_string();
    let good = detection(0.5, [0.0, 0.0, 20.0, 20.0]);
    let strange = Detection { category_id: 8, ..good.clone() };
    assert_eq!(
        fails(strange, IouType::Bbox),
        "detection 0 (image 5, category 8): category 8 is not among the 2 categories of the ground truth"
    );
    let strange = Detection { image_id: 4, ..good.clone() };
    assert!(fails(strange, IouType::Bbox).ends_with("image 4 is not among the 2 images of the ground truth"));
    let strange = Detection { score: f64::NAN, ..good.clone() };
    assert!(fails(strange, IouType::Bbox).ends_with("score is NaN, expected a finite number"));
    let strange = Detection { bbox: Some([0.0, f64::INFINITY, 1.0, 1.0]), ..good.clone() };
    assert!(fails(strange, IouType::Bbox).ends_with("expected finite numbers"));
    let strange = Detection { bbox: None, ..good.clone() };
    assert!(fails(strange, IouType::Bbox).ends_with("neither bbox nor segmentation"));
    let mask = Some(Rle::new(Size::new(10, 10), vec![100]).unwrap());
    assert!(fails(Detection { mask, ..good.clone() }, IouType::Segm).contains("its picture is"));
    assert_eq!(
        fails(good.clone(), IouType::Segm),
        "annotation 1 of image 5: no segmentation, needed to evaluate masks"
    );
    for options in [
        CocoOptions { thresholds: vec![], ..options.clone() },
        CocoOptions { thresholds: vec![0.7, 0.5], ..options.clone() },
        CocoOptions { thresholds: vec![f64::NAN], ..options.clone() },
        CocoOptions { recalls: vec![2.0], ..options.clone() },
        CocoOptions { areas: vec![], ..options.clone() },
        CocoOptions { max_detections: vec![0], ..options.clone() },
    ] {
        let error = evaluate(&truth, &[], IouType::Bbox, &options).unwrap_err().to_string();
        assert!(error.starts_with("COCO options: "), "{error}");
    }
}

#[test]
fn ground_truth_that_contradicts_itself_is_refused() {
    let parse = |text: &str| GroundTruth::parse(text.as_bytes()).map_err(|error| error.to_string());
    let file = |image: &str, annotation: &str| {
        format!(
            r#"{{"images": [{{"id": 1, "width": 5, "height": 4}}{image}],
            "annotations": [{{"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 2, 3]{annotation}}}],
            "categories": [{{"id": 2, "name": "cat"}}]}}"#
        )
    };
    let truth = parse(&file("", r#", "iscrowd": true, "segmentation": [[1, 2]]"#)).unwrap();
    assert_eq!(truth.pictures(), [Picture { id: 1, size: Some(Size::new(4, 5)) }]);
    let object = &truth.objects()[0];
    assert_eq!((object.area, object.crowd, object.segmentation.as_deref()), (6.0, true, Some("[[1, 2]]")));
    let refused = |image: &str, annotation: &str| parse(&file(image, annotation)).unwrap_err();
    assert_eq!(refused(r#", {"id": 1}"#, ""), "image id 1 is there twice");
    let second = |rest: &str| format!(r#"}}, {{"id": 4, "bbox": [0, 0, 1, 1], {rest}"#);
    assert_eq!(
        refused("", &second(r#""image_id": 8, "category_id": 2"#)),
        "annotation 4 of image 8: image 8 is not among the 1 images of the ground truth"
    );
    assert!(refused("", &second(r#""image_id": 1, "category_id": 1"#)).contains("category 1 is not among"));
    let twice = r#"}, {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]"#;
    assert_eq!(refused("", twice), "annotation 3 of image 1: its id is there twice");
    let text = refused("", &second(r#""image_id": 1, "category_id": 2, "area": 1e999"#));
    assert!(text.starts_with("not COCO instances: entry 1: number out of range"), "{text}");
    assert!(refused("", r#", "iscrowd": 2"#).contains("iscrowd is neither 0 nor 1"));
    for text in ["", "[]", "{}", r#"{"images": 3}"#, r#"{"images": [], "annotations": [], "categories": []}"#]
    {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn results_that_cannot_be_trusted_are_refused() {
    let truth = small_truth();
    let parse = |text: &str| results::parse(text.as_bytes(), &truth).map_err(|error| error.to_string());
    let entry = |rest: &str| format!(r#"[{{"image_id": 6, "category_id": 9, "score": 0.25, {rest}}}]"#);
    let good = entry(r#""bbox": [1, 2.5, 3e0, 4], "extra": {"a": [null]}"#);
    let found = parse(&good).unwrap();
    assert_eq!((found[0].bbox, found[0].score), (Some([1.0, 2.5, 3.0, 4.0]), 0.25));
    let masked =
        parse(&entry(r#""segmentation": {"size": [100, 100], "counts": [10, 20, 9970]}, "bbox": []"#))
            .unwrap();
    assert_eq!((masked[0].mask.as_ref().unwrap().area(), masked[0].bbox), (20, None));
    let polygon = parse(&entry(r#""segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]"#)).unwrap();
    assert_eq!(polygon[0].mask.as_ref().unwrap().area(), 100);
    let refused = |text: &str| parse(text).unwrap_err();
    let one = good.trim_matches(['[', ']']);
    let second = |from: &str, to: &str| refused(&format!("[{one},{}]", one.replace(from, to)));
    for (from, to, expected) in [
        (": 6", ": 4", "not COCO results: entry 1: image 4 is not among the 2 images of the ground truth"),
        (": 9", ": 90", "entry 1: category 90 is not among the 2 categories of the ground truth"),
        ("0.25", "1e400", "entry 1: number out of range"),
        ("0.25", "NaN", "not COCO results: entry 1: "),
        ("0.25", "\"high\"", "entry 1: invalid type: string"),
        ("2.5, ", "", "entry 1: invalid length 3, expected a bbox of x, y, width, height"),
        ("2.5, ", "2.5, 2, ", "entry 1: invalid length 5"),
        ("[1,", "[null,", "entry 1: invalid type: null"),
        (": 6", ": 6.5", "entry 1: invalid type"),
        (r#""score": 0.25,"#, "", "entry 1: missing field `score`"),
        (r#""bbox": [1, 2.5, 3e0, 4], "#, "", "neither bbox nor segmentation"),
    ] {
        let text = second(from, to);
        assert!(text.contains(expected), "{text}");
    }
    for mask in [
        r#"{"size": [10, 10], "counts": [100]}"#,
        r#"{"size": [100, 100], "counts": [100]}"#,
        r#"{"size": [100, 100], "counts": "abc"}"#,
        r#"{"size": [4294967295, 4294967295], "counts": [4294967295]}"#,
        r#"{"size": [100, 100]}"#,
        "[[0, 0, 1]]",
        "[]",
        "7",
    ] {
        let text = refused(&entry(&format!(r#""segmentation": {mask}"#)));
        assert!(text.starts_with("not COCO results: entry 0: mask in image 6: "), "{text}");
    }
    for text in ["", "{}", "[", "[{]", "[1]", "[null]", &"[".repeat(100_000)] {
        assert!(parse(text).is_err());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    std::fs::write(&path, &good[..30]).unwrap();
    let text = results::read(&path, &truth).unwrap_err().to_string();
    assert!(text.starts_with(&path.display().to_string()), "{text}");
    // Every digit survives: 1/3 and its like need all seventeen, and the float_roundtrip that zarrs asks of serde_json.
    let mut stream = Seed(17).stream();
    let mut precise = || 640.0 * stream.uniform() / 3.0;
    let precise: Vec<_> = (0..1000)
        .map(|_| Detection { score: precise(), bbox: Some([0; 4].map(|_| precise())), ..found[0].clone() })
        .collect();
    results::write(&path, &precise, Parts::Both).unwrap();
    assert_eq!(results::read(&path, &truth).unwrap(), precise);
    let nothing = [Detection { bbox: None, ..found[0].clone() }];
    assert!(results::write(&path, &nothing, Parts::Both).is_err());
    results::write(&path, &[], Parts::Both).unwrap();
    assert_eq!(results::read(&path, &truth).unwrap(), []);
}

/// pycocotools takes 67 s (5 of them to read) and 2.4 GB for the same files, and comes to the same numbers. Run it
/// alone for the figure here: `cargo test --release -p featcache-tests --test cases whole_set -- --nocapture`.
#[test]
fn whole_set_takes_seconds() {
    let (truth, detections) = whole_set();
    assert_eq!(detections.len(), 500_000);
    let options = CocoOptions::default();
    let start = std::time::Instant::now();
    let evaluation = evaluate(&truth, &detections, IouType::Bbox, &options).unwrap();
    let evaluated = start.elapsed();
    let summary = evaluation.summary();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let start = std::time::Instant::now();
    results::write(&path, &detections, Parts::Both).unwrap();
    let written = start.elapsed();
    let start = std::time::Instant::now();
    assert_eq!(results::read(&path, &truth).unwrap(), detections);
    println!(
        "500000 detections: evaluated in {evaluated:.2?}, written in {written:.2?}, read in {:.2?}: {:?}",
        start.elapsed(),
        summary.stats()
    );
    assert!(summary.ap50.unwrap() > 0.05);
    let start = std::time::Instant::now();
    let masked: Vec<_> = detections.into_iter().filter(|detection| detection.mask.is_some()).collect();
    let segm = evaluate(&truth, &masked, IouType::Segm, &options).unwrap();
    println!("{} masks: evaluated in {:.2?}: {:?}", masked.len(), start.elapsed(), segm.summary().stats());
    // Far above what it takes, so that only another order of growth fails here.
    assert!(evaluated.as_secs() < 20, "{evaluated:?}");
}
