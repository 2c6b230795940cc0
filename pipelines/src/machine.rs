//! What this machine is told to do by default, and what a run records of it.

use crate::cli::ExtractArgs;
use anyhow::{Context, Result};
use featcache_extractor::worker::Worker;
use featcache_store::{Run, Store};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Pictures a forward pass on a GPU, where nothing else is said.
pub const DEFAULT_BATCH_CUDA: usize = 8;

/// One picture fills a CPU: batching gains nothing there and costs memory.
pub fn default_batch(device: tch::Device) -> usize {
    if device.is_cuda() { DEFAULT_BATCH_CUDA } else { 1 }
}

/// Decoding threads: every CPU on a GPU machine, few where the backbone needs the CPUs itself.
pub fn default_decoders() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if tch::Cuda::is_available() { cpus } else { cpus.min(2) }
}

/// The record of an extraction that starts now: who computes what, where. Kept outside the store's content hash.
///
/// # Errors
/// The dataset's root does not exist.
pub fn run_record(args: &ExtractArgs, worker: Worker, device: tch::Device) -> Result<Run> {
    let root = &args.dataset.root;
    let root = std::fs::canonicalize(root).with_context(|| root.display().to_string())?;
    let mut notes = BTreeMap::new();
    notes.insert(NOTE_ROOT.to_owned(), root.display().to_string());
    notes.insert("worker".to_owned(), format!("{} of {}", worker.rank, worker.world));
    notes.insert("threads".to_owned(), tch::get_num_threads().to_string());
    notes.insert("batch".to_owned(), args.batch.unwrap_or_else(|| default_batch(device)).to_string());
    Ok(begun_run(format!("{device:?}").to_lowercase(), notes))
}

/// The record of a run of this process on `device` that starts now.
pub fn begun_run(device: String, notes: BTreeMap<String, String>) -> Run {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let started = unix_seconds();
    Run {
        id: format!("{started}-{host}-{}", std::process::id()),
        program: format!("featcache {}", env!("CARGO_PKG_VERSION")),
        command: command_line(),
        host,
        device,
        started_unix_s: started,
        notes,
        ..Run::default()
    }
}

/// Root folder of the dataset as the latest run of a store recorded it, whether or not it is here.
pub fn recorded_root(store: &Store) -> Option<PathBuf> {
    let entries = std::fs::read_dir(store.root().join("runs"));
    let mut runs: Vec<Run> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.started_unix_s));
    runs.iter().find_map(|run| run.notes.get(NOTE_ROOT).map(PathBuf::from))
}

/// The program's arguments as text. What is not UTF-8 in them, as paths may be, is replaced.
pub fn command_line() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// Note of a run that holds the absolute root folder of the dataset: where `verify --against-model` looks
/// for the pictures.
pub const NOTE_ROOT: &str = "root";

/// Now, in seconds since 1970 UTC.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Most memory that this process has had resident so far, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
