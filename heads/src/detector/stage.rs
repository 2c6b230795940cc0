//! One stage of a detector: a box head and a mask head with what they learn from regions. Must not choose
//! regions or know other stages.

use crate::detection::boxes::{clip, from_tensor, to_tensor};
use crate::detection::delta::DeltaCoder;
use crate::detection::roi_align::Roi;
use crate::detector::box_loss::{box_loss, nothing_of};
use crate::detector::pooling::{Maps, Pooler};
use crate::detector::proposal::ratio_limit;
use crate::detector::sampling::{RegionRule, Regions};
use crate::detector::truths::Truths;
use crate::head::box_head::BoxHead;
use crate::head::mask_head::MaskHead;
use crate::mask::target::{TargetOptions, target};
use crate::parameter::Parameters;
use crate::recipe::detector::{DetectorKind, DetectorRecipe, RoiOptions, Style};
use crate::{Phase, Precision, Result};
use featcache_store::Size;
use tch::{Kind, Reduction, Tensor};

/// A stage.
#[derive(Debug)]
pub(super) struct Stage {
    /// Number in the names of its tensors and losses; Mask R-CNN's only stage has none.
    pub(super) number: Option<usize>,
    /// Its box head.
    pub(super) boxes: BoxHead,
    /// Its mask head.
    pub(super) masks: MaskHead,
    /// The rule of its regions.
    pub(super) rule: RegionRule,
    /// Code of its deltas.
    pub(super) coder: DeltaCoder,
    weight: f64,
    classes: usize,
    options: RoiOptions,
    style: Style,
}

/// What a box head says of regions, binary32.
#[derive(Debug)]
pub(super) struct BoxOutput {
    /// `[r, classes + 1]`, the background last.
    pub(super) logits: Tensor,
    /// `[r, 4 · classes]`, or `[r, 4]` of one box for all classes.
    pub(super) deltas: Tensor,
}

impl Stage {
    /// Stage `index` of the recipe's.
    pub(super) fn new(
        parameters: &mut Parameters,
        recipe: &DetectorRecipe,
        index: usize,
        classes: usize,
        precision: Precision,
    ) -> Result<Self> {
        let (head, style) = (&recipe.head, recipe.style);
        let options = &head.stages[index];
        let number = match head.kind {
            DetectorKind::MaskRcnn => None,
            DetectorKind::Cascade | DetectorKind::Htc => Some(index),
        };
        let name = |part: &str| match number {
            None => format!("roi_head.{part}"),
            Some(number) => format!("roi_head.{part}.{number}"),
        };
        let (input, count) = (i64::from(recipe.neck.channels), classes as i64);
        let boxes = BoxHead::new(parameters, &name("bbox_head"), &head.boxes, input, count, precision)?;
        let flow = head.kind == DetectorKind::Htc && index > 0;
        let masks =
            MaskHead::new(parameters, &name("mask_head"), &head.masks, input, count, flow, precision)?;
        let stds = options.stds.map(|std| std as f32);
        let coder = DeltaCoder { stds, limit: ratio_limit(style) };
        let rule = RegionRule::new(head, options, style);
        let (weight, options) = (options.weight, head.clone());
        Ok(Self { number, boxes, masks, rule, coder, weight, classes, options, style })
    }

    /// The box head on regions.
    pub(super) fn box_forward(
        &self,
        pooler: &Pooler,
        maps: Maps<'_>,
        rois: &[Roi],
        phase: Phase,
    ) -> Result<BoxOutput> {
        let (logits, deltas) = self.boxes.forward(&pooler.boxes(maps, rois)?, phase)?;
        Ok(BoxOutput { logits, deltas })
    }

    /// `loss_cls` and `loss_bbox` of the box head, and what it said of the regions; `None` of no regions.
    pub(super) fn box_losses(
        &self,
        pooler: &Pooler,
        maps: Maps<'_>,
        regions: &Regions,
        phase: Phase,
    ) -> Result<([Tensor; 2], Option<BoxOutput>)> {
        if regions.rois.is_empty() {
            // Every parameter has a gradient, if one of zeros.
            let empty = pooler.empty(maps, self.options.boxes.side)?;
            let (logits, deltas) = self.boxes.forward(&empty, Phase::Eval)?;
            return Ok(([nothing_of(&logits)?, nothing_of(&deltas)?], None));
        }
        let output = self.box_forward(pooler, maps, &regions.rois, phase)?;
        let device = output.logits.device();
        let label = |class: Option<usize>| class.unwrap_or(self.classes) as i64;
        let labels: Vec<i64> = regions.objects.iter().map(|object| label(object.map(|o| o.class))).collect();
        let labels = Tensor::f_from_slice(&labels)?.f_to_device(device)?;
        let count = regions.rois.len() as f64;
        let sum = output.logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        let classes = sum.f_mul_scalar(self.weight / count)?;
        let (mut rows, mut boxes, mut truths) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (roi, object)) in regions.rois.iter().zip(&regions.objects).enumerate() {
            if let Some(object) = object {
                rows.push(self.delta_row(row, object.class));
                boxes.push(roi.bounds);
                truths.push(object.bounds);
            }
        }
        let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
        let found = output.deltas.f_reshape([-1, 4])?.f_index_select(0, &rows)?; // [positives, 4]
        let (boxes, truths) = (to_tensor(&boxes, device)?, to_tensor(&truths, device)?);
        let loss = box_loss(&found, &boxes, &truths, &self.coder, self.options.boxes.loss, count)?;
        Ok(([classes, loss.f_mul_scalar(self.weight)?], Some(output)))
    }

    /// Row of a region's deltas for a class when all are `[r · boxes, 4]`.
    fn delta_row(&self, row: usize, class: usize) -> i64 {
        match self.options.boxes.class_agnostic {
            true => row as i64,
            false => (row * self.classes + class) as i64,
        }
    }

    /// Regions moved to where the box head says, clipped to their pictures: by their class, or by the
    /// most likely one where `classes` knows none.
    pub(super) fn refine(
        &self,
        rois: &[Roi],
        classes: impl Fn(usize) -> Option<usize>,
        output: &BoxOutput,
        valid: &[Size],
    ) -> Result<Vec<Roi>> {
        let _guard = tch::no_grad_guard();
        let likely = output.logits.f_narrow(1, 0, self.classes as i64)?.f_argmax(1, false)?;
        let likely = Vec::<i64>::try_from(&likely.f_to_device(tch::Device::Cpu)?)?;
        let rows: Vec<i64> = likely
            .iter()
            .enumerate()
            .map(|(row, &likely)| self.delta_row(row, classes(row).unwrap_or(likely as usize)))
            .collect();
        let rows = Tensor::f_from_slice(&rows)?.f_to_device(output.deltas.device())?;
        let deltas = from_tensor(&output.deltas.f_detach()?.f_reshape([-1, 4])?.f_index_select(0, &rows)?)?;
        let boxes: Vec<[f32; 4]> = rois.iter().map(|roi| roi.bounds).collect();
        let moved = self.coder.decode(&boxes, &deltas)?;
        let place = |(roi, bounds): (&Roi, [f32; 4])| Roi {
            picture: roi.picture,
            bounds: clip(bounds, valid[roi.picture]),
        };
        Ok(rois.iter().zip(moved).map(place).collect())
    }

    /// Sampled regions moved to where the box head says, by picture and without the objects' own boxes:
    /// the proposals of what comes next.
    pub(super) fn refined_proposals(
        &self,
        regions: &Regions,
        output: Option<&BoxOutput>,
        pictures: &[Truths<'_>],
    ) -> Result<Vec<Vec<[f32; 4]>>> {
        let mut proposals = vec![Vec::new(); pictures.len()];
        let Some(output) = output else { return Ok(proposals) };
        let valid: Vec<Size> = pictures.iter().map(|truths| truths.valid).collect();
        let class = |row: usize| regions.objects[row].map(|object| object.class);
        let moved = self.refine(&regions.rois, class, output, &valid)?;
        for (roi, &added) in moved.into_iter().zip(&regions.added) {
            if !added {
                proposals[roi.picture].push(roi.bounds);
            }
        }
        Ok(proposals)
    }

    /// `loss_mask` of the stage; `before` are those whose features flow into it, in order.
    pub(super) fn mask_loss(
        &self,
        before: &[Stage],
        pooler: &Pooler,
        maps: Maps<'_>,
        regions: &Regions,
        pictures: &[Truths<'_>],
        phase: Phase,
    ) -> Result<Tensor> {
        let side = 2 * self.options.masks.side as usize;
        let options = match self.style {
            Style::Mmdet => TargetOptions { side, ..TargetOptions::default() },
            Style::Torchvision => TargetOptions::torchvision(side),
        };
        let (mut rois, mut classes, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (roi, object) in regions.rois.iter().zip(&regions.objects) {
            let Some(object) = object else { continue };
            let Some(mask) = pictures[roi.picture].masks[object.truth] else { continue };
            rois.push(*roi);
            classes.push(object.class as i64);
            targets.extend(target(mask, roi.bounds, &options)?);
        }
        if rois.is_empty() {
            // Every parameter has a gradient, if one of zeros.
            let empty = pooler.empty(maps, self.options.masks.side)?;
            return nothing_of(&self.mask_logits(before, &empty, &[0], Phase::Eval)?);
        }
        let logits = self.mask_logits(before, &pooler.masks(maps, &rois)?, &classes, phase)?;
        let targets =
            Tensor::f_from_slice(&targets)?.f_view(logits.size().as_slice())?.f_to_device(logits.device())?;
        let none = None::<&Tensor>;
        let loss = logits.f_binary_cross_entropy_with_logits(&targets, none, none, Reduction::Mean)?;
        Ok(loss.f_mul_scalar(self.options.masks.weight * self.weight)?)
    }

    fn mask_logits(
        &self,
        before: &[Stage],
        regions: &Tensor,
        classes: &[i64],
        phase: Phase,
    ) -> Result<Tensor> {
        let mut flow = None;
        for stage in before {
            flow = Some(stage.masks.features(regions, flow.as_ref(), phase)?);
        }
        let features = self.masks.features(regions, flow.as_ref(), phase)?;
        self.masks.logits(&features, classes)
    }
}

/// Mean over stages of the mask probabilities `[r, side, side]`, binary32; each stage gets what the one
/// before it hands on.
pub(super) fn mask_probabilities(stages: &[Stage], regions: &Tensor, classes: &[i64]) -> Result<Tensor> {
    let mut flow = None;
    let mut sum: Option<Tensor> = None;
    for stage in stages {
        let features = stage.masks.features(regions, flow.as_ref(), Phase::Eval)?;
        let probabilities = stage.masks.logits(&features, classes)?.f_sigmoid()?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&probabilities)?,
            None => probabilities,
        });
        flow = Some(features);
    }
    let sum = sum.unwrap_or_else(|| Tensor::zeros([0, 0, 0], (Kind::Float, regions.device())));
    Ok(sum.f_div_scalar(stages.len().max(1) as f64)?)
}
