//! A run's log: one JSON object a line, appended as training goes. Must not decide what is logged.

use crate::checkpoint::replace;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

/// The one field that every line about a step has.
#[derive(Deserialize)]
struct Line {
    step: u64,
}

impl Log {
    /// Opens the log at `path` for a run that stands at `step`. Lines of later steps, left by a run
    /// that went further than its last checkpoint, and what is no line, cut short or written over, are
    /// taken out first.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let keep = |line: &&[u8]| serde_json::from_slice::<Line>(line).is_ok_and(|l| l.step <= step);
                let lines = bytes.split(|byte| *byte == b'\n').filter(keep);
                let kept = lines.flat_map(|line| [line, &b"\n"[..]]).collect::<Vec<_>>().concat();
                if kept != bytes {
                    replace(path, |temporary| std::fs::write(temporary, kept).map_err(Error::io(temporary)))?;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(path)(e)),
        }
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends one object; it has a field `step`.
    pub fn line(&mut self, record: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(record)
            .map_err(|e| Error::invalid(format!("log line cannot be written as JSON: {e}")))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}
