//! The verbs of a detector as a script meets them, on drawn scenes and a weightless backbone: two heads on
//! one pass, scores with files and pictures, predictions, the truth that a store holds. What the numbers
//! mean is tested beside the code that makes them.

use featcache::scene::{SceneOptions, write_dataset};
use featcache_heads::metric::coco::{GroundTruth, results};
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

#[test]
fn detectors_through_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write_dataset(&folder.path().join("scenes"), &SceneOptions { train: 4, val: 2, ..Default::default() })
        .unwrap();
    let (root, store) = (at("scenes/coco"), at("store"));
    done(&format!(
        "--quiet extract coco --root {root} --split train,val --backbone fake --resize none --views base,hflip \
         --out {store}"
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
    assert_eq!(scored["scores"]["box_categories"].as_array().unwrap().len(), 8);
    let written: Vec<&str> =
        scored["written"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(written.len(), 5, "{written:?}");
    assert!(written.iter().all(|path| Path::new(path).is_file()));
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
    assert!(instances["annotations"].as_array().unwrap().len() >= shown);
    assert!(instances["annotations"].as_array().unwrap().iter().all(|one| one["image_id"] == 5));
    assert_eq!(instances["categories"].as_array().unwrap().len(), 8);

    // The truth that the store holds, on its pictures and without them.
    for root in [format!(" --root {root}"), String::new()] {
        let sample = json(&format!(
            "inspect {store} --sample 000000000005 --truth {}{root} --pca-samples 2",
            at("truth")
        ));
        let pictures = sample["pictures"].as_array().unwrap();
        assert_eq!(pictures.len(), 2, "one a view");
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
