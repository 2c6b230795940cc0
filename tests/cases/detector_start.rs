//! Detectors that start from the weights of others: what is taken is reported, a resumed run asks for the same
//! file, and what does not fit is refused before anything is trained.

use crate::drawn_tensor::{draw, filled};
use crate::object_store::{CATEGORIES, ObjectStore, recipe};
use featcache_heads::checkpoint::Checkpoint;
use featcache_heads::detector::{Detector, Naming, WeightReport};
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::train::{TrainJob, TrainSettings, TrainSummary, train_together};
use featcache_heads::{Error, Precision, Result};
use featcache_store::Store;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Writes tensors of these names and shapes.
fn write(path: PathBuf, tensors: &[(&str, Tensor)]) -> PathBuf {
    Tensor::write_safetensors(tensors, &path).unwrap();
    path
}

fn start(store: &Store, recipe: &TrainRecipe, folder: &Path, weights: Option<&Path>) -> Result<TrainSummary> {
    let job = TrainJob { recipe, folder, weights, version: None };
    train_together(store, &[job], &TrainSettings::default()).map(|mut summaries| summaries.remove(0))
}

#[test]
fn a_run_starts_from_the_weights_it_is_given_and_goes_on_with_them() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    // A rate that moves nothing, so that the checkpoint shows what was loaded.
    let still =
        "train.steps = 2\ntrain.checkpoint_every = 1\noptimizer.lr = 1e-30\noptimizer.weight_decay = 0.0";
    let recipe = recipe("mask_rcnn", still);
    let levels = store.recipe().levels.clone();
    let given =
        Detector::new(&recipe.detector(), Precision::Fp32, levels, CATEGORIES.len(), 9, Device::Cpu).unwrap();
    let values: Vec<(String, Tensor)> = given
        .parameters()
        .entries()
        .iter()
        .map(|entry| (entry.name.clone(), filled(&entry.name, &entry.tensor.size())))
        .collect();
    let named: Vec<(&str, Tensor)> =
        values.iter().map(|(name, t)| (name.as_str(), t.shallow_clone())).collect();
    let file = write(drawn.folder("weights.safetensors"), &named);
    let folder = drawn.folder("run");
    let summary = start(&store, &recipe, &folder, Some(&file)).unwrap();
    let report = summary.weights.unwrap();
    assert_eq!((report.naming, report.matched.len()), (Naming::Mmdet, values.len()));
    assert!(report.is_complete() && report.extra.is_empty(), "{report}");
    let model = Checkpoint::read(&Checkpoint::latest(&folder)).unwrap().model;
    for (name, value) in &values {
        assert!(model[name].allclose(value, 1e-6, 1e-9, false), "{name}");
    }

    // The same file again has nothing to do; without it, or with another, it is not that run.
    let again = start(&store, &recipe, &folder, Some(&file)).unwrap();
    assert_eq!((again.resumed_at, again.weights), (2, None));
    let other = write(drawn.folder("other.safetensors"), &named[1..]);
    for weights in [None, Some(other.as_path())] {
        match start(&store, &recipe, &folder, weights).unwrap_err() {
            Error::RunMismatch { field, .. } => assert_eq!(field, "weights of the start"),
            error => panic!("{error}"),
        }
    }
    let summary = start(&store, &recipe, &drawn.folder("part"), Some(&other)).unwrap();
    assert_eq!(summary.weights.unwrap().missing, [values[0].0.clone()]);
}

#[test]
fn weights_that_fit_nothing_are_refused_before_training() {
    let drawn = ObjectStore::default().write();
    let store = drawn.open();
    let recipe = recipe("mask_rcnn", "train.steps = 1");
    let folder = drawn.folder("run");
    let refused = |recipe: &TrainRecipe, file: &Path| {
        start(&store, recipe, &folder, Some(file)).unwrap_err().to_string()
    };
    let wide = write(
        drawn.folder("wide.safetensors"),
        &[("rpn_head.rpn_cls.weight", draw("wide", &[3, 999, 1, 1], 0.0, 1.0))],
    );
    let text = refused(&recipe, &wide);
    assert!(text.contains("wide.safetensors: mmdetection: 0 tensors matched"), "{text}");
    assert!(text.contains("other shape: rpn_head.rpn_cls.weight is [3, 999, 1, 1]"), "{text}");
    assert!(!Checkpoint::latest(&folder).exists());
    let linear = "[head]\nkind = \"linear\"\n[train]\nsteps = 1\nbatch = 2\n";
    let linear = TrainRecipe::parse(linear, Path::new("linear")).unwrap();
    assert!(refused(&linear, &wide).contains("label"), "objects are no labels of a semantic head");
}

/// Rows of classes as torchvision's COCO weights have them: by category id, the background first.
#[test]
fn classes_are_taken_by_the_ids_of_categories() {
    let drawn = ObjectStore::default().write();
    let recipe = recipe("torchvision", "train.steps = 1").detector();
    let levels = drawn.open().recipe().levels.clone();
    let (cls, bias) = ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.cls_score.bias");
    let load = |tensors: &[(&str, Tensor)], ids: &[i64]| -> (WeightReport, Tensor) {
        let detector =
            Detector::new(&recipe, Precision::Fp32, levels.clone(), ids.len(), 0, Device::Cpu).unwrap();
        let path = write(drawn.folder("weights.safetensors"), tensors);
        let report = detector.load_weights_by_id(&path, ids).unwrap();
        let mut entries = detector.parameters().entries().iter();
        let entry = entries.find(|entry| entry.name == "roi_head.bbox_head.fc_cls.weight").unwrap();
        (report, entry.tensor.detach().copy())
    };
    let rows = |rows: i64| {
        let value = draw("rows", &[rows, 64], -1.0, 1.0);
        [(cls, value.shallow_clone()), (bias, draw("bias", &[rows], -1.0, 1.0))]
    };
    let chosen = |value: &Tensor, rows: &[i64]| value.index_select(0, &Tensor::from_slice(rows));
    let eleven = rows(11);
    let (report, found) = load(&eleven, &[2, 5, 9]);
    assert_eq!(report.matched.len(), 2, "{report}");
    assert!(found.equal(&chosen(&eleven[0].1, &[2, 5, 9, 0])));
    // As many classes as categories are the categories, whatever their ids.
    let four = rows(4);
    assert!(load(&four, &[2, 5, 9]).1.equal(&chosen(&four[0].1, &[1, 2, 3, 0])));
    // An id that the file does not have: nothing of its classes is taken, other tensors are.
    let mut more = Vec::from(rows(11));
    more.push(("rpn.head.cls_logits.bias", draw("anchors", &[3], -1.0, 1.0)));
    let (report, _) = load(&more, &[2, 5, 77]);
    assert_eq!((report.matched.len(), report.misshaped.len()), (1, 2), "{report}");
    // No rows at all, or no axis of rows, are another shape and no error.
    for odd in [Tensor::from(1f32), Tensor::zeros([0, 64], (Kind::Float, Device::Cpu))] {
        let tensors = [(cls, odd), ("rpn.head.cls_logits.bias", draw("anchors", &[3], -1.0, 1.0))];
        let (report, _) = load(&tensors, &[2, 5, 9]);
        assert_eq!((report.matched.len(), report.misshaped.len()), (1, 1), "{report}");
    }
}
