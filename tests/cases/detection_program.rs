//! The verbs of a detector as a script meets them, on drawn scenes and a weightless backbone: two heads on
//! one pass, scores with files and pictures, predictions, the truth that a store holds. What the numbers
//! mean is tested beside the code that makes them.

use featcache::scene::{SceneOptions, write_dataset};
use featcache_heads::metric::coco::{GroundTruth, results};
use featcache_heads::objects::{ObjectOptions, ObjectTruth};
use featcache_store::{OpenOptions, Store};
use featcache_tests::{done, run, text};
use serde_json::Value;
use std::path::Path;

#[track_caller]
fn json(args: &str) -> Value {
    serde_json::from_str(&done(&format!("--quiet --json {args}"))).unwrap()
}

/// Height and width of a PNG.
fn size(path: &Path) -> (u32, u32) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    (reader.info().height, reader.info().width)
}

/// A view's geometry is data: the truth of a half-size mirror image is the halved, mirrored truth, and a
/// detector trains on it among the others.
#[test]
fn objects_follow_a_view_of_another_scale() {
    let folder = tempfile::tempdir().unwrap();
    write_dataset(&folder.path().join("scenes"), &SceneOptions { train: 2, val: 1, ..Default::default() })
        .unwrap();
    let (root, path) = (folder.path().join("scenes/coco"), folder.path().join("store"));
    done(&format!(
        "--quiet extract coco --root {} --split train --backbone fake --resize none --views base,scale50-hflip \
         --out {}",
        root.display(),
        path.display()
    ));
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: None }).unwrap();
    let mut compared = 0;
    for row in store.rows().iter().filter(|row| &*row.view == "base") {
        let half = store.find(Some("train"), &row.key.0, "scale50-hflip").unwrap();
        let (whole, half) = (truth.placed(row.id).unwrap(), truth.placed(half.id).unwrap());
        let (large, small) = (whole.valid, half.valid);
        assert_eq!((small.height, small.width), (large.height.div_ceil(2), large.width.div_ceil(2)));
        let across = f64::from(small.width) / f64::from(large.width);
        let down = f64::from(small.height) / f64::from(large.height);
        assert_eq!(whole.classes, half.classes);
        for (a, b) in whole.boxes.iter().zip(&half.boxes) {
            let [x1, y1, x2, y2] = a.map(f64::from);
            let width = f64::from(small.width);
            let expected = [width - x2 * across, y1 * down, width - x1 * across, y2 * down];
            let far = expected.iter().zip(b).any(|(a, b)| (a - f64::from(*b)).abs() > 1e-3);
            assert!(!far, "{expected:?} {b:?}");
            compared += 1;
        }
        for (a, b) in whole.masks.iter().zip(&half.masks).filter_map(|(a, b)| a.as_ref().zip(b.as_ref())) {
            let (expected, found) = (a.area() as f64 * across * down, b.area() as f64);
            assert!((found / expected - 1.0).abs() < 0.25, "{expected} {found}");
        }
    }
    assert!(compared > 4);
}

#[test]
fn detectors_through_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write_dataset(&folder.path().join("scenes"), &SceneOptions { train: 4, val: 2, ..Default::default() })
        .unwrap();
    let (root, store) = (at("scenes/coco"), at("store"));
    done(&format!(
        "--quiet extract coco --root {root} --split train,val --backbone fake --resize none \
         --views base,hflip,scale50 --out {store}"
    ));
    let small = "[head]\nkind = \"detector\"\n[detector.neck]\nchannels = 16\noutputs = 4\n[detector.rpn]\n\
                 channels = 16\ntrain = { per_level = 50, keep = 40 }\ntest = { per_level = 50, keep = 40 }\n\
                 [detector.head]\nsamples = 16\n[detector.head.box]\nfc_channels = 16\n[detector.head.mask]\n\
                 convs = 1\nchannels = 16\n[detector.inference]\nscore = 0.0\n[train]\nsteps = 2\nbatch = 2\n";
    std::fs::write(at("a.toml"), small).unwrap();
    std::fs::write(at("b.toml"), small.replace("fc_channels = 16", "fc_channels = 24")).unwrap();

    // Two heads on one pass; the same command finds nothing left to do.
    let train = format!(
        "train {store} --split train --recipe {} --out {} --recipe {} --out {}",
        at("a.toml"),
        at("run-a"),
        at("b.toml"),
        at("run-b")
    );
    let both = json(&train);
    assert_eq!(both.as_array().unwrap().len(), 2);
    for (again, resumed) in [(both, 0), (json(&train), 2)] {
        for one in again.as_array().unwrap() {
            assert_eq!((&one["step"], &one["resumed_at"]), (&2.into(), &resumed.into()));
            assert_eq!(one["backbone_parameters"], 0);
        }
    }
    let missing =
        run(&format!("train {store} --recipe {} --recipe {} --out {}", at("a.toml"), at("b.toml"), at("x")));
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));

    // Scores, with results that read back and a report.
    let scored = json(&format!(
        "eval {} {store} --split val --results {} --report {} --root {root}",
        at("run-a"),
        at("found.json"),
        at("report")
    ));
    assert_eq!((&scored["scores"]["samples"], &scored["scores"]["step"]), (&2.into(), &2.into()));
    assert!(scored["scores"]["boxes"]["ap"].as_f64().is_some_and(|ap| (0.0..=1.0).contains(&ap)), "{scored}");
    assert!(scored["scores"]["detections"].as_u64().unwrap() > 0, "{scored}");
    assert_eq!(scored["scores"]["box_categories"].as_array().unwrap().len(), 8);
    let written: Vec<&str> =
        scored["written"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(written.len(), 5, "{written:?}");
    assert!(written.iter().all(|path| Path::new(path).is_file()));
    // Other views are scored in the coordinates of the same pictures.
    let half = json(&format!("eval {} {store} --split val --view scale50", at("run-a")));
    assert_eq!(half["scores"]["objects"], scored["scores"]["objects"]);
    assert_ne!(half["scores"]["read_bytes"], scored["scores"]["read_bytes"]);
    let unknown = run(&format!("eval {} {store} --split val --view scale49", at("run-a")));
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
    let truth = GroundTruth::read(Path::new(&at("scenes/coco/annotations/instances_val.json"))).unwrap();
    for kind in ["bbox", "segm"] {
        let read = results::read(Path::new(&at(&format!("found.{kind}.json"))), &truth).unwrap();
        assert_eq!(scored["scores"]["detections"], read.len());
    }

    // Predictions on the pictures themselves.
    let picture = at("scenes/coco/val/000000000005.jpg");
    let predicted =
        json(&format!("predict {} {picture} --out {} --score 0.01", at("run-a"), at("predicted")));
    let overlay = predicted[0]["overlay"].as_str().unwrap();
    let instances: Value =
        serde_json::from_slice(&std::fs::read(at("predicted/predictions.json")).unwrap()).unwrap();
    let image = &instances["images"][0];
    assert_eq!(image["id"], 5);
    assert_eq!(
        size(Path::new(overlay)),
        (image["height"].as_u64().unwrap() as u32, image["width"].as_u64().unwrap() as u32)
    );
    let shown = predicted[0]["objects"].as_array().unwrap().len();
    let annotations = instances["annotations"].as_array().unwrap();
    let mut scores: Vec<f64> = annotations.iter().map(|one| one["score"].as_f64().unwrap()).collect();
    assert!(shown > 0 && shown == scores.iter().filter(|&&score| score >= 0.01).count());
    // Only what reaches the score is shown, and the results hold all the same.
    scores.sort_by(f64::total_cmp);
    let bar = scores[scores.len() / 2];
    let fewer = json(&format!("predict {} {picture} --out {} --score {bar}", at("run-a"), at("predicted")));
    let shown = fewer[0]["objects"].as_array().unwrap().len();
    let of_score = scores.iter().filter(|&&score| score >= bar).count();
    assert!(shown == of_score && shown < scores.len(), "{shown} of {of_score} shown");
    assert!(instances["annotations"].as_array().unwrap().iter().all(|one| one["image_id"] == 5));
    assert_eq!(instances["categories"].as_array().unwrap().len(), 8);

    // `5.jpg` and `05.jpg` are named with one number and are two pictures.
    let [one, other] = ["5.jpg", "05.jpg"].map(at);
    std::fs::copy(&picture, &one).unwrap();
    std::fs::copy(&picture, &other).unwrap();
    json(&format!("predict {} {one} {other} --out {}", at("run-a"), at("both")));
    let both: Value = serde_json::from_slice(&std::fs::read(at("both/predictions.json")).unwrap()).unwrap();
    assert_eq!([0, 1].map(|number| &both["images"][number]["id"]), [1, 2]);

    // The truth that the store holds, on its pictures and without them.
    for root in [format!(" --root {root}"), String::new()] {
        let sample = json(&format!(
            "inspect {store} --sample 000000000005 --truth {}{root} --pca-samples 2",
            at("truth")
        ));
        let pictures = sample["pictures"].as_array().unwrap();
        assert_eq!(pictures.len(), 3, "one a view");
        let [base, hflip] = [0, 1].map(|i| std::fs::read(pictures[i].as_str().unwrap()).unwrap());
        assert_ne!(base, hflip);
    }
    // A semantic head has none of this.
    let linear = format!("train {store} --split train --recipe {} --out {}", at("linear.toml"), at("linear"));
    std::fs::write(at("linear.toml"), "[head]\nkind = \"linear\"\n[train]\nsteps = 1\nbatch = 1\n").unwrap();
    let refused = run(&linear);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("is labelled with objects; this head needs label maps"));
}
