//! What the machine can do: the best speed of plain matrix products of a backbone's sizes.
//!
//! A forward pass is reported as a share of this, measured in the same run, and never as bare seconds.

use crate::backbone::kind_of;
use crate::{Error, Result};
use featcache_store::Compute;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Rows, inner dimension and columns: the MLPs of SwinV2-T to L on the maps of an 800×1333 picture.
const SIZES: [(i64, i64, i64); 3] = [(4096, 512, 2048), (4096, 768, 3072), (2048, 1536, 6144)];
/// Products of each size; the best counts.
const DEFAULT_REPEATS: usize = 4;

/// Floating-point operations a second (a multiplication and an addition are two) of the fastest of a few
/// `[m, k] · [k, n]` products in this compute on this device.
pub fn gemm_peak(compute: Compute, device: Device) -> Result<f64> {
    let torch = Error::torch("measure matrix products");
    let measure = || {
        let _guard = tch::no_grad_guard();
        let mut best = 0f64;
        for (m, k, n) in SIZES {
            let options = (Kind::Float, device);
            let x = Tensor::f_randn([m, k], options)?.f_to_kind(kind_of(compute))?;
            let weight = Tensor::f_randn([n, k], options)?.f_to_kind(kind_of(compute))?;
            for repeat in 0..=DEFAULT_REPEATS {
                synchronize(device);
                let start = Instant::now();
                let _product = x.f_linear(&weight, None::<Tensor>)?;
                synchronize(device);
                let seconds = start.elapsed().as_secs_f64();
                // The first product of a size pays for memory and kernels.
                if repeat > 0 && seconds > 0.0 {
                    best = best.max(2.0 * (m * k * n) as f64 / seconds);
                }
            }
        }
        Ok(best)
    };
    measure().map_err(torch)
}

fn synchronize(device: Device) {
    if let Device::Cuda(number) = device {
        tch::Cuda::synchronize(number as i64);
    }
}
