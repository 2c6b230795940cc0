//! `featcache doctor`: what this machine has, what is missing, and what to do about it. One check, one line.
//!
//! It looks and changes nothing (how fast the disk reads is tried with a file that has no name); each check is a file of its own and none can fail: what cannot be found out
//! is a line that says so.

pub mod cpu;
pub mod ffmpeg;
mod libtorch;
pub mod limits;

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, but slower or with less than it could.
    Warning,
    /// Not there. Whether that matters is said in the advice.
    Missing,
}

/// One check: what was looked at and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; a stable name for scripts.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found, in one line.
    pub found: String,
    /// What to do, where something should be done.
    pub advice: Option<String>,
    /// Whether extraction and training on the CPU are impossible as it is.
    pub blocks: bool,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, found: found.into(), advice: None, blocks: false }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { state: State::Warning, advice: Some(advice.into()), ..Check::ok(name, found) }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { state: State::Missing, advice: Some(advice.into()), ..Check::ok(name, found) }
    }

    fn blocking(self) -> Check {
        Check { blocks: true, ..self }
    }
}

/// All checks, in the order in which they are shown. Its `Display` is the text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Version of this program.
    pub featcache: &'static str,
    /// Whether extraction and training on the CPU can work.
    pub usable: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Findings {
    /// Whether extraction and training on the CPU can work: the exit code.
    pub fn usable(&self) -> bool {
        self.usable
    }
}

/// Looks at everything; `disk` is the folder whose free space is shown (it need not exist yet).
pub fn examine(disk: &Path) -> Findings {
    let checks = vec![
        libtorch::library(),
        libtorch::arithmetic(),
        cpu::instructions(),
        cpu::allowed(),
        libtorch::cuda(),
        limits::memory(),
        limits::disk(disk),
        limits::cold_reading(disk),
        limits::open_files(),
        ffmpeg::program("ffmpeg"),
    ];
    let usable = !checks.iter().any(|check| check.blocks);
    Findings { featcache: env!("CARGO_PKG_VERSION"), usable, checks }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "featcache {}", self.featcache)?;
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let state = match check.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Missing => "missing",
            };
            writeln!(f, "  {state:<7}  {:<width$}  {}", check.name, check.found)?;
            if let Some(advice) = &check.advice {
                writeln!(f, "  {:<7}  {:<width$}  -> {advice}", "", "")?;
            }
        }
        match self.usable {
            true => writeln!(f, "extraction and training can run on this CPU"),
            false => writeln!(f, "extraction and training cannot run here"),
        }
    }
}
