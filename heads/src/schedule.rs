//! Learning rates by step: pure arithmetic. Formulas of mmcv 0.x (`PolyLrUpdaterHook`,
//! `CosineAnnealingLrUpdaterHook`, `StepLrUpdaterHook`, linear `warmup`), which the Swin recipes were
//! trained with.

use serde::{Deserialize, Serialize};

/// How the learning rate falls from its base to `min_lr` over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It does not.
    Constant,
    /// `(base - min) · (1 - t / T)^power + min`.
    Poly,
    /// `min + (base - min) · (1 + cos(π t / T)) / 2`.
    Cosine,
    /// `max(min, base · step_factor^k)` after k of the milestones.
    Step,
}

/// Learning rate as a function of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Shape of the decay.
    pub decay: Decay,
    /// Exponent of `poly`.
    pub power: f64,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// Milestones of `step` as numbers of epochs done, rising (mmdetection's 1x: 8 and 11 of 12).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub step_epochs: Vec<u64>,
    /// Milestones of `step` as shares of the run, rising, for runs that are counted in steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub step_shares: Vec<f64>,
    /// What each milestone multiplies the rate by.
    pub step_factor: f64,
    /// Steps of linear warm-up: below it the rate is multiplied by
    /// `1 - (1 - t / warmup_steps) · (1 - warmup_ratio)`.
    pub warmup_steps: u64,
    /// Factor at step 0 of the warm-up.
    pub warmup_ratio: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            decay: Decay::Poly,
            power: 1.0,
            min_lr: 0.0,
            step_epochs: Vec::new(),
            step_shares: Vec::new(),
            step_factor: 0.1,
            warmup_steps: 0,
            warmup_ratio: 1e-6,
        }
    }
}

/// Where a run stands before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Epochs done.
    pub epoch: u64,
}

impl Schedule {
    /// The rate of the step that follows on `progress`.
    pub fn rate(&self, base: f64, progress: Progress) -> f64 {
        let Progress { step, steps, epoch } = progress;
        let share = if steps == 0 { 0.0 } else { step as f64 / steps as f64 };
        let regular = match self.decay {
            Decay::Constant => base,
            Decay::Poly => (base - self.min_lr) * (1.0 - share).powf(self.power) + self.min_lr,
            Decay::Cosine => {
                let cosine = (std::f64::consts::PI * share).cos();
                self.min_lr + 0.5 * (base - self.min_lr) * (1.0 + cosine)
            }
            Decay::Step => {
                let epochs = self.step_epochs.iter().filter(|&&milestone| epoch >= milestone).count();
                // Milestones fall on whole steps: a share of 2/3 written as 0.667 means the nearest one.
                let at = |milestone: &f64| (milestone * steps as f64).round() as u64;
                let shares = self.step_shares.iter().filter(|milestone| step >= at(milestone)).count();
                (base * self.step_factor.powi((epochs + shares) as i32)).max(self.min_lr)
            }
        };
        if step < self.warmup_steps {
            let cold = (1.0 - step as f64 / self.warmup_steps as f64) * (1.0 - self.warmup_ratio);
            regular * (1.0 - cold)
        } else {
            regular
        }
    }
}
