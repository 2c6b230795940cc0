//! Published settings by name. Sources: mmdetection's `configs/_base_/models/mask_rcnn_r50_fpn.py`,
//! `cascade_mask_rcnn_r50_fpn.py`, `configs/htc/htc_r50_fpn_1x_coco.py`, Swin's
//! `cascade_mask_rcnn_swin_*_giou_4conv1f_*.py`; torchvision's `maskrcnn_resnet50_fpn` and `_v2`.

use super::{
    BoxHeadOptions, BoxLoss, BoxLossKind, DetectorKind, DetectorRecipe, InferenceOptions, MaskHeadOptions,
    NeckKind, NeckOptions, ProposalCounts, RoiOptions, RpnOptions, StageOptions, Style,
};
use crate::norm::NormKind;
use serde::{Deserialize, Serialize};

/// Published settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// mmdetection's Mask R-CNN.
    MaskRcnn,
    /// mmdetection's Cascade Mask R-CNN: two fully connected layers, one box for all classes.
    Cascade,
    /// Swin's Cascade Mask R-CNN: four convolutions (group norm in place of SyncBN) and one fully
    /// connected layer, GIoU loss.
    CascadeGiou,
    /// mmdetection's hybrid task cascade, without its semantic branch.
    Htc,
    /// torchvision's `maskrcnn_resnet50_fpn`.
    Torchvision,
    /// torchvision's `maskrcnn_resnet50_fpn_v2`.
    TorchvisionV2,
}

/// β of torchvision's and detectron's smooth L1.
const NINTH: f64 = 1.0 / 9.0;

/// Deltas are divided by these (torchvision: multiplied by 10, 10, 5, 5).
const STDS: [f64; 4] = [0.1, 0.1, 0.2, 0.2];

impl Preset {
    /// mmdetection's settings for the `head.kind` of a table; Mask R-CNN's where it has none.
    pub(super) fn of_kind(table: &toml::Table) -> Result<Self, String> {
        let kind = table.get("head").and_then(|head| head.get("kind"));
        let Some(kind) = kind else { return Ok(Self::MaskRcnn) };
        let kind =
            kind.clone().try_into::<DetectorKind>().map_err(|e| format!("head.kind: {}", e.message()))?;
        Ok(match kind {
            DetectorKind::MaskRcnn => Self::MaskRcnn,
            DetectorKind::Cascade => Self::Cascade,
            DetectorKind::Htc => Self::Htc,
        })
    }

    /// Its recipe.
    pub fn recipe(self) -> DetectorRecipe {
        match self {
            Self::MaskRcnn => mask_rcnn(),
            Self::Cascade => cascade(self),
            Self::CascadeGiou => {
                let mut recipe = cascade(self);
                recipe.head.boxes = BoxHeadOptions {
                    convs: 4,
                    fcs: 1,
                    norm: Some(NormKind::Group),
                    class_agnostic: false,
                    loss: BoxLoss { kind: BoxLossKind::Giou, beta: 1.0, weight: 10.0 },
                    ..recipe.head.boxes
                };
                recipe
            }
            Self::Htc => {
                let mut recipe = cascade(self);
                recipe.head.kind = DetectorKind::Htc;
                recipe.head.low_quality = true;
                recipe.inference.score = 0.001;
                recipe
            }
            Self::Torchvision => torchvision(self),
            Self::TorchvisionV2 => {
                let mut recipe = torchvision(self);
                let norm = Some(NormKind::Batch);
                recipe.neck.norm = norm;
                recipe.rpn.convs = 2;
                recipe.head.boxes = BoxHeadOptions { convs: 4, fcs: 1, norm, ..recipe.head.boxes };
                recipe.head.masks.norm = norm;
                recipe
            }
        }
    }
}

fn mask_rcnn() -> DetectorRecipe {
    let l1 = BoxLoss { kind: BoxLossKind::L1, beta: 1.0, weight: 1.0 };
    DetectorRecipe {
        preset: Preset::MaskRcnn,
        style: Style::Mmdet,
        level_norm: true,
        neck: NeckOptions { kind: NeckKind::Fpn, channels: 256, outputs: 5, repeats: 2, norm: None },
        rpn: RpnOptions {
            channels: 256,
            convs: 1,
            anchor_scale: 8.0,
            ratios: vec![0.5, 1.0, 2.0],
            positive_iou: 0.7,
            negative_iou: 0.3,
            low_quality_iou: 0.3,
            samples: 256,
            positive_fraction: 0.5,
            allowed_border: -1.0,
            loss: l1,
            train: ProposalCounts { per_level: 2000, keep: 1000 },
            test: ProposalCounts { per_level: 1000, keep: 1000 },
            nms: 0.7,
        },
        head: RoiOptions {
            kind: DetectorKind::MaskRcnn,
            samples: 512,
            positive_fraction: 0.25,
            low_quality: true,
            roi_sampling: 0,
            roi_aligned: true,
            stages: vec![StageOptions { iou: 0.5, stds: STDS, weight: 1.0 }],
            boxes: BoxHeadOptions {
                side: 7,
                convs: 0,
                conv_channels: 256,
                norm: None,
                fcs: 2,
                fc_channels: 1024,
                class_agnostic: false,
                loss: l1,
            },
            masks: MaskHeadOptions { side: 14, convs: 4, channels: 256, norm: None, weight: 1.0 },
            semantic: None,
        },
        inference: InferenceOptions { score: 0.05, nms: 0.5, max: 100, soft_nms: None },
    }
}

fn cascade(preset: Preset) -> DetectorRecipe {
    let mut recipe = mask_rcnn();
    recipe.preset = preset;
    recipe.rpn.allowed_border = 0.0;
    recipe.rpn.loss = BoxLoss { kind: BoxLossKind::SmoothL1, beta: NINTH, weight: 1.0 };
    recipe.rpn.train.keep = 2000;
    recipe.head.kind = DetectorKind::Cascade;
    recipe.head.low_quality = false;
    recipe.head.stages = vec![
        StageOptions { iou: 0.5, stds: STDS, weight: 1.0 },
        StageOptions { iou: 0.6, stds: [0.05, 0.05, 0.1, 0.1], weight: 0.5 },
        StageOptions { iou: 0.7, stds: [0.033, 0.033, 0.067, 0.067], weight: 0.25 },
    ];
    recipe.head.boxes.class_agnostic = true;
    recipe.head.boxes.loss = BoxLoss { kind: BoxLossKind::SmoothL1, beta: 1.0, weight: 1.0 };
    recipe
}

fn torchvision(preset: Preset) -> DetectorRecipe {
    let loss = BoxLoss { kind: BoxLossKind::SmoothL1, beta: NINTH, weight: 1.0 };
    let mut recipe = mask_rcnn();
    recipe.preset = preset;
    recipe.style = Style::Torchvision;
    recipe.level_norm = false;
    recipe.rpn.loss = loss;
    recipe.rpn.train.keep = 2000;
    recipe.head.low_quality = false;
    recipe.head.roi_sampling = 2;
    recipe.head.roi_aligned = false;
    recipe.head.boxes.loss = loss;
    recipe
}
