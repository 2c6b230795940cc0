//! The recipe of a detector: neck, proposals, heads and inference, every number of it. Must not touch
//! tensors.
//!
//! A preset gives the published settings; every other key of the recipe overrides one of them. Written
//! out, a recipe holds all its values beside the preset's name, and reads back as the same recipe.

use crate::norm::NormKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod check;
mod preset;

pub use preset::Preset;

/// Neck × head × sizes of a detector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DetectorRecipe {
    /// Published settings that keys left out have; left out itself: those of `head.kind`.
    pub preset: Preset,
    /// Conventions where the reference implementations differ in arithmetic.
    pub style: Style,
    /// A LayerNorm on every level before the neck.
    pub level_norm: bool,
    /// What makes one width of all levels.
    pub neck: NeckOptions,
    /// Region proposals.
    pub rpn: RpnOptions,
    /// Box and mask heads.
    pub head: RoiOptions,
    /// From scores to detections.
    pub inference: InferenceOptions,
}

/// Whose conventions: everything in which mmdetection 2 and torchvision compute differently.
///
/// | | mmdet | torchvision |
/// |---|---|---|
/// | anchors | not rounded, stride of the level | base anchors rounded, stride ⌊input / map⌋ |
/// | low-quality matches | to the object whose best they are, above a minimum | to the box's own best object, no minimum |
/// | objects among the proposals | in front, matched to themselves | behind, matched by IoU |
/// | boxes dropped before NMS | empty ones | sides below 1e-3 (proposals), 1e-2 (detections) |
/// | mask targets | 0 or 1 | bilinear shares |
/// | RoIAlign of mask targets | aligned | not aligned |
/// | RPN losses divided by | samples, at least 1 of either kind a picture | samples |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// mmdetection 2.
    Mmdet,
    /// torchvision.
    Torchvision,
}

/// The necks there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeckKind {
    /// Feature pyramid network.
    Fpn,
    /// Bidirectional pyramid with full convolutions.
    BiFpn,
}

/// What makes one width of all levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeckOptions {
    /// Which neck.
    pub kind: NeckKind,
    /// Channels of its outputs.
    pub channels: u32,
    /// Levels it gives; those beyond the backbone's are pooled from the coarsest.
    pub outputs: u32,
    /// Layers of a BiFPN, one after the other; an FPN has one.
    pub repeats: u32,
    /// Norm after every convolution. Left out: none in an FPN, `group` in a BiFPN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
}

/// Which regression loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxLossKind {
    /// Sum of absolute differences of deltas.
    L1,
    /// The same, quadratic below `beta`.
    SmoothL1,
    /// 1 - GIoU of decoded boxes.
    Giou,
}

/// Regression loss of boxes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxLoss {
    /// Which.
    pub kind: BoxLossKind,
    /// Where smooth L1 turns linear; other losses ignore it.
    pub beta: f64,
    /// Its weight in the total.
    pub weight: f64,
}

/// How many proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalCounts {
    /// Best of each level that go into NMS.
    pub per_level: u32,
    /// Best of all levels that come out.
    pub keep: u32,
}

/// Region proposals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpnOptions {
    /// Channels of its convolutions.
    pub channels: u32,
    /// 3×3 convolutions before the two outputs.
    pub convs: u32,
    /// Side of the square anchor in strides of its level.
    pub anchor_scale: f64,
    /// Height over width of the anchors of one cell.
    pub ratios: Vec<f64>,
    /// Anchors of at least this IoU with an object are positive.
    pub positive_iou: f64,
    /// Anchors below this IoU with every object are negative.
    pub negative_iou: f64,
    /// The best anchors of an object are positive from this IoU on (mmdet's style only).
    pub low_quality_iou: f64,
    /// Anchors of a picture that the losses see.
    pub samples: u32,
    /// At most this share of them is positive.
    pub positive_fraction: f64,
    /// Anchors further outside of the picture than this, in pixels, are left out; negative: none are.
    pub allowed_border: f64,
    /// Regression loss, on deltas.
    pub loss: BoxLoss,
    /// Proposals while training.
    pub train: ProposalCounts,
    /// Proposals for inference.
    pub test: ProposalCounts,
    /// IoU above which NMS drops a proposal of the same level.
    pub nms: f64,
}

/// The heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectorKind {
    /// Mask R-CNN: one stage.
    MaskRcnn,
    /// Cascade Mask R-CNN: stages one after the other, each with box and mask head.
    Cascade,
    /// Hybrid task cascade: interleaved, with mask information flow.
    Htc,
}

/// One stage of boxes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageOptions {
    /// Proposals of at least this IoU with an object are positive, all others negative.
    pub iou: f64,
    /// What encoded deltas (x, y, width, height) are divided by.
    pub stds: [f64; 4],
    /// Weight of the stage's losses.
    pub weight: f64,
}

/// Box head of every stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxHeadOptions {
    /// Side of the pooled map.
    pub side: u32,
    /// 3×3 convolutions before the fully connected layers.
    pub convs: u32,
    /// Their channels.
    pub conv_channels: u32,
    /// Norm after each; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// Fully connected layers.
    pub fcs: u32,
    /// Their width.
    pub fc_channels: u32,
    /// One box for all classes instead of one each.
    pub class_agnostic: bool,
    /// Regression loss.
    pub loss: BoxLoss,
}

/// Mask head of every stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskHeadOptions {
    /// Side of the pooled map; masks have twice this side.
    pub side: u32,
    /// 3×3 convolutions.
    pub convs: u32,
    /// Their channels, and the deconvolution's.
    pub channels: u32,
    /// Norm after each; left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormKind>,
    /// Weight of the loss.
    pub weight: f64,
}

/// Semantic branch of HTC. Its defaults are HTC's: 183 classes of COCO-stuff maps at stride 8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SemanticOptions {
    /// Classes of the stuff maps.
    pub classes: u32,
    /// Which of the neck's outputs the others are resized to, from 0 for the finest.
    pub level: u32,
    /// 3×3 convolutions after the sum.
    pub convs: u32,
    /// Weight of the loss.
    pub weight: f64,
}

impl Default for SemanticOptions {
    fn default() -> Self {
        Self { classes: 183, level: 1, convs: 4, weight: 0.2 }
    }
}

/// Box and mask heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoiOptions {
    /// Which.
    pub kind: DetectorKind,
    /// RoIs of a picture that the losses see.
    pub samples: u32,
    /// At most this share of them is positive.
    pub positive_fraction: f64,
    /// An object's best proposal of at least the stage's IoU becomes its own, even where another
    /// object is nearer (mmdet's style only).
    pub low_quality: bool,
    /// Samples a side of every RoIAlign bin; 0: as many as the bin has cells, rounded up.
    pub roi_sampling: u32,
    /// RoIAlign with the half-pixel shift.
    pub roi_aligned: bool,
    /// Stages, in order.
    pub stages: Vec<StageOptions>,
    /// Box head of every stage.
    #[serde(rename = "box")]
    pub boxes: BoxHeadOptions,
    /// Mask head of every stage.
    #[serde(rename = "mask")]
    pub masks: MaskHeadOptions,
    /// Semantic branch; only with `htc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semantic: Option<SemanticOptions>,
}

/// How soft-NMS lowers the score of a box that overlaps a better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SoftNmsKind {
    /// By 1 - IoU where the IoU is above `inference.nms`.
    Linear,
    /// By exp(-IoU² / sigma).
    Gaussian,
}

/// Soft-NMS; the defaults are mmcv's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftNms {
    /// How scores fall.
    pub kind: SoftNmsKind,
    /// Width of the gaussian.
    pub sigma: f64,
    /// Boxes that fall below this score are dropped.
    pub min_score: f64,
}

impl Default for SoftNms {
    fn default() -> Self {
        Self { kind: SoftNmsKind::Linear, sigma: 0.5, min_score: 1e-3 }
    }
}

/// From scores to detections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferenceOptions {
    /// Detections need a score above this.
    pub score: f64,
    /// IoU above which NMS drops a detection of the same class.
    pub nms: f64,
    /// Detections of a picture, at most.
    pub max: u32,
    /// Soft-NMS in place of NMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_nms: Option<SoftNms>,
}

impl Serialize for DetectorRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The inherent function that `remote = "Self"` derives.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for DetectorRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let given = toml::Table::deserialize(deserializer)?;
        let preset = match given.get("preset") {
            Some(name) => name.clone().try_into::<Preset>().map_err(D::Error::custom)?,
            None => Preset::of_kind(&given).map_err(D::Error::custom)?,
        };
        let mut values = toml::Table::try_from(preset.recipe()).map_err(D::Error::custom)?;
        override_with(&mut values, given);
        Self::deserialize(values).map_err(D::Error::custom)
    }
}

/// Puts every value of `given` over that of `values`, table by table.
fn override_with(values: &mut toml::Table, given: toml::Table) {
    for (key, value) in given {
        match (values.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(given)) => override_with(inner, given),
            (_, value) => {
                values.insert(key, value);
            }
        }
    }
}

impl DetectorRecipe {
    /// The published recipe of a preset.
    pub fn preset(preset: Preset) -> Self {
        preset.recipe()
    }

    /// Classes of the stuff maps that its semantic branch learns from; `None` where it has none.
    pub fn semantic_classes(&self) -> Option<usize> {
        self.head.semantic.as_ref().map(|semantic| semantic.classes as usize)
    }
}

impl Default for DetectorRecipe {
    /// mmdetection's Mask R-CNN.
    fn default() -> Self {
        Preset::MaskRcnn.recipe()
    }
}
