//! Four cells into one between stages: a linear layer on 2×2 neighbours, normalised after (V2).

use super::norm::Norm;
use tch::{TchError, Tensor};

/// The downsampling at the end of a stage.
#[derive(Debug)]
pub(crate) struct PatchMerging {
    /// `[2d, 4d]`.
    pub(crate) weight: Tensor,
    pub(crate) norm: Norm,
}

impl PatchMerging {
    /// `[n, h, w, d]` as `[n·⌈h/2⌉·⌈w/2⌉, 2d]` row-major cells; odd maps are padded with zeros.
    pub(crate) fn forward(&self, map: &Tensor) -> Result<Tensor, TchError> {
        let (n, h, w, d) = map.size4()?;
        let (down, across) = ((h + 1) / 2, (w + 1) / 2);
        let padded = match (2 * down - h, 2 * across - w) {
            (0, 0) => map.shallow_clone(),
            (bottom, right) => map.f_constant_pad_nd([0, 0, 0, right, 0, bottom])?,
        };
        // Neighbours are concatenated (0,0), (1,0), (0,1), (1,1) in (row, column): the row is the fast one.
        padded
            .f_view([n, down, 2, across, 2, d])?
            .f_permute([0, 1, 3, 4, 2, 5])?
            .f_reshape([n * down * across, 4 * d])?
            .f_linear(&self.weight, None::<Tensor>)
            .and_then(|cells| self.norm.forward(&cells))
    }
}
