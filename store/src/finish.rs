//! Completing a store: the final tables and the manifest, from the commit records alone. The only place
//! that makes a store complete.

use crate::bucket::Unit;
use crate::layout;
use crate::loss::{LevelLoss, LevelLossSum};
use crate::manifest::{Manifest, SplitCounts};
use crate::projections;
use crate::spec::MAX_DOCUMENT_BYTES;
use crate::staged::{Digest, TEMPORARY_PREFIX, write_file};
use crate::table::record::{self, FileEntry, Record, RecordRow};
use crate::table::samples::{self, Outcome};
use crate::writer::{Shared, missing_units};
use crate::{Error, Result, RowId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What finishing a store came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The store is complete.
    Done,
    /// This many units have no commit record.
    Missing(usize),
}

pub(crate) fn finish(shared: &Shared) -> Result<Finish> {
    shared.poison.check()?;
    let missing = missing_units(shared)?;
    if !missing.is_empty() {
        return Ok(Finish::Missing(missing.len()));
    }
    let path = shared.layout.path(layout::MANIFEST);
    if shared.storage.exists(&path)? {
        let manifest = Manifest::parse(&shared.storage.read(&path, MAX_DOCUMENT_BYTES)?, &path)?;
        if manifest.fingerprint != shared.spec.fingerprint {
            let (expected, found) = (&shared.spec.fingerprint, &manifest.fingerprint);
            return Err(Error::corrupt(path, format!("fingerprint: expected {expected}, found {found}")));
        }
    } else {
        let manifest = complete(shared)?;
        write_file(&shared.storage, &path, &manifest.document())?;
    }
    // Whoever wrote the manifest that was found may have died before it was durable.
    shared.storage.sync_dir(shared.layout.root())?;
    remove_leftovers(shared, &|name| {
        name.starts_with(TEMPORARY_PREFIX)
            || name.starts_with(layout::CLAIM_PREFIX)
            || name == layout::PUBLISH_LOCK
            || name == layout::CREATE_LOCK
    });
    Ok(Finish::Done)
}

/// Writes `samples.parquet` and says what the store consists of.
fn complete(shared: &Shared) -> Result<Manifest> {
    let (plan, spec) = (&shared.plan, &shared.spec);
    let mut files = Vec::new();
    // Rows without a place have their outcome from the plan.
    let mut outcomes: Vec<Outcome> = plan
        .rows()
        .iter()
        .map(|row| Outcome { error: row.place.as_ref().err().cloned(), ..Outcome::default() })
        .collect();
    for unit in plan.units() {
        let record = checked_record(shared, &unit, &mut files)?;
        let targets = outcomes.iter_mut().skip(usize::try_from(unit.rows.start.0).unwrap_or(usize::MAX));
        for (target, row) in targets.zip(record.rows) {
            let RecordRow { error, source_blake3, losses, .. } = row;
            *target = Outcome { error, source_blake3, losses };
        }
    }
    for (path, hash) in [
        (layout::PLAN, &spec.plan_blake3),
        (layout::ANNOTATIONS, &spec.annotations_blake3),
        (layout::CATEGORIES, &spec.categories_blake3),
    ] {
        let full = shared.layout.path(path);
        let digest = Digest::of_file(&full)?;
        digest.check(&full, hash)?;
        files.push(entry(path, digest));
    }
    for (level, hashes) in &spec.projections {
        for (path, hash) in projections::chunks(level).iter().zip([&hashes.basis_blake3, &hashes.mean_blake3])
        {
            let full = shared.layout.path(path);
            let digest = Digest::of_file(&full)?;
            digest.check(&full, hash)?;
            files.push(entry(path, digest));
        }
    }
    for (path, expected) in spec.documents(plan)? {
        let (full, expected) = (shared.layout.path(&path), Digest::of(&expected));
        Digest::of_file(&full)?.check(&full, &expected.blake3)?;
        files.push(entry(&path, expected));
    }
    let (levels, target) = (&spec.recipe.levels, shared.layout.path(layout::SAMPLES));
    let samples = samples::write(&shared.storage, &target, levels, plan.rows(), &outcomes)?;
    files.push(entry(layout::SAMPLES, samples.publish()?));
    // The same goes for records that others have just published: their names must last as long as the
    // manifest's, which lists them.
    for bucket in plan.buckets() {
        shared.storage.sync_dir(&shared.layout.path(&layout::record_folder(bucket)))?;
    }
    shared.storage.sync_dir(shared.layout.root())?;
    Ok(Manifest::new(spec, count(shared, &outcomes), losses(shared, &outcomes), files))
}

fn entry(path: &str, digest: Digest) -> FileEntry {
    FileEntry { path: path.to_owned(), bytes: digest.bytes, blake3: digest.blake3 }
}

/// A unit's record, if it is of this unit and its shards are there.
fn checked_record(shared: &Shared, unit: &Unit, files: &mut Vec<FileEntry>) -> Result<Record> {
    let bucket = shared
        .plan
        .buckets()
        .get(unit.bucket)
        .ok_or_else(|| Error::invalid(format!("bucket {}: not of this plan", unit.bucket)))?;
    let relative = layout::record(bucket, unit.number);
    let path = shared.layout.path(&relative);
    let digest = Digest::of_file(&path)?;
    let record = record::read(&path, unit.row_count(), &shared.spec.recipe.levels)?;
    check_record(shared, unit, &record).map_err(|what| Error::corrupt(&path, what))?;
    for file in &record.header.files {
        let shard = shared.layout.path(&file.path);
        let found = match shared.storage.file_len(&shard) {
            Err(Error::Io { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::corrupt(path, "the file is missing"));
            }
            found => found?,
        };
        if found != file.bytes {
            return Err(Error::corrupt(shard, format!("expected {} bytes, found {found}", file.bytes)));
        }
    }
    files.push(entry(&relative, digest));
    files.extend(record.header.files.iter().cloned());
    Ok(record)
}

fn check_record(shared: &Shared, unit: &Unit, record: &Record) -> std::result::Result<(), String> {
    crate::table::record::check(record, &shared.plan, &shared.spec.encodings, unit)
}

fn count(shared: &Shared, outcomes: &[Outcome]) -> BTreeMap<String, SplitCounts> {
    let views = shared.spec.recipe.views.len().max(1) as u64;
    let mut splits: BTreeMap<String, SplitCounts> =
        shared.spec.dataset.splits.iter().map(|split| (split.clone(), SplitCounts::default())).collect();
    for (row, outcome) in shared.plan.rows().iter().zip(outcomes) {
        if let Some(counts) = splits.get_mut(&*row.split) {
            counts.rows += 1;
            *if outcome.error.is_none() { &mut counts.ok } else { &mut counts.failed } += 1;
        }
    }
    for counts in splits.values_mut() {
        counts.samples = counts.rows / views;
    }
    splits
}

/// What the levels have lost, of those of which a row has a loss.
fn losses(shared: &Shared, outcomes: &[Outcome]) -> BTreeMap<String, LevelLoss> {
    let levels = &shared.spec.recipe.levels;
    let mut sums: Vec<LevelLossSum> = levels.iter().map(|_| LevelLossSum::default()).collect();
    for (row, outcome) in (0u64..).zip(outcomes) {
        for (sum, loss) in sums.iter_mut().zip(&outcome.losses) {
            if let Some(loss) = loss {
                sum.add(row, *loss);
            }
        }
    }
    let name = |row: u64| match shared.plan.row(RowId(row)) {
        Some(row) => [row.split.to_string(), row.view.to_string(), row.key.0.clone()],
        None => <[String; 3]>::default(),
    };
    let named = levels.iter().zip(sums);
    named.filter_map(|(level, sum)| Some((level.name.clone(), sum.finish(name)?))).collect()
}

/// Removes files that `is_leftover` by name, unless a live process holds them. What cannot be removed is no
/// obstacle and stays.
pub(crate) fn remove_leftovers(shared: &Shared, is_leftover: &dyn Fn(&str) -> bool) {
    let mut folders: BTreeSet<String> = [String::new(), layout::RUNS.to_owned()].into();
    folders.extend(projections::documents(&shared.spec.recipe.levels, &shared.spec.encodings).into_keys());
    for bucket in shared.plan.buckets() {
        let arrays = shared.spec.encodings.iter().flat_map(|(level, encoding)| {
            let affine = encoding.is_quantised().then(|| layout::affine_name(level));
            [Some(level.to_owned()), affine].into_iter().flatten()
        });
        let arrays = arrays.map(|array| layout::array_folder(bucket, &array));
        for folder in arrays.chain([layout::record_folder(bucket)]) {
            folders
                .extend(folder.match_indices('/').filter_map(|(end, _)| Some(folder.get(..end)?.to_owned())));
            folders.insert(folder);
        }
    }
    for folder in folders {
        let folder = shared.layout.path(&folder);
        if let Err(error) = remove_in(shared, &folder, is_leftover) {
            log::warn!("leftover files stay: {error}");
        }
    }
}

fn remove_in(shared: &Shared, folder: &Path, is_leftover: &dyn Fn(&str) -> bool) -> Result<()> {
    for name in shared.storage.list(folder)?.iter().filter(|name| is_leftover(name)) {
        if shared.storage.reap(&folder.join(name))? {
            log::debug!("removed {} from {}", name, folder.display());
        }
    }
    Ok(())
}
