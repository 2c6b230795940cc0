//! Masks against pycocotools, torchvision, mmdetection's formulas and OpenCV: what
//! `tests/parity/masks_goldens.py` wrote down and how it draws. Run lengths, areas, boxes and overlaps are
//! equal to the last digit; mask targets to 1e-6, and equal once cut at one half.

mod annotation;
mod hostile;
mod region;
mod runs;

use featcache_heads::seed::{Seed, Stream};
use featcache_store::Size;
use serde_json::Value;
use std::path::Path;

fn goldens() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.masks.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn size(sides: [u32; 2]) -> Size {
    Size::new(sides[0], sides[1])
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn below(stream: &mut Stream, count: usize) -> usize {
    (stream.uniform() * count as f64) as usize
}

/// The script's `ring`.
fn ring(kind: &str, index: usize, size: Size) -> Vec<f64> {
    let mut s = Seed(7).named(&format!("polygon.{kind}.{index}")).stream();
    let (h, w) = (f64::from(size.height), f64::from(size.width));
    let count = 3 + below(&mut s, 12);
    let point = |s: &mut Stream, low: f64, high: f64| {
        let x = (low + (high - low) * s.uniform()) * w;
        [x, (low + (high - low) * s.uniform()) * h]
    };
    let mut points: Vec<[f64; 2]> = Vec::new();
    match kind {
        "cents" | "whole" | "tenths" => {
            let steps = if kind == "cents" {
                100.0
            } else if kind == "whole" {
                1.0
            } else {
                10.0
            };
            points.extend((0..count).map(|_| point(&mut s, 0.0, 1.0).map(|v| (v * steps).floor() / steps)));
        }
        "real" => points.extend((0..count).map(|_| point(&mut s, 0.0, 1.0))),
        "overhang" => points.extend((0..count).map(|_| point(&mut s, -1.0, 2.0))),
        "far" => points.extend((0..count).map(|_| point(&mut s, -300.0, 300.0))),
        "outside" => {
            let sx = below(&mut s, 3) as f64 - 1.0;
            let sy = below(&mut s, 3) as f64 - 1.0;
            points.extend(
                (0..count)
                    .map(|_| point(&mut s, 0.0, 1.0))
                    .map(|[x, y]| [x + sx * 1.5 * w, y + sy * 1.5 * h]),
            );
        }
        "line" => {
            let (a, b) = (point(&mut s, -0.2, 1.2), point(&mut s, -0.2, 1.2));
            points.extend((0..count).map(|_| {
                let t = below(&mut s, 9) as f64 / 8.0;
                [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]
            }));
        }
        "point" => {
            let a = point(&mut s, 0.0, 1.0);
            points.extend((0..count).map(|_| {
                let x = a[0] + s.uniform() * 1.2;
                [x, a[1] + s.uniform() * 1.2]
            }));
        }
        "repeated" => {
            for _ in 0..count {
                let a = point(&mut s, -0.1, 1.1);
                points.extend(std::iter::repeat_n(a, 1 + below(&mut s, 3)));
            }
            points.push(points[0]);
        }
        "sliver" => {
            let (a, b) = (point(&mut s, 0.0, 1.0), point(&mut s, 0.0, 1.0));
            let x = b[0] + s.uniform() * 0.7;
            points.extend([a, b, [x, b[1] + s.uniform() * 0.7], [a[0] + 0.3, a[1] + 0.3]]);
        }
        "border" => {
            let places = [0.0, 0.5, 1.0, -0.1, 0.1, 0.9];
            points.extend((0..count).map(|_| {
                let (x, y) = (below(&mut s, 12), below(&mut s, 12));
                [(x / 6) as f64 * w + places[x % 6], (y / 6) as f64 * h + places[y % 6]]
            }));
        }
        _ => unreachable!("{kind}"),
    }
    points.concat()
}
