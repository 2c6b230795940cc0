//! One block: attention and MLP, each normalised after and added to the main branch (res-post-norm).

use super::attention::Attention;
use super::norm::Norm;
use super::portions::Portions;
use super::position_bias::{BiasCache, BlockBias};
use super::window_layout::Order;
use std::cell::RefCell;
use tch::{TchError, Tensor};

/// `x ← x + norm1(attention(x))`, `x ← x + norm2(mlp(x))`, and in some sizes `x ← norm3(x)`.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attention: Attention,
    pub(crate) norm1: Norm,
    pub(crate) fc1_weight: Tensor,
    pub(crate) fc1_bias: Tensor,
    pub(crate) fc2_weight: Tensor,
    pub(crate) fc2_bias: Tensor,
    pub(crate) norm2: Norm,
    pub(crate) norm3: Option<Norm>,
}

impl Block {
    /// Works on the main branch `x` `[cells, d]`, binary32, in window order, in place. Everything in a block is
    /// local to its windows, so it goes slice by slice: intermediates stay in cache and memory does not grow
    /// with the map.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        window: u32,
        order: &Order,
        portions: &Portions,
        biases: &RefCell<BiasCache>,
    ) -> Result<(), TchError> {
        let Attention { block, position_bias, .. } = &self.attention;
        let mut bias = BlockBias::new(*block, position_bias, window, portions.kept_bias_bytes, biases);
        let kind = self.fc1_weight.kind();
        for slice in &order.slices {
            let mut x = x.f_narrow(0, slice.start, slice.cells)?;
            let attended = self.attention.forward(&x.f_to_kind(kind)?, window, slice, portions, &mut bias)?;
            let _ = x.f_add_(&self.norm1.forward(&attended)?)?;
            let mut hidden = x.f_to_kind(kind)?.f_linear(&self.fc1_weight, Some(&self.fc1_bias))?; // [cells, 4d]
            let _ = hidden.f_gelu_("none")?;
            let out = hidden.f_linear(&self.fc2_weight, Some(&self.fc2_bias))?;
            let _ = x.f_add_(&self.norm2.forward(&out)?)?;
            if let Some(norm3) = &self.norm3 {
                let normed = norm3.forward(&x)?;
                x.f_copy_(&normed)?;
            }
        }
        Ok(())
    }
}
