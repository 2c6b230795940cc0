//! Detectors: the drawn maps, objects and weights of their cases, as `tests/parity/detector_goldens.py` draws
//! them.

mod parity;
mod recipe;
mod robustness;
mod weights;

use crate::drawn_tensor::{draw, filled};
use featcache_heads::detector::Detector;
use featcache_heads::labels::{IGNORE, Target};
use featcache_heads::losses::Losses;
use featcache_heads::mask::Rle;
use featcache_heads::objects::Objects;
use featcache_heads::recipe::detector::{DetectorRecipe, NeckKind, Preset, SemanticOptions};
use featcache_heads::seed::Seed;
use featcache_heads::{Phase, Precision};
use featcache_store::{LevelSpec, Size};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

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

/// A state dict with the golden's names and shapes, in a file.
fn state_dict(case: &str, folder: &Path, more: &[(&str, Tensor)]) -> PathBuf {
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
