//! From weights to the folded form that the forward pass wants.

use super::attention::Attention;
use super::block::Block;
use super::norm::Norm;
use super::position_bias::PositionBias;
use super::{MAIN_BRANCH, SwinV2Config};
use crate::weights::{Parameter, Weights};
use crate::{Error, Result};
use tch::{Device, Kind, TchError, Tensor};

pub(super) fn loading() -> impl FnOnce(TchError) -> Error {
    Error::torch("load SwinV2")
}

/// Takes parameters by name, in the form that the forward pass wants.
pub(super) struct Loader<'a> {
    pub(super) weights: &'a Weights,
    pub(super) parameters: &'a [Parameter],
    pub(super) kind: Kind,
    pub(super) device: Device,
}

impl Loader<'_> {
    pub(super) fn take(&self, name: &str) -> Result<Tensor> {
        self.take_as(name, self.kind)
    }

    fn take_as(&self, name: &str, kind: Kind) -> Result<Tensor> {
        let parameter = self
            .parameters
            .iter()
            .find(|p| p.name == name)
            .ok_or_else(|| Error::invalid(format!("parameter {name} is not in the configuration")))?;
        self.weights.tensor(parameter, kind, self.device)
    }

    /// A norm of what a matrix product made. The CPU's kernel takes binary32 weights with bfloat16 input, other
    /// devices want one type.
    pub(super) fn norm(&self, name: &str) -> Result<Norm> {
        self.norm_as(name, if self.device == Device::Cpu { Kind::Float } else { self.kind })
    }

    /// A norm of the main branch.
    pub(super) fn main_norm(&self, name: &str) -> Result<Norm> {
        self.norm_as(name, MAIN_BRANCH)
    }

    fn norm_as(&self, name: &str, kind: Kind) -> Result<Norm> {
        Ok(Norm {
            weight: self.take_as(&format!("{name}.weight"), kind)?,
            bias: self.take_as(&format!("{name}.bias"), kind)?,
        })
    }

    pub(super) fn block(
        &self,
        config: &SwinV2Config,
        stage: usize,
        block: usize,
        number: usize,
    ) -> Result<Block> {
        let name = format!("layers.{stage}.blocks.{block}");
        let of = |rest: &str| format!("{name}.{rest}");
        let heads = config.heads[stage] as i64;
        let float = |rest: &str| self.take_as(&of(rest), Kind::Float);
        let q_bias = self.take(&of("attn.q_bias"))?;
        let v_bias = self.take(&of("attn.v_bias"))?;
        let qkv_bias = || Tensor::f_cat(&[&q_bias, &q_bias.f_zeros_like()?, &v_bias], 0);
        let logit_scale = float("attn.logit_scale")?;
        let scales = || {
            let tau = logit_scale.f_view([1, heads, 1, 1])?.f_clamp_max(100f64.ln())?.f_exp()?;
            let of_key = tau.f_ones_like()?;
            Ok((Tensor::f_stack(&[&tau, &of_key], 0)?, tau.f_mul_scalar(0.5)?.f_view([heads, 1, 1])?))
        };
        let (scale, half_scale) = scales().map_err(loading())?;
        Ok(Block {
            attention: Attention {
                heads,
                qkv_weight: self.take(&of("attn.qkv.weight"))?,
                qkv_bias: qkv_bias().map_err(loading())?,
                scale,
                proj_weight: self.take(&of("attn.proj.weight"))?,
                proj_bias: self.take(&of("attn.proj.bias"))?,
                position_bias: PositionBias {
                    pretrained_window: config.pretrained_window[stage],
                    hidden_weight: float("attn.cpb_mlp.0.weight")?,
                    hidden_bias: float("attn.cpb_mlp.0.bias")?,
                    head_weight: float("attn.cpb_mlp.2.weight")?,
                    half_scale,
                    tables: Default::default(),
                },
                block: number,
            },
            norm1: self.norm(&of("norm1"))?,
            fc1_weight: self.take(&of("mlp.fc1.weight"))?,
            fc1_bias: self.take(&of("mlp.fc1.bias"))?,
            fc2_weight: self.take(&of("mlp.fc2.weight"))?,
            fc2_bias: self.take(&of("mlp.fc2.bias"))?,
            norm2: self.norm(&of("norm2"))?,
            norm3: if config.has_extra_norm(block) { Some(self.main_norm(&of("norm3"))?) } else { None },
        })
    }
}
