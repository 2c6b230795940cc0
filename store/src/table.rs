//! Parquet as the store uses it: deterministic writing through a staged file, and reading that answers
//! hostile bytes with an error. Knows no table's columns; those are in the modules below.

pub(crate) mod annotations;
pub(crate) mod categories;
pub(crate) mod plan;
pub mod record;
pub(crate) mod samples;

use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Error, Result};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection, RowSelector,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::serialized_reader::SerializedPageReader;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What the files say wrote them. Part of the bytes, hence fixed for the format and not the program.
const CREATED_BY: &str = "featcache format 1";

/// Rows decoded at a time.
const BATCH_ROWS: usize = 4096;

/// Rows that a byte of a file may stand for at most. Keys are unique, so real tables stay far below.
const MAX_ROWS_PER_BYTE: u64 = 64;

/// Schema of a table: name, type, nullable.
pub(crate) fn schema(columns: &[(&str, DataType, bool)]) -> SchemaRef {
    let field = |(name, kind, nullable): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *nullable);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Properties that all tables share: zstd, no times, no program version.
pub(crate) fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(1 << 17))
        // Page statistics are useless for shuffled rows.
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::Chunk)
}

/// A table being written to a staged file. Dropped without [`finish`](Self::finish) it was never there.
pub(crate) struct TableWriter {
    writer: ArrowWriter<Sink>,
    path: PathBuf,
    failure: Failure,
}

/// The storage's error, which knows the path, on its way past Parquet's, which does not.
type Failure = Arc<Mutex<Option<Error>>>;

struct Sink {
    staged: Staged,
    failure: Failure,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.staged.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(std::io::Error::other("the storage failed"))
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl TableWriter {
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        target: &Path,
        schema: SchemaRef,
        properties: WriterPropertiesBuilder,
    ) -> Result<Self> {
        let failure = Failure::default();
        let sink = Sink { staged: Staged::create(storage, target)?, failure: Arc::clone(&failure) };
        let options =
            ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, schema, options)
            .map_err(|e| Error::invalid(format!("{}: {e}", target.display())))?;
        Ok(Self { writer, path: target.to_owned(), failure })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|e| why(&self.failure, &self.path, e))
    }

    /// Ends the row group.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|e| why(&self.failure, &self.path, e))
    }

    pub(crate) fn set_metadata(&mut self, key: &str, value: String) {
        self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }

    /// Writes the footer and hands the file back, to be made durable and visible.
    pub(crate) fn finish(self) -> Result<Staged> {
        let Self { writer, path, failure } = self;
        Ok(writer.into_inner().map_err(|e| why(&failure, &path, e))?.staged)
    }
}

fn why(failure: &Failure, path: &Path, error: ParquetError) -> Error {
    let carried = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    carried.unwrap_or_else(|| Error::invalid(format!("{}: {error}", path.display())))
}

/// A table on disk whose footer has been read and whose columns are the expected ones.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
}

impl Table {
    /// Opens a table of exactly these columns. Text and binary columns should be views: their values then
    /// share the pages' memory, however often a hostile file repeats them.
    pub(crate) fn open(path: &Path, schema: &SchemaRef) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let file_bytes = file.metadata().map_err(Error::io(path))?.len();
        fenced(path, || {
            let options = ArrowReaderOptions::new()
                .with_schema(Arc::clone(schema))
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Skip);
            let metadata = ArrowReaderMetadata::load(&file, options)?;
            check_footer(metadata.metadata(), file_bytes)?;
            Ok(Self { path: path.to_owned(), metadata })
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Rows, by the footer.
    pub(crate) fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Rows of each row group.
    pub(crate) fn group_rows(&self) -> impl Iterator<Item = u64> + '_ {
        self.metadata.metadata().row_groups().iter().map(|g| u64::try_from(g.num_rows()).unwrap_or(0))
    }

    pub(crate) fn key_value(&self, key: &str) -> Option<&str> {
        let entries = self.metadata.metadata().file_metadata().key_value_metadata()?;
        entries.iter().find(|entry| entry.key == key)?.value.as_deref()
    }

    /// All rows of the columns whose names are given, or of all columns.
    pub(crate) fn batches(&self, columns: Option<&[&str]>) -> Result<Batches> {
        let groups = (0..self.metadata.metadata().num_row_groups()).collect();
        self.open_reader(groups, columns, None)
    }

    /// The given rows of one row group.
    pub(crate) fn group_batches(&self, group: usize, rows: Range<usize>) -> Result<Batches> {
        let selection =
            RowSelection::from(vec![RowSelector::skip(rows.start), RowSelector::select(rows.len())]);
        self.open_reader(vec![group], None, Some(selection))
    }

    fn open_reader(
        &self,
        groups: Vec<usize>,
        columns: Option<&[&str]>,
        selection: Option<RowSelection>,
    ) -> Result<Batches> {
        // One handle a reader: clones of a handle share its position.
        let file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let reader = fenced(&self.path, || {
            check_dictionaries(&file, self.metadata.metadata(), &groups)?;
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_batch_size(BATCH_ROWS)
                .with_row_groups(groups);
            if let Some(names) = columns {
                let mask = parquet::arrow::ProjectionMask::columns(
                    self.metadata.parquet_schema(),
                    names.iter().copied(),
                );
                builder = builder.with_projection(mask);
            }
            if let Some(selection) = selection {
                builder = builder.with_row_selection(selection);
            }
            builder.build()
        })?;
        Ok(Batches { reader: Some(reader), path: self.path.clone() })
    }
}

/// Batches of a table's rows. Ends after the first error.
pub(crate) struct Batches {
    reader: Option<ParquetRecordBatchReader>,
    path: PathBuf,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        let batch = fenced(&self.path, || Ok(reader.next().transpose()?)).transpose()?;
        if batch.is_ok() {
            self.reader = Some(reader);
        }
        Some(batch)
    }
}

/// A column of a batch in its expected type.
pub(crate) fn column<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    name: &str,
    path: &Path,
) -> Result<&'a A> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref())
        .ok_or_else(|| Error::corrupt(path, format!("column {name} is missing or of another type")))
}

/// A batch from columns in the schema's order.
pub(crate) fn batch(schema: &SchemaRef, columns: Vec<Arc<dyn Array>>) -> Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| Error::invalid(format!("table: {e}")))
}

/// Runs a piece of the Parquet reader on bytes that nobody vouches for. Its errors and its panics both
/// mean the same to us: the file is not what it says.
fn fenced<T>(path: &Path, work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ParquetError::External(source))) => match source.downcast::<std::io::Error>() {
            Ok(source) => Err(Error::io(path)(*source)),
            Err(source) => Err(Error::corrupt(path, format!("not a readable Parquet table: {source}"))),
        },
        Ok(Err(error)) => Err(Error::corrupt(path, format!("not a readable Parquet table: {error}"))),
        Err(_) => Err(Error::corrupt(path, "not a readable Parquet table: the decoder gave up")),
    }
}

/// Bounds what the footer may claim, before the reader allocates by it.
fn check_footer(metadata: &ParquetMetaData, file_bytes: u64) -> Result<(), ParquetError> {
    let lie = |what: String| Err(ParquetError::General(what));
    let rows = metadata.file_metadata().num_rows();
    let limit = file_bytes.saturating_mul(MAX_ROWS_PER_BYTE);
    if u64::try_from(rows).is_err() || rows as u64 > limit {
        return lie(format!("{rows} rows in {file_bytes} bytes"));
    }
    let mut sum: i64 = 0;
    for group in metadata.row_groups() {
        if group.num_rows() < 0 {
            return lie(format!("a row group of {} rows", group.num_rows()));
        }
        sum = sum.saturating_add(group.num_rows());
        for column in group.columns() {
            let (start, length) = column.byte_range();
            if start.checked_add(length).is_none_or(|end| end > file_bytes) {
                return lie(format!("a column of {length} bytes at {start} in {file_bytes} bytes"));
            }
        }
    }
    if sum != rows {
        return lie(format!("{rows} rows, and {sum} in the row groups"));
    }
    Ok(())
}

/// Refuses dictionary pages that claim more values than they have bytes for: the decoders allocate by the
/// claim.
fn check_dictionaries(file: &File, metadata: &ParquetMetaData, groups: &[usize]) -> Result<(), ParquetError> {
    for &group in groups {
        let group = metadata.row_group(group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        for column in group.columns() {
            let mut pages = SerializedPageReader::new(Arc::new(file.try_clone()?), column, rows, None)?;
            while let Some(page) = pages.peek_next_page()? {
                if !page.is_dict {
                    pages.skip_next_page()?;
                    continue;
                }
                // Every type in our tables takes at least four bytes a value in a dictionary.
                if let Some(Page::DictionaryPage { buf, num_values, .. }) = pages.get_next_page()?
                    && num_values as usize > buf.len() / 4
                {
                    return Err(ParquetError::General(format!(
                        "a dictionary of {num_values} values in {} bytes",
                        buf.len()
                    )));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{folder_in_memory, listing, recipe};
    use crate::plan::Plan;
    use crate::table::record::{Record, RecordHeader, RecordRow};
    use crate::{FsStorage, Listing};

    /// Damages every byte of a table in two ways, and cuts it short. Returns how many damages were
    /// noticed, and how many there were.
    fn damage(
        write: impl Fn(&Arc<dyn Storage>, &Path) -> Result<Staged>,
        read: impl Fn(&Path) -> Result<()>,
    ) -> (usize, usize) {
        let folder = folder_in_memory();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let path = folder.path().join("table");
        write(&storage, &path).unwrap().publish().unwrap();
        read(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut noticed = 0;
        for at in 0..good.len() {
            for value in [0xff, good[at] ^ 0x11] {
                let mut bad = good.clone();
                bad[at] = value;
                std::fs::write(&path, &bad).unwrap();
                noticed += usize::from(read(&path).is_err());
            }
            if at % 16 == 0 {
                std::fs::write(&path, &good[..at]).unwrap();
                assert!(read(&path).is_err(), "cut at {at}");
            }
        }
        (noticed, 2 * good.len())
    }

    #[test]
    fn hostile_records_are_errors_and_never_panics() {
        let header = RecordHeader { format: 1, unit: "a/b/1x1/0".into(), files: vec![] };
        let row = |row| RecordRow {
            row,
            key: format!("k{row}"),
            error: (row == 1).then(|| "jpeg: truncated".into()),
            source_blake3: Some("00".repeat(32)),
        };
        let record = Record { header, rows: (0..40).map(row).collect() };
        let (noticed, of) = damage(
            |storage, path| record::write(storage, path, &record),
            |path| record::read(path).map(|_| ()),
        );
        assert!(noticed > of / 3, "{noticed} of {of} were noticed");
    }

    #[test]
    fn hostile_plans_are_errors_and_never_panics() {
        let plan = Plan::new(&recipe(), &listing(30), 4096).unwrap();
        let (noticed, of) = damage(
            |storage, path| plan::write(storage, path, plan.rows()),
            |path| plan::read(path, &recipe(), 4096).map(|_| ()),
        );
        assert!(noticed > of / 3, "{noticed} of {of} were noticed");
    }

    #[test]
    fn hostile_annotations_are_errors_and_never_panics() {
        let listing: Listing = listing(6);
        let (noticed, of) = damage(
            |storage, path| annotations::write(storage, path, &listing),
            |path| {
                let annotations = annotations::Annotations::open(path)?;
                listing.samples.iter().try_for_each(|s| annotations.of(&s.split, &s.key).map(|_| ()))
            },
        );
        assert!(noticed > of / 3, "{noticed} of {of} were noticed");
    }

    #[test]
    fn dictionaries_that_claim_more_than_they_hold_are_refused() {
        let folder = folder_in_memory();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let path = folder.path().join("table");
        let plan = Plan::new(&recipe(), &listing(80), 4096).unwrap();
        plan::write(&storage, &path, plan.rows()).unwrap().publish().unwrap();
        let mut bad = std::fs::read(&path).unwrap();
        // Compact Thrift of the first page header: type 2 (dictionary), two sizes, and a struct that starts
        // with the number of values: 80 keys, zigzag 160 in two bytes of seven bits.
        let count = [0x4c, 0x15, 0xa0, 0x01];
        let at = (4..32).find(|&i| bad[i..].starts_with(&count)).unwrap();
        bad[at + 2..at + 4].copy_from_slice(&[0xfe, 0x7f]);
        std::fs::write(&path, &bad).unwrap();
        let error = plan::read(&path, &recipe(), 4096).unwrap_err().to_string();
        assert!(error.contains("a dictionary of"), "{error}");
    }

    #[test]
    fn tables_of_other_columns_are_refused() {
        let folder = folder_in_memory();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let path = folder.path().join("table");
        categories::write(&storage, &path, &listing(1).categories).unwrap().publish().unwrap();
        for error in [
            plan::read(&path, &recipe(), 1).err(),
            record::read(&path).err(),
            annotations::Annotations::open(&path).err(),
        ] {
            assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
        }
    }
}
