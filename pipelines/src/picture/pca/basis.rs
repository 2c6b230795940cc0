//! The leading principal axes of rows of numbers, by orthogonal iteration with a Rayleigh-Ritz step
//! (Golub & Van Loan, "Matrix Computations", §8.2.4). The covariance is never formed: a level of
//! thousands of channels stays cheap. No colours here.

use super::dot;

/// More directions than asked for are iterated: the leading ones converge with the gap to the first
/// one left out.
const OVERSAMPLE: usize = 6;
const ITERATIONS: usize = 16;

/// The `count` directions of largest variance of `rows` (`[n, channels]`, centred), orthonormal, by
/// falling variance; fewer if there are fewer channels. Signs are fixed: the entry of largest
/// magnitude is positive. Directions without variance are still orthonormal.
pub(super) fn principal_axes(rows: &[f32], channels: usize, count: usize) -> Vec<Vec<f32>> {
    let width = (count + OVERSAMPLE).min(channels);
    let mut axes: Vec<Vec<f32>> =
        (0..width).map(|axis| (0..channels).map(|channel| start(axis, channel)).collect()).collect();
    orthonormalise(&mut axes);
    for _ in 0..ITERATIONS {
        let mut images = multiply(rows, channels, &axes);
        // Rotate inside the subspace to the eigenvectors of the small matrix axesᵀ·C·axes.
        let small: Vec<Vec<f64>> = axes
            .iter()
            .map(|axis| images.iter().map(|image| f64::from(dot(axis, image))).collect())
            .collect();
        let rotation = symmetric_eigenvectors(small);
        images = rotation
            .iter()
            .map(|weights| {
                let mut mix = vec![0f32; channels];
                for (weight, image) in weights.iter().zip(&images) {
                    mix.iter_mut().zip(image).for_each(|(mix, value)| *mix += *weight as f32 * value);
                }
                mix
            })
            .collect();
        axes = images;
        orthonormalise(&mut axes);
    }
    axes.truncate(count);
    for axis in &mut axes {
        let largest = axis
            .iter()
            .copied()
            .fold(0f32, |best, value| if value.abs() > best.abs() { value } else { best });
        if largest < 0.0 {
            axis.iter_mut().for_each(|value| *value = -*value);
        }
    }
    axes
}

/// `rowsᵀ · (rows · axis)` for each axis.
fn multiply(rows: &[f32], channels: usize, axes: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut images = vec![vec![0f32; channels]; axes.len()];
    for row in rows.chunks_exact(channels) {
        for (axis, image) in axes.iter().zip(&mut images) {
            let weight = dot(row, axis);
            image.iter_mut().zip(row).for_each(|(image, value)| *image += weight * value);
        }
    }
    images
}

/// Gram-Schmidt, twice, which is enough for orthogonality to rounding. An axis that vanishes is
/// replaced by the first unit vector that is not in the span yet.
fn orthonormalise(axes: &mut [Vec<f32>]) {
    for current in 0..axes.len() {
        let (done, rest) = axes.split_at_mut(current);
        let Some(axis) = rest.first_mut() else { return };
        if !shorten(axis, done) {
            for channel in 0..axis.len() {
                axis.fill(0.0);
                axis[channel] = 1.0;
                if shorten(axis, done) {
                    break;
                }
            }
        }
    }
}

/// Removes the parts of `axis` along `done` and makes it a unit vector; false if nothing remains.
fn shorten(axis: &mut [f32], done: &[Vec<f32>]) -> bool {
    let before = dot(axis, axis).sqrt();
    if !before.is_normal() {
        return false;
    }
    axis.iter_mut().for_each(|value| *value /= before);
    for _ in 0..2 {
        for other in done {
            let along = dot(axis, other);
            axis.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
    }
    let remains = dot(axis, axis).sqrt();
    if remains < 1e-4 {
        return false;
    }
    axis.iter_mut().for_each(|value| *value /= remains);
    true
}

/// Eigenvectors of a small symmetric matrix, by falling eigenvalue, by cyclic Jacobi rotations.
fn symmetric_eigenvectors(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let size = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|i| (0..size).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    for _ in 0..30 {
        for p in 0..size {
            for q in p + 1..size {
                // Rounding left it slightly asymmetric.
                let off = (matrix[p][q] + matrix[q][p]) / 2.0;
                if off == 0.0 || !off.is_finite() {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cosine = 1.0 / (t * t + 1.0).sqrt();
                let sine = t * cosine;
                for row in &mut matrix {
                    let (a, b) = (row[p], row[q]);
                    (row[p], row[q]) = (cosine * a - sine * b, sine * a + cosine * b);
                }
                rotate_rows(&mut matrix, (p, q), (cosine, sine));
                rotate_rows(&mut vectors, (p, q), (cosine, sine));
            }
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| matrix[b][b].total_cmp(&matrix[a][a]));
    order.into_iter().map(|i| std::mem::take(&mut vectors[i])).collect()
}

/// Turns rows `p` < `q` by an angle given as its cosine and sine.
fn rotate_rows(matrix: &mut [Vec<f64>], (p, q): (usize, usize), (cosine, sine): (f64, f64)) {
    let (head, tail) = matrix.split_at_mut(q);
    for (a, b) in head[p].iter_mut().zip(&mut tail[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

/// A fixed start that no real feature is orthogonal to: hashed signs and sizes.
fn start(axis: usize, channel: usize) -> f32 {
    let mut bits = (axis as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (channel as u64 + 1);
    for _ in 0..3 {
        bits = (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (bits >> 40) as f32 / (1u32 << 24) as f32 - 0.5
}
