//! Heads, losses, optimizer and schedules against the reference computations of
//! `tests/parity/heads_goldens.py`. fp32 tolerance 1e-5 of the largest value: both sides sum in
//! another order, nothing else differs. Gradients get 5e-4 of their norm: torch's own binary32 ones are
//! up to 3e-4 away from the goldens, which are computed in binary64.

use crate::drawn_tensor::{draw, filled};
use featcache_heads::head::{AuxiliaryOptions, UperNetOptions};
use featcache_heads::loss::{Average, cross_entropy};
use featcache_heads::model::SemanticModel;
use featcache_heads::norm::NormKind;
use featcache_heads::optimizer::{AdamW, AdamWOptions};
use featcache_heads::parameter::{Init, Parameters, Role};
use featcache_heads::recipe::{HeadKind, HeadRecipe};
use featcache_heads::schedule::{Decay, Progress, Schedule};
use featcache_heads::seed::Seed;
use featcache_heads::segment::{SegmentSizes, label_map};
use featcache_heads::{Phase, Precision};
use featcache_store::{LevelSpec, Size};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const CLASSES: i64 = 5;
const LEVELS: [(&str, u32, [i64; 2]); 4] =
    [("p2", 16, [24, 18]), ("p3", 24, [12, 9]), ("p4", 32, [6, 5]), ("p5", 48, [3, 3])];

fn goldens() -> BTreeMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.safetensors");
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

fn numbers() -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Largest difference as a share of the largest expected value.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]).max(1e-30)
}

fn levels(names: &[&str]) -> Vec<LevelSpec> {
    let spec = |&(name, channels, _): &(&str, u32, [i64; 2])| LevelSpec {
        name: name.into(),
        stride: 4,
        channels,
        tap: "stage0".into(),
        norm: "none".into(),
    };
    LEVELS.iter().filter(|level| names.contains(&level.0)).map(spec).collect()
}

/// The maps of the goldens in channels_last memory, as the loader hands them out.
fn maps(names: &[&str]) -> Vec<Tensor> {
    let map = |&(name, channels, [h, w]): &(&str, u32, [i64; 2])| {
        let map = draw(&format!("map.{name}"), &[2, i64::from(channels), h, w], -3.0, 5.0);
        map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    };
    LEVELS.iter().filter(|level| names.contains(&level.0)).map(map).collect()
}

fn model(kind: HeadKind, norm: NormKind, names: &[&str], precision: Precision) -> SemanticModel {
    let auxiliary = AuxiliaryOptions { level: "p4".into(), channels: 32, weight: 0.4 };
    let upernet =
        UperNetOptions { channels: 64, norm, dropout: 0.0, auxiliary: Some(auxiliary), ..Default::default() };
    let upernet = (kind == HeadKind::UperNet).then_some(upernet);
    let projected = featcache_store::Projected::Channels;
    let recipe = HeadRecipe { kind, levels: Vec::new(), projected, level_norm: true, linear: None, upernet };
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let model = SemanticModel::new(&recipe, precision, levels(names), classes, 0, Device::Cpu).unwrap();
    let values = model.parameters().entries().iter();
    let values = values.map(|entry| (entry.name.clone(), filled(&entry.name, &entry.tensor.size())));
    model.parameters().load(values.collect()).unwrap();
    model
}

fn loss_of(model: &SemanticModel, maps: &[Tensor], target: &Tensor) -> (Tensor, Tensor, Option<Tensor>) {
    let logits = model.forward(maps, Phase::Train(Seed(0))).unwrap();
    let mut loss = cross_entropy(&logits.main, target, Average::Labelled).unwrap();
    let auxiliary = logits.auxiliary.map(|(logits, weight)| {
        loss = &loss + cross_entropy(&logits, target, Average::Labelled).unwrap() * weight;
        logits
    });
    (loss, logits.main, auxiliary)
}

fn parity(case: &str, kind: HeadKind, norm: NormKind, names: &[&str]) {
    let golden = goldens();
    let model = model(kind, norm, names, Precision::Fp32);
    let maps = maps(names);
    let eval = tch::no_grad(|| model.forward(&maps, Phase::Eval).unwrap());
    assert!(eval.auxiliary.is_none());
    let eval_error = error(&eval.main, &golden[&format!("{case}.eval")]);
    assert!(eval_error < 1e-5, "{case}.eval {eval_error}");

    let (loss, main, auxiliary) = loss_of(&model, &maps, &golden["target"]);
    let train_error = error(&main, &golden[&format!("{case}.train")]);
    assert!(train_error < 1e-5, "{case}.train {train_error}");
    assert_eq!(auxiliary.is_some(), golden.contains_key(&format!("{case}.auxiliary")));
    if let Some(auxiliary) = auxiliary {
        let found = error(&auxiliary, &golden[&format!("{case}.auxiliary")]);
        assert!(found < 1e-5, "{case}.auxiliary {found}");
    }
    let loss_error = error(&loss.reshape([1]), &golden[&format!("{case}.loss")]);
    assert!(loss_error < 1e-5, "{case}.loss {loss_error}");

    let tunable: Vec<_> = model.parameters().tunable().collect();
    let expected = golden.keys().filter(|key| key.starts_with(&format!("{case}.gradient."))).count();
    assert_eq!(tunable.len(), expected);
    let tensors: Vec<_> = tunable.iter().map(|entry| &entry.tensor).collect();
    let gradients = Tensor::run_backward(&[&loss], &tensors, false, false);
    let scale = golden[&format!("{case}.gradient.decode_head.conv_seg.weight")].double_value(&[0]);
    for (entry, gradient) in tunable.iter().zip(gradients) {
        let name = &entry.name;
        let gradient = gradient.to_kind(Kind::Double);
        let direction = draw(&format!("direction.{name}"), &gradient.size(), -1.0, 1.0);
        let projection = (&gradient * direction.to_kind(Kind::Double)).sum(Kind::Double).double_value(&[]);
        let pair = &golden[&format!("{case}.gradient.{name}")];
        let (norm, expected) = (pair.double_value(&[0]), pair.double_value(&[1]));
        // Gradients that vanish by construction (a bias before a norm) are compared with the others.
        let tolerance = 5e-4 * norm.max(1e-3 * scale);
        let found = gradient.norm().double_value(&[]);
        assert!((found - norm).abs() < tolerance, "{case} {name}: norm {found}, expected {norm}");
        assert!(
            (projection - expected).abs() < tolerance,
            "{case} {name}: {projection}, expected {expected}"
        );
    }
    for entry in model.parameters().entries().iter().filter(|entry| entry.role == Role::Buffer) {
        let found = error(&entry.tensor, &golden[&format!("{case}.buffer.{}", entry.name)]);
        assert!(found < 1e-5, "{case} {}: {found}", entry.name);
    }
}

#[test]
fn upernet_with_batch_norm_equals_mmseg() {
    parity("upernet_batch", HeadKind::UperNet, NormKind::Batch, &["p2", "p3", "p4", "p5"]);
}

#[test]
fn upernet_with_group_norm_equals_mmseg() {
    parity("upernet_group", HeadKind::UperNet, NormKind::Group, &["p2", "p3", "p4", "p5"]);
}

#[test]
fn linear_on_all_levels_equals_dinov2() {
    parity("linear_all", HeadKind::Linear, NormKind::Batch, &["p2", "p3", "p4", "p5"]);
}

#[test]
fn linear_on_one_level_equals_dinov2() {
    parity("linear_one", HeadKind::Linear, NormKind::Batch, &["p4"]);
}

#[test]
fn bf16_stays_near_fp32() {
    let names = ["p2", "p3", "p4", "p5"];
    for kind in [HeadKind::UperNet, HeadKind::Linear] {
        for norm in [NormKind::Batch, NormKind::Group] {
            let maps = maps(&names);
            let [full, half] = [Precision::Fp32, Precision::Bf16].map(|p| model(kind, norm, &names, p));
            let (loss, main, _) = loss_of(&full, &maps, &goldens()["target"]);
            let (half_loss, half_main, _) = loss_of(&half, &maps, &goldens()["target"]);
            assert_eq!(half_main.kind(), Kind::Float);
            assert!((loss.double_value(&[]) / half_loss.double_value(&[]) - 1.0).abs() < 1e-2);
            // Five roundings to 8 bits of mantissa in a row; the mean error is far below the largest.
            assert!(error(&half_main, &main) < 5e-2, "{kind:?} {norm:?} {}", error(&half_main, &main));
            let tensors: Vec<_> = half.parameters().tunable().map(|entry| &entry.tensor).collect();
            let gradients = Tensor::run_backward(&[&half_loss], &tensors, false, false);
            assert!(
                gradients.iter().all(|g| g.kind() == Kind::Float && g.isfinite().all().int64_value(&[]) == 1)
            );
        }
    }
}

#[test]
fn one_picture_does_not_poison_batch_statistics() {
    let names = ["p2", "p3", "p4", "p5"];
    let model = model(HeadKind::UperNet, NormKind::Batch, &names, Precision::Fp32);
    let maps: Vec<_> = maps(&names).iter().map(|map| map.narrow(0, 0, 1)).collect();
    let _ = model.forward(&maps, Phase::Train(Seed(0))).unwrap();
    for entry in model.parameters().entries() {
        assert_eq!(entry.tensor.isfinite().all().int64_value(&[]), 1, "{}", entry.name);
    }
}

#[test]
fn heads_refuse_wrong_maps_by_name() {
    let model = model(HeadKind::UperNet, NormKind::Group, &["p2", "p3", "p4", "p5"], Precision::Fp32);
    let mut maps = maps(&["p2", "p3", "p4", "p5"]);
    maps.swap(1, 2);
    let text = model.forward(&maps, Phase::Eval).unwrap_err().to_string();
    assert_eq!(text, "p3 has 32 channels, expected 24");
    maps.pop();
    let text = model.forward(&maps, Phase::Eval).unwrap_err().to_string();
    assert_eq!(text, "3 maps, expected one for each of p2, p3, p4, p5");
}

#[test]
fn dropout_depends_on_its_seed_alone() {
    let x = Tensor::ones([3, 64, 2, 2], (Kind::Float, Device::Cpu));
    let drop = |seed, name| Phase::Train(Seed(seed)).drop_channels(x.shallow_clone(), name, 0.25).unwrap();
    let first = drop(1, "a");
    let _ = Tensor::rand([10], (Kind::Float, Device::Cpu));
    assert_eq!(first, drop(1, "a"));
    assert_ne!(first, drop(2, "a"));
    assert_ne!(first, drop(1, "b"));
    let kept = (first.sum(Kind::Double).double_value(&[]) * 0.75 / 4.0).round() as i64;
    assert!((115..=170).contains(&kept), "{kept} of 192 channels kept");
    assert_eq!(Phase::Eval.drop_channels(x.shallow_clone(), "a", 0.25).unwrap(), x);
}

#[test]
fn losses_equal_torch_and_mmseg() {
    let golden = goldens();
    let logits = draw("loss.logits", &[2, CLASSES, 24, 18], -4.0, 4.0);
    let target = &golden["target"];
    let coarse = target.slice(1, None, None, 4).slice(2, None, None, 4).contiguous();
    for (key, target) in [("loss.up", target), ("loss.same", &coarse)] {
        for (name, average) in [("labelled", Average::Labelled), ("all", Average::All)] {
            let loss = cross_entropy(&logits, target, average).unwrap();
            let found = error(&loss.reshape([1]), &golden[&format!("{key}.{name}")]);
            assert!(found < 1e-5, "{key}.{name} {found}");
        }
    }
    let nothing = target.full_like(-1);
    assert_eq!(cross_entropy(&logits, &nothing, Average::Labelled).unwrap().double_value(&[]), 0.0);
}

#[test]
fn adamw_equals_torch() {
    let golden = goldens();
    for (clip_norm, key) in [(0.0, "0"), (1.0, "1")] {
        let mut parameters = Parameters::new(Device::Cpu, Seed(0));
        let shapes = [("a.weight", vec![300, 301], Role::Weight), ("a.bias", vec![37], Role::NoDecay)];
        for (name, shape, role) in &shapes {
            let _ = parameters.create((*name).into(), shape, *role, Init::Zeros).unwrap();
        }
        let start = shapes
            .iter()
            .map(|(name, shape, _)| (name.to_string(), draw(&format!("adamw.{name}"), shape, -1.0, 1.0)));
        parameters.load(start.collect()).unwrap();
        let options =
            AdamWOptions { lr: 1e-2, weight_decay: 0.05, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, clip_norm };
        let mut optimizer = AdamW::new(&parameters, options).unwrap();
        for step in 0..6 {
            let scale = if step % 2 == 1 { 0.1 } else { 2.0 };
            // The gradient of Σ p·g by p is g.
            let loss = shapes.iter().zip(parameters.tunable()).map(|((name, shape, _), entry)| {
                let gradient = draw(&format!("adamw.gradient.{step}.{name}"), shape, -1.0, 1.0) * scale;
                (&entry.tensor * gradient).sum(Kind::Float)
            });
            let loss: Tensor = loss.sum();
            let (gradients, norm) = optimizer.gradients(&loss).unwrap();
            optimizer.step(&gradients, norm, 1e-2 / f64::from(1 + step)).unwrap();
            if step == 2 {
                // Out and in again: what a checkpoint does.
                let state: BTreeMap<_, _> =
                    optimizer.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
                let steps = optimizer.steps();
                optimizer = AdamW::new(&parameters, options).unwrap();
                optimizer.restore(state, steps).unwrap();
            }
        }
        let bias = error(&parameters.entries()[1].tensor, &golden[&format!("adamw.{key}.bias")]);
        let weight = parameters.entries()[0].tensor.slice(0, None, None, 30).slice(1, None, None, 30);
        let weight = error(&weight, &golden[&format!("adamw.{key}.weight")]);
        assert!(bias < 1e-6 && weight < 1e-6, "clip {clip_norm}: bias {bias}, weight {weight}");
    }
}

#[test]
fn adamw_at_rate_zero_changes_nothing() {
    let mut parameters = Parameters::new(Device::Cpu, Seed(0));
    let tensor = parameters.create("a".into(), &[3], Role::Weight, Init::Ones).unwrap();
    let mut optimizer = AdamW::new(&parameters, AdamWOptions::default()).unwrap();
    optimizer.step(&[Tensor::zeros([3], (Kind::Float, Device::Cpu))], 0.0, 0.0).unwrap();
    assert_eq!(tensor, Tensor::ones([3], (Kind::Float, Device::Cpu)));
}

#[test]
fn schedules_equal_torch_and_mmcv() {
    let numbers = numbers();
    for (name, decay, min_lr) in [("poly", Decay::Poly, 0.0), ("cosine", Decay::Cosine, 1e-6)] {
        let plain = Schedule { decay, power: 0.9, min_lr, warmup_ratio: 1e-3, ..Schedule::default() };
        let warm = Schedule { warmup_steps: 7, ..plain.clone() };
        let expected = numbers["schedule"][name].as_array().unwrap();
        assert_eq!(expected.len(), 40);
        for (step, pair) in (0..).zip(expected) {
            for (schedule, expected) in [(&plain, &pair[0]), (&warm, &pair[1])] {
                let progress = Progress { step, steps: 40, epoch: 0 };
                let (found, expected) = (schedule.rate(3e-4, progress), expected.as_f64().unwrap());
                // torch multiplies step by step what is a closed form here.
                assert!((found / expected - 1.0).abs() < 1e-9, "{name} {step}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn prediction_equals_mmseg_whole_inference() {
    let logits = draw("whole.logits", &[1, CLASSES, 12, 16], -4.0, 4.0);
    let sizes =
        SegmentSizes { padded: Size::new(48, 64), valid: Size::new(45, 50), original: Size::new(77, 81) };
    let expected: Vec<u8> = Vec::try_from(goldens()["whole"].reshape([-1])).unwrap();
    // All classes at once, two at a time, one at a time.
    for bytes in [1 << 30, 2 * 4 * 77 * 81, 0] {
        let map = label_map(&logits, sizes, bytes).unwrap();
        assert_eq!(map.size, sizes.original);
        let differ = map.classes.iter().zip(&expected).filter(|&(&a, &b)| a != u16::from(b)).count();
        assert_eq!(differ, 0, "{differ} of {} pixels differ", expected.len());
    }
    let sizes = SegmentSizes { valid: Size::new(49, 50), ..sizes };
    let text = label_map(&logits, sizes, 0).unwrap_err().to_string();
    assert_eq!(text, "valid size 49x50 passes the padded size 48x64");
}

#[test]
fn parameters_refuse_what_does_not_fit() {
    let model = model(HeadKind::Linear, NormKind::Batch, &["p4"], Precision::Fp32);
    let good = || -> BTreeMap<String, Tensor> {
        let entries = model.parameters().entries().iter();
        entries.map(|entry| (entry.name.clone(), entry.tensor.copy())).collect()
    };
    let load = |values| model.parameters().load(values).unwrap_err().to_string();
    let mut values = good();
    values.remove("decode_head.bn.bias");
    assert_eq!(load(values), "tensor decode_head.bn.bias is missing");
    let mut values = good();
    values.insert("backbone.norm.weight".into(), Tensor::from(0.0f32));
    assert_eq!(load(values), "tensor backbone.norm.weight belongs to no part of the model");
    let mut values = good();
    values.insert("decode_head.bn.bias".into(), Tensor::zeros([3], (Kind::Float, Device::Cpu)));
    assert_eq!(load(values), "tensor decode_head.bn.bias is [3], expected [32]");
}
