//! The two passes of [`super::resize`] over rows of 8-bit RGB: integer arithmetic only, written so that
//! the compiler vectorises it, and compiled a second time for AVX2.

use super::{PRECISION_BITS, Windows};

/// Bytes of a pixel in the row that [`horizontal`] works on.
pub(super) const LANES_BYTES: u64 = 16;
/// Half, so that the shift rounds.
const ROUND: i32 = 1 << (PRECISION_BITS - 1);

/// Scales every row of `rows` (`width` pixels each) into `out`.
pub(super) fn horizontal(rows: &[u8], width: usize, windows: &Windows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "run-time dispatch to code compiled for AVX2")]
        // SAFETY: the processor has just been found to have AVX2; the function is otherwise safe code.
        return unsafe { horizontal_avx2(rows, width, windows, out) };
    }
    horizontal_any(rows, width, windows, out);
}

/// Scales the columns of `rows` (`stride` bytes each) into `out`.
pub(super) fn vertical(rows: &[u8], stride: usize, windows: &Windows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "run-time dispatch to code compiled for AVX2")]
        // SAFETY: the processor has just been found to have AVX2; the function is otherwise safe code.
        return unsafe { vertical_avx2(rows, stride, windows, out) };
    }
    vertical_any(rows, stride, windows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn horizontal_avx2(rows: &[u8], width: usize, windows: &Windows, out: &mut [u8]) {
    horizontal_any(rows, width, windows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn vertical_avx2(rows: &[u8], stride: usize, windows: &Windows, out: &mut [u8]) {
    vertical_any(rows, stride, windows, out);
}

#[inline(always)]
fn horizontal_any(rows: &[u8], width: usize, windows: &Windows, out: &mut [u8]) {
    // Enlarging has windows of two to four taps: a known number lets the compiler unroll them.
    match windows.taps {
        2 => horizontal_taps::<2>(rows, width, windows, out),
        3 => horizontal_taps::<3>(rows, width, windows, out),
        4 => horizontal_taps::<4>(rows, width, windows, out),
        5 => horizontal_taps::<5>(rows, width, windows, out),
        _ => horizontal_taps::<0>(rows, width, windows, out),
    }
}

/// `TAPS` is the windows' length, or 0 where it is only known at run time.
#[inline(always)]
fn horizontal_taps<const TAPS: usize>(rows: &[u8], width: usize, windows: &Windows, out: &mut [u8]) {
    let taps = if TAPS == 0 { windows.taps } else { TAPS };
    // One row as four lanes a pixel, so that a pixel is one vector; behind it zeros for the windows
    // that are shorter than the longest and end at the edge.
    let mut wide = vec![[0i32; 4]; width + taps];
    for (row, out) in rows.chunks_exact(3 * width).zip(out.chunks_exact_mut(3 * windows.starts.len())) {
        for (pixel, wide) in row.as_chunks::<3>().0.iter().zip(&mut wide) {
            *wide = [pixel[0].into(), pixel[1].into(), pixel[2].into(), 0];
        }
        let positions = windows.starts.iter().zip(windows.weights.chunks_exact(taps));
        for ((&start, weights), out) in positions.zip(out.as_chunks_mut::<3>().0) {
            let mut sum = [ROUND; 4];
            for (pixel, &weight) in wide[start..start + taps].iter().zip(weights) {
                for lane in 0..4 {
                    sum[lane] = sum[lane].wrapping_add(pixel[lane].wrapping_mul(weight));
                }
            }
            *out = [clip(sum[0]), clip(sum[1]), clip(sum[2])];
        }
    }
}

/// Bytes of a row that are summed at once, in registers.
const LANES: usize = 32;

#[inline(always)]
fn vertical_any(rows: &[u8], stride: usize, windows: &Windows, out: &mut [u8]) {
    let taps = windows.taps;
    let height = rows.len() / stride;
    let positions = windows.starts.iter().zip(windows.weights.chunks_exact(taps));
    for ((&start, weights), out) in positions.zip(out.chunks_exact_mut(stride)) {
        // Weights behind a window's end are zero and must not reach behind the last row.
        let weights = &weights[..taps.min(height - start)];
        let (blocks, rest) = out.as_chunks_mut::<LANES>();
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut sum = [ROUND; LANES];
            for (row, &weight) in rows[start * stride..].chunks_exact(stride).zip(weights) {
                let lanes: &[u8; LANES] = row[block * LANES..]
                    .first_chunk()
                    .expect("blocks of the output row are blocks of every input row: all have the stride");
                for (sum, &lane) in sum.iter_mut().zip(lanes) {
                    *sum = sum.wrapping_add(i32::from(lane).wrapping_mul(weight));
                }
            }
            for (out, sum) in out.iter_mut().zip(sum) {
                *out = clip(sum);
            }
        }
        let done = stride - rest.len();
        for (offset, out) in rest.iter_mut().enumerate() {
            let mut sum = ROUND;
            for (row, &weight) in rows[start * stride..].chunks_exact(stride).zip(weights) {
                sum = sum.wrapping_add(i32::from(row[done + offset]).wrapping_mul(weight));
            }
            *out = clip(sum);
        }
    }
}

/// Pillow's `clip8`: fixed point to 0..=255.
#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
