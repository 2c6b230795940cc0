//! Verification of a whole store: every byte of every file that belongs to it, and every checksum inside
//! shards. It reports all that it finds and repairs nothing; memory does not grow with the store.

use crate::array::{ArraySpec, StoreArrays};
use crate::checksum::crc32c;
use crate::chunk::CHECKSUM_BYTES;
use crate::layout::{self, Layout};
use crate::manifest::Manifest;
use crate::open_shard::{OpenShard, check_array_document};
use crate::spec::MAX_DOCUMENT_BYTES;
use crate::staged::Digest;
use crate::storage::{FsStorage, Storage};
use crate::table::record::{self, FileEntry};
use crate::{Error, OpenOptions, Result, RowId, Store, Unit};
use serde::Serialize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Whether a store that is not finished is verified as far as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Accept a store that is not finished.
    pub incomplete: bool,
}

/// What was verified and what was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verification {
    /// Files looked at.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows whose features were checked, counted once.
    pub rows: u64,
    /// Everything that is not as it was written, in file order.
    pub problems: Vec<Problem>,
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Expected and found; for features, level, row and key.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// Verifies the store at `path`; `progress` is called with the bytes done and their number in all.
///
/// # Errors
/// [`Error::NotFound`], [`Error::TooNew`], [`Error::Incomplete`] and [`Error::Io`]. What is corrupt is a
/// finding and not an error.
pub fn verify(path: &Path, options: VerifyOptions, progress: &dyn Fn(u64, u64)) -> Result<Verification> {
    let mut found = Verification::default();
    let store = match Store::open(path, OpenOptions { incomplete: options.incomplete }) {
        Ok(store) => Some(store),
        Err(error) => {
            found.note(error)?;
            None
        }
    };
    let layout = Layout::new(path);
    let expected = expected_files(&layout, store.as_ref(), &mut found)?;
    let total = expected.iter().map(|file| file.bytes).sum();
    let mut done = 0;
    for file in &expected {
        found.files += 1;
        match check_file(&layout, file) {
            Ok(()) => {}
            Err(error) => found.note(error)?,
        }
        done += file.bytes;
        found.bytes += file.bytes;
        progress(done, total);
    }
    if let Some(store) = &store {
        check_shards(store, &mut found)?;
    }
    found.problems.sort_by(|a, b| a.path.cmp(&b.path));
    found.problems.dedup();
    Ok(found)
}

impl Verification {
    /// Keeps what is wrong with the store's content; passes on what kept us from looking.
    fn note(&mut self, error: Error) -> Result<()> {
        let problem = match error {
            Error::Corrupt { path, what } => Problem { path, what },
            Error::PathEscape { path, found } => {
                Problem { path, what: format!("path {found:?} leaves the store") }
            }
            Error::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Problem { path, what: "the file is missing".to_owned() }
            }
            Error::Invalid { what } => Problem { path: PathBuf::new(), what },
            other => return Err(other),
        };
        self.problems.push(problem);
        Ok(())
    }
}

/// The files that a store says it consists of: by its manifest, else by its spec and commit records.
fn expected_files(
    layout: &Layout,
    store: Option<&Store>,
    found: &mut Verification,
) -> Result<Vec<FileEntry>> {
    let path = layout.path(layout::MANIFEST);
    let storage = FsStorage;
    if storage.exists(&path)? {
        let manifest = storage.read(&path, MAX_DOCUMENT_BYTES).and_then(|bytes| {
            found.files += 1;
            found.bytes += bytes.len() as u64;
            let manifest = Manifest::parse(&bytes, &path)?;
            match manifest.document() == bytes {
                true => Ok(manifest),
                false => Err(Error::corrupt(&path, "not in the form that it was written in")),
            }
        });
        return match manifest {
            Ok(manifest) => Ok(manifest.files),
            Err(error) => found.note(error).map(|()| Vec::new()),
        };
    }
    let Some(store) = store else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    let spec = store.spec();
    for (name, blake3) in [
        (layout::PLAN, &spec.plan_blake3),
        (layout::ANNOTATIONS, &spec.annotations_blake3),
        (layout::CATEGORIES, &spec.categories_blake3),
    ] {
        let bytes = storage.file_len(&layout.path(name))?;
        files.push(FileEntry { path: name.to_owned(), bytes, blake3: blake3.clone() });
    }
    for (bucket, number) in committed(store) {
        let Some(bucket) = store.buckets().get(bucket) else { continue };
        match record::read(&layout.path(&layout::record(bucket, number))) {
            Ok(record) => files.extend(record.header.files),
            Err(error) => found.note(error)?,
        }
    }
    Ok(files)
}

/// Units that have a commit record: bucket and number.
fn committed(store: &Store) -> impl Iterator<Item = (usize, u64)> + '_ {
    let missing = |bucket: usize, number: u64| {
        store.missing_units().iter().any(|unit: &Unit| (unit.bucket, unit.number) == (bucket, number))
    };
    store
        .buckets()
        .iter()
        .enumerate()
        .flat_map(|(index, bucket)| (0..bucket.unit_count()).map(move |number| (index, number)))
        .filter(move |&(bucket, number)| !missing(bucket, number))
}

fn check_file(layout: &Layout, file: &FileEntry) -> Result<()> {
    let named_by = layout.path(layout::MANIFEST);
    let path = layout.resolve(&named_by, &file.path)?;
    let digest = Digest::of_file(&path)?;
    if digest.bytes != file.bytes {
        let what = format!("expected {} bytes, found {}", file.bytes, digest.bytes);
        return Err(Error::corrupt(path, what));
    }
    digest.check(&path, &file.blake3)
}

/// Checks array documents, shard indexes and the checksum of every chunk, so that a damaged shard is told
/// with level, row and key.
fn check_shards(store: &Store, found: &mut Verification) -> Result<()> {
    let levels = &store.recipe().levels;
    let arrays = StoreArrays::new(store.buckets(), levels, store.encodings())?;
    for bucket in 0..store.buckets().len() {
        for level in 0..levels.len() {
            if let Some((array, _, _)) = arrays.level(bucket, level)
                && let Err(error) = check_array_document(store.layout(), array)
            {
                found.note(error)?;
            }
        }
    }
    let mut chunk = Vec::new();
    for (bucket_number, number) in committed(store) {
        let Some(bucket) = store.buckets().get(bucket_number) else { continue };
        let first = bucket.rows.start.0 + number * bucket.unit_rows;
        found.rows += bucket.unit_rows.min(bucket.rows.end.0.saturating_sub(first));
        for (level, spec) in levels.iter().enumerate() {
            let Some((array, _, _)) = arrays.level(bucket_number, level) else { continue };
            let checked = check_shard(store, array, number, &mut chunk, &mut |row, what| {
                let id = RowId(first + row);
                let key = store.row(id).map_or_else(|_| String::new(), |row| format!(" ({})", row.key));
                format!("level {}, row {id}{key}: {what}", spec.name)
            });
            match checked {
                Ok(mut problems) => found.problems.append(&mut problems),
                Err(error) => found.note(error)?,
            }
        }
    }
    Ok(())
}

/// Checks one shard; `chunk` is memory that is used again.
fn check_shard(
    store: &Store,
    array: &ArraySpec,
    number: u64,
    chunk: &mut Vec<u8>,
    name_row: &mut dyn FnMut(u64, &str) -> String,
) -> Result<Vec<Problem>> {
    let shard = OpenShard::open(store.layout(), array, number)?;
    let bytes = array.geometry.chunk_bytes();
    chunk.resize(usize::try_from(bytes).map_err(|_| Error::invalid("a chunk passes memory"))?, 0);
    let mut problems = Vec::new();
    for (row, band, offset) in shard.index.chunks() {
        shard.file.read_exact_at(chunk, offset).map_err(Error::io(&shard.path))?;
        let Some((payload, stored)) = chunk.split_at_checked(chunk.len() - CHECKSUM_BYTES as usize) else {
            continue;
        };
        let computed = crc32c(payload);
        if stored != computed {
            let [expected, computed] =
                [stored.try_into().unwrap_or([0; 4]), computed].map(u32::from_le_bytes);
            let what = format!("band {band}: crc32c: expected {expected:08x}, found {computed:08x}");
            problems.push(Problem { path: shard.path.clone(), what: name_row(row, &what) });
        }
    }
    Ok(problems)
}
