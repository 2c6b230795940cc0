//! Tensors drawn by name: what `tests/parity/drawn_tensor.py` draws, so that inputs and weights need not be
//! stored.

use featcache_heads::seed::Seed;
use tch::Tensor;

/// The script's `draw`: uniform in `[low, high)`.
pub(crate) fn draw(name: &str, shape: &[i64], low: f64, high: f64) -> Tensor {
    let mut stream = Seed(7).named(name).stream();
    let count = shape.iter().product::<i64>();
    let values: Vec<f32> = (0..count).map(|_| (low + (high - low) * stream.uniform()) as f32).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// The script's `filled`.
pub(crate) fn filled(name: &str, shape: &[i64]) -> Tensor {
    match shape {
        [_] if name.ends_with("weight") || name.ends_with("running_var") => draw(name, shape, 0.5, 1.5),
        _ if name.contains(".weights") => draw(name, shape, -0.2, 1.5),
        [_] => draw(name, shape, -0.2, 0.2),
        [_, rest @ ..] => {
            let he = (6.0 / rest.iter().product::<i64>() as f64).sqrt();
            let deltas = name.contains("reg") || name.contains("bbox_pred");
            let bound = if deltas { 0.04 * he } else { he };
            draw(name, shape, -bound, bound)
        }
        [] => unreachable!("no scalars among parameters"),
    }
}
