//! The training recipe: a TOML file that says everything a run depends on besides its store. Must not
//! touch tensors.

pub mod detector;

use crate::head::{LinearOptions, UperNetOptions};
use crate::labels::ZeroLabel;
use crate::loss::Average;
use crate::objects::EmptyPictures;
use crate::optimizer::AdamWOptions;
use crate::schedule::{Decay, Schedule};
use crate::selection::KeepApart;
use crate::{Error, Precision, Result};
use detector::DetectorRecipe;
use featcache_store::Projected;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Most passes over the samples. The steps of all of them are counted before the first; longer runs say
/// how many steps they have.
pub const MAX_EPOCHS: u64 = 10_000;

/// Widest layer of a semantic head. This and the next limits are far above what anybody trains, and keep a
/// slip of the finger from taking all memory.
const MAX_CHANNELS: u32 = 1 << 16;

/// Largest side of a map pooled for UperNet.
const MAX_POOL_SCALE: u32 = 64;

/// Most such maps.
const MAX_POOL_SCALES: usize = 16;

/// A training recipe. Keys left out have the defaults of their tables; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// The head and what it reads.
    pub head: HeadRecipe,
    /// Neck and heads of a detector; only with `head.kind = "detector"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<DetectorRecipe>,
    /// Length and order of the run.
    pub train: TrainOptions,
    /// What label maps mean.
    #[serde(default)]
    pub labels: LabelOptions,
    /// The loss.
    #[serde(default)]
    pub loss: LossOptions,
    /// AdamW and clipping.
    #[serde(default)]
    pub optimizer: AdamWOptions,
    /// The learning rate's course.
    #[serde(default)]
    pub schedule: Schedule,
}

/// The head and what it reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadRecipe {
    /// Which head.
    pub kind: HeadKind,
    /// Levels it reads, by name; empty: all of the store.
    #[serde(default)]
    pub levels: Vec<String>,
    /// As what it reads levels that the store holds as coefficients: `channels`, or the `coefficients` themselves,
    /// of which there are fewer.
    #[serde(default, skip_serializing_if = "are_channels")]
    pub projected: Projected,
    /// A LayerNorm on every level before a semantic head; a detector has its own switch.
    #[serde(default = "yes")]
    pub level_norm: bool,
    /// Options of the linear head; only with `kind = "linear"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear: Option<LinearOptions>,
    /// Options of UperNet; only with `kind = "upernet"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upernet: Option<UperNetOptions>,
}

/// The heads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// BatchNorm and one 1×1 convolution.
    Linear,
    /// UperNet.
    UperNet,
    /// Boxes and masks: all that the recipe's `[detector]` says.
    Detector,
}

/// Length and order of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// Passes over the samples; either this or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Batches in all; either this or `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Rows of a batch.
    pub batch: usize,
    /// Everything random derives from it: start values, order, views, dropout.
    #[serde(default)]
    pub seed: u64,
    /// What order and views derive from instead, so that runs of different seeds read the same rows at the
    /// same time: in one process, or in several that share the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_seed: Option<u64>,
    /// Arithmetic of the head's convolutions.
    #[serde(default = "fp32")]
    pub precision: Precision,
    /// Views to train on, one of them drawn for each sample and epoch; empty: all of the store.
    #[serde(default)]
    pub views: Vec<String>,
    /// Leaves out batches with fewer rows than `batch`.
    #[serde(default)]
    pub drop_last: bool,
    /// What no two rows of a batch have in common.
    #[serde(default)]
    pub keep_apart: KeepApart,
    /// Pictures without a label: no object and no crowd, or no label map.
    #[serde(default = "keep")]
    pub empty: EmptyPictures,
    /// Pictures whose shorter side is below this, in pixels of the original, are left out (mmdetection:
    /// 32).
    #[serde(default)]
    pub min_side: u32,
    /// Steps between lines of the log.
    #[serde(default = "log_every")]
    pub log_every: u64,
    /// Steps between checkpoints; 0: one at the end of every epoch.
    #[serde(default)]
    pub checkpoint_every: u64,
}

impl TrainOptions {
    /// What order and views derive from.
    pub fn order_seed(&self) -> u64 {
        self.order_seed.unwrap_or(self.seed)
    }
}

/// What label maps mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelOptions {
    /// Value 0 where no category has it.
    pub zero: ZeroLabel,
}

impl Default for LabelOptions {
    fn default() -> Self {
        Self { zero: ZeroLabel::Ignore }
    }
}

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossOptions {
    /// What the sum over pixels is divided by.
    pub average: Average,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { average: Average::Labelled }
    }
}

fn are_channels(projected: &Projected) -> bool {
    *projected == Projected::Channels
}

fn yes() -> bool {
    true
}

fn fp32() -> Precision {
    Precision::Fp32
}

fn keep() -> EmptyPictures {
    EmptyPictures::Keep
}

fn log_every() -> u64 {
    50
}

impl TrainRecipe {
    /// Reads and checks a recipe file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, path)
    }

    /// Parses and checks a recipe's text; `path` names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let refuse = |what: String| Error::Recipe { path: path.to_owned(), what };
        let recipe: Self = toml::from_str(text).map_err(|error| {
            // One line, which names the key too: toml's own text draws the place over several.
            let before = error.span().and_then(|span| text.get(..span.start));
            let number = before.map_or(0, |before| before.bytes().filter(|byte| *byte == b'\n').count());
            let line = text.lines().nth(number).unwrap_or_default().trim();
            refuse(format!("line {}, {line:.60}: {}", number + 1, error.message()))
        })?;
        recipe.check().map_err(refuse)?;
        Ok(recipe)
    }

    /// The recipe as TOML, with every default written out.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::invalid(format!("recipe cannot be written as TOML: {e}")))
    }

    /// Checks what types cannot; the message names the key.
    pub fn check(&self) -> Result<(), String> {
        let Self { head, detector, train, optimizer, schedule, .. } = self;
        let must = |holds: bool, key: &str, found: String, expected: &str| {
            if holds { Ok(()) } else { Err(format!("{key} is {found}, expected {expected}")) }
        };
        for (table, given, kind) in [
            ("head.linear", head.linear.is_some(), HeadKind::Linear),
            ("head.upernet", head.upernet.is_some(), HeadKind::UperNet),
            ("detector", detector.is_some(), HeadKind::Detector),
        ] {
            if given && head.kind != kind {
                return Err(format!("{table} is given, but head.kind is another head"));
            }
        }
        if head.kind == HeadKind::Detector && !head.level_norm {
            return Err("head.level_norm is false, but a detector's switch is detector.level_norm".into());
        }
        if let Some(detector) = detector {
            detector.check().map_err(|what| format!("detector.{what}"))?;
        }
        let share = |p: f64| (0.0..1.0).contains(&p);
        if let Some(linear) = &head.linear {
            must(share(linear.dropout), "head.linear.dropout", linear.dropout.to_string(), "0 to below 1")?;
        }
        if let Some(upernet) = &head.upernet {
            let UperNetOptions { channels, pool_scales, dropout, auxiliary, .. } = upernet;
            let width = 1..=MAX_CHANNELS;
            let widths = format!("1 to {MAX_CHANNELS}");
            must(width.contains(channels), "head.upernet.channels", channels.to_string(), &widths)?;
            must(share(*dropout), "head.upernet.dropout", dropout.to_string(), "0 to below 1")?;
            let fit = pool_scales.iter().all(|scale| (1..=MAX_POOL_SCALE).contains(scale));
            let scales = format!("{pool_scales:?}");
            must(fit, "head.upernet.pool_scales", scales, &format!("1 to {MAX_POOL_SCALE} each"))?;
            let count = pool_scales.len();
            let most = format!("at most {MAX_POOL_SCALES} of them");
            must(count <= MAX_POOL_SCALES, "head.upernet.pool_scales", count.to_string(), &most)?;
            if let Some(auxiliary) = auxiliary {
                let (channels, weight) = (auxiliary.channels, auxiliary.weight);
                let table = "head.upernet.auxiliary";
                let key = format!("{table}.channels");
                must(width.contains(&channels), &key, channels.to_string(), &widths)?;
                let key = format!("{table}.weight");
                must(weight >= 0.0 && weight.is_finite(), &key, weight.to_string(), "0 or more")?;
            }
        }
        must(train.batch > 0, "train.batch", train.batch.to_string(), "at least 1")?;
        must(train.log_every > 0, "train.log_every", train.log_every.to_string(), "at least 1")?;
        match (train.epochs, train.steps) {
            (Some(epochs), _) if !(1..=MAX_EPOCHS).contains(&epochs) => {
                return Err(format!("train.epochs is {epochs}, expected 1 to {MAX_EPOCHS}"));
            }
            (_, Some(0)) => return Err("train.steps is 0, expected at least 1".into()),
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err("exactly one of train.epochs and train.steps is expected".into()),
        }
        let AdamWOptions { lr, weight_decay, beta1, beta2, epsilon, clip_norm } = *optimizer;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let not_negative = |x: f64| x >= 0.0 && x.is_finite();
        must(positive(lr), "optimizer.lr", lr.to_string(), "above 0")?;
        must(not_negative(weight_decay), "optimizer.weight_decay", weight_decay.to_string(), "0 or more")?;
        must(share(beta1), "optimizer.beta1", beta1.to_string(), "0 to below 1")?;
        must(share(beta2), "optimizer.beta2", beta2.to_string(), "0 to below 1")?;
        must(positive(epsilon), "optimizer.epsilon", epsilon.to_string(), "above 0")?;
        must(not_negative(clip_norm), "optimizer.clip_norm", clip_norm.to_string(), "0 or more")?;
        let Schedule { decay, power, min_lr, step_epochs, step_shares, step_factor, warmup_ratio, .. } =
            schedule;
        must(not_negative(*power), "schedule.power", power.to_string(), "0 or more")?;
        must(
            not_negative(*min_lr) && *min_lr <= lr,
            "schedule.min_lr",
            min_lr.to_string(),
            "0 to optimizer.lr",
        )?;
        let fits = (0.0..=1.0).contains(step_factor);
        must(fits, "schedule.step_factor", step_factor.to_string(), "0 to 1")?;
        let milestones = [
            ("schedule.step_epochs", format!("{step_epochs:?}"), step_epochs.is_empty()),
            ("schedule.step_shares", format!("{step_shares:?}"), step_shares.is_empty()),
        ];
        for (key, found, is_empty) in &milestones {
            must(*is_empty || *decay == Decay::Step, key, found.clone(), "none without decay = \"step\"")?;
        }
        if *decay == Decay::Step && step_epochs.is_empty() == step_shares.is_empty() {
            return Err("exactly one of schedule.step_epochs and schedule.step_shares is expected".into());
        }
        let [(epochs_key, epochs_found, _), (shares_key, shares_found, _)] = milestones;
        let last = train.epochs.unwrap_or(u64::MAX);
        let fit = step_epochs.is_sorted() && step_epochs.iter().all(|&epoch| epoch < last);
        must(fit, epochs_key, epochs_found, "rising numbers below train.epochs")?;
        let fit = step_shares.is_sorted() && step_shares.iter().all(|&s| share(s));
        must(fit, shares_key, shares_found, "rising shares of the run, 0 to below 1")?;
        let ratio = (0.0..=1.0).contains(warmup_ratio);
        must(ratio, "schedule.warmup_ratio", warmup_ratio.to_string(), "0 to 1")
    }

    /// Neck and heads of a detector: the recipe's, or the defaults.
    pub fn detector(&self) -> DetectorRecipe {
        self.detector.clone().unwrap_or_default()
    }

    /// The key of `train` by which this recipe visits other rows than another, or in another order, with
    /// both values; `None` where the two can be trained on one pass over a store.
    pub fn order_difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let keys = |recipe: &Self| {
            let train = &recipe.train;
            let number = |value: Option<u64>| value.map_or("not given".to_owned(), |v| v.to_string());
            [
                ("train.epochs", number(train.epochs)),
                ("train.steps", number(train.steps)),
                ("train.batch", train.batch.to_string()),
                ("train.order_seed, or else train.seed,", train.order_seed().to_string()),
                ("train.views", format!("{:?}", train.views)),
                ("train.drop_last", train.drop_last.to_string()),
                ("train.keep_apart", format!("{:?}", train.keep_apart).to_lowercase()),
                ("train.empty", format!("{:?}", train.empty).to_lowercase()),
                ("train.min_side", train.min_side.to_string()),
                ("head.projected", format!("{:?}", recipe.head.projected).to_lowercase()),
            ]
        };
        let pairs = keys(self).into_iter().zip(keys(other));
        pairs.filter(|(ours, theirs)| ours != theirs).map(|((key, a), (_, b))| (key, a, b)).next()
    }

    /// Steps of the run, given the batches of each epoch.
    pub fn steps(&self, batches_of_epoch: impl Fn(u64) -> u64) -> u64 {
        match (self.train.steps, self.train.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => (0..epochs.unwrap_or(0)).map(batches_of_epoch).sum(),
        }
    }
}
