//! Detectors: recipes and presets, parity with torchvision and with an independent reference of cascade,
//! HTC and BiFPN, weights of others, bad input.

use crate::drawn_tensor::{draw, filled};
use featcache_heads::detector::{Detector, Naming};
use featcache_heads::labels::{IGNORE, Target};
use featcache_heads::losses::Losses;
use featcache_heads::mask::Rle;
use featcache_heads::neck::Neck;
use featcache_heads::objects::Objects;
use featcache_heads::parameter::{Parameters, Role};
use featcache_heads::recipe::detector::{
    DetectorKind, DetectorRecipe, NeckKind, Preset, SemanticOptions, SoftNms, SoftNmsKind,
};
use featcache_heads::seed::Seed;
use featcache_heads::{Phase, Precision};
use featcache_store::{LevelSpec, Size};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const CLASSES: usize = 5;
const STUFF: u32 = 7;
const PADDED: (u32, u32) = (128, 160);
const VALID: [(u32, u32); 3] = [(120, 150), (128, 97), (101, 160)];
const LEVELS: [(&str, u32, u32); 4] = [("p2", 8, 4), ("p3", 12, 8), ("p4", 16, 16), ("p5", 24, 32)];
const OBJECTS: [&[([f32; 4], usize)]; 3] = [
    &[([10.5, 8.25, 60.0, 70.5], 0), ([50.0, 40.0, 148.0, 118.0], 3), ([100.25, 5.5, 117.75, 21.0], 4)],
    &[([5.0, 60.0, 90.0, 125.0], 1), ([30.0, 3.0, 49.5, 28.0], 3)],
    &[],
];
const PRESETS: [Preset; 6] = [
    Preset::MaskRcnn,
    Preset::Cascade,
    Preset::CascadeGiou,
    Preset::Htc,
    Preset::Torchvision,
    Preset::TorchvisionV2,
];

fn goldens() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/detector.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn levels() -> Vec<LevelSpec> {
    let spec = |&(name, channels, stride): &(&str, u32, u32)| LevelSpec {
        name: name.into(),
        stride,
        channels,
        tap: "stage0".into(),
        norm: "none".into(),
    };
    LEVELS.iter().map(spec).collect()
}

/// The goldens' maps in channels_last memory, as the loader hands them out.
fn maps() -> Vec<Tensor> {
    let map = |&(name, channels, stride): &(&str, u32, u32)| {
        let side = |pixels: u32| i64::from(pixels / stride);
        let shape = [VALID.len() as i64, i64::from(channels), side(PADDED.0), side(PADDED.1)];
        let map = draw(&format!("map.{name}"), &shape, -2.0, 2.0);
        map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).set_requires_grad(true)
    };
    LEVELS.iter().map(map).collect()
}

fn padded() -> Size {
    Size::new(PADDED.0, PADDED.1)
}

fn valid() -> Vec<Size> {
    VALID.iter().map(|&(height, width)| Size::new(height, width)).collect()
}

fn ellipse([x1, y1, x2, y2]: [f32; 4]) -> Rle {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(f64::from);
    let (cx, cy, rx, ry) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0, (x2 - x1) / 2.0, (y2 - y1) / 2.0);
    let mut bitmap = Vec::new();
    for y in 0..PADDED.0 {
        for x in 0..PADDED.1 {
            let (dx, dy) = ((f64::from(x) + 0.5 - cx) / rx, (f64::from(y) + 0.5 - cy) / ry);
            bitmap.push(u8::from(dx * dx + dy * dy <= 1.0));
        }
    }
    Rle::from_bitmap(padded(), &bitmap).unwrap()
}

/// The script's `stuff_map`.
fn stuff(picture: usize) -> Target {
    let (height, width) = VALID[picture];
    let mut classes = Vec::new();
    for y in 0..PADDED.0 {
        for x in 0..PADDED.1 {
            let class = (x / 9 + 2 * (y / 11) + picture as u32) % (STUFF + 1);
            let known = class < STUFF && y < height && x < width;
            classes.push(if known { class as i16 } else { IGNORE });
        }
    }
    Target { size: padded(), classes }
}

fn objects() -> Vec<Objects> {
    let picture = |(picture, objects): (usize, &&[([f32; 4], usize)])| Objects {
        valid: valid()[picture],
        boxes: objects.iter().map(|object| object.0).collect(),
        classes: objects.iter().map(|object| object.1).collect(),
        masks: objects.iter().map(|object| Some(ellipse(object.0))).collect(),
        crowd: Vec::new(),
        semantic: Some(stuff(picture)),
    };
    OBJECTS.iter().enumerate().map(picture).collect()
}

/// A preset in the goldens' sizes, with samplers that take all.
fn small(preset: Preset) -> DetectorRecipe {
    let mut recipe = DetectorRecipe::preset(preset);
    recipe.level_norm = !matches!(preset, Preset::MaskRcnn | Preset::Torchvision | Preset::TorchvisionV2);
    recipe.neck.channels = 16;
    recipe.rpn.channels = 16;
    recipe.rpn.samples = 20000;
    recipe.rpn.train.per_level = 200;
    recipe.rpn.train.keep = if preset == Preset::MaskRcnn { 200 } else { 300 };
    recipe.rpn.test.per_level = 100;
    recipe.rpn.test.keep = 150;
    recipe.head.samples = 4000;
    recipe.head.positive_fraction = 0.5;
    recipe.head.boxes.conv_channels = 16;
    recipe.head.boxes.fc_channels = 32;
    recipe.head.masks.channels = 16;
    recipe.inference.score = 0.05;
    if preset == Preset::Htc {
        recipe.neck.kind = NeckKind::BiFpn;
        recipe.head.semantic = Some(SemanticOptions { classes: STUFF, ..SemanticOptions::default() });
    }
    recipe
}

fn detector(recipe: &DetectorRecipe, precision: Precision) -> Detector {
    let detector = Detector::new(recipe, precision, levels(), CLASSES, 0, Device::Cpu).unwrap();
    let values = detector.parameters().entries().iter();
    let values = values.map(|entry| (entry.name.clone(), filled(&entry.name, &entry.tensor.size())));
    detector.parameters().load(values.collect()).unwrap();
    detector
}

fn losses(detector: &Detector, maps: &[Tensor], objects: &[Objects]) -> Losses {
    let pictures: Vec<&Objects> = objects.iter().collect();
    detector.losses(maps, &pictures, Phase::Train(Seed(3))).unwrap()
}

fn gradients(detector: &Detector, maps: &[Tensor], losses: &Losses) -> Vec<Tensor> {
    let tunable = detector.parameters().tunable().map(|entry| &entry.tensor);
    let inputs: Vec<&Tensor> = maps.iter().chain(tunable).collect();
    Tensor::run_backward(&[losses.total().unwrap()], &inputs, false, false)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Norm and projection of a tensor against the golden's, as a share of the norm; of small ones as a
/// share of `scale`.
fn off(name: &str, tensor: &Tensor, golden: &Value, scale: f64) -> f64 {
    let tensor = tensor.to_kind(Kind::Double);
    let direction = draw(&format!("direction.{name}"), &tensor.size(), -1.0, 1.0).to_kind(Kind::Double);
    let (norm, projection) = (number(&golden[0]), number(&golden[1]));
    let found = tensor.norm().double_value(&[]);
    let along = (tensor * direction).sum(Kind::Double).double_value(&[]);
    (found - norm).abs().max((along - projection).abs()) / norm.max(scale)
}

/// Bound of the issue, relative.
const TOLERANCE: f64 = 1e-4;

/// Bounds of gradients, on maps and on parameters. Behind norms they are differences of nearly equal
/// numbers: torch's own, in binary32, differ by 6e-4 (batch) and 1.5e-4 (group, parameters alone) between
/// its two memory layouts on these inputs.
fn gradient_bounds(case: &str) -> (f64, f64) {
    match case {
        "torchvision_v2" => (3e-3, 3e-3),
        "cascade_giou" | "htc" => (TOLERANCE, 5e-4),
        _ => (TOLERANCE, TOLERANCE),
    }
}

/// `theirs` are the reference's names of the detector's tensors, where they have the same rows.
fn parity(case: &str, detector: &Detector, theirs: &BTreeMap<String, String>) {
    let golden = &goldens()[case];
    let maps = maps();
    let found = detector.detect(&maps, &valid()).unwrap();
    for (picture, (found, expected)) in found.iter().zip(golden["detections"].as_array().unwrap()).enumerate()
    {
        let expected_scores = expected["scores"].as_array().unwrap();
        assert_eq!(found.scores.len(), expected_scores.len(), "{case} picture {picture}");
        assert_eq!(found.mask_side, 28);
        assert!(found.scores.is_sorted_by(|a, b| a >= b));
        // Ties may come in another order: each expected detection is found once.
        let mut free = vec![true; found.scores.len()];
        for (i, score) in expected_scores.iter().enumerate() {
            let same = |j: usize| {
                let near = |a: f32, b: &Value, bound: f64| (f64::from(a) - number(b)).abs() < bound;
                let mean = found.masks[j].iter().map(|&p| f64::from(p)).sum::<f64>() / 784.0;
                near(found.scores[j], score, TOLERANCE)
                    && found.classes[j] as u64 == expected["labels"][i].as_u64().unwrap()
                    && (0..4).all(|k| near(found.boxes[j][k], &expected["boxes"][i][k], 1e-2))
                    && (mean - number(&expected["masks"][i])).abs() < TOLERANCE
            };
            let j = (0..free.len()).find(|&j| free[j] && same(j));
            let j = j.unwrap_or_else(|| panic!("{case} picture {picture}: detection {i} is missing"));
            free[j] = false;
        }
    }

    let pyramid = detector.pyramid(&maps, Phase::Train(Seed(3))).unwrap();
    for (i, (map, golden)) in pyramid.iter().zip(golden["pyramid"].as_array().unwrap()).enumerate() {
        let off = off(&format!("pyramid.{i}"), map, golden, 0.0);
        assert!(off < TOLERANCE, "{case} pyramid {i}: {off}");
    }

    let losses = losses(detector, &maps, &objects());
    let expected = golden["losses"].as_object().unwrap();
    assert_eq!(losses.parts.len(), expected.len());
    for (name, value) in &losses.parts {
        let (found, expected) = (value.double_value(&[]), number(&expected[name]));
        let off = (found - expected).abs() / expected;
        assert!(off < TOLERANCE, "{case} {name}: {found}, expected {expected}");
    }

    let gradients = gradients(detector, &maps, &losses);
    let (of_maps, of_parameters) = gradients.split_at(maps.len());
    for (i, (gradient, golden)) in of_maps.iter().zip(golden["map_gradients"].as_array().unwrap()).enumerate()
    {
        let off = off(&format!("map_gradient.{i}"), gradient, golden, 0.0);
        assert!(off < gradient_bounds(case).0, "{case} gradient of map {i}: {off}");
    }
    let largest = golden["gradients"].as_object().unwrap().values();
    let largest = largest.map(|pair| number(&pair[0])).fold(0.0, f64::max);
    let mut compared = 0;
    for (entry, gradient) in detector.parameters().tunable().zip(of_parameters) {
        let Some(name) = theirs.get(&entry.name) else { continue };
        // Gradients that vanish by construction are compared with the others.
        let off = off(name, gradient, &golden["gradients"][name], 1e-3 * largest);
        assert!(off < gradient_bounds(case).1, "{case} gradient of {name}: {off}");
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}

fn mmdet_parity(case: &str, preset: Preset) {
    let detector = detector(&small(preset), Precision::Fp32);
    let golden = &goldens()[case];
    let entries = detector.parameters().entries();
    let shape = |shape: Vec<i64>| Value::from(shape);
    let ours: BTreeMap<_, _> =
        entries.iter().map(|entry| (entry.name.clone(), shape(entry.tensor.size()))).collect();
    let theirs: BTreeMap<_, _> = golden["names"].as_object().unwrap().clone().into_iter().collect();
    assert_eq!(ours, theirs);
    let same = entries.iter().map(|entry| (entry.name.clone(), entry.name.clone())).collect();
    parity(case, &detector, &same);
}

/// A state dict with the golden's names and shapes, in a file.
fn state_dict(case: &str, folder: &Path, more: &[(&str, Tensor)]) -> std::path::PathBuf {
    let path = folder.join(format!("{case}.safetensors"));
    let names = goldens()[case]["names"].clone();
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, shape) in names.as_object().unwrap() {
        let shape: Vec<i64> = shape.as_array().unwrap().iter().map(|side| side.as_i64().unwrap()).collect();
        tensors.push((name.clone(), filled(name, &shape)));
    }
    tensors.extend(more.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone())));
    Tensor::write_safetensors(&tensors, &path).unwrap();
    path
}

fn torchvision_parity(case: &str, preset: Preset) {
    let folder = tempfile::tempdir().unwrap();
    let extra = [
        ("backbone.body.conv1.weight", Tensor::zeros([2], (Kind::Float, Device::Cpu))),
        ("backbone.fpn.inner_blocks.0.1.num_batches_tracked", Tensor::from(3i64)),
    ];
    let path = state_dict(case, folder.path(), &extra);
    let detector = Detector::new(&small(preset), Precision::Fp32, levels(), CLASSES, 0, Device::Cpu).unwrap();
    let report = detector.load_weights(&path, None).unwrap();
    assert_eq!(report.naming, Naming::Torchvision);
    assert!(report.is_complete(), "{report}");
    assert!(report.extra.is_empty(), "{report}");
    assert_eq!(report.ignored, extra.map(|(name, _)| name.to_owned()));
    assert_eq!(report.matched.len(), detector.parameters().entries().len());
    let by_class = |name: &str| ["fc_cls", "fc_reg", "conv_logits"].iter().any(|part| name.contains(part));
    let same = report.matched.into_iter().filter(|(ours, _)| !by_class(ours)).collect();
    parity(case, &detector, &same);
}

#[test]
fn torchvision_mask_rcnn_is_reproduced() {
    torchvision_parity("torchvision", Preset::Torchvision);
}

#[test]
fn torchvision_mask_rcnn_v2_is_reproduced() {
    torchvision_parity("torchvision_v2", Preset::TorchvisionV2);
}

#[test]
fn mask_rcnn_equals_its_reference() {
    mmdet_parity("mask_rcnn", Preset::MaskRcnn);
}

#[test]
fn cascade_equals_its_reference() {
    mmdet_parity("cascade", Preset::Cascade);
}

#[test]
fn cascade_with_giou_equals_its_reference() {
    mmdet_parity("cascade_giou", Preset::CascadeGiou);
}

#[test]
fn htc_on_bifpn_equals_its_reference() {
    mmdet_parity("htc", Preset::Htc);
}

#[test]
fn presets_read_back_as_they_were_written() {
    for preset in PRESETS {
        let recipe = DetectorRecipe::preset(preset);
        recipe.check().unwrap();
        assert_eq!(recipe.preset, preset);
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<DetectorRecipe>(&text).unwrap(), recipe, "{text}");
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<DetectorRecipe>(&json).unwrap(), recipe);
    }
}

#[test]
fn keys_override_their_preset() {
    let text = "[neck]\nkind = \"bifpn\"\nrepeats = 3\n[head]\nkind = \"htc\"\n[head.semantic]\nclasses = 20\n[inference.soft_nms]\n";
    let recipe: DetectorRecipe = toml::from_str(text).unwrap();
    assert_eq!(recipe.preset, Preset::Htc);
    assert_eq!((recipe.neck.kind, recipe.neck.repeats, recipe.neck.channels), (NeckKind::BiFpn, 3, 256));
    assert_eq!((recipe.head.kind, recipe.head.stages.len()), (DetectorKind::Htc, 3));
    assert_eq!(recipe.semantic_classes(), Some(20));
    assert!(recipe.inference.soft_nms.is_some());
    assert!((recipe.inference.score - 0.001).abs() < 1e-12);
    recipe.check().unwrap();
    for (text, expected) in [
        ("[neck]\nwidth = 3\n", "width"),
        ("preset = \"retina\"\n", "retina"),
        ("[head]\nkind = \"yolo\"\n", "yolo"),
        ("[neck]\nchannels = -1\n", "-1"),
    ] {
        let error = toml::from_str::<DetectorRecipe>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (text, expected) in [
        ("[neck]\nchannels = 0\n", "neck.channels is 0, expected at least 1"),
        ("[head]\nstages = []\n", "head.stages is 0"),
        ("[rpn]\nnms = 1.5\n", "rpn.nms is 1.5"),
        ("[rpn.loss]\nkind = \"giou\"\n", "rpn.loss.kind"),
        ("[head.semantic]\n", "head.semantic is given"),
    ] {
        let recipe: DetectorRecipe = toml::from_str(text).unwrap();
        let error = recipe.check().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Finite losses, and a gradient for every parameter.
fn sound(detector: &Detector, maps: &[Tensor], objects: &[Objects], what: &str) -> Losses {
    let losses = losses(detector, maps, objects);
    for (name, value) in &losses.parts {
        assert!(value.double_value(&[]).is_finite(), "{what}: {name}");
    }
    let gradients = gradients(detector, maps, &losses);
    assert!(gradients.iter().all(|gradient| gradient.defined()), "{what}");
    assert!(gradients.iter().all(|gradient| gradient.isfinite().all().int64_value(&[]) == 1), "{what}");
    losses
}

#[test]
fn odd_truth_is_learned_without_a_stumble() {
    for preset in [Preset::MaskRcnn, Preset::Cascade, Preset::CascadeGiou, Preset::Htc, Preset::Torchvision] {
        let mut recipe = small(preset);
        recipe.head.samples = 8;
        recipe.rpn.samples = 8;
        let detector = detector(&recipe, Precision::Fp32);
        let maps = maps();
        sound(&detector, &maps, &objects(), "more boxes than samples");

        let mut none = objects();
        for objects in &mut none {
            (objects.boxes, objects.classes, objects.masks) = (Vec::new(), Vec::new(), Vec::new());
            objects.semantic = None;
        }
        let losses = sound(&detector, &maps, &none, "no objects");
        for (name, value) in &losses.parts {
            let nothing = ["bbox", "mask", "semantic"].iter().any(|part| name.contains(part));
            assert_eq!(value.double_value(&[]) == 0.0, nothing, "{name}");
        }

        let mut odd = objects();
        odd[0].masks.fill(None);
        odd[1].boxes[0] = [90.0, 60.0, 5.0, 125.0];
        odd[1].boxes[1] = [f32::NAN, 3.0, 49.5, 28.0];
        odd[2].boxes.push([20.0, 20.0, 20.0, 60.0]);
        odd[2].classes.push(2);
        odd[2].masks.push(Some(ellipse([20.0, 20.0, 40.0, 60.0])));
        odd[2].crowd.push([0.0, 0.0, 100.0, 100.0]);
        sound(&detector, &maps, &odd, "degenerate boxes");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let detector = detector(&small(Preset::MaskRcnn), Precision::Fp32);
    let maps = maps();
    let refuse = |objects: &[Objects], expected: &str| {
        let pictures: Vec<&Objects> = objects.iter().collect();
        let error = detector.losses(&maps, &pictures, Phase::Eval).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let mut odd = objects();
    odd[1].classes[0] = CLASSES;
    refuse(&odd, "picture 1 of the batch has class 5, expected below 5");
    let mut odd = objects();
    odd[0].masks.pop();
    refuse(&odd, "picture 0 of the batch has 3 boxes, 3 classes and 2 masks");
    refuse(&objects()[..2], "maps of 3 pictures");
    let error = detector.detect(&maps[..3], &valid()).unwrap_err().to_string();
    assert!(error.contains("3 maps, expected one for each of p2, p3, p4, p5"), "{error}");
    let mut coarse_first = levels();
    coarse_first.reverse();
    let recipe = small(Preset::MaskRcnn);
    let error = Detector::new(&recipe, Precision::Fp32, coarse_first, CLASSES, 0, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("finest first"), "{error}");
}

#[test]
fn numbers_that_are_none_show_in_the_losses_and_stop_detection() {
    for preset in [Preset::MaskRcnn, Preset::Cascade, Preset::Htc, Preset::Torchvision] {
        let detector = self::detector(&small(preset), Precision::Fp32);
        let spoiled: Vec<Tensor> = maps().iter().map(|map| map * f64::NAN).collect();
        let losses = losses(&detector, &spoiled, &objects());
        let (name, value) = &losses.parts[0];
        assert!(name == "loss_rpn_cls" && value.double_value(&[]).is_nan());
        let error = detector.detect(&spoiled, &valid()).unwrap_err().to_string();
        assert!(error.contains("objectness of picture 0 of the batch is not a number"), "{error}");
    }
    // A stage's deltas, which the boxes of the next come from.
    let cascade = self::detector(&small(Preset::Cascade), Precision::Fp32);
    let mut entries = cascade.parameters().entries().iter();
    let bias = entries.find(|entry| entry.name == "roi_head.bbox_head.1.fc_reg.bias").unwrap();
    let _ = tch::no_grad(|| bias.tensor.shallow_clone().fill_(f64::NAN));
    let error = cascade.detect(&maps(), &valid()).unwrap_err().to_string();
    assert!(error.contains("box deltas of stage 1 are not numbers"), "{error}");
    // Only the box head's: proposals are sound.
    let detector = detector(&small(Preset::MaskRcnn), Precision::Fp32);
    let _guard = tch::no_grad_guard();
    for (layer, expected) in
        [("fc_reg", "box deltas"), ("fc_cls", "class scores"), ("conv_logits", "mask prob")]
    {
        let mut entries = detector.parameters().entries().iter();
        let bias = entries.find(|entry| entry.name.contains(layer) && entry.name.ends_with("bias")).unwrap();
        let kept = bias.tensor.copy();
        let _ = bias.tensor.shallow_clone().fill_(f64::NAN);
        let error = detector.detect(&maps(), &valid()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        bias.tensor.shallow_clone().copy_(&kept);
    }
}

#[test]
fn a_repeated_step_has_the_same_gradients_to_the_last_bit() {
    for preset in [Preset::MaskRcnn, Preset::Htc] {
        let mut recipe = small(preset);
        recipe.head.samples = 32;
        recipe.rpn.samples = 64;
        let detector = detector(&recipe, Precision::Fp32);
        let step = |seed: u64| -> Vec<Tensor> {
            let maps = maps();
            let objects = objects();
            let pictures: Vec<&Objects> = objects.iter().collect();
            let losses = detector.losses(&maps, &pictures, Phase::Train(Seed(seed))).unwrap();
            gradients(&detector, &maps, &losses)
        };
        let (first, second, other) = (step(3), step(3), step(4));
        assert!(first.iter().zip(&second).all(|(a, b)| a.equal(b)));
        // The samplers are asked: another seed takes other regions.
        assert!(first.iter().zip(&other).any(|(a, b)| !a.equal(b)));
    }
}

#[test]
fn bf16_stays_near_fp32() {
    for preset in [Preset::MaskRcnn, Preset::CascadeGiou, Preset::Htc] {
        let recipe = small(preset);
        let exact = losses(&detector(&recipe, Precision::Fp32), &maps(), &objects());
        let half = detector(&recipe, Precision::Bf16);
        assert_eq!(half.map_kind(), Kind::BFloat16);
        let maps: Vec<Tensor> =
            maps().iter().map(|map| map.detach().to_kind(Kind::BFloat16).set_requires_grad(true)).collect();
        let found = sound(&half, &maps, &objects(), "bf16");
        // Samples differ where a box's order does, so the parts are compared loosely.
        let (found, exact) =
            (found.total().unwrap().double_value(&[]), exact.total().unwrap().double_value(&[]));
        assert!((found - exact).abs() < 0.1 * exact, "{preset:?}: {found}, in fp32 {exact}");
        assert!(found != exact);
        let detections = half.detect(&maps, &valid()).unwrap();
        assert!(detections.iter().all(|found| found.masks.len() == found.boxes.len()));
    }
}

#[test]
fn soft_nms_keeps_boxes_with_lower_scores() {
    let mut recipe = small(Preset::MaskRcnn);
    recipe.inference.max = 2000;
    let hard = detector(&recipe, Precision::Fp32).detect(&maps(), &valid()).unwrap();
    for kind in [SoftNmsKind::Linear, SoftNmsKind::Gaussian] {
        recipe.inference.soft_nms = Some(SoftNms { kind, ..SoftNms::default() });
        let soft = detector(&recipe, Precision::Fp32).detect(&maps(), &valid()).unwrap();
        for (hard, soft) in hard.iter().zip(&soft) {
            assert!(soft.boxes.len() > hard.boxes.len());
            assert_eq!((soft.boxes[0], soft.scores[0]), (hard.boxes[0], hard.scores[0]));
            assert!(soft.scores.is_sorted_by(|a, b| a >= b));
        }
    }
}

#[test]
fn nothing_to_detect_is_an_empty_list() {
    let mut recipe = small(Preset::Cascade);
    recipe.inference.score = 1.0;
    let found = detector(&recipe, Precision::Fp32).detect(&maps(), &valid()).unwrap();
    assert!(found.iter().all(|found| found.boxes.is_empty() && found.masks.is_empty()));
    assert!(found.iter().all(|found| found.mask_side == 28));
    // A picture of no size has no proposals.
    let none = vec![Size::new(0, 0); VALID.len()];
    let found = detector(&recipe, Precision::Fp32).detect(&maps(), &none).unwrap();
    assert!(found.iter().all(|found| found.boxes.is_empty()));
}

/// Levels of a Swin backbone of this width.
fn swin(width: u32) -> Vec<LevelSpec> {
    let level = |i: u32| LevelSpec {
        name: format!("p{}", i + 2),
        stride: 4 << i,
        channels: width << i,
        tap: format!("stage{i}"),
        norm: "none".into(),
    };
    (0..4).map(level).collect()
}

#[test]
fn tunable_parameters_are_as_published() {
    // Reference sheet, table 3.0, in millions: backbone width, FPN, BiFPN.
    for (width, fpn, bifpn) in
        [(96, 2.73, 5.29), (128, 2.85, 5.41), (192, 3.10, 5.86), (448, 4.08, 7.36), (512, 4.33, 7.74)]
    {
        let count = |kind, repeats| {
            let mut parameters = Parameters::new(Device::Cpu, Seed(0));
            let options = DetectorRecipe::default().neck;
            let options = featcache_heads::recipe::detector::NeckOptions { kind, repeats, ..options };
            Neck::new(&mut parameters, &options, &swin(width), Precision::Fp32).unwrap();
            parameters.tunable_count() as f64 / 1e6
        };
        let near =
            |found: f64, expected: f64| assert!((found - expected).abs() < 0.01, "{found}, {expected}");
        near(count(NeckKind::Fpn, 1), fpn);
        near(count(NeckKind::BiFpn, 1), bifpn);
        near(count(NeckKind::BiFpn, 2), bifpn + 4.72);
    }
    for (preset, semantic, expected) in
        [(Preset::MaskRcnn, false, 20.3), (Preset::CascadeGiou, false, 58.1), (Preset::Htc, true, 56.1)]
    {
        let mut recipe = DetectorRecipe::preset(preset);
        recipe.head.semantic = semantic.then(SemanticOptions::default);
        let detector = Detector::new(&recipe, Precision::Fp32, swin(96), 80, 0, Device::Cpu).unwrap();
        let found = detector.parameters().tunable_count() as f64 / 1e6;
        assert!((found - expected).abs() < 0.06, "{preset:?}: {found}, published {expected}");
        let start = |name: &str| {
            let entry = detector.parameters().entries().iter().find(|entry| entry.name == name).unwrap();
            entry.tensor.std(false).double_value(&[])
        };
        // Uniform of Glorot: standard deviation sqrt(2 / (fan in + fan out)).
        let fan = 2.0 * 256.0 * 9.0;
        assert!((start("neck.fpn_convs.0.conv.weight") / (2.0_f64 / fan).sqrt() - 1.0).abs() < 0.02);
        assert!((start("rpn_head.rpn_conv.weight") / 0.01 - 1.0).abs() < 0.02);
    }
}

#[test]
fn weights_of_others_report_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |shape: &[i64]| draw("tensor", shape, -1.0, 1.0);
    let new = |recipe: &DetectorRecipe, classes| {
        Detector::new(recipe, Precision::Fp32, levels(), classes, 0, Device::Cpu).unwrap()
    };
    // mmdetection's names, with Swin's norms of the levels in the backbone.
    let recipe = small(Preset::Cascade);
    let path = state_dict(
        "cascade",
        folder.path(),
        &[("backbone.norm0.weight", tensor(&[8])), ("rpn_head.other", tensor(&[3]))],
    );
    let detector = new(&recipe, CLASSES);
    let report = detector.load_weights(&path, None).unwrap();
    assert_eq!((report.naming, report.missing.len()), (Naming::Mmdet, 0));
    assert_eq!(report.extra, ["rpn_head.other"]);
    assert_eq!(report.ignored, ["backbone.norm0.weight"]);
    for entry in detector.parameters().entries() {
        assert!(entry.tensor.equal(&filled(&entry.name, &entry.tensor.size())), "{}", entry.name);
    }

    // Two of the file's five classes, in another order; norms from the backbone.
    let mut other = small(Preset::MaskRcnn);
    other.level_norm = true;
    let path = state_dict("mask_rcnn", folder.path(), &[("backbone.norm3.bias", tensor(&[24]))]);
    let detector = new(&other, 2);
    let report = detector.load_weights(&path, Some(&[4, 1])).unwrap();
    assert_eq!(report.missing.len(), 7, "{report}");
    assert!(report.misshaped.is_empty(), "{report}");
    let value = |name: &str| {
        let entry = detector.parameters().entries().iter().find(|entry| entry.name == name).unwrap();
        entry.tensor.copy()
    };
    assert!(value("neck.norms.p5.bias").equal(&tensor(&[24])));
    let (cls, reg) = ("roi_head.bbox_head.fc_cls.weight", "roi_head.bbox_head.fc_reg.weight");
    let rows = |tensor: Tensor, rows: &[i64]| tensor.index_select(0, &Tensor::from_slice(rows));
    assert!(value(cls).equal(&rows(filled(cls, &[6, 32]), &[4, 1, 5])));
    assert!(value(reg).equal(&rows(filled(reg, &[20, 32]), &[16, 17, 18, 19, 4, 5, 6, 7])));
    let mask = "roi_head.mask_head.conv_logits.bias";
    assert!(value(mask).equal(&rows(filled(mask, &[5]), &[4, 1])));

    // torchvision: the background comes first there, and last here.
    let path = state_dict("torchvision", folder.path(), &[]);
    let detector = new(&small(Preset::Torchvision), 2);
    let report = detector.load_weights(&path, Some(&[4, 1])).unwrap();
    assert!(report.is_complete(), "{report}");
    let value = |name: &str| {
        let entry = detector.parameters().entries().iter().find(|entry| entry.name == name).unwrap();
        entry.tensor.copy()
    };
    let theirs = "roi_heads.box_predictor.cls_score.weight";
    assert!(value(cls).equal(&rows(filled(theirs, &[6, 32]), &[5, 2, 0])));
    let theirs = "roi_heads.box_predictor.bbox_pred.weight";
    assert!(value(reg).equal(&rows(filled(theirs, &[24, 32]), &[20, 21, 22, 23, 8, 9, 10, 11])));
    // Without a choice the classes do not fit, and nothing of them is touched.
    let report = new(&small(Preset::Torchvision), 2).load_weights(&path, None).unwrap();
    let names: Vec<&str> = report.misshaped.iter().map(|misshaped| misshaped.name.as_str()).collect();
    assert_eq!(names.len(), 6, "{report}");
    assert!(report.to_string().contains("other shape: roi_heads.box_predictor.cls_score.weight is [6, 32]"));
    assert!(!report.is_complete());

    let refuse = |path: &Path, classes: Option<&[usize]>, expected: &str| {
        let error = detector.load_weights(path, classes).unwrap_err();
        let text = format!("{error}: {:?}", std::error::Error::source(&error));
        assert!(text.contains(expected), "{text}");
    };
    refuse(&path, Some(&[0]), "1 classes were chosen, expected 2");
    refuse(&folder.path().join("none.safetensors"), None, "NotFound");
    let garbage = folder.path().join("garbage.safetensors");
    std::fs::write(&garbage, b"not tensors").unwrap();
    refuse(&garbage, None, "garbage.safetensors");
    let path = folder.path().join("other.safetensors");
    Tensor::write_safetensors(&[("encoder.weight", tensor(&[2]))], &path).unwrap();
    refuse(&path, None, "neither torchvision's nor mmdetection's names");
    let before: Vec<Tensor> =
        detector.parameters().entries().iter().map(|entry| entry.tensor.copy()).collect();
    let spoiled = tensor(&[16]) * f64::NAN;
    let fine = ("rpn.head.conv.0.0.bias", tensor(&[16]));
    Tensor::write_safetensors(&[fine, ("backbone.fpn.inner_blocks.0.0.bias", spoiled)], &path).unwrap();
    refuse(&path, None, "tensor backbone.fpn.inner_blocks.0.0.bias is not finite");
    let after = detector.parameters().entries();
    assert!(before.iter().zip(after).all(|(before, entry)| before.equal(&entry.tensor)));
    assert!(after.iter().any(|entry| entry.role == Role::Weight));
}
