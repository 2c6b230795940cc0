//! What a detector's recipe must hold to that its types cannot say: ranges, and keys that fit each other.

use super::{BoxLossKind, DetectorKind, DetectorRecipe};

impl DetectorRecipe {
    /// Checks what types cannot; the message names the key, from `neck` or `head` on.
    pub fn check(&self) -> Result<(), String> {
        let Self { neck, rpn, head, inference, .. } = self;
        let must = |holds: bool, key: &str, found: String, expected: &str| {
            if holds { Ok(()) } else { Err(format!("{key} is {found}, expected {expected}")) }
        };
        let some = |key: &str, value: u32| must(value > 0, key, value.to_string(), "at least 1");
        let share =
            |key: &str, value: f64| must((0.0..=1.0).contains(&value), key, value.to_string(), "0 to 1");
        let weight = |key: &str, value: f64| {
            must(value >= 0.0 && value.is_finite(), key, value.to_string(), "0 or more")
        };
        let positive =
            |key: &str, value: f64| must(value > 0.0 && value.is_finite(), key, value.to_string(), "above 0");
        for (key, value) in [
            ("neck.channels", neck.channels),
            ("neck.outputs", neck.outputs),
            ("neck.repeats", neck.repeats),
            ("rpn.channels", rpn.channels),
            ("rpn.convs", rpn.convs),
            ("rpn.samples", rpn.samples),
            ("rpn.train.per_level", rpn.train.per_level),
            ("rpn.train.keep", rpn.train.keep),
            ("rpn.test.per_level", rpn.test.per_level),
            ("rpn.test.keep", rpn.test.keep),
            ("head.samples", head.samples),
            ("head.box.side", head.boxes.side),
            ("head.box.conv_channels", head.boxes.conv_channels),
            ("head.box.fcs", head.boxes.fcs),
            ("head.box.fc_channels", head.boxes.fc_channels),
            ("head.mask.side", head.masks.side),
            ("head.mask.channels", head.masks.channels),
            ("inference.max", inference.max),
        ] {
            some(key, value)?;
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
            _ => must(stages > 0, "head.stages", stages.to_string(), "at least 1 of them")?,
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
            some("head.semantic.classes", semantic.classes)?;
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
