//! The fully connected layer. Must not know which head it is in.

use crate::parameter::{Init, Parameters, Role};
use crate::{Precision, Result};
use tch::Tensor;

/// x·Wᵀ + b.
#[derive(Debug)]
pub struct Dense {
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    /// `{name}.weight` of `[output, input]` and `{name}.bias`, which starts from 0.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        input: i64,
        output: i64,
        init: fn(&[i64]) -> Init,
    ) -> Result<Self> {
        let shape = [output, input];
        let weight = parameters.create(format!("{name}.weight"), &shape, Role::Weight, init(&shape))?;
        let bias = parameters.create(format!("{name}.bias"), &[output], Role::NoDecay, Init::Zeros)?;
        Ok(Self { weight, bias })
    }

    /// `[n, input]` to `[n, output]` in the precision's kind.
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        let kind = precision.kind();
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        Ok(x.f_to_kind(kind)?.f_linear(&weight, Some(&bias))?)
    }
}
