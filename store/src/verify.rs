//! Verification of a whole store: every byte of every file that belongs to it, and every checksum inside
//! shards. It reports all that it finds and repairs nothing; memory does not grow with the store.

use crate::array::{ArraySpec, LevelArrays};
use crate::band::Part;
use crate::checksum::{CHECKSUM, Crc32c, differs};
use crate::compression::Unpacker;
use crate::layout::{self, Layout};
use crate::manifest::Manifest;
use crate::open_shard::{OpenShard, check_array_document};
use crate::projections;
use crate::quantised::Affine;
use crate::spec::MAX_DOCUMENT_BYTES;
use crate::staged::Digest;
use crate::storage::{FsStorage, Storage};
use crate::table::record::{self, FileEntry};
use crate::{Compression, Error, OpenOptions, PagePolicy, Result, RowId, Status, Store, Unit};
use serde::Serialize;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at a time: what memory a shard takes, however large its chunks claim to be.
const BLOCK_BYTES: usize = 256 << 10;

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
    // Sizes are what the files that name them claim.
    let total = expected.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    let mut done = 0u64;
    for file in &expected {
        found.files += 1;
        match check_file(&layout, file) {
            Ok(()) => {}
            Err(error) => found.note(error)?,
        }
        done = done.saturating_add(file.bytes);
        found.bytes = found.bytes.saturating_add(file.bytes);
        progress(done, total);
    }
    if let Some(store) = &store {
        if store.manifest().is_some() {
            check_surplus(&layout, &expected, &mut found)?;
        }
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
        match storage.file_len(&layout.path(name)) {
            Ok(bytes) => files.push(FileEntry { path: name.to_owned(), bytes, blake3: blake3.clone() }),
            Err(error) => found.note(error)?,
        }
    }
    for (level, hashes) in &spec.projections {
        for (path, blake3) in
            projections::chunks(level).into_iter().zip([&hashes.basis_blake3, &hashes.mean_blake3])
        {
            match storage.file_len(&layout.path(&path)) {
                Ok(bytes) => files.push(FileEntry { path, bytes, blake3: blake3.clone() }),
                Err(error) => found.note(error)?,
            }
        }
    }
    for (bucket, number) in committed(store) {
        let Some(of_bucket) = store.buckets().get(bucket) else { continue };
        let unit_rows = of_bucket.unit(bucket, number).row_count();
        let path = layout.path(&layout::record(of_bucket, number));
        match record::read(&path, unit_rows, &spec.recipe.levels) {
            Ok(record) => files.extend(record.header.files),
            Err(error) => found.note(error)?,
        }
    }
    Ok(files)
}

/// Units that have a commit record: bucket and number.
fn committed(store: &Store) -> impl Iterator<Item = (usize, u64)> + '_ {
    let missing: HashSet<(usize, u64)> =
        store.missing_units().iter().map(|unit: &Unit| (unit.bucket, unit.number)).collect();
    store
        .buckets()
        .iter()
        .enumerate()
        .flat_map(|(index, bucket)| (0..bucket.unit_count()).map(move |number| (index, number)))
        .filter(move |unit| !missing.contains(unit))
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
    let (levels, arrays) = (&store.recipe().levels, store.arrays());
    for bucket in 0..store.buckets().len() {
        for level in 0..levels.len() {
            for array in arrays.level(bucket, level).into_iter().flat_map(LevelArrays::iter) {
                if let Err(error) = check_array_document(store.layout(), array) {
                    found.note(error)?;
                }
            }
        }
    }
    let mut block = vec![0; BLOCK_BYTES];
    for (bucket_number, number) in committed(store) {
        let Some(bucket) = store.buckets().get(bucket_number) else { continue };
        let first = bucket.rows.start.0 + number * bucket.unit_rows;
        found.rows += bucket.unit_rows.min(bucket.rows.end.0.saturating_sub(first));
        for (level, spec) in levels.iter().enumerate() {
            let Some(arrays) = arrays.level(bucket_number, level) else { continue };
            let name_row = |id: RowId, what: &str| {
                let key = store.row(id).map_or_else(|_| String::new(), |row| format!(" ({})", row.key));
                format!("level {}, row {id}{key}: {what}", spec.name)
            };
            for (part, array) in
                [(Part::Payload, Some(&arrays.payload)), (Part::Affine, arrays.affine.as_ref())]
            {
                let Some(array) = array else { continue };
                match check_shard(store, part, array, number, first, &mut block, &name_row) {
                    Ok(mut problems) => found.problems.append(&mut problems),
                    Err(error) => found.note(error)?,
                }
            }
        }
    }
    Ok(())
}

/// Checks one shard, whose first row has the id `first`: that exactly the rows with features have chunks,
/// and the checksum of each; of an array of scales and offsets, also that they are such. `block` is memory
/// that is used again.
fn check_shard(
    store: &Store,
    part: Part,
    array: &ArraySpec,
    number: u64,
    first: u64,
    block: &mut [u8],
    name_row: &dyn Fn(RowId, &str) -> String,
) -> Result<Vec<Problem>> {
    let shard = OpenShard::open(store.layout(), array, number, PagePolicy::Buffered)?;
    let mut problems = Vec::new();
    let mut note = |row: u64, what: &str| {
        let what = name_row(RowId(first + row), what);
        problems.push(Problem { path: shard.path.clone(), what });
    };
    for row in 0..array.shard_rows(number) {
        let has_chunks = shard.index.chunk(row, 0).is_some();
        match store.row(RowId(first + row)).map(|row| row.status) {
            Ok(Status::Ok) if !has_chunks => {
                note(row, "expected features, as its status is ok; found no chunks")
            }
            Ok(Status::Failed(_)) if has_chunks => {
                note(row, "expected no chunks, as its status is failed; found some")
            }
            _ => {}
        }
    }
    let mut frame = Frame::default();
    for (row, band, chunk) in shard.index.chunks() {
        let wrong = match check_chunk(&shard, &chunk, block)? {
            None if array.geometry.compression != Compression::None => frame.check(&shard, &chunk, array)?,
            wrong => wrong,
        };
        if let Some(what) = wrong {
            note(row, &format!("band {band}: {what}"));
        } else if part == Part::Affine && band + 1 == array.geometry.bands {
            let read = read_affine(&shard, array, row)?;
            if let Err(what) = Affine::read(&read, &mut vec![0.0; read.len() / size_of::<f32>()]) {
                note(row, &what);
            }
        }
    }
    Ok(problems)
}

/// All chunks of a row of scales and offsets: 8 MiB at most.
fn read_affine(shard: &OpenShard, array: &ArraySpec, row: u64) -> Result<Vec<u8>> {
    let band_bytes = usize::try_from(array.geometry.payload_bytes()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    for chunk in (0..array.geometry.bands).filter_map(|band| shard.index.chunk(row, band)) {
        let start = bytes.len();
        bytes.resize(start + band_bytes, 0);
        read_exact(shard, bytes.get_mut(start..).unwrap_or_default(), chunk.start)?;
    }
    Ok(bytes)
}

/// A compressed chunk and what it holds: at most 512 MiB, used again.
#[derive(Default)]
struct Frame {
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    unpacker: Unpacker,
}

impl Frame {
    /// What is wrong with a chunk whose checksum is right.
    fn check(&mut self, shard: &OpenShard, chunk: &Range<u64>, array: &ArraySpec) -> Result<Option<String>> {
        // `ChunkGeometry::compressed` has bounded both.
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.packed.resize(bytes((chunk.end - chunk.start).saturating_sub(CHECKSUM as u64)), 0);
        self.unpacked.resize(bytes(array.geometry.payload_bytes()), 0);
        read_exact(shard, &mut self.packed, chunk.start)?;
        Ok(self.unpacker.unpack(&self.packed, &mut self.unpacked, array.byte_axis()).err())
    }
}

fn read_exact(shard: &OpenShard, bytes: &mut [u8], at: u64) -> Result<()> {
    shard.file.file().read_exact_at(bytes, at).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt(&shard.path, "the file ends inside a chunk"),
        _ => Error::io(&shard.path)(e),
    })
}

/// Whether the bytes of a chunk have the checksum behind them, read in blocks; what is wrong if not.
fn check_chunk(shard: &OpenShard, chunk: &Range<u64>, block: &mut [u8]) -> Result<Option<String>> {
    let end = chunk.end.saturating_sub(CHECKSUM as u64);
    let (mut crc, mut at) = (Crc32c::new(), chunk.start);
    while at < end {
        let bytes = usize::try_from(end - at).unwrap_or(usize::MAX).min(block.len());
        let Some(block) = block.get_mut(..bytes) else { break };
        read_exact(shard, block, at)?;
        crc.update(block);
        at += bytes as u64;
    }
    let mut stored = [0; CHECKSUM];
    read_exact(shard, &mut stored, end)?;
    let computed = crc.finish();
    Ok((stored != computed).then(|| differs(stored, computed)))
}

/// Notes the files of a finished store's folder that the store does not consist of.
fn check_surplus(layout: &Layout, expected: &[FileEntry], found: &mut Verification) -> Result<()> {
    let mut known: HashSet<&str> = expected.iter().map(|file| file.path.as_str()).collect();
    known.insert(layout::MANIFEST);
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let path = layout.path(&folder);
        for entry in std::fs::read_dir(&path).map_err(Error::io(&path))? {
            let entry = entry.map_err(Error::io(&path))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let inside = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
            // Temporaries and locks are no part of a store, and runs are not hashed.
            if name.starts_with('.') || inside == layout::RUNS || known.contains(inside.as_str()) {
                continue;
            }
            if entry.file_type().map_err(Error::io(entry.path()))?.is_dir() {
                folders.push(inside);
            } else {
                found
                    .problems
                    .push(Problem { path: entry.path(), what: "not a file of the manifest".to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
