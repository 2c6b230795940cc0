//! `plan.parquet`: the rows of a store, in the order of their ids. Columns and their meaning only; what a
//! plan is, and which rows make one, is `crate::plan`.

use super::{Allowance, Table, TableFile, TableWriter, batch, bounded, column, properties, schema};
use crate::plan::{Names, Place, Plan, PlanRow};
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Error, Recipe, Result, SampleKey, Size};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, SchemaRef};
use std::path::Path;
use std::sync::Arc;

const WRITE_ROWS: usize = 1 << 16;

/// Columns of the plan: name, type, nullable.
pub(crate) const COLUMNS: [(&str, DataType, bool); 13] = [
    ("key", DataType::Utf8View, false),
    ("source", DataType::Utf8View, false),
    ("image_id", DataType::Int64, true),
    ("split", DataType::Utf8View, false),
    ("view", DataType::Utf8View, false),
    ("bucket_height", DataType::UInt32, true),
    ("bucket_width", DataType::UInt32, true),
    ("row", DataType::UInt64, true),
    ("source_height", DataType::UInt32, true),
    ("source_width", DataType::UInt32, true),
    ("valid_height", DataType::UInt32, true),
    ("valid_width", DataType::UInt32, true),
    ("error", DataType::Utf8View, true),
];

/// Writes the plan's rows to a staged file.
pub(crate) fn write(storage: &Arc<dyn Storage>, target: &Path, rows: &[PlanRow]) -> Result<Staged> {
    let schema = schema(&COLUMNS);
    let mut writer = TableWriter::create(storage, target, Arc::clone(&schema), properties())?;
    for rows in rows.chunks(WRITE_ROWS) {
        let errors = rows.iter().map(|row| row.place.as_ref().err().map(String::as_str));
        let mut columns = columns(rows);
        columns.push(Arc::new(StringViewArray::from_iter(errors)));
        writer.write(&batch(&schema, columns)?)?;
    }
    writer.finish()
}

/// All columns of the plan but `error`.
pub(crate) fn columns(rows: &[PlanRow]) -> Vec<ArrayRef> {
    let text = |of: fn(&PlanRow) -> &str| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(of)))
    };
    let side = |of: fn(&Place) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter(rows.iter().map(|row| row.place.as_ref().ok().map(of))))
    };
    vec![
        text(|row| &row.key.0),
        text(|row| &row.source),
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.image_id))),
        text(|row| &row.split),
        text(|row| &row.view),
        side(|place| place.bucket.height),
        side(|place| place.bucket.width),
        Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.place.as_ref().ok().map(|p| p.row)))),
        side(|place| place.source.height),
        side(|place| place.source.width),
        side(|place| place.valid.height),
        side(|place| place.valid.width),
    ]
}

/// Reads a plan and checks that it is one of this recipe.
pub(crate) fn read(file: TableFile, recipe: &Recipe, shard_bytes: u64) -> Result<Plan> {
    let table = Table::open(file, &schema(&COLUMNS))?;
    let mut allowance = table.allowance();
    let mut names = Names::default();
    let mut rows = Vec::new();
    for batch in table.batches(None)? {
        append_rows(&batch?, table.path(), &mut allowance, &mut names, &mut rows)?;
    }
    Plan::from_rows(recipe, rows, shard_bytes).map_err(|what| Error::corrupt(table.path(), what))
}

fn append_rows(
    batch: &RecordBatch,
    path: &Path,
    allowance: &mut Allowance,
    names: &mut Names,
    rows: &mut Vec<PlanRow>,
) -> Result<()> {
    let text = |name| column::<StringViewArray>(batch, name, path);
    let side = |name| column::<UInt32Array>(batch, name, path);
    let (keys, sources, splits, views) = (text("key")?, text("source")?, text("split")?, text("view")?);
    let errors = text("error")?;
    let image_ids = column::<Int64Array>(batch, "image_id", path)?;
    let places = column::<UInt64Array>(batch, "row", path)?;
    let sides = [
        side("bucket_height")?,
        side("bucket_width")?,
        side("source_height")?,
        side("source_width")?,
        side("valid_height")?,
        side("valid_width")?,
    ];
    for i in 0..batch.num_rows() {
        let wrong = |what: &str| Error::corrupt(path, format!("row {}: {what}", rows.len()));
        let error = errors.is_valid(i).then(|| errors.value(i));
        let [key, source, split, view] = [keys, sources, splits, views].map(|column| column.value(i));
        let texts = [("key", key), ("source", source), ("split", split), ("view", view)];
        for (column, text) in texts.into_iter().chain(error.map(|error| ("error", error))) {
            bounded(text, column, rows.len(), path)?;
        }
        // Split and view are shared, unless they differ in every row.
        allowance.take::<PlanRow>(&[Some(key), Some(source), Some(split), Some(view), error])?;
        let size = |height: &UInt32Array, width: &UInt32Array| Size::new(height.value(i), width.value(i));
        let known = sides.iter().filter(|side| side.is_valid(i)).count() + usize::from(places.is_valid(i));
        let [bh, bw, sh, sw, vh, vw] = sides;
        let place = match (known, error) {
            (7, None) => Ok(Place {
                bucket: size(bh, bw),
                row: places.value(i),
                source: size(sh, sw),
                valid: size(vh, vw),
            }),
            (0, Some(error)) => Err(error.to_owned()),
            _ => return Err(wrong("expected either sizes and a row or an error")),
        };
        rows.push(PlanRow {
            key: SampleKey(key.to_owned()),
            source: source.to_owned(),
            image_id: image_ids.is_valid(i).then(|| image_ids.value(i)),
            split: names.get(split),
            view: names.get(view),
            place,
        });
    }
    Ok(())
}

/// The schema with more columns behind the plan's.
pub(crate) fn schema_with(more: &[(&str, DataType, bool)]) -> SchemaRef {
    schema(&[&COLUMNS[..], more].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FsStorage;
    use crate::fixture::{listing, recipe};

    #[test]
    fn a_plan_reads_back_and_its_bytes_do_not_depend_on_the_listing_order() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let mut listing = listing(97);
        let bytes: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|name| {
                listing.samples.reverse();
                let path = folder.path().join(name);
                let plan = Plan::new(&recipe(), &listing, 20_000).unwrap();
                write(&storage, &path, plan.rows()).unwrap().publish().unwrap();
                assert_eq!(read(TableFile::open(&path).unwrap(), &recipe(), 20_000).unwrap(), plan);
                std::fs::read(&path).unwrap()
            })
            .collect();
        assert_eq!(bytes[0], bytes[1]);
    }

    #[test]
    fn rows_that_make_no_plan_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let plan = Plan::new(&recipe(), &listing(40), 20_000).unwrap();
        let damages: [fn(&mut Vec<PlanRow>); 7] = [
            |rows| rows.swap(0, 1),
            |rows| rows.reverse(),
            |rows| rows[0].source = "../../etc/passwd".into(),
            |rows| rows[0].split = "..".into(),
            |rows| rows[0].view = "rot90".into(),
            |rows| rows[0].key.0 = "x".repeat(5000),
            |rows| {
                if let Ok(place) = &mut rows[0].place {
                    place.bucket.height += 1;
                }
            },
        ];
        for (i, damage) in damages.iter().enumerate() {
            let mut rows = plan.rows().to_vec();
            damage(&mut rows);
            let path = folder.path().join("plan.parquet");
            write(&storage, &path, &rows).unwrap().publish().unwrap();
            let error = read(TableFile::open(&path).unwrap(), &recipe(), 20_000).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{i}: {error}");
        }
    }
}
