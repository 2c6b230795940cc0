//! `featcache bench`: reading, loading and extraction against the machine's own limits and against peers, timed
//! in the same run.

mod extract;
mod loader;
mod peers;
mod read;
mod workplace;

use crate::cli::{BenchArgs, BenchCommand};
use crate::report::Report;
use anyhow::{Context, Result};
use featcache_store::Spread;
use std::path::Path;

pub(super) fn run(args: &BenchArgs) -> Result<Report> {
    match &args.which {
        BenchCommand::Read(args) => read::run(args),
        BenchCommand::Loader(args) => loader::run(args),
        BenchCommand::Peers(args) => peers::run(args),
        BenchCommand::Extract(args) => extract::run(args),
    }
}

/// `median (min–max)`.
fn show(spread: Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}–{:.digits$})", spread.median, spread.min, spread.max)
}

/// Puts `body` between the markers of `section` in a Markdown file, so that running again replaces it.
fn write_section(path: &Path, section: &str, body: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {section}: begin -->"), format!("<!-- {section}: end -->"));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "# Benchmarks\n".to_owned(),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let block = format!("{begin}\n{}\n{end}", body.trim_end());
    let text = match (text.find(&begin), text.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{block}{}", &text[..from], &text[to + end.len()..])
        }
        _ => format!("{}\n\n{block}\n", text.trim_end()),
    };
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// The machine in words, for the line above a table.
fn machine_line() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split(':').nth(1))
            .map(str::trim)
    };
    let flags = field("flags").unwrap_or_default();
    let known = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];
    let found: Vec<&str> = known.into_iter().filter(|flag| flags.split(' ').any(|f| f == *flag)).collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cpus} CPUs allowed, {}", field("model name").unwrap_or("unknown CPU"), found.join(" "))
}
