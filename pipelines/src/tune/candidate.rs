//! Policies that are worth a head: given ones, or the uniform ones and some mixed ones that a search over
//! measured errors finds. Measures nothing itself.

use super::measure::LevelMeasure;
use crate::exit::{ExitCode, failure};
use anyhow::Result;
use featcache_store::allocation::{self, Ladder, Policy, Rung};
use featcache_store::{Compression, Encoding, Encodings, LevelSpec, NumberFormat};
use serde::Serialize;
use std::num::NonZeroU32;

/// Number formats that are tried on every level as it is, and held by all levels alike.
pub const UNIFORM: [NumberFormat; 3] = [NumberFormat::Int8, NumberFormat::E4m3fn, NumberFormat::Int4];

/// Coefficients that the search may keep of a level, as parts of its channels, in either of
/// [`PROJECTED_FORMATS`].
pub const PROJECTED_PARTS: [u32; 3] = [2, 4, 8];

/// Number formats of coefficients that the search may choose.
pub const PROJECTED_FORMATS: [NumberFormat; 2] = [NumberFormat::Int8, NumberFormat::Int4];

/// Bytes, as shares of bf16's, at which the search is asked for a mixed policy.
pub const TARGETS: [f64; 4] = [0.375, 0.25, 0.125, 0.0625];

/// Where a candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The store's own encodings: what the others are compared with.
    Reference,
    /// The command line.
    Given,
    /// All levels alike.
    Uniform,
    /// The search over measured errors.
    Search,
}

/// A policy for which heads are trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The encoding of every level.
    pub encodings: Encodings,
    /// Where it comes from.
    pub origin: Origin,
}

/// Candidates in order, none twice: the first is the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// The reference alone.
    pub fn new(reference: &Encodings) -> Self {
        Self(vec![Candidate { encodings: reference.clone(), origin: Origin::Reference }])
    }

    /// Adds one, if it is not there yet.
    pub fn add(&mut self, encodings: Encodings, origin: Origin) {
        if self.0.iter().all(|known| known.encodings != encodings) {
            self.0.push(Candidate { encodings, origin });
        }
    }

    /// Adds those that the command line names.
    ///
    /// # Errors
    /// [`ExitCode::Usage`]: a level or encoding that there is not.
    pub fn add_given(&mut self, texts: &[String], levels: &[LevelSpec]) -> Result<()> {
        for text in texts {
            let encodings = Encodings::parse(text, levels)
                .map_err(|error| failure(ExitCode::Usage, format!("--candidate: {error}")))?;
            self.add(encodings, Origin::Given);
        }
        Ok(())
    }

    /// Adds those of the path that are first to have no more than these bytes.
    pub fn add_searched(&mut self, path: &[Policy], bytes: impl IntoIterator<Item = f64>) {
        for most in bytes {
            if let Some(policy) = path.iter().find(|policy| policy.bytes <= most) {
                self.add(policy.encodings.clone(), Origin::Search);
            }
        }
    }

    /// The candidates.
    pub fn all(&self) -> &[Candidate] {
        &self.0
    }

    /// Levels, by position, with every encoding that a candidate holds them in.
    pub fn wanted(&self, levels: &[LevelSpec]) -> Vec<(usize, Encoding)> {
        let mut wanted = Vec::new();
        for (number, level) in levels.iter().enumerate() {
            for encoding in self.0.iter().filter_map(|candidate| candidate.encodings.of(&level.name)) {
                if !wanted.contains(&(number, encoding)) {
                    wanted.push((number, encoding));
                }
            }
        }
        wanted
    }
}

/// Levels, by position, with the encodings of coefficients that the search may choose.
pub fn projected(levels: &[LevelSpec]) -> Vec<(usize, Encoding)> {
    let mut all = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        for k in PROJECTED_PARTS.into_iter().filter_map(|part| NonZeroU32::new(level.channels / part)) {
            for format in PROJECTED_FORMATS {
                all.push((number, Encoding { projection: Some(k), format, compression: Compression::None }));
            }
        }
    }
    all
}

/// Mixed policies from the reference to the cheapest, of what was measured.
///
/// # Errors
/// A measure of an encoding that there is not: a bug.
pub fn path(levels: &[LevelSpec], measures: &[LevelMeasure]) -> Result<Vec<Policy>> {
    let ladder = |level: &LevelSpec| {
        let of_level = measures.iter().filter(|measure| measure.level == level.name);
        let rungs = of_level.map(|measure| {
            let (bytes, error) = (measure.bytes_per_image, measure.trial.loss.relative_l2);
            Ok(Rung { encoding: measure.encoding.parse()?, bytes, error })
        });
        Ok(Ladder { level: level.name.clone(), rungs: rungs.collect::<Result<_>>()? })
    };
    Ok(allocation::path(&levels.iter().map(ladder).collect::<Result<Vec<_>>>()?))
}

/// The shortest text for encodings that `--store` takes: one encoding where all levels have the same.
pub fn store_text(encodings: &Encodings) -> String {
    let mut all = encodings.iter().map(|(_, encoding)| encoding);
    match all.next() {
        Some(first) if all.all(|other| other == first) => first.to_string(),
        _ => encodings.to_string(),
    }
}
