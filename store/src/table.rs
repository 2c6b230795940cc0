//! Parquet as the store uses it: deterministic writing through a staged file, and reading that answers
//! hostile bytes with an error. Knows no table's columns; those are in the modules below.

pub(crate) mod allowance;
pub(crate) mod annotations;
pub(crate) mod categories;
mod file;
pub(crate) mod losses;
pub(crate) mod plan;
pub mod record;
pub(crate) mod samples;

pub(crate) use allowance::{Allowance, MAX_TEXT_BYTES, bounded};
pub(crate) use file::TableFile;
pub(crate) use losses::{LossColumns, RowLosses};

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
pub(crate) const MAX_ROWS_PER_BYTE: u64 = 64;

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
    file: TableFile,
    metadata: ArrowReaderMetadata,
}

impl Table {
    /// Opens a table of exactly these columns. Text and binary columns should be views: their values then
    /// share the pages' memory, however often a hostile file repeats them.
    pub(crate) fn open(file: TableFile, schema: &SchemaRef) -> Result<Self> {
        Self::open_as(file, |_| Arc::clone(schema))
    }

    /// As [`open`](Self::open) where the columns that the table has decide which it must have: `schema` is
    /// given their names.
    pub(crate) fn open_as(file: TableFile, schema: impl FnOnce(&[&str]) -> SchemaRef) -> Result<Self> {
        let metadata = fenced(file.path(), || {
            let options = ArrowReaderOptions::new()
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Skip);
            let metadata = ArrowReaderMetadata::load(&file, options.clone())?;
            check_footer(metadata.metadata(), file.bytes())?;
            let columns = metadata.parquet_schema().columns();
            let schema = schema(&columns.iter().map(|column| column.name()).collect::<Vec<_>>());
            ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options.with_schema(schema))
        })?;
        Ok(Self { file, metadata })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// What may be kept of this table.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance::of_file(self.path(), self.file.bytes())
    }

    /// Refuses a table that has not this many rows, before any of them is decoded.
    pub(crate) fn expect_rows(&self, rows: u64) -> Result<()> {
        match self.rows() {
            found if found == rows => Ok(()),
            found => Err(Error::corrupt(self.path(), format!("expected {rows} rows, found {found}"))),
        }
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
        let reader = fenced(self.path(), || {
            check_dictionaries(&self.file, self.metadata.metadata(), &groups)?;
            let (file, metadata) = (self.file.clone(), self.metadata.clone());
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
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
        Ok(Batches { reader: Some(reader), path: self.path().to_owned() })
    }
}

/// Whether a file is a table that a featcache store has, by its footer alone.
pub(crate) fn is_ours(path: &Path) -> bool {
    let written_by = || {
        let file = TableFile::open(path)?;
        fenced(path, || {
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
            Ok(metadata.metadata().file_metadata().created_by().map(str::to_owned))
        })
    };
    written_by().is_ok_and(|by| by.as_deref() == Some(CREATED_BY))
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
            // Signs first: the crate's own sum asserts them.
            let starts = [column.dictionary_page_offset().unwrap_or(0), column.data_page_offset()];
            if starts.into_iter().chain([column.compressed_size()]).any(i64::is_negative) {
                return lie(format!("a column of {} bytes at {starts:?}", column.compressed_size()));
            }
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
fn check_dictionaries(
    file: &TableFile,
    metadata: &ParquetMetaData,
    groups: &[usize],
) -> Result<(), ParquetError> {
    for &group in groups {
        let group = metadata.row_group(group);
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        for column in group.columns() {
            let mut pages = SerializedPageReader::new(Arc::new(file.clone()), column, rows, None)?;
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
mod tests;
