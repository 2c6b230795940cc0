//! Scaled cosine attention inside windows, folded for a frozen network.
//!
//! `softmax(q̂·k̂ᵀ · τ + bias) · v` with `q̂ = q/‖q‖`, `k̂ = k/‖k‖` and τ = exp(min(logit_scale, ln 100)) a head
//! (SwinV2 paper §3.2; Microsoft's code). τ is multiplied into q̂; the key has no bias, so one concatenated
//! bias `[q, 0, v]` serves the joint projection. Softmax and norms are binary32 in every compute.

use super::portions::Portions;
use super::position_bias::{BlockBias, PositionBias};
use super::window_layout::Slice;
use tch::{Device, Kind, TchError, Tensor};

/// Attention of one block.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) heads: i64,
    /// `[3d, d]`: rows of query, key, value.
    pub(crate) qkv_weight: Tensor,
    /// `[3d]`: the key third is zero.
    pub(crate) qkv_bias: Tensor,
    /// `[2, 1, heads, 1, 1]`, binary32: τ for q, 1 for k.
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
        portions: &Portions,
        bias: &mut BlockBias<'_>,
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
        let head = width / self.heads;
        let qkv = padded
            .f_view([slice.windows, area, 3, self.heads, head])?
            .f_permute([2, 0, 3, 1, 4])?
            .f_contiguous()?; // [3, windows, heads, area, head]
        let mut qk = qkv.f_narrow(0, 0, 2)?;
        let norm = qk.f_norm_scalaropt_dim_dtype(2.0, [-1i64].as_slice(), true, Kind::Float)?;
        let factor = self.scale.f_div(&norm.f_clamp_min(1e-12)?)?; // [2, windows, heads, area, 1]
        let _ = qk.f_mul_(&factor)?;
        let mut out = Vec::with_capacity(slice.groups.len());
        for group in &slice.groups {
            let bias = bias.of(group.mask)?;
            let part = |i: i64| qkv.f_select(0, i)?.f_narrow(0, group.start, group.windows);
            let (q, k, v) = (part(0)?, part(1)?, part(2)?); // [windows, heads, area, head]
            let attended = if q.device() == Device::Cpu {
                explicit(&q, &k, &v, &bias, portions.logit_bytes)?
            } else {
                let bias = Some(&bias);
                Tensor::f_scaled_dot_product_attention(&q, &k, &v, bias, 0.0, false, 1.0, false)?
            }; // [windows, heads, area, head]
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

/// Attention as two products and a softmax, in bites of `logit_bytes` of logits: on a CPU faster than libtorch's
/// fused kernel, in bfloat16 twice as fast (measured; the kernel converts every operand to binary32). Products
/// accumulate in binary32 onto the bias, so a logit is rounded once, and the softmax computes in binary32.
///
/// `q`, `k`, `v` are contiguous `[windows, heads, area, head]`, `bias` is `[1, heads, area, area]`.
fn explicit(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: &Tensor,
    logit_bytes: usize,
) -> Result<Tensor, TchError> {
    let (windows, heads, area, head) = q.size4()?;
    let bite = (logit_bytes as i64 / (q.kind().elt_size_in_bytes() as i64 * area * area)).max(1);
    // Whole windows where they fit, else some heads of one window at a time.
    let (some_windows, some_heads) = if bite >= heads { (bite / heads, heads) } else { (1, bite) };
    let out = Tensor::f_empty([windows, heads, area, head], (q.kind(), q.device()))?;
    for first_window in (0..windows).step_by(some_windows as usize) {
        let windows = some_windows.min(windows - first_window);
        for first_head in (0..heads).step_by(some_heads as usize) {
            let heads = some_heads.min(heads - first_head);
            let bitten = |t: &Tensor| {
                let t = t.f_narrow(0, first_window, windows)?.f_narrow(1, first_head, heads)?;
                t.f_view([windows * heads, area, head])
            };
            let mut logits = Tensor::f_empty([windows, heads, area, area], (q.kind(), q.device()))?;
            logits.f_copy_(&bias.f_narrow(1, first_head, heads)?)?;
            let mut logits = logits.f_view([windows * heads, area, area])?;
            let _ = logits.f_baddbmm_(&bitten(q)?, &bitten(k)?.f_transpose(1, 2)?)?;
            let weights = logits.f_softmax(-1, None::<Kind>)?;
            let _ = weights.f_bmm_out(&bitten(&out)?, &bitten(v)?)?;
        }
    }
    Ok(out)
}
