//! `samples.parquet`: the plan's rows and what became of them, written when all units are in.

use super::plan::{COLUMNS, columns};
use super::record::{FAILED, OK, status};
use super::{LossColumns, RowLosses, Table, TableFile, TableWriter, batch, column, properties};
use crate::plan::PlanRow;
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Error, LevelSpec, Result};
use arrow_array::{Array, StringViewArray};
use arrow_schema::DataType;
use std::path::Path;
use std::sync::Arc;

const MORE_COLUMNS: [(&str, DataType, bool); 2] =
    [("status", DataType::Utf8View, false), ("source_blake3", DataType::Utf8View, true)];

const WRITE_ROWS: usize = 1 << 16;

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Outcome {
    /// Why there are no features, if there are none.
    pub(crate) error: Option<String>,
    /// BLAKE3 of the source file, lowercase hex, if it could be read.
    pub(crate) source_blake3: Option<String>,
    /// What its encodings lost: one a level in the recipe's order, or none at all.
    pub(crate) losses: RowLosses,
}

/// Writes rows of these levels and outcomes, which must be as many, to a staged file.
pub(crate) fn write(
    storage: &Arc<dyn Storage>,
    target: &Path,
    levels: &[LevelSpec],
    rows: &[PlanRow],
    outcomes: &[Outcome],
) -> Result<Staged> {
    let losses = LossColumns::of_rows(levels, outcomes.iter().map(|outcome| &outcome.losses));
    let schema = losses.schema(&[&COLUMNS[..], &MORE_COLUMNS].concat());
    let mut writer = TableWriter::create(storage, target, Arc::clone(&schema), properties())?;
    for (rows, outcomes) in rows.chunks(WRITE_ROWS).zip(outcomes.chunks(WRITE_ROWS)) {
        let states = outcomes.iter().map(|outcome| if outcome.error.is_some() { FAILED } else { OK });
        let mut columns = columns(rows);
        columns.push(Arc::new(StringViewArray::from_iter(outcomes.iter().map(|o| o.error.as_deref()))));
        columns.push(Arc::new(StringViewArray::from_iter_values(states)));
        columns
            .push(Arc::new(StringViewArray::from_iter(outcomes.iter().map(|o| o.source_blake3.as_deref()))));
        columns.extend(losses.arrays(outcomes.iter().map(|outcome| &outcome.losses)));
        writer.write(&batch(&schema, columns)?)?;
    }
    writer.finish()
}

/// Reads which of `rows` rows of these levels failed, by number, and why.
pub(crate) fn read_failures(
    file: TableFile,
    rows: usize,
    levels: &[LevelSpec],
) -> Result<Vec<(usize, String)>> {
    let (table, _) = open(file, rows, levels)?;
    let (path, mut allowance) = (table.path(), table.allowance());
    let (mut failures, mut number) = (Vec::new(), 0);
    for batch in table.batches(Some(&["status", "error"]))? {
        let batch = batch?;
        let text = |name| column::<StringViewArray>(&batch, name, path);
        let (states, errors) = (text("status")?, text("error")?);
        for i in 0..batch.num_rows() {
            let error = errors.is_valid(i).then(|| errors.value(i));
            allowance.take::<Outcome>(&[error])?;
            let error = status(states.value(i), error)
                .map_err(|what| Error::corrupt(path, format!("row {number}: {what}")))?;
            failures.extend(error.map(|error| (number, error)));
            number += 1;
        }
    }
    if number != rows {
        return Err(Error::corrupt(path, format!("expected {rows} rows, found {number}")));
    }
    Ok(failures)
}

/// Reads the outcomes of `rows` rows of these levels.
pub(crate) fn read(file: TableFile, rows: usize, levels: &[LevelSpec]) -> Result<Vec<Outcome>> {
    let (table, losses) = open(file, rows, levels)?;
    let (path, mut allowance) = (table.path(), table.allowance());
    let mut outcomes = Vec::with_capacity(rows);
    let columns: Vec<&str> = ["status", "error", "source_blake3"].into_iter().chain(losses.names()).collect();
    for batch in table.batches(Some(&columns))? {
        let batch = batch?;
        let text = |name| column::<StringViewArray>(&batch, name, path);
        let (states, errors, hashes) = (text("status")?, text("error")?, text("source_blake3")?);
        for i in 0..batch.num_rows() {
            let error = errors.is_valid(i).then(|| errors.value(i));
            let hash = hashes.is_valid(i).then(|| hashes.value(i));
            allowance.take::<Outcome>(&[error, hash])?;
            let error = status(states.value(i), error)
                .map_err(|what| Error::corrupt(path, format!("row {}: {what}", outcomes.len())))?;
            let losses = losses.row(&batch, i, error.is_some(), path)?;
            allowance.take_bytes(size_of_val(losses.as_slice()))?;
            outcomes.push(Outcome { error, source_blake3: hash.map(str::to_owned), losses });
        }
    }
    if outcomes.len() != rows {
        return Err(Error::corrupt(path, format!("expected {rows} rows, found {}", outcomes.len())));
    }
    Ok(outcomes)
}

/// Opens the table of `rows` rows of these levels, and says which columns of losses it has.
fn open(file: TableFile, rows: usize, levels: &[LevelSpec]) -> Result<(Table, LossColumns)> {
    let mut losses = LossColumns::of_table(levels, &[]);
    let table = Table::open_as(file, |columns| {
        losses = LossColumns::of_table(levels, columns);
        losses.schema(&[&COLUMNS[..], &MORE_COLUMNS].concat())
    })?;
    table.expect_rows(rows as u64)?;
    Ok((table, losses))
}
