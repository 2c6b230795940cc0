//! Learning rates by step: pure arithmetic. Formulas of mmcv 0.x (`PolyLrUpdaterHook`,
//! `CosineAnnealingLrUpdaterHook`, linear `warmup`), which the Swin UperNet recipes were trained with.

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
}

/// Learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Shape of the decay.
    pub decay: Decay,
    /// Exponent of `poly`.
    pub power: f64,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// Steps of linear warm-up: below it the rate is multiplied by
    /// `1 - (1 - t / warmup_steps) · (1 - warmup_ratio)`.
    pub warmup_steps: u64,
    /// Factor at step 0 of the warm-up.
    pub warmup_ratio: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { decay: Decay::Poly, power: 1.0, min_lr: 0.0, warmup_steps: 0, warmup_ratio: 1e-6 }
    }
}

impl Schedule {
    /// The rate of step `step` (from 0) of `steps`.
    pub fn rate(&self, base: f64, step: u64, steps: u64) -> f64 {
        let progress = if steps == 0 { 0.0 } else { step as f64 / steps as f64 };
        let regular = match self.decay {
            Decay::Constant => base,
            Decay::Poly => (base - self.min_lr) * (1.0 - progress).powf(self.power) + self.min_lr,
            Decay::Cosine => {
                let cosine = (std::f64::consts::PI * progress).cos();
                self.min_lr + 0.5 * (base - self.min_lr) * (1.0 + cosine)
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
