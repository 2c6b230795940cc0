//! Scaled cosine attention inside windows, folded for a frozen network.
//!
//! `softmax(q̂·k̂ᵀ · τ + bias) · v` with `q̂ = q/‖q‖`, `k̂ = k/‖k‖` and τ = exp(min(logit_scale, ln 100)) a head
//! (SwinV2 paper §3.2; Microsoft's code). τ is multiplied into q̂; the key has no bias, so one concatenated
//! bias `[q, 0, v]` serves the joint projection. Softmax and norms are binary32 in every compute.

use super::position_bias::{BiasCache, PositionBias};
use super::window_layout::Slice;
use std::cell::RefCell;
use tch::{Kind, TchError, Tensor};

/// Attention of one block.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) heads: i64,
    /// `[3d, d]`: rows of query, key, value.
    pub(crate) qkv_weight: Tensor,
    /// `[3d]`: the key third is zero.
    pub(crate) qkv_bias: Tensor,
    /// `[2, heads, 1]`, binary32: τ for q, 1 for k.
    pub(crate) scale: Tensor,
    pub(crate) proj_weight: Tensor,
    pub(crate) proj_bias: Tensor,
    pub(crate) position_bias: PositionBias,
    /// Number of the block in the backbone.
    pub(crate) block: usize,
}

impl Attention {
    /// Attention of the windows of a slice. `x` and the result are `[cells, d]`, without padding.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        window: u32,
        slice: &Slice,
        biases: &RefCell<BiasCache>,
    ) -> Result<Tensor, TchError> {
        let area = i64::from(window * window);
        let width = x.size().last().copied().unwrap_or(0);
        let qkv = x.f_linear(&self.qkv_weight, Some(&self.qkv_bias))?; // [cells, 3d]
        let padded = match &slice.places {
            None => qkv,
            Some(places) => {
                // A padded cell is a zero row, so its projection is the bias.
                let rows = slice.windows * area;
                let mut padded = self.qkv_bias.f_expand([rows, 3 * width], false)?.f_contiguous()?;
                let _ = padded.f_index_copy_(0, places, &qkv)?;
                padded
            }
        };
        let qkv = padded.f_view([slice.windows * area, 3, self.heads, width / self.heads])?;
        let mut qk = qkv.f_narrow(1, 0, 2)?; // [rows, 2, heads, d/heads]
        let norm = qk.f_norm_scalaropt_dim_dtype(2.0, [-1i64].as_slice(), true, Kind::Float)?;
        let factor = self.scale.f_div(&norm.f_clamp_min(1e-12)?)?; // [rows, 2, heads, 1]
        let _ = qk.f_mul_(&factor)?;
        let qkv = qkv.f_view([slice.windows, area, 3, self.heads, width / self.heads])?;
        let part = |i: i64| qkv.f_select(2, i)?.f_transpose(1, 2); // [windows, heads, area, d/heads]
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let mut out = Vec::with_capacity(slice.groups.len());
        for group in &slice.groups {
            let bias = biases.borrow_mut().bias(self.block, &self.position_bias, window, group.mask)?;
            let of_group = |t: &Tensor| t.f_narrow(0, group.start, group.windows);
            let attended = Tensor::f_scaled_dot_product_attention(
                &of_group(&q)?,
                &of_group(&k)?,
                &of_group(&v)?,
                Some(&bias),
                0.0,
                false,
                1.0,
                false,
            )?; // [windows, heads, area, d/heads]
            out.push(attended.f_transpose(1, 2)?.f_reshape([group.windows * area, width])?);
        }
        let mut out = match out.len() {
            1 => out.remove(0),
            _ => Tensor::f_cat(&out, 0)?,
        };
        if let Some(places) = &slice.places {
            out = out.f_index_select(0, places)?; // [cells, d]
        }
        out.f_linear(&self.proj_weight, Some(&self.proj_bias))
    }
}
