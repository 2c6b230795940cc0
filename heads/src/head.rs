//! Heads. Semantic ones: maps of several levels in, logits of the finest level's size out. Of a detector:
//! the layers of its parts. A head sees neither stores nor losses.

pub mod box_head;
pub mod linear;
pub mod mask_head;
pub mod rpn;
pub mod semantic_branch;
pub mod upernet;

use crate::{Phase, Result};
use featcache_store::LevelSpec;
use tch::Tensor;

pub use linear::{Linear, LinearOptions};
pub use upernet::{AuxiliaryOptions, UperNet, UperNetOptions};

/// What a head gives for a batch.
#[derive(Debug)]
pub struct Logits {
    /// `[n, classes, h, w]` at the finest level's size, binary32.
    pub main: Tensor,
    /// The auxiliary head's `[n, classes, h, w]` and the weight of its loss; only in training.
    pub auxiliary: Option<(Tensor, f64)>,
}

/// The heads there are.
#[derive(Debug)]
pub enum Head {
    /// BatchNorm and one 1×1 convolution.
    Linear(Linear),
    /// UperNet.
    UperNet(Box<UperNet>),
}

impl Head {
    /// Maps `[n, c, h, w]`, finest first, to logits.
    pub fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Logits> {
        match self {
            Self::Linear(head) => head.forward(maps, phase),
            Self::UperNet(head) => head.forward(maps, phase),
        }
    }
}

/// Channels of each level.
fn channels(levels: &[LevelSpec]) -> Vec<i64> {
    levels.iter().map(|level| i64::from(level.channels)).collect()
}
