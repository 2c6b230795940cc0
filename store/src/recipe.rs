//! What the features are. Two recipes with different fingerprints never mix.

use crate::{DType, ResizeRule, ViewSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that the features of a sample depend on, apart from its pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The frozen network.
    pub backbone: BackboneSpec,
    /// From file to network input.
    pub preprocess: Preprocess,
    /// Views of each sample, `base` first.
    pub views: Vec<ViewSpec>,
    /// Levels kept, finest first.
    pub levels: Vec<LevelSpec>,
}

/// The frozen network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// Registered name, such as `swinv2-b`.
    pub name: String,
    /// BLAKE3 of the weights in canonical tensor order, lowercase hex.
    pub weights_blake3: String,
    /// Arithmetic of the forward pass.
    pub compute: Compute,
    /// What else changes the result, such as `window` and `pretrained_window`.
    pub options: BTreeMap<String, String>,
}

/// Arithmetic of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// binary32 throughout.
    Fp32,
    /// bfloat16 matrix products, normalisations and softmax in binary32.
    Bf16,
}

impl Compute {
    /// Element type of the maps that the backbone hands out.
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}

/// From file to network input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Decoder by name: `libjpeg-turbo+png`.
    pub decoder: String,
    /// EXIF orientation applied (`true`) or ignored, as Pillow's `Image.open` does (`false`).
    pub exif_transpose: bool,
    /// Size rule.
    pub resize: ResizeRule,
    /// Resampler by name and pass order: `pillow-bilinear-hv` or `pillow-bicubic-hv`.
    pub resampler: String,
    /// Per-channel mean on the 0..1 scale, RGB.
    pub mean: [f64; 3],
    /// Per-channel standard deviation on the 0..1 scale, RGB.
    pub std: [f64; 3],
    /// Input sizes are padded right and bottom with zeros (after normalisation) to multiples of this.
    pub pad_divisor: u32,
}

/// One level of the feature pyramid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelSpec {
    /// Name in paths and tables: `p2` … `p5`.
    pub name: String,
    /// Input pixels per cell; a padded input of H×W gives H/stride × W/stride cells.
    pub stride: u32,
    /// Channels.
    pub channels: u32,
    /// Where in the network, such as `stage0` (output before downsampling).
    pub tap: String,
    /// Normalisation of the map: `none`, or the name of the backbone's own final norm.
    pub norm: String,
}

/// BLAKE3 of a recipe's canonical JSON, as 64 lowercase hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
