//! Losses by part: what a step minimises, named, so that logs and errors can say which part it is. Must
//! not know what the parts mean.

use crate::{Error, Result};
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
