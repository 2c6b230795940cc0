//! `units/…/<k>.parquet`: the commit record of a unit. Its presence makes the unit's shards part of the
//! store; it says what became of every row and what the shards' bytes are.

use super::{LossColumns, MAX_TEXT_BYTES, Table, TableFile, TableWriter, batch, bounded, column, properties};
use crate::array::{LevelArrays, bucket_arrays};
use crate::bucket::Unit;
use crate::layout;
use crate::plan::Plan;
use crate::spec::FORMAT;
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Encodings, Error, LevelSpec, Loss, Result, RowId};
use arrow_array::{Array, StringViewArray, UInt64Array};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

const COLUMNS: [(&str, DataType, bool); 5] = [
    ("row", DataType::UInt64, false),
    ("key", DataType::Utf8View, false),
    ("status", DataType::Utf8View, false),
    ("error", DataType::Utf8View, true),
    ("source_blake3", DataType::Utf8View, true),
];

/// Key of the JSON document in the file's metadata.
const METADATA_KEY: &str = "featcache";

pub(crate) const OK: &str = "ok";
pub(crate) const FAILED: &str = "failed";

/// A unit's commit record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What the file's metadata holds.
    pub header: RecordHeader,
    /// One entry a row, in row order.
    pub rows: Vec<RecordRow>,
}

/// The `featcache` document in a record's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordHeader {
    /// Format of the store.
    pub format: u32,
    /// `split/view/HxW/k`.
    pub unit: String,
    /// The unit's shards, in the order of their levels.
    pub files: Vec<FileEntry>,
}

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the store, `/`-separated.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 of the whole file, lowercase hex.
    pub blake3: String,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordRow {
    /// Row of the bucket's arrays.
    pub row: u64,
    /// The sample's key.
    pub key: String,
    /// Why there are no features, if there are none.
    pub error: Option<String>,
    /// BLAKE3 of the source file, lowercase hex, if it could be read.
    pub source_blake3: Option<String>,
    /// What its encodings lost: one a level in the recipe's order, or none at all.
    pub losses: Vec<Option<Loss>>,
}

/// Writes the record of a unit of these levels to a staged file.
pub(crate) fn write(
    storage: &Arc<dyn Storage>,
    target: &Path,
    levels: &[LevelSpec],
    record: &Record,
) -> Result<Staged> {
    let rows = &record.rows;
    let losses = LossColumns::of_rows(levels, rows.iter().map(|row| &row.losses));
    let schema = losses.schema(&COLUMNS);
    let mut writer = TableWriter::create(storage, target, Arc::clone(&schema), properties())?;
    let mut columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.row))),
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| &row.key))),
        Arc::new(StringViewArray::from_iter_values(
            rows.iter().map(|row| if row.error.is_some() { FAILED } else { OK }),
        )),
        Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.error.as_deref()))),
        Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.source_blake3.as_deref()))),
    ];
    columns.extend(losses.arrays(rows.iter().map(|row| &row.losses)));
    writer.write(&batch(&schema, columns)?)?;
    writer.set_metadata(METADATA_KEY, crate::canonical::canonical_json(&record.header));
    writer.finish()
}

/// Reads the record of a unit of `unit_rows` rows and these levels; [`Error::Corrupt`] if it is none, or has
/// not as many.
pub(crate) fn read(path: &Path, unit_rows: u64, levels: &[LevelSpec]) -> Result<Record> {
    let mut losses = LossColumns::of_table(levels, &[]);
    let table = Table::open_as(TableFile::open(path)?, |columns| {
        losses = LossColumns::of_table(levels, columns);
        losses.schema(&COLUMNS)
    })?;
    table.expect_rows(unit_rows)?;
    let mut allowance = table.allowance();
    let header = table.key_value(METADATA_KEY).ok_or_else(|| {
        Error::corrupt(path, format!("expected a {METADATA_KEY} document in its metadata, found none"))
    })?;
    let header = serde_json::from_str(header)
        .map_err(|e| Error::corrupt(path, format!("{METADATA_KEY} document: {e}")))?;
    let mut rows = Vec::new();
    for batch in table.batches(None)? {
        let batch = batch?;
        let numbers = column::<UInt64Array>(&batch, "row", path)?;
        let text = |name| column::<StringViewArray>(&batch, name, path);
        let (keys, states) = (text("key")?, text("status")?);
        let (errors, hashes) = (text("error")?, text("source_blake3")?);
        for i in 0..batch.num_rows() {
            let error = errors.is_valid(i).then(|| errors.value(i));
            let hash = hashes.is_valid(i).then(|| hashes.value(i));
            let key = bounded(keys.value(i), "key", rows.len(), path)?;
            allowance.take::<RecordRow>(&[Some(key), error, hash])?;
            let error = status(states.value(i), error)
                .map_err(|what| Error::corrupt(path, format!("row {}: {what}", rows.len())))?;
            let losses = losses.row(&batch, i, error.is_some(), path)?;
            allowance.take_bytes(size_of_val(losses.as_slice()))?;
            rows.push(RecordRow {
                row: numbers.value(i),
                key: key.to_owned(),
                error,
                source_blake3: hash.map(str::to_owned),
                losses,
            });
        }
    }
    Ok(Record { header, rows })
}

/// Whether a record is of this unit of this plan: its name, rows, keys and files. What is wrong, if not.
pub(crate) fn check(
    record: &Record,
    plan: &Plan,
    encodings: &Encodings,
    unit: &Unit,
) -> std::result::Result<(), String> {
    let Some(bucket) = plan.buckets().get(unit.bucket) else {
        return Err(format!("bucket {} is not of the plan", unit.bucket));
    };
    let RecordHeader { format, unit: name, files } = &record.header;
    let expected = layout::unit_name(bucket, unit);
    if *format != FORMAT || *name != expected {
        return Err(format!("expected unit {expected} of format {FORMAT}, found {name} of {format}"));
    }
    if record.rows.len() as u64 != unit.row_count() {
        return Err(format!("expected {} rows, found {}", unit.row_count(), record.rows.len()));
    }
    for (row, id) in record.rows.iter().zip(unit.rows.start.0..) {
        let (number, key) = (id - bucket.rows.start.0, plan.row(RowId(id)).map(|row| row.key.0.as_str()));
        if row.row != number || Some(row.key.as_str()) != key {
            let key = key.unwrap_or_default();
            return Err(format!("expected row {number} of {key:?}, found row {} of {:?}", row.row, row.key));
        }
    }
    let arrays = bucket_arrays(bucket, plan.levels(), encodings).map_err(|e| e.to_string())?;
    let paths = arrays.iter().flat_map(LevelArrays::iter).map(|array| array.shard_path(unit.number));
    if !paths.eq(files.iter().map(|file| file.path.as_str())) {
        return Err("its files are not the unit's shards".into());
    }
    Ok(())
}

/// The reason of a failed row; both columns must tell the same.
pub(crate) fn status(status: &str, error: Option<&str>) -> std::result::Result<Option<String>, String> {
    match (status, error) {
        (OK, None) => Ok(None),
        (FAILED, Some(reason)) if reason.len() <= MAX_TEXT_BYTES => Ok(Some(reason.to_owned())),
        (FAILED, Some(reason)) => {
            Err(format!("error: expected at most {MAX_TEXT_BYTES} bytes, found {}", reason.len()))
        }
        (status, error) => {
            Err(format!("status {} does not fit error {}", shown(status), shown(error.unwrap_or("null"))))
        }
    }
}

/// The beginning of a text from a file, for a message.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FsStorage;
    use crate::fixture::recipe;

    fn record() -> Record {
        let file = FileEntry { path: "features/a/b/1x1/p2/c.0.0.0.0".into(), bytes: 7, blake3: "ff".into() };
        let row = |row: u64, error: Option<&str>| RecordRow {
            row,
            key: format!("k{row}"),
            error: error.map(Into::into),
            source_blake3: (row != 2).then(|| "00".repeat(32)),
            losses: vec![],
        };
        Record {
            header: RecordHeader { format: 1, unit: "a/b/1x1/0".into(), files: vec![file] },
            rows: vec![row(0, None), row(1, Some("jpeg: truncated")), row(2, Some("gone"))],
        }
    }

    #[test]
    fn records_read_back_and_equal_records_have_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        for path in &paths {
            write(&storage, path, &recipe().levels, &record()).unwrap().publish().unwrap();
            assert_eq!(read(path, 3, &recipe().levels).unwrap(), record());
            let error = read(path, 2, &recipe().levels).unwrap_err().to_string();
            assert!(error.contains("expected 2 rows, found 3"), "{error}");
        }
        assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
    }

    #[test]
    fn losses_read_back_and_take_columns_only_where_a_row_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let (path, levels) = (folder.path().join("record"), recipe().levels);
        let written = |record: &Record| {
            write(&storage, &path, &levels, record).unwrap().publish().unwrap();
            read(&path, 3, &levels)
        };
        let mut lossy = record();
        lossy.rows[0].losses = vec![None, Some(Loss { relative_l2: 0.25, cosine: 0.75 })];
        let columns = |table: &Table| table.metadata.parquet_schema().num_columns();
        let found = written(&lossy).unwrap();
        assert_eq!(
            columns(
                &Table::open_as(TableFile::open(&path).unwrap(), |names| {
                    assert_eq!(names[COLUMNS.len()..], ["relative_l2_p3", "cosine_p3"]);
                    LossColumns::of_table(&levels, names).schema(&COLUMNS)
                })
                .unwrap()
            ),
            COLUMNS.len() + 2
        );
        assert_eq!(found.rows[0], lossy.rows[0]);
        assert_eq!(found.rows[1].losses, [None, None]);
        // A failed row holds nothing that could have been lost; and a loss is a number.
        for (row, loss) in
            [(1, Loss { relative_l2: 0.1, cosine: 1.0 }), (0, Loss { relative_l2: f32::NAN, cosine: 1.0 })]
        {
            let mut lying = lossy.clone();
            lying.rows[row].losses = vec![None, Some(loss)];
            let error = written(&lying).unwrap_err();
            assert!(
                matches!(&error, Error::Corrupt { what, .. } if what.contains("relative_l2_p3")),
                "{error}"
            );
        }
    }

    #[test]
    fn statuses_must_fit_their_errors() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        status("failed", Some(&long[1..])).unwrap();
        for (text, error) in
            [("ok", Some("x")), ("failed", None), ("OK", None), ("", Some("x")), ("failed", Some(&*long))]
        {
            assert!(status(text, error).is_err());
        }
    }
}
