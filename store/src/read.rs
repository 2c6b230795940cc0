//! Reading features: rows of one bucket, some levels, perhaps a band of rows of cells, into a batch. The
//! row ids, statuses and messages; how bytes come from disk is the read plane's.

use crate::array::StoreArrays;
use crate::band::RowBand;
use crate::bucket::{Bucket, bucket_of};
use crate::open_shard::ShardCache;
use crate::plane::{FileRange, PlaneOptions, ReadPlane, Request};
use crate::{
    Batch, DType, Error, LevelId, PagePolicy, Projected, Result, RowId, Rows, SampleRow, Status, Store,
    layout,
};
use std::cell::{RefCell, RefMut};
use std::path::PathBuf;
use std::sync::Arc;

/// Threads that share the reads of a batch unless told otherwise.
pub const DEFAULT_READ_THREADS: usize = 2;
/// Shard files that a reader keeps open unless told otherwise: well below the usual limit of 1024.
pub const DEFAULT_OPEN_FILES: usize = 256;
/// Bytes of a batch unless told otherwise.
pub const DEFAULT_BATCH_BYTES: u64 = 16 << 30;
/// Memory for the indexes of open shards.
const MAX_INDEX_BYTES: usize = 64 << 20;

/// How to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether checksums are verified.
    pub verify: Verify,
    /// Threads that share the reads of a batch, the caller's included. Zero is one.
    pub threads: usize,
    /// What happens to the page cache.
    pub pages: PagePolicy,
    /// Element type of the batch; `None` is each level's own, without any conversion.
    pub dtype: Option<DType>,
    /// As what levels that are held as coefficients are handed out.
    pub projected: Projected,
    /// Shard files kept open. Zero is one.
    pub open_files: usize,
    /// What a batch may take at most; a larger one is refused before there is memory for it.
    pub batch_bytes: u64,
    /// What becomes of a row whose bytes on disk are not what they should be.
    pub corrupt: OnCorrupt,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            verify: Verify::On,
            threads: DEFAULT_READ_THREADS,
            pages: PagePolicy::default(),
            dtype: None,
            projected: Projected::Channels,
            open_files: DEFAULT_OPEN_FILES,
            batch_bytes: DEFAULT_BATCH_BYTES,
            corrupt: OnCorrupt::Fail,
        }
    }
}

/// What becomes of a row whose bytes on disk are not what they should be, not even when read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorrupt {
    /// The read fails with [`Error::Corrupt`].
    Fail,
    /// The batch goes without the row, which [`Reader::counts`] counts: see [`Batch::rows`] for those it has.
    Skip,
}

/// What a reader has met so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// Rows left out for corruption, once for every time they were asked for.
    pub skipped: u64,
    /// Reads, each of one chunk or of small ones in a row, that were right only when done again, from the disk
    /// itself.
    pub mended: u64,
}

/// Whether checksums are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// No byte is handed out whose checksum was not checked.
    On,
    /// Bytes are handed out as they are.
    Off,
}

/// Reads features of one store. Opens files and starts threads at first use and is safe to use in a
/// process forked before or after that.
///
/// Not shared between threads: each takes its own from [`Store::reader`].
#[derive(Debug)]
pub struct Reader {
    rows: Arc<Rows>,
    buckets: Arc<[Bucket]>,
    arrays: Arc<StoreArrays>,
    root: PathBuf,
    options: ReadOptions,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    plane: ReadPlane,
    /// Reused: row ids, rows of the bucket's arrays, and level numbers.
    ids: Vec<RowId>,
    rows: Vec<u64>,
    levels: Vec<usize>,
    skipped: u64,
}

impl Store {
    /// A reader of this store's features.
    ///
    /// # Errors
    /// None for a store on this machine: opening it has checked what a reader relies on.
    pub fn reader(&self, options: ReadOptions) -> Result<Reader> {
        let (rows, buckets) = self.shared();
        let arrays = Arc::clone(self.arrays());
        let shards =
            ShardCache::new(self.layout().clone(), options.open_files, MAX_INDEX_BYTES, options.pages);
        let plane = ReadPlane::new(shards, options.pages.threads(options.threads));
        let (ids, levels) = (Vec::new(), Vec::new());
        let state = RefCell::new(State { plane, ids, rows: Vec::new(), levels, skipped: 0 });
        Ok(Reader { rows, buckets, arrays, root: self.root().to_owned(), options, state })
    }
}

impl Reader {
    /// Reads `levels` of `rows`, in these orders, into `batch`: all of each map, or the rows of cells in
    /// `band`. Rows may repeat and must be of one bucket. After an error the batch shows nothing; with
    /// [`OnCorrupt::Skip`] it may lack rows, all of them at worst.
    ///
    /// # Errors
    /// [`Error::FailedSample`] for a row without features, [`Error::NotFound`] for a row that does not
    /// exist or is not committed yet, [`Error::Invalid`] for rows of several buckets, an unknown level, a
    /// band outside the map or a batch that memory cannot hold; [`Error::Corrupt`] and [`Error::Io`] for
    /// what is on disk, with file, row and level.
    pub fn read(
        &self,
        rows: &[RowId],
        levels: &[LevelId],
        band: Option<RowBand>,
        batch: &mut Batch,
    ) -> Result<()> {
        batch.begin(&[]);
        let State { plane, ids, rows: places, levels: numbers, skipped } = &mut *self.state()?;
        let Some(bucket) = self.place(rows, places)? else { return Ok(()) };
        ids.clear();
        ids.extend_from_slice(rows);
        numbers.clear();
        numbers.extend(levels.iter().map(|level| level.0));
        let options = PlaneOptions {
            verify: self.options.verify == Verify::On,
            dtype: self.options.dtype,
            projected: self.options.projected,
            batch_bytes: self.options.batch_bytes,
        };
        loop {
            let request = Request { bucket, levels: numbers, ids, rows: places, band };
            let name = |position: usize| match ids.get(position).and_then(|id| self.row(*id)) {
                Some(row) => format!("row {} (sample {}/{}, view {})", row.id, row.split, row.key, row.view),
                None => format!("row number {position} of the batch"),
            };
            let Err(failure) = plane.read(&self.arrays, &request, options, batch, &name) else {
                return Ok(());
            };
            match (failure.error, failure.slot) {
                (error @ Error::Corrupt { .. }, Some(slot)) if self.options.corrupt == OnCorrupt::Skip => {
                    log::warn!("{error}: skipped");
                    *skipped += 1;
                    ids.remove(slot);
                    places.remove(slot);
                    if ids.is_empty() {
                        return Ok(());
                    }
                }
                (error, _) => return Err(error),
            }
        }
    }

    /// Opens and checks the files that hold these rows, so that the first read does not have to; as many as
    /// [`ReadOptions::open_files`] stay open. Reads no features.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for features themselves.
    pub fn prepare(&self, rows: &[RowId], levels: &[LevelId]) -> Result<()> {
        self.file_ranges(rows, levels, None).map(drop)
    }

    /// What this reader has met so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] while it reads.
    pub fn counts(&self) -> Result<ReadCounts> {
        let State { plane, skipped, .. } = &*self.state()?;
        Ok(ReadCounts { skipped: *skipped, mended: plane.mended() })
    }

    /// The file ranges of these rows, merged where contiguous: what is read raw for comparison.
    pub(crate) fn file_ranges(
        &self,
        rows: &[RowId],
        levels: &[LevelId],
        band: Option<RowBand>,
    ) -> Result<Vec<FileRange>> {
        let State { plane, rows: places, levels: numbers, .. } = &mut *self.state()?;
        let Some(bucket) = self.place(rows, places)? else { return Ok(Vec::new()) };
        numbers.clear();
        numbers.extend(levels.iter().map(|level| level.0));
        let request = Request { bucket, levels: numbers, ids: rows, rows: places, band };
        plane.ranges(&self.arrays, &request)
    }

    /// Fills `places` with the rows' numbers in the arrays of their bucket, whose number it returns; `None`
    /// for no rows.
    fn place(&self, rows: &[RowId], places: &mut Vec<u64>) -> Result<Option<usize>> {
        places.clear();
        let mut of_all = None;
        for id in rows {
            let key = || self.rows.key(*id).unwrap_or_default().to_owned();
            match self.rows.status(*id) {
                Some(Status::Ok) => {}
                Some(Status::Failed(reason)) => return Err(Error::FailedSample { key: key(), reason }),
                Some(Status::Missing) => return Err(self.missing(*id)),
                None => {
                    let what = format!("row {id} of {}", self.rows.len());
                    return Err(Error::NotFound { path: self.root.clone(), what });
                }
            }
            let found = bucket_of(&self.buckets, *id).and_then(|i| Some((i, self.buckets.get(i)?)));
            let Some((number, bucket)) = found else {
                return Err(Error::invalid(format!("row {id} (sample {}) is in no bucket", key())));
            };
            if of_all.is_some_and(|of_all| of_all != number) {
                return Err(Error::invalid(format!(
                    "row {id} is of bucket {}, the rows before are not: expected rows of one bucket",
                    layout::bucket_folder(bucket)
                )));
            }
            of_all = Some(number);
            places.push(id.0 - bucket.rows.start.0);
        }
        Ok(of_all)
    }

    fn row(&self, id: RowId) -> Option<SampleRow> {
        self.rows.get(id)
    }

    fn missing(&self, id: RowId) -> Error {
        let bucket = bucket_of(&self.buckets, id).and_then(|i| self.buckets.get(i));
        let unit = bucket.map_or_else(String::new, |bucket| {
            let number = (id.0 - bucket.rows.start.0) / bucket.unit_rows.max(1);
            format!(": unit {}/{number} is not committed", layout::bucket_folder(bucket))
        });
        let key = self.rows.key(id).unwrap_or_default();
        let split = bucket.map_or("", |bucket| &*bucket.split);
        let what = format!("features of row {id} (sample {split}/{key}){unit}");
        Error::NotFound { path: self.root.clone(), what }
    }

    fn state(&self) -> Result<RefMut<'_, State>> {
        self.state.try_borrow_mut().map_err(|_| Error::invalid("a reader reads one batch at a time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;
    use crate::fixture::{commit, features, unfinished};
    use crate::sink::{FeatureSink, RowOutcome};

    #[test]
    fn every_row_comes_back_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let writer = unfinished(folder.path());
        let store = Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap();
        let reader = store.reader(ReadOptions::default()).unwrap();
        let levels = [LevelId(1), LevelId(0)];
        let mut batch = Batch::new();
        let (mut ok, mut failed, mut missing) = (0, 0, 0);
        for row in store.rows() {
            let read = reader.read(&[row.id, row.id], &levels, None, &mut batch);
            match (&row.status, read) {
                (Status::Ok, Ok(())) => {
                    ok += 1;
                    assert_eq!(batch.rows(), [row.id, row.id]);
                    let RowOutcome::Features { blocks, .. } = features(writer.plan(), row.id) else {
                        panic!("row {} has no features", row.id)
                    };
                    for (i, LevelId(level)) in levels.into_iter().enumerate() {
                        let (name, block) = (&store.recipe().levels[level].name, &blocks[level]);
                        let encoding = store.encodings().of(name).unwrap();
                        let dtype = encoding.value_dtype();
                        let expected = encoding
                            .round_trip(block, store.projections().of(name), Projected::Channels, dtype)
                            .unwrap()
                            .repeat(2);
                        assert!(batch.level(i).bytes == expected, "row {} level {name}", row.id);
                        assert_eq!(batch.level(i).shape[1..], block.shape);
                    }
                }
                (Status::Failed(reason), Err(Error::FailedSample { key, reason: found })) => {
                    failed += 1;
                    assert_eq!((&key, &found), (&row.key.0, reason));
                    assert_eq!(batch.rows(), []);
                }
                (Status::Missing, Err(error)) => {
                    missing += 1;
                    let text = error.to_string();
                    assert!(
                        matches!(error, Error::NotFound { .. }) && text.contains("is not committed"),
                        "{text}"
                    );
                    assert!(text.contains(&row.key.0), "{text}");
                }
                (status, read) => panic!("row {}: {status:?}, {read:?}", row.id),
            }
        }
        assert!(ok > 10 && failed > 2 && missing > 0, "{ok} {failed} {missing}");
    }

    #[test]
    fn files_are_opened_and_checked_ahead() {
        let folder = tempfile::tempdir().unwrap();
        drop(unfinished(folder.path()));
        let store = Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap();
        let row = store.rows().iter().find(|row| row.status == Status::Ok).unwrap().id;
        let (levels, reader) = ([LevelId(0)], store.reader(ReadOptions::default()).unwrap());
        reader.prepare(&[row], &levels).unwrap();
        let path = reader.file_ranges(&[row], &levels, None).unwrap()[0].shard.path.clone();
        std::fs::remove_file(&path).unwrap();
        reader.read(&[row], &levels, None, &mut Batch::new()).unwrap();
        let other = store.reader(ReadOptions::default()).unwrap().prepare(&[row], &levels).unwrap_err();
        assert!(other.to_string().contains("the file is missing"), "{other}");
    }

    #[test]
    fn corrupt_rows_are_skipped_and_counted_if_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let writer = unfinished(folder.path());
        for unit in writer.missing_units().unwrap() {
            commit(&writer, &unit);
        }
        writer.finish().unwrap();
        let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
        let bucket = &store.buckets()[0];
        let rows: Vec<RowId> = (bucket.rows.start.0..bucket.rows.end.0)
            .map(RowId)
            .filter(|id| store.row(*id).unwrap().status == Status::Ok)
            .collect();
        let levels = [LevelId(0), LevelId(1)];
        let strict = store.reader(ReadOptions::default()).unwrap();
        let lenient =
            store.reader(ReadOptions { corrupt: OnCorrupt::Skip, ..ReadOptions::default() }).unwrap();
        let (mut all, mut batch) = (Batch::new(), Batch::new());
        strict.read(&rows, &levels, None, &mut all).unwrap();
        let ranges = strict.file_ranges(&[rows[1]], &[LevelId(1)], None).unwrap();
        let (path, at) = (ranges[0].shard.path.clone(), ranges[0].bytes.start as usize);
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();

        assert!(matches!(strict.read(&rows, &levels, None, &mut batch), Err(Error::Corrupt { .. })));
        lenient.read(&rows, &levels, None, &mut batch).unwrap();
        let kept: Vec<RowId> = rows.iter().copied().filter(|id| *id != rows[1]).collect();
        assert_eq!(batch.rows(), kept);
        let row_bytes = all.level(0).bytes.len() / rows.len();
        assert_eq!(batch.level(0).bytes[row_bytes..], all.level(0).bytes[2 * row_bytes..]);
        assert_eq!(lenient.counts().unwrap(), ReadCounts { skipped: 1, mended: 0 });
        // A batch of that row alone has no row.
        lenient.read(&[rows[1], rows[1]], &levels, None, &mut batch).unwrap();
        assert_eq!((batch.rows(), batch.level_count()), (&[][..], 0));
        assert_eq!(lenient.counts().unwrap().skipped, 3);
        // What makes no sense is an error still.
        assert!(lenient.read(&rows, &[LevelId(7)], None, &mut batch).is_err());
        // A shard whose index is gone: all of its rows.
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        let fresh = store.reader(ReadOptions { corrupt: OnCorrupt::Skip, ..ReadOptions::default() }).unwrap();
        fresh.read(&rows, &levels, None, &mut batch).unwrap();
        assert_eq!(fresh.counts().unwrap().skipped + batch.rows().len() as u64, rows.len() as u64);
        assert!(fresh.counts().unwrap().skipped > 1);
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let writer = unfinished(folder.path());
        for unit in writer.missing_units().unwrap() {
            commit(&writer, &unit);
        }
        writer.finish().unwrap();
        let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
        let reader =
            store.reader(ReadOptions { threads: 0, open_files: 0, ..ReadOptions::default() }).unwrap();
        let mut batch = Batch::new();
        let first_ok = |bucket: usize| {
            let rows = &store.buckets()[bucket].rows;
            let mut ids = (rows.start.0..rows.end.0).map(RowId);
            ids.find(|id| store.row(*id).unwrap().status == Status::Ok).unwrap()
        };
        let (a, b) = (first_ok(0), first_ok(1));
        let error = reader.read(&[a, b], &[LevelId(0)], None, &mut batch).unwrap_err().to_string();
        assert!(error.contains("expected rows of one bucket"), "{error}");
        let beyond = RowId(store.rows().len() as u64);
        assert!(matches!(
            reader.read(&[beyond], &[LevelId(0)], None, &mut batch),
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(reader.read(&[a], &[LevelId(9)], None, &mut batch), Err(Error::Invalid { .. })));
        reader.read(&[], &[LevelId(0)], None, &mut batch).unwrap();
        assert_eq!(batch.level_count(), 0);
        reader.read(&[b], &[LevelId(0)], None, &mut batch).unwrap();
        drop(store);
        reader.read(&[a], &[LevelId(0)], None, &mut batch).unwrap();
        assert_eq!(batch.rows(), [a]);
    }
}
