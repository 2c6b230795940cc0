//! AdamW as `torch.optim.AdamW` computes it, with its state in the open: tch hands out neither the
//! state of libtorch's optimizers nor a way to set it, and without it no resume is exact. Must not know
//! models.

use crate::parameter::{Parameters, Role};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tch::Tensor;

/// Options of AdamW and of gradient clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWOptions {
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Decoupled weight decay of weights; norms and biases have none.
    pub weight_decay: f64,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Gradients are scaled down to this global norm (torch's `clip_grad_norm_`); 0 leaves them.
    pub clip_norm: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { lr: 1e-4, weight_decay: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, clip_norm: 0.0 }
    }
}

/// The optimizer with the state of every trained tensor.
#[derive(Debug)]
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<Slot>,
    steps: u64,
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    decays: bool,
    /// Running mean of gradients, flat.
    mean: Tensor,
    /// Running mean of squared gradients, flat.
    square: Tensor,
}

/// Elements updated at a time: state, gradient and temporaries of a piece stay in the cache, so that
/// memory is passed over once and not once an operation. Below torch's grain of 32768 elements no
/// operation is spread over threads.
const PIECE: i64 = 1 << 14;

impl AdamW {
    /// An optimizer of the trained tensors, before its first step.
    pub fn new(parameters: &Parameters, options: AdamWOptions) -> Result<Self> {
        let slots = parameters
            .tunable()
            .map(|entry| {
                let flat = entry.tensor.f_detach()?.f_view(-1)?;
                Ok(Slot {
                    name: entry.name.clone(),
                    parameter: entry.tensor.shallow_clone(),
                    decays: entry.role == Role::Weight,
                    mean: flat.f_zeros_like()?,
                    square: flat.f_zeros_like()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { options, slots, steps: 0 })
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Gradients of `loss` by every trained tensor, in the optimizer's order, and their global norm.
    pub fn gradients(&self, loss: &Tensor) -> Result<(Vec<Tensor>, f64)> {
        let inputs: Vec<_> = self.slots.iter().map(|slot| &slot.parameter).collect();
        let gradients = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
        for (slot, gradient) in self.slots.iter().zip(&gradients) {
            if !gradient.defined() {
                return Err(Error::invalid(format!("the loss does not depend on {}", slot.name)));
            }
        }
        let norms = gradients.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
        let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
        Ok((gradients, norm))
    }

    /// One step with gradients whose global norm is `norm`, at learning rate `lr`.
    ///
    /// With g the clipped gradient and t the step from 1: p ← p·(1 − lr·λ), m ← β₁m + (1 − β₁)g,
    /// v ← β₂v + (1 − β₂)g², p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε).
    pub fn step(&mut self, gradients: &[Tensor], norm: f64, lr: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let AdamWOptions { weight_decay, beta1, beta2, epsilon, clip_norm, .. } = self.options;
        // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
        let clip = if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        let t = self.steps as f64;
        let rate = lr / (1.0 - beta1.powf(t));
        let correction = (1.0 - beta2.powf(t)).sqrt();
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            let decay = if slot.decays { 1.0 - lr * weight_decay } else { 1.0 };
            let parameter = slot.parameter.f_detach()?.f_view(-1)?;
            let gradient = gradient.f_contiguous()?.f_view(-1)?;
            let count = parameter.numel() as i64;
            for start in (0..count).step_by(PIECE as usize) {
                let piece = |x: &Tensor| x.f_narrow(0, start, PIECE.min(count - start));
                let (mut p, mut m, mut v) = (piece(&parameter)?, piece(&slot.mean)?, piece(&slot.square)?);
                let g = piece(&gradient)?.f_mul_scalar(clip)?;
                if decay != 1.0 {
                    let _ = p.f_mul_scalar_(decay)?;
                }
                let _ = m.f_lerp_(&g, 1.0 - beta1)?;
                let g = g.f_mul_scalar((1.0 - beta2).sqrt())?;
                let _ = v.f_mul_scalar_(beta2)?.f_addcmul_(&g, &g)?;
                if rate == 0.0 {
                    continue;
                }
                // tch's addcdiv_ has no factor: -rate goes into the denominator.
                // √v as 1 / (1/√v): torch's sqrt starts threads however small its input.
                let mut denominator = v.f_rsqrt()?.f_reciprocal_()?;
                let _ = denominator.f_mul_scalar_(-1.0 / (correction * rate))?;
                let _ = denominator.f_add_scalar_(-epsilon / rate)?;
                let _ = p.f_addcdiv_(&m, &denominator)?;
            }
        }
        Ok(())
    }

    /// The state by name, for a checkpoint: `{parameter}.mean` and `{parameter}.square`, flat.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let pair = |slot: &'_ Slot| (format!("{}.mean", slot.name), format!("{}.square", slot.name));
        self.slots
            .iter()
            .flat_map(|slot| {
                let (mean, square) = pair(slot);
                [(mean, &slot.mean), (square, &slot.square)]
            })
            .collect()
    }

    /// Puts back a state that [`AdamW::state`] gave after `steps` steps.
    pub fn restore(&mut self, mut state: BTreeMap<String, Tensor>, steps: u64) -> Result<()> {
        let mut take = |name: String, into: &mut Tensor| {
            let value = state
                .remove(&name)
                .ok_or_else(|| Error::invalid(format!("optimizer state {name} is missing")))?;
            let (expected, found) = (into.size(), value.size());
            if expected != found {
                let text = format!("optimizer state {name} is {found:?}, expected {expected:?}");
                return Err(Error::invalid(text));
            }
            Ok(into.f_copy_(&value)?)
        };
        for slot in &mut self.slots {
            take(format!("{}.mean", slot.name), &mut slot.mean)?;
            take(format!("{}.square", slot.name), &mut slot.square)?;
        }
        self.steps = steps;
        Ok(())
    }
}
