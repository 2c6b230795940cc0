//! Pixels into cells: a linear layer on 4×4 patches, normalised.

use super::config::PATCH;
use super::norm::Norm;
use tch::{Kind, TchError, Tensor};

/// The patch embedding; its convolution does not overlap, so it is one matrix product.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    /// `[c, 3·4·4]`.
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) norm: Norm,
}

impl PatchEmbedding {
    /// `[n, 3, h, w]` pictures, padded right and bottom to whole patches, as `[n·h/4·w/4, c]` row-major cells.
    pub(crate) fn forward(&self, pictures: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let p = i64::from(PATCH);
        let (n, channels, h, w) = pictures.size4()?;
        let (down, across) = ((h + p - 1) / p, (w + p - 1) / p);
        let padded = match (down * p - h, across * p - w) {
            (0, 0) => pictures.shallow_clone(),
            (bottom, right) => pictures.f_constant_pad_nd([0, right, 0, bottom])?,
        };
        padded
            .f_to_kind(kind)?
            .f_reshape([n, channels, down, p, across, p])?
            .f_permute([0, 2, 4, 1, 3, 5])? // [n, down, across, 3, 4, 4]
            .f_reshape([n * down * across, channels * p * p])?
            .f_linear(&self.weight, Some(&self.bias))
            .and_then(|cells| self.norm.forward(&cells))
    }
}
