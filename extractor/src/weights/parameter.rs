//! One parameter of a backbone: its canonical name, its shape, and how it is drawn when there are no weights.

/// A parameter that a backbone needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Canonical name (Microsoft's naming).
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// How random weights fill it.
    pub init: Init,
}

impl Parameter {
    /// A parameter of this name and shape.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), init }
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// How random weights fill a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every value the same.
    Constant(f32),
    /// A bell around zero with this standard deviation (see `weights/random.rs`).
    Bell(f32),
}
