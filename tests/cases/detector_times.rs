//! The detector's half of `tests/parity/detector_bench.py`, which sets the variables, measures
//! torchvision's Mask R-CNN on the same maps with the same weights and prints the ratios. Ignored
//! otherwise: it measures and asserts nothing.

use featcache_heads::detector::Detector;
use featcache_heads::mask::Rle;
use featcache_heads::objects::Objects;
use featcache_heads::recipe::detector::{DetectorRecipe, Preset};
use featcache_heads::seed::Seed;
use featcache_heads::{Phase, Precision};
use featcache_store::{LevelSpec, Size};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// A field of `/proc/self/status` in KiB.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement: python tests/parity/detector_bench.py"]
fn detector_times() {
    let variable = |name: &str| std::env::var(format!("FEATCACHE_STEP_{name}")).unwrap();
    tch::set_num_threads(variable("THREADS").parse().unwrap());
    let precision = if variable("KIND") == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
    let inputs: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(variable("INPUTS")).unwrap().into_iter().collect();
    let maps: Vec<Tensor> = (2..6)
        .map(|i| {
            let map = inputs[&format!("p{i}")].to_kind(precision.kind()); // [n, c, h, w]
            map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        })
        .collect();
    let levels = (0..4).zip(&maps).map(|(i, map)| LevelSpec {
        name: format!("p{}", i + 2),
        stride: 4 << i,
        channels: map.size()[1] as u32,
        tap: format!("stage{i}"),
        norm: "none".into(),
    });
    let recipe = DetectorRecipe::preset(Preset::Torchvision);
    let detector = Detector::new(&recipe, precision, levels.collect(), 90, 0, Device::Cpu).unwrap();
    let report = detector.load_weights(variable("WEIGHTS").as_ref(), None).unwrap();
    assert!(report.is_complete() && report.extra.is_empty(), "{report}");
    let (height, width) = (maps[0].size()[2] as u32 * 4, maps[0].size()[3] as u32 * 4);
    let size = Size::new(height, width);
    let boxes = Vec::<f32>::try_from(inputs["boxes"].reshape([-1])).unwrap();
    let boxes = boxes.as_chunks::<4>().0.to_vec();
    let labels = Vec::<i64>::try_from(&inputs["labels"]).unwrap();
    let mask = |bounds: &[f32; 4]| {
        let inside = |x: u32, y: u32| {
            let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
            u8::from(bounds[0] < x && x < bounds[2] && bounds[1] < y && y < bounds[3])
        };
        let bitmap: Vec<u8> = (0..height).flat_map(|y| (0..width).map(move |x| inside(x, y))).collect();
        Some(Rle::from_bitmap(size, &bitmap).unwrap())
    };
    let objects = Objects {
        valid: size,
        classes: labels.iter().map(|&label| label as usize - 1).collect(),
        masks: boxes.iter().map(mask).collect(),
        boxes,
        crowd: Vec::new(),
        semantic: None,
    };
    drop(inputs);
    let tunable: Vec<&Tensor> = detector.parameters().tunable().map(|entry| &entry.tensor).collect();
    // The losses are read as the training loop reads them, for their values.
    let step = || {
        let losses = detector.losses(&maps, &[&objects], Phase::Train(Seed(0))).unwrap();
        let total = losses.total().unwrap();
        (Tensor::run_backward(&[&total], &tunable, false, false), total.double_value(&[]))
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let (mut times, mut loss) = (Vec::new(), 0.0);
    for _ in 0..variable("REPEATS").parse().unwrap() {
        let start = Instant::now();
        let (gradients, total) = step();
        times.push(start.elapsed().as_secs_f64());
        assert!(gradients.iter().all(|gradient| gradient.defined() && gradient.kind() == Kind::Float));
        loss = total;
    }
    let peak = status("VmHWM") - before;
    println!("{{\"step\": {times:?}, \"peak_kib\": {peak}, \"loss\": {loss}}}");
}
