//! What a demo folder was made from, kept in it as `demo.json`: the demo goes on with a folder of the same
//! origin and starts afresh in one of another. Draws and extracts nothing.

use crate::cli::DemoArgs;
use crate::exit::{ExitCode, failure};
use anyhow::{Context, Result};
use featcache_heads::Error;
use featcache_heads::checkpoint::replace;
use featcache_store::layout;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file.
const FILE: &str = "demo.json";

/// What the demo makes in its folder, and nothing else is ever removed from it. The folders come first:
/// they are what must not be mixed.
const MADE: [&str; 10] = [
    "scenes",
    "store",
    "run",
    "store-coco",
    "run-detection",
    "detection",
    "swinv2-demo.safetensors",
    "demo.toml",
    "demo-detection.toml",
    "contact-sheet.png",
];
const MADE_FOLDERS: usize = 6;

/// Everything that the demo's results depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    version: String,
    seed: u64,
    train: usize,
    val: usize,
    weights_blake3: String,
    recipe_blake3: String,
}

impl Origin {
    /// Of these flags, weights and recipes.
    pub(super) fn new(args: &DemoArgs, weights: &[u8], recipes: &[&str]) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: args.seed,
            train: args.train,
            val: args.val,
            weights_blake3: blake3::hash(weights).to_hex().to_string(),
            recipe_blake3: blake3::hash(recipes.concat().as_bytes()).to_hex().to_string(),
        }
    }

    /// Makes `out`, which exists, a folder of this origin: what another origin left is removed first.
    ///
    /// # Errors
    /// The folder cannot be read or written; it holds folders of these names that no demo made.
    pub(super) fn settle(&self, out: &Path) -> Result<()> {
        let path = out.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let found = serde_json::from_slice::<Self>(&bytes);
                if found.as_ref().is_ok_and(|found| found == self) {
                    return Ok(());
                }
                log::info!(
                    "{}: made with other options or by another version: starting afresh",
                    out.display()
                );
                remove(out)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if out.join(layout::ROOT).exists() {
                    let what = format!("{}: holds a store: give another --out", out.display());
                    return Err(failure(ExitCode::BadInput, what));
                }
                if let Some(name) = MADE[..MADE_FOLDERS].iter().find(|name| out.join(name).exists()) {
                    let what = format!(
                        "{}: holds {name} but no {FILE} that says what it was made from: remove it or give another \
                         --out",
                        out.display()
                    );
                    return Err(failure(ExitCode::BadInput, what));
                }
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
        // Only now: a demo killed in between starts afresh again.
        let json = serde_json::to_vec_pretty(self)?;
        Ok(replace(&path, |temporary| std::fs::write(temporary, &json).map_err(Error::io(temporary)))?)
    }
}

fn remove(out: &Path) -> Result<()> {
    for name in MADE {
        let path = out.join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    Ok(())
}
