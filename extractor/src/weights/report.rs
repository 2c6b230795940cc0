//! What matched between a weights file and a backbone: for people to read, and for a run to stop at.

use super::Naming;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor of the file whose shape is not the backbone's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshaped {
    /// Canonical name.
    pub name: String,
    /// Name in the file.
    pub source: String,
    /// Shape (or part of a shape) that the backbone needs.
    pub expected: Vec<usize>,
    /// Shape in the file, or why its type cannot be used.
    pub found: String,
}

/// What matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchReport {
    /// Naming scheme of the file.
    pub naming: Naming,
    /// What precedes every name in the file, such as `encoder.` (SimMIM) or `swinv2.`.
    pub prefix: String,
    /// Parameters that the backbone has.
    pub expected: usize,
    /// Parameters found whole and with their shape.
    pub matched: usize,
    /// Canonical names that the file does not have.
    pub missing: Vec<String>,
    /// Names in the file that mean nothing to the backbone.
    pub unexpected: Vec<String>,
    /// Tensors of another shape or of a type that holds no weights.
    pub misshaped: Vec<Misshaped>,
    /// Names in the file left out on purpose: buffers that are computed here, heads, mask tokens.
    pub ignored: Vec<String>,
}

impl MatchReport {
    /// Whether every parameter matched and nothing is left over.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }

    /// The report of a file that matches, in one line: buffers that every block has are counted by their name.
    pub(crate) fn summary(&self) -> String {
        let mut ignored: BTreeMap<&str, usize> = BTreeMap::new();
        for name in &self.ignored {
            let kind = if name.contains(".attn") { name.rsplit('.').next().unwrap_or(name) } else { name };
            *ignored.entry(kind).or_default() += 1;
        }
        let ignored: Vec<String> = ignored
            .into_iter()
            .map(|(kind, count)| if count == 1 { kind.to_owned() } else { format!("{count} {kind}") })
            .collect();
        let ignored = if ignored.is_empty() { "nothing".to_owned() } else { ignored.join(", ") };
        format!("{} naming, all {} tensors match, ignored: {ignored}", self.naming, self.matched)
    }

    /// The report as an error of one line unless it is complete.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        let first = if let Some(m) = self.misshaped.first() {
            format!("{} has {}, expected {:?}", m.source, m.found, m.expected)
        } else if let Some(name) = self.missing.first() {
            format!("{name} is missing")
        } else {
            format!("{} is unexpected", self.unexpected.first().map_or("?", String::as_str))
        };
        Err(Error::weights(
            path,
            format!(
                "{first} ({} of {} tensors match, {} missing, {} unexpected, {} misshaped; {} naming)",
                self.matched,
                self.expected,
                self.missing.len(),
                self.unexpected.len(),
                self.misshaped.len(),
                self.naming,
            ),
        ))
    }
}

impl std::fmt::Display for MatchReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} naming", self.naming)?;
        if !self.prefix.is_empty() {
            write!(f, ", prefix {:?}", self.prefix)?;
        }
        write!(f, "\n{} of {} tensors match, {} ignored", self.matched, self.expected, self.ignored.len())?;
        for name in &self.missing {
            write!(f, "\nmissing     {name}")?;
        }
        for name in &self.unexpected {
            write!(f, "\nunexpected  {name}")?;
        }
        for m in &self.misshaped {
            write!(
                f,
                "\nmisshaped   {} ({}): expected {:?}, found {}",
                m.name, m.source, m.expected, m.found
            )?;
        }
        Ok(())
    }
}
