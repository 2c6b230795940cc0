//! JSON numbers read to the nearest f64, as Python reads them. serde_json's own reading may be off by the last bit,
//! which is enough to move an overlap across its threshold.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::value::RawValue;

/// A number of a JSON file, finite and correctly rounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(pub(super) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Self(value)),
            _ => {
                let text: String = text.chars().take(40).collect();
                Err(D::Error::custom(format!("{text} is no finite number")))
            }
        }
    }
}

/// The values of an array of numbers.
pub(super) fn values<const N: usize>(numbers: [Number; N]) -> [f64; N] {
    numbers.map(|number| number.0)
}
