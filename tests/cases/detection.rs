//! What detectors are made of, against torchvision and the rules of mmdetection
//! (`tests/parity/detection_goldens.py`), and on input that no detector should produce: the goldens and how
//! cases compare with them. Tolerance where both sides round: 1e-5 of the largest value, of pooled maps 1e-5
//! too.

mod assignment;
mod box_geometry;
mod pooling;
mod suppression;

use featcache_heads::detection::boxes;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

const NAN: f32 = f32::NAN;
const INFINITY: f32 = f32::INFINITY;
/// Boxes that are none: reversed, empty, a line, not numbers, infinite.
const DEGENERATE: [[f32; 4]; 7] = [
    [10.0, 10.0, 5.0, 20.0],
    [10.0, 20.0, 5.0, 10.0],
    [3.0, 3.0, 3.0, 3.0],
    [3.0, 3.0, 9.0, 3.0],
    [NAN, 0.0, 10.0, 10.0],
    [0.0, 0.0, 10.0, NAN],
    [-INFINITY, 4.0, INFINITY, 4.0],
];

struct Goldens(BTreeMap<String, Tensor>);

impl Goldens {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.detection.safetensors");
        Self(Tensor::read_safetensors(path).unwrap().into_iter().collect())
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no golden {name}")).shallow_clone()
    }

    fn boxes(&self, name: &str) -> Vec<[f32; 4]> {
        boxes::from_tensor(&self.tensor(name).reshape([-1, 4])).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        Vec::try_from(self.tensor(name).reshape([-1])).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        Vec::try_from(self.tensor(name).reshape([-1])).unwrap()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.integers(name).into_iter().map(|index| index as usize).collect()
    }
}

/// Largest difference as a share of the largest expected value.
fn error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]).max(1e-30)
}

#[track_caller]
fn close(found: &Tensor, expected: &Tensor, what: &str) {
    let error = error(found, expected);
    assert!(error < 1e-5, "{what}: {error}");
}

#[track_caller]
fn close_slice(found: &[f32], expected: &[f32], what: &str) {
    close(&Tensor::from_slice(found), &Tensor::from_slice(expected), what);
}

fn gradients(output: &Tensor, direction: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
    let sum = (output * direction).sum(Kind::Float);
    Tensor::run_backward(&[sum], inputs, false, false)
}
