//! Which windows weights were trained with, where the file tells: a wrong one rescales every position bias and
//! no shape shows it.
//!
//! Microsoft's and torchvision's checkpoints carry the buffer `relative_coords_table`, `[1, 2W−1, 2W−1, 2]`. Its
//! last value is that of the largest offset, `log2(8(W−1)/(Wp−1) + 1) / 3` with the window W and the pretrained
//! window Wp of the stage; hence `Wp = 1 + 8(W−1) / (8^value − 1)`. Files without the buffer say nothing.

use super::SwinV2Config;
use crate::weights::{Naming, TensorFile, Weights};
use crate::{Error, Result};

/// Fails with [`Error::Weights`] where the file has another pretrained window than the configuration. Warns
/// where it has none and nobody has `given` them: they are then a guess by the model's name.
pub(super) fn check(config: &SwinV2Config, weights: &Weights, given: bool) -> Result<()> {
    let (Some(file), Some(report)) = (weights.file(), weights.report()) else { return Ok(()) };
    let mut silent = Vec::new();
    for (stage, &expected) in config.pretrained_window.iter().enumerate() {
        let name = format!("{}{}", report.prefix, table_name(report.naming, stage));
        match of_table(file, &name) {
            Some(found) if expected > 0 && found != expected => {
                let what = format!(
                    "trained with window {found} in stage {stage} ({name}), run with pretrained_window {expected}"
                );
                return Err(Error::weights(file.path(), what));
            }
            Some(_) => {}
            None => silent.push(stage.to_string()),
        }
    }
    if !silent.is_empty() && !given {
        let [a, b, c, d] = config.pretrained_window;
        log::warn!(
            "{}: does not say which windows its weights were trained with in stages {}: assuming {a},{b},{c},{d}, \
             which changes features if it is wrong (--pretrained-window)",
            file.path().display(),
            silent.join(", "),
        );
    }
    Ok(())
}

/// The table of the first block of a stage.
fn table_name(naming: Naming, stage: usize) -> String {
    match naming {
        Naming::Microsoft | Naming::Timm => format!("layers.{stage}.blocks.0.attn.relative_coords_table"),
        Naming::HuggingFace => {
            format!("encoder.layers.{stage}.blocks.0.attention.self.relative_coords_table")
        }
        Naming::Torchvision => format!("features.{}.0.attn.relative_coords_table", 2 * stage + 1),
    }
}

fn of_table(file: &TensorFile, name: &str) -> Option<u32> {
    let entry = file.entries().iter().find(|entry| entry.name == name)?;
    let side = *entry.shape.get(1)?;
    let stored = entry.stored?;
    let last = entry.range.end.checked_sub(stored.bytes())?..entry.range.end;
    let mut value = Vec::with_capacity(4);
    stored.widen(file.bytes(last), &mut value);
    let value = f64::from(f32::from_le_bytes(value.try_into().ok()?));
    let reach = (side as f64 - 1.0) / 2.0;
    let pretrained = 1.0 + 8.0 * reach / (8f64.powf(value) - 1.0);
    // A table of zeros, or of anything else that no window gives, says nothing.
    (pretrained.is_finite() && (1.5..1e4).contains(&pretrained)).then(|| pretrained.round() as u32)
}
