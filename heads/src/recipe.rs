//! The training recipe: a TOML file that says everything a run depends on besides its store. Must not
//! touch tensors.

pub mod detector;

use crate::head::{LinearOptions, UperNetOptions};
use crate::labels::ZeroLabel;
use crate::loss::Average;
use crate::optimizer::AdamWOptions;
use crate::schedule::Schedule;
use crate::{Error, Precision, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A training recipe. Keys left out have the defaults of their tables; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// The head and what it reads.
    pub head: HeadRecipe,
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
    /// A LayerNorm on every level before the head.
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
    /// Arithmetic of the head's convolutions.
    #[serde(default = "fp32")]
    pub precision: Precision,
    /// Views to train on, one of them drawn for each sample and epoch; empty: all of the store.
    #[serde(default)]
    pub views: Vec<String>,
    /// Leaves out batches with fewer rows than `batch`.
    #[serde(default)]
    pub drop_last: bool,
    /// Steps between lines of the log.
    #[serde(default = "log_every")]
    pub log_every: u64,
    /// Steps between checkpoints; 0: one at the end of every epoch.
    #[serde(default)]
    pub checkpoint_every: u64,
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

fn yes() -> bool {
    true
}

fn fp32() -> Precision {
    Precision::Fp32
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
        let recipe: Self = toml::from_str(text).map_err(|e| refuse(e.to_string().trim_end().to_owned()))?;
        recipe.check().map_err(refuse)?;
        Ok(recipe)
    }

    /// The recipe as TOML, with every default written out.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::invalid(format!("recipe cannot be written as TOML: {e}")))
    }

    /// Checks what types cannot; the message names the key.
    pub fn check(&self) -> Result<(), String> {
        let Self { head, train, optimizer, schedule, .. } = self;
        let must = |holds: bool, key: &str, found: String, expected: &str| {
            if holds { Ok(()) } else { Err(format!("{key} is {found}, expected {expected}")) }
        };
        let other = match head.kind {
            HeadKind::Linear => head.upernet.is_some().then_some("head.upernet"),
            HeadKind::UperNet => head.linear.is_some().then_some("head.linear"),
        };
        if let Some(table) = other {
            return Err(format!("{table} is given, but head.kind is another head"));
        }
        let share = |p: f64| (0.0..1.0).contains(&p);
        if let Some(linear) = &head.linear {
            must(share(linear.dropout), "head.linear.dropout", linear.dropout.to_string(), "0 to below 1")?;
        }
        if let Some(upernet) = &head.upernet {
            let UperNetOptions { channels, pool_scales, dropout, auxiliary, .. } = upernet;
            must(*channels > 0, "head.upernet.channels", channels.to_string(), "at least 1")?;
            must(share(*dropout), "head.upernet.dropout", dropout.to_string(), "0 to below 1")?;
            let scales = format!("{pool_scales:?}");
            must(pool_scales.iter().all(|&s| s > 0), "head.upernet.pool_scales", scales, "at least 1 each")?;
            if let Some(auxiliary) = auxiliary {
                let (channels, weight) = (auxiliary.channels, auxiliary.weight);
                let table = "head.upernet.auxiliary";
                must(channels > 0, &format!("{table}.channels"), channels.to_string(), "at least 1")?;
                let key = format!("{table}.weight");
                must(weight >= 0.0 && weight.is_finite(), &key, weight.to_string(), "0 or more")?;
            }
        }
        must(train.batch > 0, "train.batch", train.batch.to_string(), "at least 1")?;
        must(train.log_every > 0, "train.log_every", train.log_every.to_string(), "at least 1")?;
        match (train.epochs, train.steps) {
            (Some(0), _) => return Err("train.epochs is 0, expected at least 1".into()),
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
        let Schedule { power, min_lr, warmup_ratio, .. } = *schedule;
        must(not_negative(power), "schedule.power", power.to_string(), "0 or more")?;
        must(
            not_negative(min_lr) && min_lr <= lr,
            "schedule.min_lr",
            min_lr.to_string(),
            "0 to optimizer.lr",
        )?;
        let ratio = (0.0..=1.0).contains(&warmup_ratio);
        must(ratio, "schedule.warmup_ratio", warmup_ratio.to_string(), "0 to 1")
    }

    /// Steps of the run, given the batches of each epoch.
    pub fn steps(&self, batches_of_epoch: impl Fn(u64) -> u64) -> u64 {
        match (self.train.steps, self.train.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => (0..epochs.unwrap_or(0)).map(batches_of_epoch).sum(),
        }
    }
}
