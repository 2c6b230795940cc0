//! What a detector's recipe must hold to that its types cannot say: ranges, and keys that fit each other.

use super::{BoxLossKind, DetectorKind, DetectorRecipe};

/// Widest layer. Limits are far above what anybody trains, and keep a slip of the finger, or a checkpoint
/// that lies, from taking all memory before it can be refused.
const MOST_CHANNELS: u32 = 1 << 16;
/// Most layers of a kind, one after the other.
const MOST_LAYERS: u32 = 64;
/// Most levels of a pyramid: beyond, maps have one cell.
const MOST_OUTPUTS: u32 = 16;
/// Most stages.
const MOST_STAGES: usize = 16;
/// Most boxes of a picture at any place.
const MOST_BOXES: u32 = 1 << 20;
/// Longest side of a pooled map: a mask's target has twice as many bins, 1024 at most.
const MOST_SIDE: u32 = 512;
/// Most samples along a side of a bin.
const MOST_SAMPLES: u32 = 64;
/// Most shapes of anchors.
const MOST_RATIOS: usize = 64;
/// Most classes of a stuff map: 16 bits with a sign.
const MOST_STUFF: u32 = 32_767;

impl DetectorRecipe {
    /// Checks what types cannot; the message names the key, from `neck` or `head` on.
    pub fn check(&self) -> Result<(), String> {
        let Self { neck, rpn, head, inference, .. } = self;
        let must = |holds: bool, key: &str, found: String, expected: &str| {
            if holds { Ok(()) } else { Err(format!("{key} is {found}, expected {expected}")) }
        };
        let range = |key: &str, value: u32, most: u32| {
            must((1..=most).contains(&value), key, value.to_string(), &format!("1 to {most}"))
        };
        let at_most = |key: &str, value: u32, most: u32| {
            must(value <= most, key, value.to_string(), &format!("at most {most}"))
        };
        let share =
            |key: &str, value: f64| must((0.0..=1.0).contains(&value), key, value.to_string(), "0 to 1");
        let weight = |key: &str, value: f64| {
            must(value >= 0.0 && value.is_finite(), key, value.to_string(), "0 or more")
        };
        let positive =
            |key: &str, value: f64| must(value > 0.0 && value.is_finite(), key, value.to_string(), "above 0");
        for (key, value, most) in [
            ("neck.channels", neck.channels, MOST_CHANNELS),
            ("neck.outputs", neck.outputs, MOST_OUTPUTS),
            ("neck.repeats", neck.repeats, MOST_LAYERS),
            ("rpn.channels", rpn.channels, MOST_CHANNELS),
            ("rpn.convs", rpn.convs, MOST_LAYERS),
            ("rpn.samples", rpn.samples, MOST_BOXES),
            ("rpn.train.per_level", rpn.train.per_level, MOST_BOXES),
            ("rpn.train.keep", rpn.train.keep, MOST_BOXES),
            ("rpn.test.per_level", rpn.test.per_level, MOST_BOXES),
            ("rpn.test.keep", rpn.test.keep, MOST_BOXES),
            ("head.samples", head.samples, MOST_BOXES),
            ("head.box.side", head.boxes.side, MOST_SIDE),
            ("head.box.conv_channels", head.boxes.conv_channels, MOST_CHANNELS),
            ("head.box.fcs", head.boxes.fcs, MOST_LAYERS),
            ("head.box.fc_channels", head.boxes.fc_channels, MOST_CHANNELS),
            ("head.mask.side", head.masks.side, MOST_SIDE),
            ("head.mask.channels", head.masks.channels, MOST_CHANNELS),
            ("inference.max", inference.max, MOST_BOXES),
        ] {
            range(key, value, most)?;
        }
        for (key, value, most) in [
            ("head.box.convs", head.boxes.convs, MOST_LAYERS),
            ("head.mask.convs", head.masks.convs, MOST_LAYERS),
            ("head.roi_sampling", head.roi_sampling, MOST_SAMPLES),
        ] {
            at_most(key, value, most)?;
        }
        for (key, value) in [
            ("rpn.positive_iou", rpn.positive_iou),
            ("rpn.negative_iou", rpn.negative_iou),
            ("rpn.low_quality_iou", rpn.low_quality_iou),
            ("rpn.positive_fraction", rpn.positive_fraction),
            ("rpn.nms", rpn.nms),
            ("head.positive_fraction", head.positive_fraction),
            ("inference.score", inference.score),
            ("inference.nms", inference.nms),
        ] {
            share(key, value)?;
        }
        let order = rpn.negative_iou <= rpn.positive_iou;
        must(order, "rpn.negative_iou", rpn.negative_iou.to_string(), "at most rpn.positive_iou")?;
        positive("rpn.anchor_scale", rpn.anchor_scale)?;
        must(
            rpn.allowed_border.is_finite(),
            "rpn.allowed_border",
            rpn.allowed_border.to_string(),
            "a number",
        )?;
        let ratios = format!("{:?}", rpn.ratios);
        let fit = !rpn.ratios.is_empty() && rpn.ratios.iter().all(|&ratio| ratio > 0.0 && ratio.is_finite());
        must(fit, "rpn.ratios", ratios, "at least one, all above 0")?;
        let ratios = rpn.ratios.len();
        must(
            ratios <= MOST_RATIOS,
            "rpn.ratios",
            format!("{ratios} numbers"),
            &format!("at most {MOST_RATIOS}"),
        )?;
        let on_deltas = rpn.loss.kind != BoxLossKind::Giou;
        must(on_deltas, "rpn.loss.kind", "\"giou\"".into(), "\"l1\" or \"smooth_l1\"")?;
        for (table, loss) in [("rpn.loss", rpn.loss), ("head.box.loss", head.boxes.loss)] {
            weight(&format!("{table}.weight"), loss.weight)?;
            if loss.kind == BoxLossKind::SmoothL1 {
                positive(&format!("{table}.beta"), loss.beta)?;
            }
        }
        weight("head.mask.weight", head.masks.weight)?;
        let stages = head.stages.len();
        match head.kind {
            DetectorKind::MaskRcnn => must(stages == 1, "head.stages", stages.to_string(), "1 of them")?,
            _ => {
                let fits = (1..=MOST_STAGES).contains(&stages);
                must(fits, "head.stages", stages.to_string(), &format!("1 to {MOST_STAGES} of them"))?;
            }
        }
        for (i, stage) in head.stages.iter().enumerate() {
            share(&format!("head.stages[{i}].iou"), stage.iou)?;
            weight(&format!("head.stages[{i}].weight"), stage.weight)?;
            for std in stage.stds {
                positive(&format!("head.stages[{i}].stds"), std)?;
            }
        }
        if let Some(semantic) = &head.semantic {
            if head.kind != DetectorKind::Htc {
                return Err("head.semantic is given, but head.kind is not \"htc\"".into());
            }
            range("head.semantic.classes", semantic.classes, MOST_STUFF)?;
            at_most("head.semantic.convs", semantic.convs, MOST_LAYERS)?;
            let fits = semantic.level < neck.outputs;
            must(fits, "head.semantic.level", semantic.level.to_string(), "below neck.outputs")?;
            weight("head.semantic.weight", semantic.weight)?;
        }
        if let Some(soft) = &inference.soft_nms {
            positive("inference.soft_nms.sigma", soft.sigma)?;
            share("inference.soft_nms.min_score", soft.min_score)?;
        }
        Ok(())
    }
}
