//! LayerNorm over channels, computed in binary32 whatever comes in.

use tch::{TchError, Tensor};

/// LayerNorm with ε = 1e-5.
#[derive(Debug)]
pub(crate) struct Norm {
    /// `[d]`: binary32 on a CPU, whose kernel takes it with bfloat16 input; the input's type elsewhere.
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Norm {
    /// `[…, d]` normalised, in the element type of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), 1e-5, true)
    }
}
