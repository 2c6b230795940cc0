//! Parity with torchvision and with an independent reference of cascade, HTC and BiFPN: detections, neck,
//! losses and gradients.

use super::{CLASSES, detector, goldens, gradients, levels, losses, maps, objects, small, state_dict, valid};
use crate::drawn_tensor::draw;
use featcache_heads::detector::{Detector, Naming};
use featcache_heads::recipe::detector::Preset;
use featcache_heads::seed::Seed;
use featcache_heads::{Phase, Precision};
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

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
