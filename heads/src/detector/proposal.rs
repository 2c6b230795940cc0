//! Region proposals of a batch: anchors, what each of them learns, and the boxes that the heads get to
//! see. Must not know the heads.

use crate::detection::anchor::{AnchorGrid, inside};
use crate::detection::assigner::{LowQuality, Match, MaxIouAssigner};
use crate::detection::boxes::{clip, from_tensor, has_sides, to_tensor};
use crate::detection::delta::{DeltaCoder, RatioLimit};
use crate::detection::nms::batched_nms;
use crate::detection::sampler::{RandomSampler, Sample};
use crate::detector::box_loss::delta_loss;
use crate::detector::truths::Truths;
use crate::head::rpn::{Rpn, RpnOutput};
use crate::parameter::Parameters;
use crate::recipe::detector::{DetectorRecipe, ProposalCounts, RpnOptions, Style};
use crate::seed::Seed;
use crate::{Error, Phase, Precision, Result};
use featcache_store::Size;
use tch::{Device, Reduction, Tensor};

/// Shortest side of a proposal in torchvision's style, in pixels.
const MIN_SIDE: f32 = 1e-3;

/// Proposes regions and learns to.
#[derive(Debug)]
pub(super) struct Proposer {
    rpn: Rpn,
    options: RpnOptions,
    style: Style,
    strides: Vec<u32>,
    coder: DeltaCoder,
    assigner: MaxIouAssigner,
    sampler: RandomSampler,
}

/// What the proposal layers say of a batch, with the anchors that they say it of.
#[derive(Debug)]
pub(super) struct Proposals {
    output: RpnOutput,
    /// Of each level.
    anchors: Vec<Vec<[f32; 4]>>,
}

impl Proposer {
    /// Layers over the neck's outputs, whose strides are given.
    pub(super) fn new(
        parameters: &mut Parameters,
        recipe: &DetectorRecipe,
        strides: Vec<u32>,
        precision: Precision,
    ) -> Result<Self> {
        let (options, style) = (recipe.rpn.clone(), recipe.style);
        let rpn = Rpn::new(parameters, &options, i64::from(recipe.neck.channels), precision)?;
        let low_quality = match style {
            Style::Mmdet => LowQuality::Claim(options.low_quality_iou as f32),
            Style::Torchvision => LowQuality::Restore,
        };
        let assigner = MaxIouAssigner {
            positive: options.positive_iou as f32,
            negative: options.negative_iou as f32,
            low_quality,
            crowd_share: None,
        };
        let (count, positive_share) = (options.samples as usize, options.positive_fraction);
        let sampler = RandomSampler { count, positive_share };
        let coder = DeltaCoder { stds: [1.0; 4], limit: ratio_limit(style) };
        Ok(Self { rpn, options, style, strides, coder, assigner, sampler })
    }

    /// The layers on the neck's maps, and the anchors of their cells.
    pub(super) fn forward(&self, maps: &[Tensor], phase: Phase) -> Result<Proposals> {
        let output = self.rpn.forward(maps, phase)?;
        let side = |side: i64| {
            u32::try_from(side).map_err(|_| Error::invalid(format!("a map of {side} cells along a side")))
        };
        let sizes = output
            .sizes
            .iter()
            .map(|&(height, width)| Ok(Size::new(side(height)?, side(width)?)))
            .collect::<Result<Vec<_>>>()?;
        let ratios: Vec<f32> = self.options.ratios.iter().map(|&ratio| ratio as f32).collect();
        let scale = self.options.anchor_scale as f32;
        let mut anchors = Vec::with_capacity(sizes.len());
        for (&size, &stride) in sizes.iter().zip(&self.strides) {
            let grid = match self.style {
                Style::Mmdet => AnchorGrid::mmdetection(stride, &[scale], &ratios)?,
                Style::Torchvision => {
                    // The finest level's stride divides the padded input.
                    let finest = (sizes[0], self.strides[0]);
                    let over = |input: u32, cells: u32| input * finest.1 / cells.max(1);
                    let steps = [over(finest.0.height, size.height), over(finest.0.width, size.width)];
                    AnchorGrid::torchvision(steps, &[scale * stride as f32], &ratios)?
                }
            };
            anchors.push(grid.anchors(size));
        }
        Ok(Proposals { output, anchors })
    }

    /// `loss_rpn_cls` and `loss_rpn_bbox`.
    pub(super) fn losses(
        &self,
        proposals: &Proposals,
        pictures: &[Truths<'_>],
        seed: Seed,
    ) -> Result<[Tensor; 2]> {
        let objectness = Tensor::f_cat(&proposals.output.objectness, 1)?; // [n, anchors]
        let deltas = Tensor::f_cat(&proposals.output.deltas, 1)?.f_reshape([-1, 4])?; // [n · anchors, 4]
        let device = objectness.device();
        let anchors: Vec<[f32; 4]> = proposals.anchors.concat();
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        let (mut positives, mut targets) = (Vec::new(), Vec::new());
        let mut divisor = 0;
        for (picture, truths) in pictures.iter().enumerate() {
            let (matches, sample) = self.sample(&anchors, truths, seed.derive(picture as u64));
            let first = (picture * anchors.len()) as i64;
            for &index in &sample.positive {
                if let Match::Truth(truth) = matches[index] {
                    let truth = truths.boxes[truth as usize];
                    targets.extend(self.coder.encode(&[anchors[index]], &[truth])?);
                    positives.push(first + index as i64);
                }
            }
            let sampled = sample.positive.iter().chain(&sample.negative);
            rows.extend(sampled.map(|&index| first + index as i64));
            labels.extend(std::iter::repeat_n(1f32, sample.positive.len()));
            labels.extend(std::iter::repeat_n(0f32, sample.negative.len()));
            divisor += match self.style {
                Style::Mmdet => sample.positive.len().max(1) + sample.negative.len().max(1),
                Style::Torchvision => sample.positive.len() + sample.negative.len(),
            };
        }
        let divisor = divisor.max(1) as f64;
        let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
        let labels = Tensor::f_from_slice(&labels)?.f_to_device(device)?;
        let none = None::<&Tensor>;
        let classes = objectness
            .f_reshape([-1])?
            .f_index_select(0, &rows)?
            .f_binary_cross_entropy_with_logits(&labels, none, none, Reduction::Sum)?
            .f_div_scalar(divisor)?;
        let positives = Tensor::f_from_slice(&positives)?.f_to_device(device)?;
        let found = deltas.f_index_select(0, &positives)?; // [positives, 4]
        let boxes = delta_loss(&found, &to_tensor(&targets, device)?, self.options.loss, divisor)?;
        Ok([classes, boxes])
    }

    /// What every anchor learns, and which of them are asked.
    fn sample(&self, anchors: &[[f32; 4]], truths: &Truths<'_>, seed: Seed) -> (Vec<Match>, Sample) {
        let border = self.options.allowed_border as f32;
        if border < 0.0 {
            let matches = self.assigner.assign(anchors, &truths.boxes, &truths.crowd);
            let sample = self.sampler.sample(&matches, seed);
            return (matches, sample);
        }
        let (mut within, mut indices) = (Vec::new(), Vec::new());
        for (index, &anchor) in anchors.iter().enumerate() {
            if inside(anchor, truths.valid, border) {
                within.push(anchor);
                indices.push(index);
            }
        }
        let mut matches = vec![Match::Ignored; anchors.len()];
        for (index, found) in indices.iter().zip(self.assigner.assign(&within, &truths.boxes, &truths.crowd))
        {
            matches[*index] = found;
        }
        let sample = self.sampler.sample(&matches, seed);
        (matches, sample)
    }

    /// The best boxes of each picture, clipped to it, by descending objectness. `checked` refuses
    /// objectness that is not a number; without it such anchors are left out, and the loss tells.
    pub(super) fn boxes(
        &self,
        proposals: &Proposals,
        valid: &[Size],
        counts: ProposalCounts,
        checked: bool,
    ) -> Result<Vec<Vec<[f32; 4]>>> {
        let _guard = tch::no_grad_guard();
        let pictures = valid.len();
        let mut candidates: Vec<Candidates> = (0..pictures).map(|_| Candidates::default()).collect();
        let min_side = match self.style {
            Style::Mmdet => 0.0,
            Style::Torchvision => MIN_SIDE,
        };
        let levels = proposals.output.objectness.iter().zip(&proposals.output.deltas).zip(&proposals.anchors);
        for (level, ((objectness, deltas), anchors)) in levels.enumerate() {
            let scores = objectness.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
            let scores = Vec::<f32>::try_from(&scores.f_view([-1])?)?;
            for (picture, candidates) in candidates.iter_mut().enumerate() {
                let scores = &scores[picture * anchors.len()..(picture + 1) * anchors.len()];
                if checked && scores.iter().any(|score| score.is_nan()) {
                    let text = format!(
                        "objectness of picture {picture} of the batch is not a number at level {level}"
                    );
                    return Err(Error::invalid(text));
                }
                let best = best(scores, counts.per_level as usize);
                let rows: Vec<i64> = best.iter().map(|&(_, index)| i64::from(index)).collect();
                let rows = Tensor::f_from_slice(&rows)?.f_to_device(deltas.device())?;
                let deltas = deltas.f_select(0, picture as i64)?.f_index_select(0, &rows)?;
                let deltas = from_tensor(&deltas)?;
                let chosen: Vec<[f32; 4]> = best.iter().map(|&(_, index)| anchors[index as usize]).collect();
                for (bounds, &(score, _)) in self.coder.decode(&chosen, &deltas)?.into_iter().zip(&best) {
                    let bounds = clip(bounds, valid[picture]);
                    if has_sides(bounds, min_side) {
                        candidates.boxes.push(bounds);
                        candidates.scores.push(score);
                        candidates.levels.push(level);
                    }
                }
            }
        }
        let keep = |Candidates { boxes, scores, levels }: Candidates| {
            let kept = batched_nms(&boxes, &scores, &levels, self.options.nms, counts.keep as usize);
            kept.into_iter().map(|index| boxes[index]).collect()
        };
        Ok(candidates.into_iter().map(keep).collect())
    }

    /// Numbers of proposals while training or not.
    pub(super) fn counts(&self, training: bool) -> ProposalCounts {
        if training { self.options.train } else { self.options.test }
    }
}

/// Boxes of one picture before suppression.
#[derive(Debug, Default)]
struct Candidates {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    levels: Vec<usize>,
}

/// The `count` best scores with their indices, descending, ties by index; never a NaN.
fn best(scores: &[f32], count: usize) -> Vec<(f32, u32)> {
    let mut best: Vec<(f32, u32)> =
        scores.iter().copied().zip(0..).filter(|(score, _)| !score.is_nan()).collect();
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if best.len() > count {
        best.select_nth_unstable_by(count, order);
        best.truncate(count);
    }
    best.sort_unstable_by(order);
    best
}

/// How the style limits the growth of boxes.
pub(super) fn ratio_limit(style: Style) -> RatioLimit {
    match style {
        Style::Mmdet => RatioLimit::Both,
        Style::Torchvision => RatioLimit::Growth,
    }
}
