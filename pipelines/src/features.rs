//! `features.json` in a run's folder: the recipe of the features that the head was trained on, so that
//! `predict` can make the same features of new pictures without the store.

use crate::exit::{ExitCode, failure};
use anyhow::{Context, Result};
use featcache_store::Recipe;
use std::path::Path;

/// Name of the file in a run's folder.
pub const FILE: &str = "features.json";

/// Writes the recipe into the run's folder, which is created if need be.
///
/// # Errors
/// The folder cannot be written.
pub fn write(run: &Path, recipe: &Recipe) -> Result<()> {
    std::fs::create_dir_all(run).with_context(|| run.display().to_string())?;
    let path = run.join(FILE);
    if path.exists() {
        // A run is of one recipe; training refuses another store by the checkpoint's fingerprint.
        return Ok(());
    }
    let temporary = run.join(format!(".{FILE}-{}", std::process::id()));
    let written = std::fs::write(&temporary, recipe.canonical_json());
    written.and_then(|()| std::fs::rename(&temporary, &path)).with_context(|| path.display().to_string())
}

/// The recipe of a run's features.
///
/// # Errors
/// The file is not there, not a recipe, or not the one of `fingerprint`.
pub fn read(run: &Path, fingerprint: &str) -> Result<Recipe> {
    let path = run.join(FILE);
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let recipe: Recipe = serde_json::from_slice(&bytes)
        .map_err(|error| failure(ExitCode::BadInput, format!("{}: {error}", path.display())))?;
    recipe.check()?;
    let found = recipe.fingerprint().0;
    if found != fingerprint {
        let what =
            format!("{}: fingerprint differs: the run has {fingerprint}, found {found}", path.display());
        return Err(failure(ExitCode::RecipeMismatch, what));
    }
    Ok(recipe)
}
