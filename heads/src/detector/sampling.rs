//! Which regions a stage learns from: proposals and objects, assigned and sampled. Must not pool or learn.

use crate::detection::assigner::{LowQuality, Match, MaxIouAssigner};
use crate::detection::roi_align::Roi;
use crate::detection::sampler::RandomSampler;
use crate::detector::truths::Truths;
use crate::recipe::detector::{RoiOptions, StageOptions, Style};
use crate::seed::Seed;

/// The rule by which a stage takes its regions.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegionRule {
    assigner: MaxIouAssigner,
    sampler: RandomSampler,
    style: Style,
}

/// Regions of a batch, picture by picture: those on an object before the others.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Where they are.
    pub(super) rois: Vec<Roi>,
    /// What each learns; `None`: background.
    pub(super) objects: Vec<Option<Learned>>,
    /// Is the region an object's own box, added to the proposals?
    pub(super) added: Vec<bool>,
}

/// What a positive region learns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Learned {
    /// Index of the object among its picture's truths.
    pub(super) truth: usize,
    /// Its class.
    pub(super) class: usize,
    /// Its box.
    pub(super) bounds: [f32; 4],
}

impl RegionRule {
    /// The rule of one stage.
    pub(super) fn new(options: &RoiOptions, stage: &StageOptions, style: Style) -> Self {
        let iou = stage.iou as f32;
        let low_quality = match (style, options.low_quality) {
            (Style::Mmdet, true) => LowQuality::Claim(iou),
            _ => LowQuality::Off,
        };
        let assigner = MaxIouAssigner { positive: iou, negative: iou, low_quality, crowd_share: None };
        let (count, positive_share) = (options.samples as usize, options.positive_fraction);
        Self { assigner, sampler: RandomSampler { count, positive_share }, style }
    }

    /// Samples of every picture's proposals and objects.
    pub(super) fn sample(&self, proposals: &[Vec<[f32; 4]>], pictures: &[Truths<'_>], seed: Seed) -> Regions {
        let mut regions = Regions::default();
        for (picture, (proposals, truths)) in proposals.iter().zip(pictures).enumerate() {
            let (boxes, matches) = self.assign(proposals, truths);
            let sample = self.sampler.sample(&matches, seed.derive(picture as u64));
            let objects = match self.style {
                Style::Mmdet => 0..truths.boxes.len(),
                Style::Torchvision => proposals.len()..boxes.len(),
            };
            for &index in sample.positive.iter().chain(&sample.negative) {
                regions.rois.push(Roi { picture, bounds: boxes[index] });
                regions.added.push(objects.contains(&index));
                regions.objects.push(match matches[index] {
                    Match::Truth(truth) => {
                        let truth = truth as usize;
                        Some(Learned { truth, class: truths.classes[truth], bounds: truths.boxes[truth] })
                    }
                    Match::Background | Match::Ignored => None,
                });
            }
        }
        regions
    }

    /// All boxes of a picture and what they match.
    fn assign(&self, proposals: &[[f32; 4]], truths: &Truths<'_>) -> (Vec<[f32; 4]>, Vec<Match>) {
        match self.style {
            Style::Mmdet => {
                let own = (0..).take(truths.boxes.len()).map(Match::Truth);
                let found = self.assigner.assign(proposals, &truths.boxes, &truths.crowd);
                ([&truths.boxes, proposals].concat(), own.chain(found).collect())
            }
            Style::Torchvision => {
                let boxes = [proposals, &truths.boxes].concat();
                let matches = self.assigner.assign(&boxes, &truths.boxes, &truths.crowd);
                (boxes, matches)
            }
        }
    }
}
