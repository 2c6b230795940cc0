//! The named tensors of a model: what training changes, what it must not decay, and what it only
//! measures. Must not know which model they belong to.

use crate::seed::Seed;
use crate::{Error, Result};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// What the optimizer does with a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Trained, with weight decay.
    Weight,
    /// Trained, without weight decay: biases and the scales and shifts of norms.
    NoDecay,
    /// Not trained: running statistics.
    Buffer,
}

/// Values that a tensor starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal of mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus this and this.
    Uniform(f64),
}

impl Init {
    /// He et al. 2015 for a convolution `[out, in, kh, kw]` followed by a ReLU, counted over its
    /// outputs: mmcv's `kaiming_init`, standard deviation `sqrt(2 / (out · kh · kw))`.
    pub fn kaiming(shape: &[i64]) -> Self {
        let fan_out = shape.iter().product::<i64>() / shape.get(1).copied().unwrap_or(1).max(1);
        Self::Normal((2.0 / fan_out.max(1) as f64).sqrt())
    }

    /// Glorot & Bengio 2010 for `[out, in, …]`: uniform up to `sqrt(6 / (fan in + fan out))`, each fan
    /// counted with the kernel's cells (torch's `xavier_uniform_`).
    pub fn xavier(shape: &[i64]) -> Self {
        let cells: i64 = shape.iter().skip(2).product();
        let fans: i64 = shape.iter().take(2).map(|side| side * cells).sum();
        Self::Uniform((6.0 / fans.max(1) as f64).sqrt())
    }
}

/// One named tensor, binary32.
#[derive(Debug)]
pub struct Parameter {
    /// Dotted name, as in the reference implementation's state dict.
    pub name: String,
    /// The values; shared with the layer that uses them.
    pub tensor: Tensor,
    /// What the optimizer does with it.
    pub role: Role,
}

/// Most numbers of a model, 8 GiB of binary32: a recipe or a checkpoint that asks for more is refused before
/// memory is asked for it. The widest head known, a probe on SwinV2-G, has 0.8 of 2.1 billion.
pub const MAX_NUMBERS: u64 = 1 << 31;

/// All tensors of a model, in order of creation.
#[derive(Debug)]
pub struct Parameters {
    entries: Vec<Parameter>,
    /// Numbers of all entries.
    numbers: u64,
    device: Device,
    seed: Seed,
}

impl Parameters {
    /// None yet. A tensor's random start depends on the seed and its name alone.
    pub fn new(device: Device, seed: Seed) -> Self {
        Self { entries: Vec::new(), numbers: 0, device, seed }
    }

    /// Creates a tensor and hands out a second handle to its storage.
    ///
    /// # Errors
    /// A model of more than [`MAX_NUMBERS`]; torch.
    pub fn create(&mut self, name: String, shape: &[i64], role: Role, init: Init) -> Result<Tensor> {
        let product = |product: u64, &side: &i64| product.checked_mul(u64::try_from(side).ok()?);
        let numbers = shape.iter().try_fold(1, product).and_then(|count| self.numbers.checked_add(count));
        let Some(numbers) = numbers.filter(|&numbers| numbers <= MAX_NUMBERS) else {
            let text =
                format!("tensor {name} of {shape:?} makes the model larger than {MAX_NUMBERS} numbers");
            return Err(Error::invalid(text));
        };
        let tensor = match init {
            Init::Zeros => Tensor::f_zeros(shape, (Kind::Float, self.device))?,
            Init::Ones => Tensor::f_ones(shape, (Kind::Float, self.device))?,
            Init::Normal(std) => {
                let mut stream = self.seed.named(&name).stream();
                let count = shape.iter().product::<i64>() as usize;
                let mut values = Vec::with_capacity(count + 1);
                while values.len() < count {
                    values.extend(stream.normals().map(|value| (value * std) as f32));
                }
                values.truncate(count);
                Tensor::f_from_slice(&values)?.f_reshape(shape)?.f_to_device(self.device)?
            }
            Init::Uniform(bound) => {
                let mut stream = self.seed.named(&name).stream();
                let count = shape.iter().product::<i64>();
                let values: Vec<f32> =
                    (0..count).map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32).collect();
                Tensor::f_from_slice(&values)?.f_reshape(shape)?.f_to_device(self.device)?
            }
        };
        let tensor = tensor.f_set_requires_grad(role != Role::Buffer)?;
        let handle = tensor.shallow_clone();
        self.entries.push(Parameter { name, tensor, role });
        self.numbers = numbers;
        Ok(handle)
    }

    /// All tensors, in order of creation.
    pub fn entries(&self) -> &[Parameter] {
        &self.entries
    }

    /// The trained ones, in order of creation.
    pub fn tunable(&self) -> impl Iterator<Item = &Parameter> {
        self.entries.iter().filter(|entry| entry.role != Role::Buffer)
    }

    /// Numbers that training changes.
    pub fn tunable_count(&self) -> u64 {
        self.tunable().map(|entry| entry.tensor.numel() as u64).sum()
    }

    /// Device of all tensors.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Copies values in by name. Every tensor must be there with its shape, and nothing else.
    pub fn load(&self, mut values: BTreeMap<String, Tensor>) -> Result<()> {
        let _guard = tch::no_grad_guard();
        for entry in &self.entries {
            let name = &entry.name;
            let value =
                values.remove(name).ok_or_else(|| Error::invalid(format!("tensor {name} is missing")))?;
            let (expected, found) = (entry.tensor.size(), value.size());
            if expected != found {
                return Err(Error::invalid(format!("tensor {name} is {found:?}, expected {expected:?}")));
            }
            entry.tensor.shallow_clone().f_copy_(&value)?;
        }
        match values.into_keys().next() {
            Some(name) => Err(Error::invalid(format!("tensor {name} belongs to no part of the model"))),
            None => Ok(()),
        }
    }
}
