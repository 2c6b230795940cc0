//! What a command prints: the same result as text for people and as JSON for scripts.

use crate::exit::ExitCode;
use anyhow::{Context, Result};
use featcache_store::LevelLoss;
use std::io::Write;

/// A command's result, for stdout.
pub struct Report {
    json: serde_json::Value,
    text: String,
    /// How the program ends.
    pub code: ExitCode,
}

impl Report {
    /// A result that ends with [`ExitCode::Done`].
    ///
    /// # Errors
    /// `json` cannot be expressed as JSON (a bug).
    pub fn new(json: &impl serde::Serialize, text: impl Into<String>) -> Result<Self> {
        Ok(Self { json: serde_json::to_value(json)?, text: text.into(), code: ExitCode::Done })
    }

    /// The same result with another end.
    pub fn ending(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// As text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As JSON.
    pub fn json(&self) -> &serde_json::Value {
        &self.json
    }

    /// Writes it to stdout.
    ///
    /// # Errors
    /// stdout is closed.
    pub fn print(&self, json: bool) -> Result<()> {
        // Not serde_json's writer: it would hide the system's error, and with it that a pipe was closed.
        let mut text = if json { serde_json::to_string_pretty(&self.json)? } else { self.text.clone() };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("stdout")
    }
}

/// Rows of text in aligned columns: the first column left-aligned, the others right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&h| h.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate().take(columns) {
            let gap = if column == 0 { "" } else { "  " };
            line.push_str(&if column == 0 {
                format!("{gap}{cell:<width$}")
            } else {
                format!("{gap}{cell:>width$}")
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a level has lost, for the columns relative L2, cosine and worst row's relative L2; where nothing was
/// changed, lines.
pub fn loss_columns(loss: Option<&LevelLoss>) -> [String; 3] {
    match loss {
        None => ["–", "–", "–"].map(str::to_owned),
        Some(LevelLoss { relative_l2, cosine, worst, .. }) => {
            let worst = format!("{:.2e} ({})", worst.relative_l2, worst.key);
            [format!("{relative_l2:.2e}"), format!("{cosine:.6}"), worst]
        }
    }
}

/// The same rows as a Markdown table.
pub fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}
