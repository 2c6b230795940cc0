//! `cargo xtask tidy`: house rules that no compiler checks. Each rule is a function from one file to its
//! findings; all findings are shown at once. It reads files and changes none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::say;

mod excerpts;
mod links;
mod modules;
mod source;

/// Folders that are built, fetched or produced, never written by us.
const NOT_OURS: [&str; 5] = ["target", "demo", "runs", "__pycache__", "node_modules"];

/// Kinds of file that hold text of ours.
const TEXT: [&str; 8] = ["rs", "md", "toml", "py", "c", "sh", "json", "yml"];

/// Largest file that belongs in the repository; the demo's weights are the reason that it is not smaller.
const MAX_BYTES: u64 = 8 << 20;

/// A file of the repository and its text (empty where it is not text).
struct File {
    /// Relative to the workspace's root.
    path: PathBuf,
    text: String,
    bytes: u64,
}

/// Where a rule is broken and how.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &Path, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_path_buf(), line, what: what.into() }
    }
}

/// Fails with every finding.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, Path::new(""), &mut files)?;
    let mut findings = Vec::new();
    for file in &files {
        if file.bytes > MAX_BYTES {
            findings.push(Finding::new(
                &file.path,
                1,
                format!("{} bytes, at most {MAX_BYTES} belong here", file.bytes),
            ));
        }
        source::check_any(file, &mut findings);
        match file.path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => {
                source::check_rust(file, &mut findings);
                modules::check(file, &files, &mut findings);
            }
            Some("md") => {
                links::check(root, file, &files, &mut findings);
                excerpts::check(file, &files, &mut findings);
            }
            _ => {}
        }
    }
    for finding in &findings {
        say(&format!("{}:{}: {}", finding.path.display(), finding.line, finding.what));
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    say(&format!("tidy: {} files are in order", files.len()));
    Ok(())
}

/// Every file below `folder`, in the order of their names.
fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> Result<()> {
    let absolute = root.join(folder);
    let entries =
        fs::read_dir(&absolute).with_context(|| format!("failed to list {}", absolute.display()))?;
    let mut entries: Vec<fs::DirEntry> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        let kind = entry.file_type().with_context(|| format!("failed to look at {}", path.display()))?;
        let hidden = name.starts_with('.') && ![".ci", ".cargo", ".github"].contains(&name.as_str());
        if hidden || NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            files.push(File { text: text_of(root, &path)?, path, bytes });
        }
    }
    Ok(())
}

fn text_of(root: &Path, path: &Path) -> Result<String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !TEXT.contains(&extension) && !path.starts_with(".ci") {
        return Ok(String::new());
    }
    let absolute = root.join(path);
    fs::read_to_string(&absolute).with_context(|| format!("failed to read {}", absolute.display()))
}
