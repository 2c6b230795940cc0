//! Tables from nowhere: damaged, lying, larger than they look. No panic, and no memory for a claim.

use super::*;
use crate::fixture::{folder_in_memory, listing, recipe};
use crate::plan::Plan;
use crate::plan::PlanRow;
use crate::table::record::{Record, RecordHeader, RecordRow};
use crate::{FsStorage, Listing, Loss, SampleKey};

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

fn open(path: &Path) -> TableFile {
    TableFile::open(path).unwrap()
}

#[test]
fn hostile_records_are_errors_and_never_panics() {
    let header = RecordHeader { format: 1, unit: "a/b/1x1/0".into(), files: vec![] };
    let row = |row| RecordRow {
        row,
        key: format!("k{row}"),
        error: (row == 1).then(|| "jpeg: truncated".into()),
        source_blake3: Some("00".repeat(32)),
        losses: vec![(row != 1).then_some(Loss { relative_l2: 0.5, cosine: 0.5 }), None],
    };
    let record = Record { header, rows: (0..40).map(row).collect() };
    let (noticed, of) = damage(
        |storage, path| record::write(storage, path, &recipe().levels, &record),
        |path| record::read(path, 40, &recipe().levels).map(|_| ()),
    );
    assert!(noticed > of / 3, "{noticed} of {of} were noticed");
}

#[test]
fn hostile_plans_are_errors_and_never_panics() {
    let plan = Plan::new(&recipe(), &listing(30), 4096).unwrap();
    let (noticed, of) = damage(
        |storage, path| plan::write(storage, path, plan.rows()),
        |path| plan::read(TableFile::open(path)?, &recipe(), 4096).map(|_| ()),
    );
    assert!(noticed > of / 3, "{noticed} of {of} were noticed");
}

#[test]
fn hostile_annotations_are_errors_and_never_panics() {
    let listing: Listing = listing(6);
    let (noticed, of) = damage(
        |storage, path| annotations::write(storage, path, &listing),
        |path| {
            let annotations = annotations::Annotations::open(TableFile::open(path)?)?;
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
    let error = plan::read(open(&path), &recipe(), 4096).unwrap_err().to_string();
    assert!(error.contains("a dictionary of"), "{error}");
}

fn failed_row(key: String, source: &str, error: &str) -> PlanRow {
    PlanRow {
        key: SampleKey(key),
        source: source.into(),
        image_id: None,
        split: "train".into(),
        view: "base".into(),
        place: Err(error.into()),
    }
}

/// Dictionaries and repetitions stand for any amount of text; and the most that honest rows can repeat
/// stays within what a reader accepts.
#[test]
fn tables_that_decode_to_much_more_than_they_are_long_are_refused() {
    let folder = folder_in_memory();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    let path = folder.path().join("table");
    let text = "x".repeat(MAX_TEXT_BYTES);
    let bomb = vec![failed_row(text.clone(), &text, &text); 100_000];
    plan::write(&storage, &path, &bomb).unwrap().publish().unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 100_000, "{bytes}");
    let error = plan::read(open(&path), &recipe(), 1).unwrap_err().to_string();
    assert!(error.contains("bytes in memory, found more"), "{error}");

    let rows: Vec<RecordRow> = (0..100_000)
        .map(|_| RecordRow {
            row: 0,
            key: "k".into(),
            error: Some(text.clone()),
            source_blake3: None,
            losses: vec![],
        })
        .collect();
    let header = RecordHeader { format: 1, unit: "a/b/1x1/0".into(), files: vec![] };
    let levels = recipe().levels;
    record::write(&storage, &path, &levels, &Record { header, rows }).unwrap().publish().unwrap();
    let error = record::read(&path, 100_000, &levels).unwrap_err().to_string();
    assert!(error.contains("bytes in memory, found more"), "{error}");
    let error = record::read(&path, 7, &levels).unwrap_err().to_string();
    assert!(error.contains("expected 7 rows, found 100000"), "{error}");

    let (source, error) = (format!("{}x.mp4", "clips/".repeat(30)), "é".repeat(500));
    for count in [1, 1000, 200_000] {
        let rows: Vec<PlanRow> = (0..count).map(|i| failed_row(format!("{i:09}"), &source, &error)).collect();
        plan::write(&storage, &path, &rows).unwrap().publish().unwrap();
        let plan = plan::read(open(&path), &recipe(), 1).unwrap();
        assert_eq!(plan.rows().len(), rows.len());
    }
}

#[test]
fn text_beyond_its_limit_is_refused() {
    let folder = folder_in_memory();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    let path = folder.path().join("table");
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    for row in [
        failed_row(long.clone(), "s", "e"),
        failed_row("k".into(), &long, "e"),
        failed_row("k".into(), "s", &long),
    ] {
        plan::write(&storage, &path, &[row]).unwrap().publish().unwrap();
        let error = plan::read(open(&path), &recipe(), 1).unwrap_err().to_string();
        assert!(error.contains("expected at most 4096 bytes, found 4097"), "{error}");
    }
    let mut listing = listing(1);
    listing.samples[0].key.0.clone_from(&long);
    listing.annotations.iter_mut().for_each(|label| label.key.0.clone_from(&long));
    annotations::write(&storage, &path, &listing).unwrap().publish().unwrap();
    let error = annotations::Annotations::open(open(&path)).unwrap_err().to_string();
    assert!(error.contains("key: expected at most 4096 bytes"), "{error}");
}

/// Without a panic: its hook would print a second line.
#[test]
fn negative_offsets_in_a_footer_are_refused_before_the_reader_asserts() {
    use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData, RowGroupMetaData};
    let folder = folder_in_memory();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    let path = folder.path().join("table");
    categories::write(&storage, &path, &listing(1).categories).unwrap().publish().unwrap();
    let honest = ArrowReaderMetadata::load(&open(&path), ArrowReaderOptions::new()).unwrap();
    let (file, group) = (honest.metadata().file_metadata(), honest.metadata().row_group(0));
    check_footer(honest.metadata(), 1 << 20).unwrap();
    let column = |i: usize| ColumnChunkMetaData::builder(file.schema_descr().column(i));
    for column in [
        column(0).set_data_page_offset(-4),
        column(0).set_dictionary_page_offset(Some(-4)),
        column(0).set_total_compressed_size(-1),
    ] {
        let mut columns = vec![column.build().unwrap()];
        columns.extend(group.columns().iter().skip(1).cloned());
        let group = RowGroupMetaData::builder(file.schema_descr_ptr())
            .set_num_rows(group.num_rows())
            .set_column_metadata(columns)
            .build()
            .unwrap();
        let file: FileMetaData = file.clone();
        let error = check_footer(&ParquetMetaData::new(file, vec![group]), 1 << 20).unwrap_err();
        assert!(error.to_string().contains("a column of"), "{error}");
    }
}

#[test]
fn tables_of_other_columns_are_refused() {
    let folder = folder_in_memory();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    let path = folder.path().join("table");
    categories::write(&storage, &path, &listing(1).categories).unwrap().publish().unwrap();
    for error in [
        plan::read(open(&path), &recipe(), 1).err(),
        record::read(&path, 2, &recipe().levels).err(),
        annotations::Annotations::open(open(&path)).err(),
    ] {
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    }
}
