//! Detectors on odd truth, numbers that are none and nothing at all; steps repeated and in bf16.

use super::{CLASSES, VALID, detector, ellipse, gradients, levels, losses, maps, objects, small, valid};
use featcache_heads::detector::Detector;
use featcache_heads::losses::Losses;
use featcache_heads::objects::Objects;
use featcache_heads::recipe::detector::{DetectorRecipe, Preset, SoftNms, SoftNmsKind};
use featcache_heads::seed::Seed;
use featcache_heads::{Phase, Precision};
use featcache_store::Size;
use tch::{Device, Kind, Tensor};

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

#[test]
fn scores_are_compared_with_the_threshold_in_binary32() {
    let mut recipe = small(Preset::MaskRcnn);
    let scores = |recipe: &DetectorRecipe| {
        let found = detector(recipe, Precision::Fp32).detect(&maps(), &valid()).unwrap();
        found.into_iter().flat_map(|found| found.scores).collect::<Vec<_>>()
    };
    let all = scores(&recipe);
    let score = all[all.len() / 2];
    // Below the score in binary64, equal in binary32: torch keeps what is above.
    recipe.inference.score = f64::from(score) - 1e-12;
    let kept = scores(&recipe);
    assert!(kept.iter().all(|&other| other > score) && !kept.is_empty(), "{score} of {kept:?}");
}
