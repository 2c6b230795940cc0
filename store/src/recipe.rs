//! What the features are. Two recipes with different fingerprints never mix.

use crate::canonical::{canonical_json, first_difference, to_value};
use crate::layout::check_name;
use crate::{DType, Error, ResizeRule, Result, Size, ViewSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that the features of a sample depend on, apart from its pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The frozen network.
    pub backbone: BackboneSpec,
    /// From file to network input.
    pub preprocess: Preprocess,
    /// Views of each sample, `base` first.
    pub views: Vec<ViewSpec>,
    /// Levels kept, finest first.
    pub levels: Vec<LevelSpec>,
}

/// The frozen network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// Registered name, such as `swinv2-b`.
    pub name: String,
    /// BLAKE3 of the weights in canonical tensor order, lowercase hex.
    pub weights_blake3: String,
    /// Arithmetic of the forward pass.
    pub compute: Compute,
    /// What else changes the result, such as `window` and `pretrained_window`.
    pub options: BTreeMap<String, String>,
}

/// Arithmetic of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// binary32 throughout.
    Fp32,
    /// bfloat16 matrix products, normalisations and softmax in binary32.
    Bf16,
}

impl Compute {
    /// Element type of the maps that the backbone hands out.
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}

/// From file to network input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Decoder by name: `libjpeg-turbo+png`.
    pub decoder: String,
    /// EXIF orientation applied (`true`) or ignored, as Pillow's `Image.open` does (`false`).
    pub exif_transpose: bool,
    /// Size rule.
    pub resize: ResizeRule,
    /// Resampler by name and pass order: `pillow-bilinear-hv` or `pillow-bicubic-hv`.
    pub resampler: String,
    /// Per-channel mean on the 0..1 scale, RGB.
    pub mean: [f64; 3],
    /// Per-channel standard deviation on the 0..1 scale, RGB.
    pub std: [f64; 3],
    /// Input sizes are padded right and bottom with zeros (after normalisation) to multiples of this.
    pub pad_divisor: u32,
}

/// One level of the feature pyramid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelSpec {
    /// Name in paths and tables: `p2` … `p5`.
    pub name: String,
    /// Input pixels per cell; a padded input of H×W gives H/stride × W/stride cells.
    pub stride: u32,
    /// Channels.
    pub channels: u32,
    /// Where in the network, such as `stage0` (output before downsampling).
    pub tap: String,
    /// Normalisation of the map: `none`, or the name of the backbone's own final norm.
    pub norm: String,
}

impl Recipe {
    /// Canonical JSON: keys sorted, no white space, numbers in their shortest exact form.
    pub fn canonical_json(&self) -> String {
        canonical_json(self)
    }

    /// BLAKE3 of the canonical JSON.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(blake3::hash(self.canonical_json().as_bytes()).to_hex().to_string())
    }

    /// The first field in which two recipes differ: its path (`preprocess.resize.short`), this recipe's
    /// value and the other's.
    pub fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        first_difference(&to_value(self), &to_value(other))
    }

    /// The level of this name.
    pub fn level(&self, name: &str) -> Option<&LevelSpec> {
        self.levels.iter().find(|level| level.name == name)
    }

    /// Refuses a recipe from which no store can be made: no views or levels, names that are no path
    /// components or occur twice, strides that do not divide the padding or are not finest first, statistics
    /// that are not finite.
    pub fn check(&self) -> Result<()> {
        let Preprocess { mean, std, pad_divisor, resize, .. } = &self.preprocess;
        resize.check()?;
        check_names("view", self.views.iter().map(|view| view.name.as_str()))?;
        self.views.iter().try_for_each(ViewSpec::check)?;
        check_names("level", self.levels.iter().map(|level| level.name.as_str()))?;
        if !mean.iter().all(|v| v.is_finite()) || !std.iter().all(|v| v.is_finite() && *v > 0.0) {
            return Err(Error::invalid(format!(
                "mean {mean:?} and std {std:?}: expected finite numbers, std above zero"
            )));
        }
        if !(1..=MAX_PAD_DIVISOR).contains(pad_divisor) {
            return Err(Error::invalid(format!(
                "pad_divisor {pad_divisor}: expected 1 to {MAX_PAD_DIVISOR}"
            )));
        }
        if !self.levels.is_sorted_by_key(|level| level.stride) {
            let strides = self.levels.iter().map(|level| format!("{} of {}", level.name, level.stride));
            return Err(Error::invalid(format!(
                "levels with strides {}: expected the finest first",
                strides.collect::<Vec<_>>().join(", ")
            )));
        }
        for level in &self.levels {
            if level.stride == 0 || !pad_divisor.is_multiple_of(level.stride) {
                return Err(Error::invalid(format!(
                    "level {}: stride {} does not divide pad_divisor {pad_divisor}",
                    level.name, level.stride
                )));
            }
            if !(1..=MAX_CHANNELS).contains(&level.channels) {
                return Err(Error::invalid(format!(
                    "level {}: {} channels, expected 1 to {MAX_CHANNELS}",
                    level.name, level.channels
                )));
            }
        }
        Ok(())
    }
}

impl LevelSpec {
    /// Cells of this level for a padded input of this size.
    pub fn cells(&self, bucket: Size) -> Size {
        let stride = self.stride.max(1);
        Size::new(bucket.height / stride, bucket.width / stride)
    }

    /// `[h, w, c]` of one row of a bucket of this size.
    pub fn shape(&self, bucket: Size) -> [usize; 3] {
        let cells = self.cells(bucket);
        [cells.height as usize, cells.width as usize, self.channels as usize]
    }
}

/// Channels of a level at most.
pub(crate) const MAX_CHANNELS: u32 = 1 << 20;
/// Largest padding divisor.
pub(crate) const MAX_PAD_DIVISOR: u32 = 4096;

fn check_names<'a>(what: &str, names: impl ExactSizeIterator<Item = &'a str>) -> Result<()> {
    if names.len() == 0 {
        return Err(Error::invalid(format!("no {what}: expected at least one")));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        check_name(what, name)?;
        if !seen.insert(name) {
            return Err(Error::invalid(format!("{what} {name:?} occurs twice")));
        }
    }
    Ok(())
}

/// BLAKE3 of a recipe's canonical JSON, as 64 lowercase hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub String);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::recipe;

    #[test]
    fn fingerprints_follow_every_field_and_nothing_else() {
        let ours = recipe();
        assert_eq!(ours.fingerprint(), recipe().fingerprint());
        let reread: Recipe = serde_json::from_str(&ours.canonical_json()).unwrap();
        assert_eq!(reread, ours);
        assert_eq!(reread.fingerprint(), ours.fingerprint());

        let mut theirs = recipe();
        theirs.preprocess.resize = ResizeRule::KeepRatio { short: 640, long: 1333 };
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
        let (field, _, found) = ours.difference(&theirs).unwrap();
        assert_eq!((field.as_str(), found.as_str()), ("preprocess.resize.long", "1333"));

        let mut theirs = recipe();
        theirs.backbone.weights_blake3 = "00".into();
        assert_eq!(ours.difference(&theirs).unwrap().0, "backbone.weights_blake3");
        let mut theirs = recipe();
        theirs.levels.pop();
        let (field, expected, found) = ours.difference(&theirs).unwrap();
        assert_eq!((&*field, &*expected, &*found), ("levels", "[p2, p3]", "[p2]"));
        assert_eq!(ours.difference(&ours), None);
    }

    #[test]
    fn the_fingerprint_of_format_1_never_changes() {
        // Stores in the world carry fingerprints: a change of canonical form is a change of format.
        assert_eq!(
            recipe().fingerprint().0,
            "d6946908c2bfd457bfd80b73b0df88fe5ea01ccf45d61cbbc6f83de4d1750233",
            "{}",
            recipe().canonical_json()
        );
    }

    /// The number forms of docs/format.md. serde_json has changed them before: a version that does so again
    /// fails here.
    #[test]
    fn integral_and_tiny_numbers_have_one_form() {
        let mut recipe = recipe();
        recipe.preprocess.mean = [0.0, 1.0, 123.0];
        recipe.preprocess.std = [1.25e-7, 1e-5, 1e16];
        let json = recipe.canonical_json();
        for form in [r#""mean":[0.0,1.0,123.0]"#, r#""std":[1.25e-7,0.00001,1e+16]"#, r#""pad_divisor":32"#] {
            assert!(json.contains(form), "{form}: {json}");
        }
        let reread: Recipe = serde_json::from_str(&json).unwrap();
        assert_eq!(reread.fingerprint(), recipe.fingerprint());
        for (value, form) in [
            (1e-6, "1e-6"),
            (9.99e-6, "9.99e-6"),
            (0.1 + 0.2, "0.30000000000000004"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(canonical_json(&value), form);
        }
        let spelt = json.replace("1.25e-7", "0.000000125").replace("0.0,", "0,").replace("1e+16", "1E16");
        assert_ne!(spelt, json);
        let reread: Recipe = serde_json::from_str(&spelt).unwrap();
        assert_eq!(reread.fingerprint(), recipe.fingerprint(), "{spelt}");
    }

    #[test]
    fn recipes_that_make_no_store_are_refused() {
        recipe().check().unwrap();
        let broken: [fn(&mut Recipe); 8] = [
            |r| r.levels.reverse(),
            |r| r.levels.clear(),
            |r| r.views.clear(),
            |r| r.levels[1].name = "p2".into(),
            |r| r.levels[0].name = "../p2".into(),
            |r| r.levels[0].stride = 5,
            |r| r.levels[0].channels = 0,
            |r| r.preprocess.std[0] = f64::NAN,
        ];
        for (i, damage) in broken.iter().enumerate() {
            let mut recipe = recipe();
            damage(&mut recipe);
            assert!(matches!(recipe.check(), Err(Error::Invalid { .. })), "{i}");
        }
    }
}
