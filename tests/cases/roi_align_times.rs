//! RoIAlign's half of `tests/parity/roi_align_bench.py`, which sets the variables, measures torchvision
//! on the same regions and prints the ratios. Ignored otherwise: it measures and asserts nothing.

use featcache_heads::detection::level_map::LevelMap;
use featcache_heads::detection::pooling_bag::{BinRule, Sampling};
use featcache_heads::detection::roi_align::{Roi, RoiAlign};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// A field of `/proc/self/status` in KiB.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement: python tests/parity/roi_align_bench.py"]
fn roi_align_times() {
    let variable = |name: &str| std::env::var(format!("FEATCACHE_ROI_{name}")).unwrap();
    let number = |name: &str| variable(name).parse::<u16>().unwrap();
    tch::set_num_threads(i32::from(number("THREADS")));
    let rows = Tensor::read_safetensors(variable("REGIONS")).unwrap().remove(0).1; // [n, 5]
    let rows = Vec::<f32>::try_from(rows.reshape([-1])).unwrap();
    let roi = |row: &[f32; 5]| Roi { picture: row[0] as usize, bounds: [row[1], row[2], row[3], row[4]] };
    let rois: Vec<Roi> = rows.as_chunks::<5>().0.iter().map(roi).collect();
    let sampling = match number("SAMPLES") {
        0 => Sampling::Adaptive,
        samples => Sampling::Fixed(samples),
    };
    let rule = BinRule { side: number("SIDE"), sampling, aligned: false };
    let kind = if variable("KIND") == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let maps: Vec<Tensor> = [4, 8, 16, 32]
        .map(|stride| {
            let map = Tensor::randn([2, 800 / stride, 1216 / stride, 256], (Kind::Float, Device::Cpu));
            map.to_kind(kind).permute([0, 3, 1, 2]).set_requires_grad(true)
        })
        .into();
    let inputs: Vec<_> = maps.iter().collect();
    let scales = [1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0];
    let side = i64::from(rule.side);
    // A gradient in channels_last memory, as the layers after pooling hand back.
    let gradient = Tensor::randn([rois.len() as i64, side, side, 256], (Kind::Float, Device::Cpu));
    let gradient = gradient.to_kind(kind).permute([0, 3, 1, 2]);

    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for _ in 0..number("REPEATS") {
        let start = Instant::now();
        let pooled = RoiAlign { rule }.pool_levels(&maps, &scales, LevelMap::TORCHVISION, &rois).unwrap();
        forward.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let sum = (&pooled * &gradient).sum(kind);
        let found = Tensor::run_backward(&[&sum], &inputs, false, false);
        backward.push(start.elapsed().as_secs_f64());
        drop(found);
    }
    let peak = status("VmHWM") - before;
    println!("{{\"forward\": {forward:?}, \"backward\": {backward:?}, \"peak_kib\": {peak}}}");
}
