//! The arithmetic of a head: an explicit choice, because torch's autocast is out of tch's reach on the CPU.

use serde::{Deserialize, Serialize};
use tch::Kind;

/// Arithmetic of a head's convolutions; parameters, statistics and losses are binary32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// binary32.
    Fp32,
    /// bfloat16 convolutions and maps between them.
    Bf16,
}

impl Precision {
    /// Element type of the maps.
    pub fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}
