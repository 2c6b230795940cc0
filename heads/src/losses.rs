//! Losses by part: what a step minimises, named, so that logs and errors can say which part it is. Must
//! not know what the parts mean.

use crate::{Error, Result};
use serde::{Serialize, Serializer};
use tch::{Kind, Tensor};

/// Named scalars, already weighted; what is minimised is their sum.
#[derive(Debug)]
pub struct Losses {
    /// Name and value (a tensor without dimensions) of each part, in order.
    pub parts: Vec<(String, Tensor)>,
}

impl Losses {
    /// The sum of the parts, from the first to the last.
    ///
    /// # Errors
    /// No parts.
    pub fn total(&self) -> Result<Tensor> {
        let mut parts = self.parts.iter().map(|(_, value)| value);
        let first = parts.next().ok_or_else(|| Error::invalid("a loss without parts"))?.shallow_clone();
        parts.try_fold(first, |sum, part| Ok(sum.f_add(part)?))
    }

    /// The values of the parts and of `total`, after them, with one transfer from the device.
    pub fn values(&self, total: &Tensor) -> Result<Vec<f64>> {
        let scalars = self.parts.iter().map(|(_, value)| value).chain([total]);
        let scalars = scalars.map(|value| value.f_detach()?.f_to_kind(Kind::Double)?.f_reshape([1]));
        let all = Tensor::f_cat(&scalars.collect::<Result<Vec<_>, _>>()?, 0)?; // [parts + 1]
        let mut values = vec![0.0; self.parts.len() + 1];
        all.f_copy_data(&mut values, self.parts.len() + 1)?;
        Ok(values)
    }
}

/// Values of a step's losses by part, in order; a map in the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossParts(pub Vec<(String, f64)>);

impl LossParts {
    /// The `count` largest parts, largest first.
    pub fn largest(&self, count: usize) -> Vec<&(String, f64)> {
        let mut parts: Vec<_> = self.0.iter().collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        parts.truncate(count);
        parts
    }
}

impl Serialize for LossParts {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
