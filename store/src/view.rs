//! Views: declared deterministic transforms of a sample, with the geometry that labels need.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// One view of every sample. Nothing random happens at extraction: a view is data, never a die roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewSpec {
    /// Name in paths and tables.
    pub name: String,
    /// Mirrored left-right after resizing, before padding.
    pub hflip: bool,
}

impl ViewSpec {
    /// The view of this name: `base` or `hflip`.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "base" => Ok(Self { name: name.into(), hflip: false }),
            "hflip" => Ok(Self { name: name.into(), hflip: true }),
            _ => Err(Error::invalid(format!("view {name:?} is unknown: expected base or hflip"))),
        }
    }
}
