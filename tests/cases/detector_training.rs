//! Detectors from a store's objects: targets where the view has them, training that learns, resumes to the
//! last bit and may share a pass, evaluation with results that read back, bad annotations.

use crate::object_store::{CATEGORIES, ObjectStore, objects, polygon, recipe, source_size};
use featcache_heads::checkpoint::{Checkpoint, LOG_FILE};
use featcache_heads::detector::Detections;
use featcache_heads::evaluate::EvaluateSettings;
use featcache_heads::evaluate::detection::{DetectionScores, evaluate_detector};
use featcache_heads::found::WayBack;
use featcache_heads::labels::IGNORE;
use featcache_heads::mask::paste::PasteConvention;
use featcache_heads::metric::coco::results::{self, Parts};
use featcache_heads::metric::coco::{Detection, IouType};
use featcache_heads::objects::{LeftOut, ObjectOptions, ObjectTruth, Objects};
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::run::Run;
use featcache_heads::schedule::{Decay, Progress, Schedule};
use featcache_heads::train::{TrainJob, TrainProgress, TrainSettings, TrainSummary, train, train_together};
use featcache_heads::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{Size, Store, ViewSpec};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

const STEPS: &str = "train.steps = 9\ntrain.log_every = 1\ntrain.checkpoint_every = 4";

fn run(store: &Store, recipe: &TrainRecipe, folder: &Path) -> Result<TrainSummary> {
    train(store, recipe, folder, &TrainSettings::default())
}

fn score(store: &Store, folder: &Path, split: &str) -> Result<DetectionScores> {
    let run = Run::open(folder, Device::Cpu)?;
    let settings = EvaluateSettings { split: Some(split.into()), ..EvaluateSettings::default() };
    evaluate_detector(&run, store, &settings)
}

/// Lines of the log about steps, without the fields that tell the time.
fn curve(folder: &Path) -> Vec<[String; 5]> {
    let text = std::fs::read_to_string(folder.join(LOG_FILE)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps = lines.filter(|line| line.get("loss").is_some());
    steps
        .map(|line| ["step", "loss", "losses", "gradient_norm", "lr"].map(|key| line[key].to_string()))
        .collect()
}

fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(curve(a), curve(b));
    let [a, b] = [a, b].map(|folder| std::fs::read(Checkpoint::latest(folder)).unwrap());
    assert!(a == b, "checkpoints differ");
}

fn placed(store: &Store, key: &str, view: &str) -> Result<Objects> {
    let truth = ObjectTruth::new(store, &ObjectOptions { semantic_classes: None }).unwrap();
    let split = key.split('-').next();
    truth.placed(store.find(split, key, view).unwrap().id)
}

#[test]
fn detectors_learn_what_features_tell() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    for (preset, extra) in [
        ("mask_rcnn", "train.steps = 260"),
        ("htc", "train.steps = 160\ndetector.neck.kind = \"bifpn\"\ndetector.neck.norm = \"group\""),
    ] {
        let folder = drawn.folder(preset);
        let recipe = recipe(preset, &format!("{extra}\ntrain.log_every = 1000\ntrain.empty = \"drop\""));
        let summary = run(&store, &recipe, &folder).unwrap();
        // `train-02` has no objects; the crowd of `train-05` keeps company.
        assert_eq!((summary.samples, summary.dropped_samples, summary.unlabelled_rows), (7, 1, 0));
        assert_eq!((summary.backbone_parameters, summary.left_out), (0, LeftOut::default()));
        let scores = score(&store, &folder, "train").unwrap();
        let (boxes, masks) = (scores.report.boxes.ap.unwrap(), scores.report.masks.unwrap().ap.unwrap());
        assert!(boxes > 0.6 && masks > 0.5, "{preset}: box AP {boxes}, mask AP {masks}");
        assert_eq!((scores.report.samples, scores.report.objects), (8, 22));
        assert_eq!(scores.report.box_categories.len(), 3);
        // One picture at a time finds the same.
        let settings =
            EvaluateSettings { split: Some("train".into()), batch: 1, ..EvaluateSettings::default() };
        let single = evaluate_detector(&Run::open(&folder, Device::Cpu).unwrap(), &store, &settings).unwrap();
        assert!((single.report.boxes.ap.unwrap() - boxes).abs() < 0.02);
        // In the mirrored view, too: found boxes come back to the picture.
        let settings = EvaluateSettings { view: "hflip".into(), ..settings };
        let mirrored =
            evaluate_detector(&Run::open(&folder, Device::Cpu).unwrap(), &store, &settings).unwrap();
        let (boxes, masks) = (mirrored.report.boxes.ap.unwrap(), mirrored.report.masks.unwrap().ap.unwrap());
        assert!(boxes > 0.6 && masks > 0.5, "{preset} mirrored: box AP {boxes}, mask AP {masks}");
        read_back(&scores, &folder);
    }
}

/// The results of either kind, written and read, are the results.
fn read_back(scores: &DetectionScores, folder: &Path) {
    let boxes: Vec<Detection> =
        scores.found.iter().map(|one| Detection { mask: None, ..one.clone() }).collect();
    let masks: Vec<Detection> =
        scores.found.iter().map(|one| Detection { bbox: None, ..one.clone() }).collect();
    for (kind, parts, written) in [(IouType::Bbox, Parts::Boxes, boxes), (IouType::Segm, Parts::Masks, masks)]
    {
        let path = folder.join(format!("results.{}.json", kind.name()));
        results::write(&path, &scores.found, parts).unwrap();
        assert_eq!(results::read(&path, &scores.truth).unwrap(), written);
    }
    let ids = CATEGORIES.map(|(id, _)| id);
    assert!(scores.found.iter().all(|one| ids.contains(&one.category_id) && one.image_id % 7 == 0));
}

#[test]
fn a_stopped_or_killed_detector_goes_on_to_the_last_bit() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    let recipe = recipe("mask_rcnn", STEPS);
    let (whole, parts, killed) = (drawn.folder("whole"), drawn.folder("parts"), drawn.folder("killed"));
    assert_eq!(run(&store, &recipe, &whole).unwrap().step, 9);
    for stop_at in [2, 3, 7] {
        let stop = AtomicBool::new(false);
        let progress = |line: &TrainProgress| stop.store(line.step >= stop_at, Ordering::Relaxed);
        let settings =
            TrainSettings { stop: Some(&stop), progress: Some(&progress), ..TrainSettings::default() };
        assert!(train(&store, &recipe, &parts, &settings).unwrap().stopped);
    }
    run(&store, &recipe, &parts).unwrap();
    assert_same_run(&whole, &parts);

    for lines in [3, 7] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "detector_training::child_that_trains_until_killed"])
            .env(CHILD_STORE, drawn.root())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (begin, log) = (std::time::Instant::now(), killed.join(LOG_FILE));
        let written = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        while written() < lines && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed().as_secs() < 120, "the child trains nothing");
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(&store, &recipe, &killed).unwrap();
    assert_same_run(&whole, &killed);
}

/// Environment of the child process that is killed.
const CHILD_STORE: &str = "FEATCACHE_TEST_DETECTOR_STORE";

#[test]
fn child_that_trains_until_killed() {
    let Some(folder) = std::env::var_os(CHILD_STORE).map(PathBuf::from) else { return };
    let store = Store::open(&folder.join("store"), Default::default()).unwrap();
    run(&store, &recipe("mask_rcnn", STEPS), &folder.join("killed")).unwrap();
}

#[test]
fn heads_on_one_pass_are_what_they_become_alone() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    let recipes = [
        recipe("mask_rcnn", STEPS),
        recipe("cascade", &format!("{STEPS}\nhead.levels = [\"p2\", \"p4\"]\ntrain.checkpoint_every = 3")),
    ];
    let folders = |kind: &str| ["a", "b"].map(|name| drawn.folder(&format!("{kind}-{name}")));
    let (alone, together) = (folders("alone"), folders("together"));
    for (recipe, folder) in recipes.iter().zip(&alone) {
        run(&store, recipe, folder).unwrap();
    }
    let jobs = |folders: &'_ [PathBuf; 2]| {
        let pairs = recipes.iter().zip(folders.clone());
        pairs.map(|(recipe, folder)| (recipe.clone(), folder)).collect::<Vec<_>>()
    };
    let pass = |stop_at: u64| {
        let stop = AtomicBool::new(false);
        let progress = |line: &TrainProgress| stop.store(line.step >= stop_at, Ordering::Relaxed);
        let settings =
            TrainSettings { stop: Some(&stop), progress: Some(&progress), ..TrainSettings::default() };
        let jobs = jobs(&together);
        let jobs: Vec<_> = jobs
            .iter()
            .map(|(recipe, folder)| TrainJob { recipe, folder, weights: None, version: None })
            .collect();
        train_together(&store, &jobs, &settings).unwrap()
    };
    assert!(pass(5).iter().all(|summary| summary.stopped && summary.step == 5));
    // One of them goes on alone; the other catches up while it waits.
    let (stop, reached) = (AtomicBool::new(false), 7);
    let progress = |line: &TrainProgress| stop.store(line.step >= reached, Ordering::Relaxed);
    let settings = TrainSettings { stop: Some(&stop), progress: Some(&progress), ..TrainSettings::default() };
    assert_eq!(train(&store, &recipes[1], &together[1], &settings).unwrap().step, 7);
    let summaries = pass(u64::MAX);
    assert_eq!(summaries.iter().map(|summary| summary.resumed_at).collect::<Vec<_>>(), [5, 7]);
    for (alone, together) in alone.iter().zip(&together) {
        assert_same_run(alone, together);
    }

    let other = recipe("mask_rcnn", "train.steps = 9\ntrain.batch = 3");
    let (a, b) = (drawn.folder("x"), drawn.folder("y"));
    let jobs = |recipe, folder| {
        let first = TrainJob { recipe: &recipes[0], folder: &a, weights: None, version: None };
        [first, TrainJob { recipe, folder, weights: None, version: None }]
    };
    let refused = |jobs: &[TrainJob<'_>]| {
        train_together(&store, jobs, &TrainSettings::default()).unwrap_err().to_string()
    };
    let text = refused(&jobs(&other, &b));
    assert!(text.ends_with("y: train.batch is 2 and 3"), "{text}");
    let text = refused(&jobs(&recipes[1], &a));
    assert!(text.ends_with("two heads cannot train into one folder"), "{text}");
    assert!(!a.exists() && !b.exists());
}

#[test]
fn targets_lie_where_the_view_has_them() {
    let drawn = ObjectStore {
        more: vec![polygon(5, [10.0, 20.0, 40.0, 30.0], &[10.0, 20.0, 50.0, 20.0, 50.0, 50.0, 10.0, 50.0])],
        ..ObjectStore::default()
    }
    .write();
    let store = drawn.open();
    let row = store.find(Some("train"), "train-00", "base").unwrap();
    // 83 x 97 with the short side at 96: 97 * 96 / 83 = 112.19.
    let (source, valid, padded) = (Size::new(83, 97), Size::new(96, 112), Size::new(96, 128));
    assert_eq!((row.source_size, row.valid_size, row.bucket), (Some(source), Some(valid), Some(padded)));
    let base = placed(&store, "train-00", "base").unwrap();
    let flip = placed(&store, "train-00", "hflip").unwrap();
    assert_eq!((base.valid, base.boxes.len(), base.crowd.len()), (valid, 4, 0));
    assert_eq!(base.classes, flip.classes);
    assert_eq!(base.classes[3], 1);
    let (across, down) = (112.0 / 97.0, 96.0 / 83.0);
    let near = |found: [f32; 4], expected: [f64; 4]| {
        assert!(
            found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4),
            "{found:?} {expected:?}"
        );
    };
    let expected = [10.0 * across, 20.0 * down, 50.0 * across, 50.0 * down];
    near(base.boxes[3], expected);
    near(flip.boxes[3], [112.0 - expected[2], expected[1], 112.0 - expected[0], expected[3]]);
    for (objects, [x0, y0, x1, y1]) in
        [(&base, expected), (&flip, [112.0 - expected[2], expected[1], 112.0 - expected[0], expected[3]])]
    {
        let mask = objects.masks[3].as_ref().unwrap();
        assert_eq!(mask.size(), padded);
        let bitmap = mask.to_bitmap();
        for (at, &inside) in bitmap.iter().enumerate() {
            let (x, y) = ((at % 128) as f64 + 0.5, (at / 128) as f64 + 0.5);
            let depth = (x - x0).min(x1 - x).min(y - y0).min(y1 - y);
            // Within a pixel of its edge a polygon's mask is pycocotools' business.
            assert!(depth.abs() < 1.01 || (inside == 1) == (depth > 0.0), "{x} {y}");
        }
    }
    // A wide picture, and one with a crowd.
    assert_eq!(source_size("train-05"), Size::new(75, 121));
    let crowd = placed(&store, "train-05", "hflip").unwrap();
    let listed = objects("train-05");
    assert_eq!((crowd.boxes.len(), crowd.crowd.len(), listed.len()), (3, 1, 4));
    assert!(placed(&store, "train-02", "base").unwrap().boxes.is_empty());
}

#[test]
fn label_maps_beside_objects_teach_the_semantic_branch() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 97, 83);
    encoder.set_color(png::ColorType::Grayscale);
    // The left half is stuff 3, the rest not labelled.
    let pixels: Vec<u8> = (0..83 * 97).map(|at| if at % 97 < 48 { 3 } else { 255 }).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    let drawn = ObjectStore { more: vec![Label::LabelMap { png }], ..ObjectStore::default() }.write();
    let store = drawn.open();
    for (classes, view, left, right) in [
        (Some(5), "base", Some(3), Some(IGNORE)),
        (Some(5), "hflip", Some(IGNORE), Some(3)),
        (None, "base", None, None),
    ] {
        let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: classes }).unwrap();
        let objects = truth.placed(store.find(Some("train"), "train-00", view).unwrap().id).unwrap();
        assert_eq!(objects.boxes.len(), 3);
        // Two pixels from either edge of the 112 columns that are picture.
        let at = |x: usize| objects.semantic.as_ref().map(|map| map.classes[40 * 128 + x]);
        assert_eq!((at(2), at(109)), (left, right), "{view}");
    }
    let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: Some(3) }).unwrap();
    let error = truth.placed(store.find(Some("train"), "train-00", "base").unwrap().id).unwrap_err();
    assert!(matches!(&error, Error::Label { .. }), "{error}");
    let semantic = "train.steps = 3\ndetector.head.semantic = { classes = 5, level = 1, convs = 1 }";
    assert_eq!(run(&store, &recipe("htc", semantic), &drawn.folder("htc")).unwrap().step, 3);
    let log = std::fs::read_to_string(drawn.folder("htc").join(LOG_FILE)).unwrap();
    assert!(log.contains("loss_semantic_seg"), "{log}");
    let plain = ObjectStore::default().write();
    let text = run(&plain.open(), &recipe("htc", semantic), &plain.folder("htc")).unwrap_err().to_string();
    assert_eq!(text, "no sample of split \"train\" has a label map, which the semantic branch needs");
}

#[test]
fn steps_of_the_rate_fall_on_their_epochs_and_shares() {
    let at = |schedule: &Schedule, step, epoch| schedule.rate(1.0, Progress { step, steps: 120, epoch });
    let epochs = Schedule { decay: Decay::Step, step_epochs: vec![8, 11], ..Schedule::default() };
    let found = [7, 8, 10, 11].map(|epoch| at(&epochs, epoch * 10, epoch));
    let near = |found: [f64; 4], expected: [f64; 4]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-12), "{found:?}");
    };
    near(found, [1.0, 0.1, 0.1, 0.01]);
    let shares = Schedule { decay: Decay::Step, step_shares: vec![0.666, 0.9166], ..Schedule::default() };
    near([79, 80, 109, 110].map(|step| at(&shares, step, 0)), [1.0, 0.1, 0.1, 0.01]);
    // mmcv's linear warm-up: ratio at step 0, the whole rate at its end.
    let warm = Schedule { warmup_steps: 50, warmup_ratio: 0.001, ..epochs };
    near([0, 25, 49, 50].map(|step| at(&warm, step, 0)), [0.001, 0.5005, 0.98002, 1.0]);
}

#[test]
fn what_is_found_in_a_mirrored_view_comes_back_mirrored() {
    let (source, valid) = (Size::new(60, 80), Size::new(120, 160));
    let way = |view: &str| {
        let view = ViewSpec::named(view).unwrap();
        let geometry = view.geometry(source, valid).unwrap();
        WayBack { geometry, hflip: view.hflip, source, paste: PasteConvention::MmDetection }
    };
    // The lower left half of its box, which reaches over the picture's right edge.
    let mask: Vec<f32> = (0..28 * 28).map(|at| f32::from(u8::from(at / 28 > at % 28))).collect();
    let detections = |bbox| Detections {
        boxes: vec![bbox],
        scores: vec![0.75],
        classes: vec![2],
        masks: vec![mask.clone()],
        mask_side: 28,
    };
    let base = way("base").found(&detections([20.0, 10.0, 60.0, 110.0])).unwrap().remove(0);
    assert_eq!((base.bbox, base.class, base.score), ([10.0, 5.0, 20.0, 50.0], 2, 0.75));
    let flip = way("hflip").found(&detections([20.0, 10.0, 60.0, 110.0])).unwrap().remove(0);
    assert_eq!(flip.bbox, [50.0, 5.0, 20.0, 50.0]);
    assert_eq!(flip.mask.unwrap(), base.mask.clone().unwrap().mirror());
    let area = base.mask.unwrap().area() as f64;
    assert!((area / 500.0 - 1.0).abs() < 0.1, "{area}");
    let over = way("base").found(&detections([140.0, 10.0, 180.0, 30.0])).unwrap().remove(0);
    assert_eq!(over.bbox, [70.0, 5.0, 10.0, 10.0]);
    let short = Detections { scores: Vec::new(), ..detections([0.0, 0.0, 9.0, 9.0]) };
    assert!(way("base").found(&short).is_err());
}

fn object(category_id: i64, bbox: [f64; 4], area: f64, segmentation: Option<&str>) -> Label {
    Label::Object { category_id, bbox, area, iscrowd: false, segmentation: segmentation.map(Into::into) }
}

#[test]
fn bad_annotations_are_left_out_or_named() {
    let some = [10.0, 10.0, 30.0, 30.0];
    // Left out, as the reference frameworks do: thin, without area, outside.
    for (bbox, area) in [
        ([5.0, 5.0, 0.5, 9.0], 4.0),
        (some, 0.0),
        ([200.0, 5.0, 9.0, 9.0], 81.0),
        ([-9.0, 5.0, 9.0, 9.0], 81.0),
    ] {
        let drawn = ObjectStore { more: vec![object(2, bbox, area, None)], ..ObjectStore::default() }.write();
        let store = drawn.open();
        let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: None }).unwrap();
        let id = store.find(Some("train"), "train-00", "base").unwrap().id;
        assert_eq!(truth.placed(id).unwrap().boxes.len(), 3, "{bbox:?}");
        assert_eq!(truth.left_out(), LeftOut { boxes: 1, masks: 0 });
    }
    // No usable mask: the box is learned.
    for text in ["[]", "[[1.0, 2.0, 3.0, 4.0]]", "[[1,2,3,4,5,6,7]]"] {
        let drawn =
            ObjectStore { more: vec![object(2, some, 900.0, Some(text))], ..ObjectStore::default() }.write();
        let store = drawn.open();
        let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: None }).unwrap();
        let id = store.find(Some("train"), "train-00", "base").unwrap().id;
        let found = truth.placed(id).unwrap();
        assert_eq!((found.boxes.len(), found.masks[3].is_some()), (4, false), "{text}");
        assert_eq!(truth.left_out(), LeftOut { boxes: 0, masks: 1 });
    }
    // Of two polygons one is usable.
    let text = "[[1, 2, 3, 4], [10, 10, 40, 10, 40, 40]]";
    let drawn =
        ObjectStore { more: vec![object(2, some, 900.0, Some(text))], ..ObjectStore::default() }.write();
    assert!(placed(&drawn.open(), "train-00", "base").unwrap().masks[3].as_ref().unwrap().area() > 300);
    // Named.
    for (label, expected) in [
        (object(77, some, 900.0, None), "category 77 is not among the store's 3"),
        (object(2, [f64::NAN, 1.0, 2.0, 3.0], 6.0, None), "box [NaN, 1.0, 2.0, 3.0] is not finite"),
        (
            object(2, some, 900.0, Some("{\"size\": [5, 5], \"counts\": [25]}")),
            "mask is 5x5, its picture is 83x97",
        ),
        (object(2, some, 900.0, Some("{\"size\": [83, 97], \"counts\": [25]}")), "25"),
        (object(2, some, 900.0, Some("\"circle\"")), "segmentation is no"),
    ] {
        let drawn = ObjectStore { more: vec![label], ..ObjectStore::default() }.write();
        let store = drawn.open();
        let text = placed(&store, "train-00", "base").unwrap_err().to_string();
        assert!(text.starts_with("annotation 703 of sample train-00: ") && text.contains(expected), "{text}");
        let error = run(&store, &recipe("mask_rcnn", "train.epochs = 1"), &drawn.folder("run")).unwrap_err();
        assert!(matches!(&error, Error::Object { .. }), "{error}");
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_part_and_pictures() {
    let drawn = ObjectStore { poisoned: Some("train-03"), ..ObjectStore::default() }.write();
    let store = drawn.open();
    let recipe = recipe("mask_rcnn", "train.epochs = 3\ntrain.checkpoint_every = 1");
    let folder = drawn.folder("run");
    let error = run(&store, &recipe, &folder).unwrap_err();
    let Error::NotFinite { what, step, rows } = &error else { panic!("{error}") };
    assert!(what.starts_with("loss loss_"), "{what}");
    assert!(rows.contains("train-03 "), "{rows}");
    match Checkpoint::read(&Checkpoint::latest(&folder)) {
        Ok(checkpoint) => assert_eq!(checkpoint.state.step, *step),
        Err(error) => assert!(*step == 0, "{error}"),
    }
}

#[test]
fn small_pictures_and_other_category_lists_are_refused() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    // Two of eight pictures are 75 pixels high, one of them empty.
    let wide = recipe("mask_rcnn", "train.steps = 1\ntrain.min_side = 80\ntrain.empty = \"drop\"");
    let summary = run(&store, &wide, &drawn.folder("wide")).unwrap();
    assert_eq!((summary.samples, summary.dropped_samples), (6, 2));
    let folder = drawn.folder("run");
    run(&store, &recipe("mask_rcnn", "train.steps = 1"), &folder).unwrap();
    let other = ObjectStore { category_ids: [2, 5, 11], ..ObjectStore::default() }.write();
    match score(&other.open(), &folder, "val").unwrap_err() {
        Error::RunMismatch { field, expected, found, .. } => {
            assert_eq!(
                (field, expected, found),
                ("category 2".into(), "9 \"tower\"".into(), "11 \"tower\"".into())
            );
        }
        error => panic!("{error}"),
    }
    let semantic = crate::drawn_store::DrawnStore::default().write();
    let text = run(&semantic.open(), &recipe("mask_rcnn", "train.steps = 1"), &semantic.folder("d"));
    assert_eq!(
        text.unwrap_err().to_string(),
        "no sample of split \"train\" has objects: a detector has nothing to learn"
    );
}

#[test]
fn recipes_of_detectors_are_complete() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut detectors = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let recipe = TrainRecipe::read(&path).unwrap();
        let again = TrainRecipe::parse(&recipe.to_toml().unwrap(), &path).unwrap();
        assert_eq!(recipe, again, "{}", path.display());
        detectors += usize::from(recipe.detector.is_some());
    }
    assert!(detectors >= 6, "{detectors}");
}

/// Training takes such annotations (their boxes are learned), so evaluation has to live with them.
#[test]
fn a_truth_without_usable_masks_is_scored_by_its_boxes() {
    let some = [10.0, 10.0, 30.0, 30.0];
    for (text, expected) in [
        (
            Some("[[1.0, 2.0, 3.0, 4.0]]"),
            "annotation 703 of image 7: segmentation part 0: polygon has 2 points",
        ),
        (Some("{\"size\": [5, 5], \"counts\": [25]}"), "annotation 703 of image 7: mask is 5x5"),
        (None, "annotation 703 of image 7: no segmentation"),
    ] {
        let whole = ObjectStore::default().write();
        let folder = whole.folder("run");
        let recipe = recipe("mask_rcnn", "train.steps = 1\ndetector.inference.score = 0.0");
        run(&whole.open(), &recipe, &folder).unwrap();
        let report = score(&whole.open(), &folder, "train").unwrap().report;
        assert!(report.masks.is_some() && report.masks_left_out.is_none());
        let drawn =
            ObjectStore { more: vec![object(2, some, 900.0, text)], ..ObjectStore::default() }.write();
        let scores = score(&drawn.open(), &folder, "train").unwrap();
        assert_eq!(scores.report.objects, report.objects + 1);
        assert!(scores.report.boxes.ap.is_some() && scores.report.masks.is_none());
        let reason = scores.report.masks_left_out.unwrap();
        assert!(reason.starts_with(expected), "{reason}");
        // What was found is not lost with the truth's mask.
        assert!(!scores.found.is_empty() && scores.found.iter().all(|one| one.mask.is_some()));
    }
}
