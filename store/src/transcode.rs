//! One store made from another: the same rows in other encodings, or fewer levels, views and splits of them.
//! Computes no features: what both hold in the same form is copied bit for bit.
//!
//! The target is a store like any other: its recipe, plan and labels are
//! those that an extraction of these levels, views and splits would have given it, any number of processes may
//! fill it at the same time, and it is resumed by doing the units that have no record.

mod counters;
mod pipeline;
mod selection;
mod stored_row;

pub use counters::TranscodeCounters;
pub use selection::Selection;

use crate::layout::{self, Layout};
use crate::plan::Plan;
use crate::run::Run;
use crate::sink::FeatureSink;
use crate::spec::{MAX_DOCUMENT_BYTES, check_encodings};
use crate::storage::{FsStorage, Storage};
use crate::table::samples::{self, Outcome};
use crate::table::{TableFile, annotations};
use crate::writer::Contents;
use crate::{
    Annotation, DatasetSpec, Encoding, Encodings, Error, LevelSpec, Projection, Projections, Result, RowId,
    Store, StoreWriter, WriterOptions,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Memory for rows on their way, unless told otherwise.
pub const DEFAULT_TRANSCODE_BYTES: u64 = 512 << 20;

/// Note of a run that holds the identity of the content of the store that it was made from.
const NOTE_CONTENT: &str = "source_content_blake3";

/// A store that is being made from another.
#[derive(Debug)]
pub struct Transcode<'a> {
    source: &'a Store,
    writer: StoreWriter,
    levels: Vec<Origin>,
    /// Of every row of the source.
    outcomes: Vec<Outcome>,
    target: PathBuf,
}

/// Where a level comes from.
#[derive(Debug)]
struct Origin {
    /// Its number in the source.
    number: usize,
    /// How the source holds it.
    encoding: Encoding,
    projection: Option<Arc<Projection>>,
    /// The target holds the same numbers, perhaps compressed in another way.
    same: bool,
}

impl Origin {
    fn new(source: &Store, level: &LevelSpec, encodings: &Encodings) -> Result<Self> {
        let name = &level.name;
        let found = (source.encodings().of(name), encodings.of(name));
        let (Some(from), Some(to)) = found else {
            return Err(Error::invalid(format!("level {name}: expected an encoding, found none")));
        };
        let same = (from.projection, from.format) == (to.projection, to.format);
        let projection = source.projections().of(name).map(Arc::clone);
        Ok(Self { number: source.level(name)?.0, encoding: from, projection, same })
    }
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct TranscodeOptions<'a> {
    /// Bytes of memory for rows on their way: as many rows as fit, at least one for each stage.
    pub memory_bytes: u64,
    /// Set from outside to stop soon; units under way are then left uncommitted.
    pub stop: &'a AtomicBool,
}

impl<'a> Transcode<'a> {
    /// Creates the store at `target`, or goes on with it: what `selection` names of `source`, which is
    /// finished, in these encodings, one a level that is kept. For a new store, `calibrate` is asked for the bases
    /// of the levels that it is given, from rows of the plan that it is given.
    ///
    /// # Errors
    /// As [`StoreWriter::create_or_resume`]'s. [`Error::Invalid`] too if one of the two folders lies in the
    /// other or the source is not finished, and [`Error::RecipeMismatch`] if the target was made from other
    /// features.
    pub fn create_or_resume(
        source: &'a Store,
        target: &Path,
        selection: &Selection,
        encodings: &Encodings,
        calibrate: impl FnOnce(&Plan, &[LevelSpec]) -> Result<Projections>,
    ) -> Result<Self> {
        let manifest = source
            .manifest()
            .ok_or_else(|| Error::invalid(format!("{}: not finished", source.root().display())))?;
        check_apart(source.root(), target)?;
        let (spec, recipe) = (source.spec(), selection.recipe(source)?);
        let (splits, plan) = (selection.splits(source)?, selection.plan(source, &recipe)?);
        check_encodings(&recipe, encodings)?;
        let origin = |level| Origin::new(source, level, encodings);
        let levels = recipe.levels.iter().map(origin).collect::<Result<Vec<_>>>()?;
        let dataset = DatasetSpec { splits: splits.clone(), ..spec.dataset.clone() };
        let options = WriterOptions {
            shard_bytes: Some(spec.shard_bytes),
            dataset: Some(dataset),
            licence: spec.licence.clone(),
            read_back: true,
            ..WriterOptions::default()
        };
        let new = || {
            let file = TableFile::checked(source.layout(), layout::ANNOTATIONS, &spec.annotations_blake3)?;
            let kept = splits.clone();
            Ok(Contents {
                dataset: spec.dataset.kind.clone(),
                splits: splits.clone(),
                plan: plan.clone(),
                projections: bases(&recipe.levels, &levels, encodings, |levels| calibrate(&plan, levels))?,
                categories: source.categories().to_vec(),
                annotations: Box::new(move |storage, target| {
                    let all = annotations::read_all(file)?;
                    let is_kept = |label: &Result<Annotation>| {
                        label.as_ref().map_or(true, |label| kept.contains(&label.split))
                    };
                    annotations::write_sorted(storage, target, all.filter(is_kept))
                }),
            })
        };
        let writer = StoreWriter::create_or_resume_with(target, &recipe, encodings, new, options)?;
        check_same_rows(target, &plan, writer.plan())?;
        check_same_source(target, &manifest.content_blake3)?;
        for ((number, level), origin) in recipe.levels.iter().enumerate().zip(&levels) {
            if origin.same && writer.projection(number) != origin.projection.as_ref() {
                return Err(Error::RecipeMismatch {
                    path: target.to_owned(),
                    field: format!("basis of {}", level.name),
                    expected: "the source's".to_owned(),
                    found: "another".to_owned(),
                });
            }
        }
        let samples = manifest.file(layout::SAMPLES).map(|file| file.blake3.as_str()).unwrap_or_default();
        let samples = TableFile::checked(source.layout(), layout::SAMPLES, samples)?;
        let outcomes = samples::read(samples, source.rows().len(), &spec.recipe.levels)?;
        Ok(Self { source, writer, levels, outcomes, target: target.to_owned() })
    }

    /// The store that is being made.
    pub fn writer(&self) -> &StoreWriter {
        &self.writer
    }

    /// What a run of this has to note of its source, so that it is resumed from no other.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let content = self.source.manifest().map(|manifest| manifest.content_blake3.clone());
        BTreeMap::from([
            ("source".to_owned(), self.source.root().display().to_string()),
            ("source_fingerprint".to_owned(), self.source.fingerprint().to_string()),
            ("source_encodings".to_owned(), self.source.encodings().to_string()),
            (NOTE_CONTENT.to_owned(), content.unwrap_or_default()),
        ])
    }
}

/// The bases of a new store: those of the source where its coefficients are kept, else newly calibrated.
fn bases(
    levels: &[LevelSpec],
    origins: &[Origin],
    encodings: &Encodings,
    calibrate: impl FnOnce(&[LevelSpec]) -> Result<Projections>,
) -> Result<Projections> {
    let projected = levels
        .iter()
        .zip(origins)
        .filter(|(level, _)| encodings.of(&level.name).is_some_and(|encoding| encoding.projection.is_some()));
    let (kept, new): (Vec<_>, Vec<_>) = projected.partition(|(_, origin)| origin.same);
    let new: Vec<LevelSpec> = new.into_iter().map(|(level, _)| level.clone()).collect();
    let mut projections = if new.is_empty() { Projections::default() } else { calibrate(&new)? };
    for (level, origin) in kept {
        if let Some(projection) = &origin.projection {
            projections.insert(&level.name, Projection::clone(projection));
        }
    }
    Ok(projections)
}

/// Refuses a target in the source's folder, and a source in the target's.
fn check_apart(source: &Path, target: &Path) -> Result<()> {
    let real = source.canonicalize().map_err(Error::io(source))?;
    let new = resolved(target)?;
    if new.starts_with(&real) || real.starts_with(&new) {
        let (source, target) = (source.display(), target.display());
        return Err(Error::invalid(format!("{target}: expected a folder apart from the source, {source}")));
    }
    Ok(())
}

/// The path without links, of which the end need not exist.
fn resolved(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(Error::io(path))?;
    let mut rest = Vec::new();
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return Ok(rest.iter().rev().fold(real, |real: PathBuf, name| real.join(name)));
        }
        rest.extend(ancestor.file_name());
    }
    Ok(absolute)
}

/// Refuses a target whose rows are not those of this source.
fn check_same_rows(target: &Path, expected: &Plan, found: &Plan) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let differs = |(expected, found)| expected != found;
    let row = expected.rows().iter().zip(found.rows()).position(differs);
    let row = row.unwrap_or(expected.rows().len().min(found.rows().len()));
    let shown = |plan: &Plan| match plan.row(RowId(row as u64)) {
        Some(found) => format!("{}/{} in {}", found.split, found.key, found.view),
        None => format!("{} rows", plan.rows().len()),
    };
    Err(Error::RecipeMismatch {
        path: target.to_owned(),
        field: format!("plan, row {row}"),
        expected: shown(expected),
        found: shown(found),
    })
}

/// Refuses a target of which a part was made from other features: their units must not be mixed.
fn check_same_source(target: &Path, content: &str) -> Result<()> {
    let (layout, storage) = (Layout::new(target), FsStorage);
    let folder = layout.path(layout::RUNS);
    for name in storage.list(&folder)?.iter().filter(|name| !name.starts_with('.')) {
        let bytes = storage.read(&folder.join(name), MAX_DOCUMENT_BYTES)?;
        // Whoever puts other things there is not asked where they come from.
        let Ok(run) = serde_json::from_slice::<Run>(&bytes) else { continue };
        let found = run.notes.get(NOTE_CONTENT).map(String::as_str);
        if found != Some(content) {
            return Err(Error::RecipeMismatch {
                path: target.to_owned(),
                field: "source content".to_owned(),
                expected: content.to_owned(),
                found: found.unwrap_or("pictures").to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
