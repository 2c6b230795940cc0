//! Weights of detectors: how many there are, how they start, and those of others.

use super::{CLASSES, levels, small, state_dict};
use crate::drawn_tensor::{draw, filled};
use featcache_heads::Precision;
use featcache_heads::detector::{Detector, Naming};
use featcache_heads::neck::Neck;
use featcache_heads::parameter::{Parameters, Role};
use featcache_heads::recipe::detector::{DetectorRecipe, NeckKind, NeckOptions, Preset, SemanticOptions};
use featcache_heads::seed::Seed;
use featcache_store::LevelSpec;
use std::path::Path;
use tch::{Device, Tensor};

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
            let options = NeckOptions { kind, repeats, ..options };
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
