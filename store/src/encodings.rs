//! Which encoding each level of a store has, and the text that names them. Holds no file layout.

use crate::encoding::DEFAULT_ENCODING;
use crate::{Encoding, Error, LevelSpec, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The encoding of every level of a store: level name → encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Encodings {
    levels: BTreeMap<String, Encoding>,
}

impl Encodings {
    /// All levels alike.
    pub fn uniform(levels: &[LevelSpec], encoding: impl Into<Encoding>) -> Self {
        let encoding = encoding.into();
        Self { levels: levels.iter().map(|level| (level.name.clone(), encoding)).collect() }
    }

    /// Parses `p2=bf16,p3=f32`, or `f16` for all levels, or both: `f16,p2=pca64+int8`. Levels that are not
    /// named get the encoding that stands alone, else [`DEFAULT_ENCODING`]. Empty text is all defaults.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a level that is not in `levels`, a level or default given twice, an unknown
    /// encoding, or one of more coefficients than its level has channels.
    pub fn parse(text: &str, levels: &[LevelSpec]) -> Result<Self> {
        Self::parse_over(text, levels, |_| None)
    }

    /// As [`parse`](Self::parse), where `present` tells what a level has that is not named and for which no
    /// encoding stands alone.
    ///
    /// # Errors
    /// As [`parse`](Self::parse)'s.
    pub fn parse_over(
        text: &str,
        levels: &[LevelSpec],
        present: impl Fn(&str) -> Option<Encoding>,
    ) -> Result<Self> {
        let mut rest = None;
        let mut named = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let before = match part.split_once('=') {
                None => rest.replace(part.parse()?),
                Some((level, encoding)) => {
                    let level = level.trim();
                    if !levels.iter().any(|spec| spec.name == level) {
                        let known: Vec<_> = levels.iter().map(|spec| spec.name.as_str()).collect();
                        return Err(Error::invalid(format!(
                            "encoding of level {level:?}: expected one of {}",
                            known.join(", ")
                        )));
                    }
                    named.insert(level.to_owned(), encoding.trim().parse()?)
                }
            };
            if before.is_some() {
                return Err(Error::invalid(format!("encodings {text:?}: {part:?} is given twice")));
            }
        }
        let mut all = Self::uniform(levels, rest.unwrap_or(DEFAULT_ENCODING));
        if rest.is_none() {
            let present = levels.iter().filter_map(|level| Some((level.name.clone(), present(&level.name)?)));
            all.levels.extend(present);
        }
        all.levels.append(&mut named);
        for level in levels {
            all.of(&level.name).map_or(Ok(()), |encoding| encoding.check(level))?;
        }
        Ok(all)
    }

    /// The encoding of a level; `None` if the store has no such level.
    pub fn of(&self, level: &str) -> Option<Encoding> {
        self.levels.get(level).copied()
    }

    /// Level names and encodings, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Encoding)> {
        self.levels.iter().map(|(name, encoding)| (name.as_str(), *encoding))
    }
}

/// Of level names and encodings; of a name given twice the later counts.
impl FromIterator<(String, Encoding)> for Encodings {
    fn from_iter<T: IntoIterator<Item = (String, Encoding)>>(levels: T) -> Self {
        Self { levels: levels.into_iter().collect() }
    }
}

/// What [`Encodings::parse`] reads: `p2=bf16,p3=f32`.
impl fmt::Display for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (level, encoding)) in self.iter().enumerate() {
            write!(f, "{}{level}={encoding}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Vec<LevelSpec> {
        let level = |name: &str| LevelSpec {
            name: name.into(),
            stride: 4,
            channels: 8,
            tap: "stage0".into(),
            norm: "none".into(),
        };
        ["p2", "p3", "p4"].map(level).to_vec()
    }

    #[test]
    fn parses_named_levels_and_a_default() {
        let levels = levels();
        let text = |text: &str| Encodings::parse(text, &levels).unwrap().to_string();
        assert_eq!(text(""), "p2=bf16,p3=bf16,p4=bf16");
        assert_eq!(text("p3=f32"), "p2=bf16,p3=f32,p4=bf16");
        assert_eq!(text("f16, p3=f32"), "p2=f16,p3=f32,p4=f16");
        assert_eq!(text("int8,p3=e4m3fn,p4=int4"), "p2=int8,p3=e4m3fn,p4=int4");
        assert_eq!(text("int8+zstd,p2=pca8"), "p2=pca8+bf16,p3=int8+zstd,p4=int8+zstd");
        let parsed = Encodings::parse("f16,p3=pca3+f32+zstd", &levels).unwrap();
        assert_eq!(Encodings::parse(&parsed.to_string(), &levels).unwrap(), parsed);
        let json = r#"{"p2":"f16","p3":"pca3+f32+zstd","p4":"f16"}"#;
        assert_eq!(serde_json::to_string(&parsed).unwrap(), json);
        assert_eq!(serde_json::from_str::<Encodings>(json).unwrap(), parsed);
        assert_eq!(parsed.of("p9"), None);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (text, part) in [
            ("p7=bf16", "p7"),
            ("p2=int9", "int9"),
            ("p2=f32,p2=f16", "twice"),
            ("f32,f16", "twice"),
            ("p3=pca9+int8", "pca9+int8 of level p3: expected at most its 8 channels"),
            ("pca9", "pca9+bf16 of level p2"),
        ] {
            let error = Encodings::parse(text, &levels()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
