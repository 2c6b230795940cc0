//! `plan.parquet`: the rows of a store, in the order of their ids. Columns and their meaning only; what a
//! plan is, and which rows make one, is `crate::plan`.

use super::{Allowance, Table, TableFile, TableWriter, batch, bounded, column, properties, schema};
use crate::bucket::Bucket;
use crate::plan::{Names, Place, Plan, PlanCheck, PlanRow, PlanRowRef, unknown_split};
use crate::rows::Rows;
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Error, Recipe, Result, SampleKey, Size};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt32Array, UInt64Array};
use arrow_schema::DataType;
use std::path::Path;
use std::sync::Arc;

const WRITE_ROWS: usize = 1 << 16;

/// Batches that are decoded and wait to be checked.
const BATCHES_AHEAD: usize = 4;

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
    let path = file.path().to_owned();
    let mut rows = Vec::new();
    each_row(file, |row| {
        rows.push(PlanRow {
            key: SampleKey(row.key.to_owned()),
            source: row.source.to_owned(),
            image_id: row.image_id,
            split: Arc::clone(row.split),
            view: Arc::clone(row.view),
            place: row.place.map_err(str::to_owned),
        });
        Ok(())
    })?;
    Plan::from_rows(recipe, rows, shard_bytes).map_err(|what| Error::corrupt(path, what))
}

/// Reads the rows and buckets of a plan and checks that it is one of this recipe and of these splits. Whether a
/// key occurs twice is left to [`Rows::first_duplicate`].
pub(crate) fn read_rows(
    file: TableFile,
    recipe: &Recipe,
    splits: &[String],
    shard_bytes: u64,
) -> Result<(Rows, Vec<Bucket>)> {
    let (mut rows, mut check, mut last) = (Rows::default(), PlanCheck::new(recipe), None);
    each_row(file, |row| {
        check.row(row)?;
        // Names are shared: a split that was known a row ago is the same text.
        if !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, row.split)) {
            unknown_split(rows.len(), row, splits).map_or(Ok(()), Err)?;
            last = Some(Arc::clone(row.split));
        }
        rows.push(row);
        Ok(())
    })?;
    Ok((rows, check.buckets(shard_bytes)))
}

/// Reads row by row; `keep` may say what is wrong with one. A second thread decodes a little ahead: half of
/// the time of opening a large store goes into that, and it ends before this returns.
fn each_row(
    file: TableFile,
    mut keep: impl FnMut(&PlanRowRef<'_>) -> std::result::Result<(), String>,
) -> Result<()> {
    let table = Table::open(file, &schema(&COLUMNS))?;
    let path = table.path();
    let (mut splits, mut views) = (Names::default(), Names::default());
    let (mut allowance, mut number) = (table.allowance(), 0);
    std::thread::scope(|scope| {
        let (sender, decoded) = crossbeam_channel::bounded(BATCHES_AHEAD);
        let table = &table;
        scope.spawn(move || {
            // Who no longer listens has found an error of its own.
            let _end = match table.batches(None) {
                Ok(mut batches) => batches.try_for_each(|batch| sender.send(batch)),
                Err(error) => sender.send(Err(error)),
            };
        });
        for batch in decoded {
            let batch = batch?;
            let columns = Columns::of(&batch, path)?;
            for i in 0..batch.num_rows() {
                let (split, view) = (splits.get(columns.split.value(i)), views.get(columns.view.value(i)));
                let row = columns.row(i, number, path, &mut allowance, [&split, &view])?;
                keep(&row).map_err(|what| Error::corrupt(path, what))?;
                number += 1;
            }
        }
        Ok(())
    })
}

/// The columns of a batch.
struct Columns<'a> {
    key: &'a StringViewArray,
    source: &'a StringViewArray,
    split: &'a StringViewArray,
    view: &'a StringViewArray,
    error: &'a StringViewArray,
    image_id: &'a Int64Array,
    row: &'a UInt64Array,
    /// Height and width of bucket, source and valid size.
    sides: [&'a UInt32Array; 6],
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch, path: &Path) -> Result<Self> {
        let text = |name| column::<StringViewArray>(batch, name, path);
        let side = |name| column::<UInt32Array>(batch, name, path);
        Ok(Self {
            key: text("key")?,
            source: text("source")?,
            split: text("split")?,
            view: text("view")?,
            error: text("error")?,
            image_id: column(batch, "image_id", path)?,
            row: column(batch, "row", path)?,
            sides: [
                side("bucket_height")?,
                side("bucket_width")?,
                side("source_height")?,
                side("source_width")?,
                side("valid_height")?,
                side("valid_width")?,
            ],
        })
    }

    /// Row `i` of the batch, number `number` of the table.
    fn row<'r>(
        &'r self,
        i: usize,
        number: usize,
        path: &Path,
        allowance: &mut Allowance,
        [split, view]: [&'r Arc<str>; 2],
    ) -> Result<PlanRowRef<'r>> {
        let error = self.error.is_valid(i).then(|| self.error.value(i));
        let (key, source) = (self.key.value(i), self.source.value(i));
        let texts = [("key", key), ("source", source), ("split", &**split), ("view", &**view)];
        for (column, text) in texts.into_iter().chain(error.map(|error| ("error", error))) {
            bounded(text, column, number, path)?;
        }
        // Split and view are shared, unless they differ in every row.
        allowance.take::<PlanRow>(&[Some(key), Some(source), Some(split), Some(view), error])?;
        let known = self.sides.iter().filter(|side| side.is_valid(i)).count();
        let known = known + usize::from(self.row.is_valid(i));
        let place = match (known, error) {
            (7, None) => {
                let [bh, bw, sh, sw, vh, vw] = self.sides.map(|side| side.value(i));
                let (bucket, source, valid) = (Size::new(bh, bw), Size::new(sh, sw), Size::new(vh, vw));
                Ok(Place { bucket, row: self.row.value(i), source, valid })
            }
            (0, Some(error)) => Err(error),
            _ => {
                let what = format!("row {number}: expected either sizes and a row or an error");
                return Err(Error::corrupt(path, what));
            }
        };
        let image_id = self.image_id.is_valid(i).then(|| self.image_id.value(i));
        Ok(PlanRowRef { key, source, image_id, split, view, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{listing, recipe};
    use crate::{FsStorage, Status};

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
    fn the_rows_of_an_open_store_are_those_of_the_plan() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let plan = Plan::new(&recipe(), &listing(97), 20_000).unwrap();
        let path = folder.path().join("plan.parquet");
        write(&storage, &path, plan.rows()).unwrap().publish().unwrap();
        let open = || TableFile::open(&path).unwrap();
        let splits = ["train".to_owned(), "val".to_owned()];
        let (rows, buckets) = read_rows(open(), &recipe(), &splits, 20_000).unwrap();
        assert_eq!((rows.len(), &buckets[..]), (plan.rows().len(), plan.buckets()));
        assert_eq!(rows.first_duplicate(), None);
        for (found, expected) in rows.iter().zip(plan.rows()) {
            assert_eq!(
                (&found.key, &found.source, found.image_id),
                (&expected.key, &expected.source, expected.image_id)
            );
            assert_eq!((&found.split, &found.view), (&expected.split, &expected.view));
            let place = expected.place.as_ref().ok();
            assert_eq!(found.bucket, place.map(|place| place.bucket));
            assert_eq!(found.source_size, place.map(|place| place.source));
            assert_eq!(found.valid_size, place.map(|place| place.valid));
            match (found.status, &expected.place) {
                (Status::Ok, Ok(_)) => {}
                (Status::Failed(found), Err(expected)) => assert_eq!(found, *expected),
                (found, expected) => panic!("{found:?}, {expected:?}"),
            }
        }
        let error = read_rows(open(), &recipe(), &splits[..1], 20_000).unwrap_err().to_string();
        assert!(error.contains("expected a split of train, found \"val\""), "{error}");
        let mut twice = plan.rows().to_vec();
        twice[1].key = twice[0].key.clone();
        write(&storage, &path, &twice).unwrap().publish().unwrap();
        let (rows, _) = read_rows(open(), &recipe(), &splits, 20_000).unwrap();
        assert!(rows.first_duplicate().unwrap().contains("row 1 "));
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
            let splits = ["train".to_owned(), "val".to_owned()];
            let error = read_rows(TableFile::open(&path).unwrap(), &recipe(), &splits, 20_000).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{i}: {error}");
        }
    }
}
