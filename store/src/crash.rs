//! What a store is after any failure, and with any number of writers: tests of the commit protocol as a
//! whole. Compiled for tests only.

use crate::faulty::{Fault, FaultyStorage};
use crate::fixture::{self, encodings, features, folder_in_memory, listing, recipe};
use crate::table::record;
use crate::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SAMPLES: usize = 12;

/// Enough for units of one and of several rows, and a failed sample; few enough to fail at every step.
pub(crate) const FEW_SAMPLES: usize = 4;

/// Two rows of 32x64 in a unit, four of 32x32.
const SHARD_BYTES: u64 = 4096;

pub(crate) fn options(storage: FaultyStorage) -> WriterOptions {
    WriterOptions { shard_bytes: Some(SHARD_BYTES), storage: Arc::new(storage), ..WriterOptions::default() }
}

pub(crate) fn open(path: &Path, storage: FaultyStorage) -> Result<StoreWriter> {
    StoreWriter::create_or_resume(
        path,
        &recipe(),
        &encodings(),
        || Ok(fixture::contents(SAMPLES)),
        options(storage),
    )
}

fn fill(writer: &StoreWriter, unit: &Unit) -> Result<UnitWriter> {
    let mut filling = writer.begin(unit)?;
    for id in unit.rows.start.0..unit.rows.end.0 {
        filling.append(features(writer.plan(), RowId(id)))?;
    }
    Ok(filling)
}

pub(crate) fn extract(path: &Path, storage: FaultyStorage) -> Result<Finish> {
    work(&open(path, storage)?)
}

fn extract_few(path: &Path, storage: FaultyStorage) -> Result<Finish> {
    let mut recipe = recipe();
    recipe.views.truncate(1);
    let list = || Ok(fixture::contents(FEW_SAMPLES));
    work(&StoreWriter::create_or_resume(path, &recipe, &encodings(), list, options(storage))?)
}

fn work(writer: &StoreWriter) -> Result<Finish> {
    for unit in writer.missing_units()? {
        if let Some(_claim) = writer.claim(&unit)? {
            fill(writer, &unit)?.commit()?;
        }
    }
    writer.finish()
}

/// Every file below a folder: path → bytes.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(root, &path, found),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

pub(crate) fn undisturbed(extract: fn(&Path, FaultyStorage) -> Result<Finish>) -> BTreeMap<String, Vec<u8>> {
    let folder = folder_in_memory();
    assert_eq!(extract(folder.path(), FaultyStorage::sound()).unwrap(), Finish::Done);
    contents(folder.path())
}

pub(crate) fn assert_equal(
    found: &BTreeMap<String, Vec<u8>>,
    expected: &BTreeMap<String, Vec<u8>>,
    when: &str,
) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{when}");
    for (path, bytes) in found {
        assert!(expected[path] == *bytes, "{when}: {path} differs");
    }
}

/// Paths of the shards that a record names.
fn shards_of(record: &Path) -> Vec<String> {
    let read = (1..10).find_map(|rows| record::read(record, rows, &recipe().levels).ok()).unwrap();
    read.header.files.into_iter().map(|file| file.path).collect()
}

/// After a failure: no store, or one in which whatever has a record is whole.
fn assert_old_or_new(path: &Path, expected: &BTreeMap<String, Vec<u8>>, when: &str) {
    let store = match Store::open(path, OpenOptions { incomplete: true }) {
        Err(Error::NotFound { .. }) => return,
        store => store.unwrap_or_else(|e| panic!("{when}: {e}")),
    };
    let found = contents(path);
    for (name, bytes) in found.iter().filter(|(name, _)| name.starts_with(layout::UNITS)) {
        if !name.ends_with(".parquet") || name.contains("/.") {
            continue;
        }
        assert!(expected[name] == *bytes, "{when}: {name} differs");
        for file in shards_of(&path.join(name)) {
            assert!(found[&file] == expected[&file], "{when}: {file} differs");
        }
    }
    let missing: u64 = store.missing_units().iter().map(Unit::row_count).sum();
    let of_missing = store.rows().iter().filter(|row| row.status == Status::Missing).count();
    assert_eq!(missing, of_missing as u64, "{when}");
    if found.contains_key(layout::MANIFEST) {
        Store::open(path, OpenOptions::default()).unwrap_or_else(|e| panic!("{when}: {e}"));
    }
}

fn fails_anywhere(fault: Fault) {
    let expected = undisturbed(extract_few);
    for step in 0.. {
        let folder = folder_in_memory();
        let storage = FaultyStorage::failing_at(step, fault);
        let result = extract_few(folder.path(), storage.clone());
        let when = format!("{fault:?} at step {step}");
        if !storage.has_failed() {
            assert!(step > 100, "only {step} steps");
            assert_eq!(result.unwrap(), Finish::Done);
            return;
        }
        if let Err(error) = &result {
            assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{when}: {error}");
        }
        assert_old_or_new(folder.path(), &expected, &when);
        let next = storage.next_process();
        let resumed = extract_few(folder.path(), next.clone()).unwrap_or_else(|e| panic!("{when}: {e}"));
        assert_eq!(resumed, Finish::Done, "{when}");
        assert_eq!(next.unsynced_folders(), Vec::<PathBuf>::new(), "{when}");
        assert_equal(&contents(folder.path()), &expected, &when);
    }
}

#[test]
fn a_crash_at_any_step_leaves_old_or_new_and_resuming_completes_it() {
    fails_anywhere(Fault::Crash);
}

#[test]
fn a_full_disk_at_any_step_is_reported_with_its_path_and_loses_nothing() {
    fails_anywhere(Fault::Once(ErrorKind::StorageFull));
}

#[test]
fn an_undisturbed_store_opens_with_every_row_accounted_for() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(store.rows().len(), 2 * SAMPLES);
    let status = |key: &str| store.find(None, key, "hflip").unwrap().status.clone();
    assert_eq!(status("s0000"), Status::Ok);
    assert_eq!(status("s0003"), Status::Failed("jpeg: truncated at byte 17".into()));
    assert_eq!(status("s0007"), Status::Failed("png: truncated header".into()));
    for row in store.rows() {
        let found = store.find(Some(&row.split), &row.key.0, &row.view).unwrap();
        assert_eq!(found.id, row.id);
        assert!(!store.annotations(row.id).unwrap().is_empty());
    }
    assert_eq!(store.categories(), listing(1).categories);
    assert_eq!(store.splits(), ["train", "val"]);
    let counts = &store.manifest().unwrap().splits["train"];
    assert_eq!((counts.rows, counts.ok + counts.failed), (2 * counts.samples, counts.rows));
    assert!(matches!(store.find(None, "nobody", "base"), Err(Error::NotFound { .. })));
    assert!(matches!(store.find(Some("val"), "s0000", "base"), Err(Error::NotFound { .. })));
    assert_eq!(store.level("p3").unwrap(), LevelId(1));
    assert!(matches!(store.level("p9"), Err(Error::NotFound { .. })));
    assert!(matches!(store.row(RowId(u64::MAX)), Err(Error::NotFound { .. })));
}

#[test]
fn finishing_twice_changes_nothing_and_listing_is_asked_once() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let before = contents(folder.path());
    let writer = StoreWriter::create_or_resume(
        folder.path(),
        &recipe(),
        &encodings(),
        || -> Result<Listing> { panic!("the store has a plan") },
        options(FaultyStorage::sound()),
    )
    .unwrap();
    assert_eq!(writer.missing_units().unwrap(), []);
    assert_eq!(writer.finish().unwrap(), Finish::Done);
    assert_eq!(writer.finish().unwrap(), Finish::Done);
    assert_equal(&contents(folder.path()), &before, "finished twice");
}

#[test]
fn concurrent_writers_share_the_work_and_end_in_the_same_bytes() {
    let folder = folder_in_memory();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Until all units are in; whoever is late has nothing left to do.
                while extract(folder.path(), FaultyStorage::sound()).unwrap() != Finish::Done {
                    std::thread::yield_now();
                }
            });
        }
    });
    assert_equal(&contents(folder.path()), &undisturbed(extract), "four writers");
}

#[test]
fn a_unit_that_two_workers_computed_is_committed_once() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let unit = writer.missing_units().unwrap().remove(0);
    let (first, second) = (fill(&writer, &unit).unwrap(), fill(&writer, &unit).unwrap());
    assert_eq!(first.commit().unwrap(), Commit::Published);
    assert_eq!(second.commit().unwrap(), Commit::Superseded);
    assert!(writer.claim(&unit).unwrap().is_none());
    assert!(!contents(folder.path()).keys().any(|name| name.contains(".tmp-")));
}

#[test]
fn claims_exclude_live_workers_only() {
    let folder = folder_in_memory();
    let (one, two) = (
        open(folder.path(), FaultyStorage::sound()).unwrap(),
        open(folder.path(), FaultyStorage::sound()).unwrap(),
    );
    let unit = one.missing_units().unwrap().remove(0);
    let claim = one.claim(&unit).unwrap().unwrap();
    assert!(two.claim(&unit).unwrap().is_none());
    drop(claim);
    let claim = two.claim(&unit).unwrap();
    assert!(claim.is_some());
    drop(claim);
    // A claim file that a killed worker left behind blocks nobody.
    let left = folder.path().join(layout::claim(&one.plan().buckets()[unit.bucket], unit.number));
    std::fs::write(&left, b"").unwrap();
    assert!(one.claim(&unit).unwrap().is_some());
}

#[test]
fn a_unit_dropped_before_its_commit_was_never_there() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let before = contents(folder.path());
    let units = writer.missing_units().unwrap();
    drop(fill(&writer, &units[0]).unwrap());
    assert_equal(&contents(folder.path()), &before, "dropped");
    assert_eq!(writer.missing_units().unwrap(), units);
    assert_eq!(writer.finish().unwrap(), Finish::Missing(units.len()));
}

#[test]
fn stale_temporaries_are_reaped_and_live_ones_are_not() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let unit = writer.missing_units().unwrap().remove(0);
    let live = fill(&writer, &unit).unwrap();
    let bucket = &writer.plan().buckets()[unit.bucket];
    let array = layout::array_folder(bucket, "p2");
    // In the folder of the codes and in that of their scales.
    let stale = ["p2", "p2.affine"]
        .map(|name| folder.path().join(layout::array_folder(bucket, name)).join(".tmp-c.9.0.0.0-1-1"));
    stale.iter().for_each(|stale| std::fs::write(stale, b"half a shard").unwrap());
    let temporaries = || {
        contents(folder.path())
            .into_keys()
            .filter(|name| name.contains(".tmp-") && name.starts_with(&array))
            .count()
    };
    assert_eq!(temporaries(), 4);
    open(folder.path(), FaultyStorage::sound()).unwrap();
    assert_eq!(temporaries(), 2);
    assert!(stale.iter().all(|stale| !stale.exists()));
    assert_eq!(live.commit().unwrap(), Commit::Published);
}

#[test]
fn rows_must_be_complete_and_of_the_right_shape() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let units = writer.missing_units().unwrap();
    let unit = units.iter().find(|unit| unit.row_count() == 2).unwrap();

    let mut short = writer.begin(unit).unwrap();
    short.append(features(writer.plan(), unit.rows.start)).unwrap();
    assert!(short.commit().unwrap_err().to_string().contains("1 of 2 rows"));

    let mut long = fill(&writer, unit).unwrap();
    assert!(long.append(features(writer.plan(), unit.rows.start)).is_err());

    let mut broken = writer.begin(unit).unwrap();
    let RowOutcome::Features { mut blocks, source_blake3 } = features(writer.plan(), unit.rows.start) else {
        panic!("the first row has features")
    };
    blocks[1].shape[0] += 1;
    assert!(broken.append(RowOutcome::Features { blocks, source_blake3 }).is_err());
    // Nobody vouches for what levels hold of such a row: nothing can be appended or committed.
    assert!(broken.append(features(writer.plan(), unit.rows.start)).is_err());
    assert!(broken.commit().is_err());
    assert_eq!(writer.missing_units().unwrap(), units);
}

#[test]
fn features_that_are_no_numbers_fail_their_row_and_say_what_was_written() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let units = writer.missing_units().unwrap();
    let unit = units.iter().find(|unit| unit.row_count() == 2).unwrap();
    let spoilt = |level: usize, value: [u8; 2]| {
        let RowOutcome::Features { mut blocks, source_blake3 } = features(writer.plan(), unit.rows.start)
        else {
            panic!("the first row has features")
        };
        let middle = blocks[level].bytes.len() / 4 * 2;
        blocks[level].bytes[middle..middle + 2].copy_from_slice(&value);
        RowOutcome::Features { blocks, source_blake3 }
    };
    let mut rows = writer.begin(unit).unwrap();
    // An infinity in what is quantised, a NaN in what is converted.
    assert_eq!(rows.append(spoilt(0, [0x80, 0xff])).unwrap(), Appended::Failed);
    assert_eq!(rows.append(spoilt(1, [0xc0, 0x7f])).unwrap(), Appended::Failed);
    assert_eq!(rows.commit().unwrap(), Commit::Published);
    let good = units.iter().find(|other| *other != unit).unwrap();
    let mut rows = writer.begin(good).unwrap();
    let outcome = features(writer.plan(), good.rows.start);
    let RowOutcome::Features { blocks, .. } = &outcome else { panic!("it has features") };
    let elements = |level: usize| blocks[level].shape.iter().product::<usize>() as u64;
    let Appended::Features { bytes } = rows.append(outcome.clone()).unwrap() else { panic!("it is written") };
    // Codes, eight scales and offsets, and five of 16 numbers in f32; and a few bytes of checksums.
    let payload = elements(0) + 8 * 8 + elements(1) / 16 * 5 * 4;
    assert!((payload..payload + 64).contains(&bytes), "{bytes} bytes of a payload of {payload}");
    drop(rows);
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
    for (id, level) in (unit.rows.start.0..).zip(["p2", "p3"]) {
        let row = store.row(RowId(id)).unwrap();
        assert_eq!(row.status, Status::Failed(format!("features of {level} are not finite")));
    }
}

#[test]
fn a_panicking_worker_poisons_its_writer() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let unit = writer.missing_units().unwrap().remove(0);
    let innocent = fill(&writer, &unit).unwrap();
    let guard = writer.poison().guard();
    let worker = std::thread::spawn(move || {
        let _guard = guard;
        panic!("a bug");
    });
    assert!(worker.join().is_err());
    let error = innocent.commit().unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
    assert!(writer.begin(&unit).is_err());
    assert!(writer.finish().is_err());
    // Another process, or another run, is not affected.
    assert_eq!(extract(folder.path(), FaultyStorage::sound()).unwrap(), Finish::Done);
}

#[test]
fn stores_of_something_else_are_refused_with_the_field_that_differs() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let before = contents(folder.path());
    let attempt = |recipe: &Recipe, encodings: &Encodings, change: fn(&mut WriterOptions)| {
        let mut options = options(FaultyStorage::sound());
        change(&mut options);
        let list = || -> Result<Listing> { panic!("the store has a plan") };
        match StoreWriter::create_or_resume(folder.path(), recipe, encodings, list, options) {
            Err(Error::RecipeMismatch { field, expected, found, .. }) => (field, expected, found),
            other => panic!("{other:?}"),
        }
    };
    let text = |(a, b, c): (&str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned());

    let mut other = recipe();
    other.preprocess.resampler = "pillow-bicubic-hv".into();
    let found = attempt(&other, &encodings(), |_| ());
    assert_eq!(found, text(("preprocess.resampler", "pillow-bicubic-hv", "pillow-bilinear-hv")));
    let f32s = Encodings::uniform(&recipe().levels, NumberFormat::F32);
    let found = attempt(&recipe(), &f32s, |_| ());
    assert_eq!(found, text(("encodings", "p2=f32,p3=f32", "p2=int8,p3=pca5+f32")));
    let found = attempt(&recipe(), &encodings(), |o| o.shard_bytes = Some(1));
    assert_eq!(found, text(("shard_bytes", "1", "4096")));
    let found = attempt(&recipe(), &encodings(), |o| {
        o.dataset = Some(DatasetSpec { kind: "coco".into(), splits: vec![], limit: None });
    });
    assert_eq!(found, text(("dataset.kind", "coco", "folder")));
    let found = attempt(&recipe(), &encodings(), |o| {
        o.dataset = Some(DatasetSpec { kind: "folder".into(), splits: vec!["test".into()], limit: None });
    });
    assert_eq!(found, text(("dataset.splits", "test", "train, val")));
    let found = attempt(&recipe(), &encodings(), |o| {
        o.dataset = Some(DatasetSpec { kind: "folder".into(), splits: vec![], limit: Some(4) });
    });
    assert_eq!(found, text(("dataset.limit", "4", "none")));
    assert_equal(&contents(folder.path()), &before, "refused");
}

#[test]
fn newer_formats_are_refused_before_anything_else_is_read() {
    let folder = folder_in_memory();
    let root = folder.path().join(layout::ROOT);
    std::fs::write(&root, br#"{"attributes": {"featcache": {"format": 7, "all": "new"}}}"#).unwrap();
    for error in [
        open(folder.path(), FaultyStorage::sound()).unwrap_err(),
        Store::open(folder.path(), OpenOptions::default()).unwrap_err(),
        Manifest::parse(br#"{"format": 7}"#, Path::new("m")).unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooNew { found: 7, supported: FORMAT, .. }), "{error}");
    }
    for text in ["", "{}", "[1", r#"{"attributes": {"featcache": {"format": 0}}}"#, "\u{0}\u{0}"] {
        std::fs::write(&root, text).unwrap();
        let error = Store::open(folder.path(), OpenOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{text:?}: {error}");
    }
}

#[test]
fn unfinished_stores_open_only_when_asked() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let units = writer.missing_units().unwrap();
    fill(&writer, &units[0]).unwrap().commit().unwrap();
    let error = Store::open(folder.path(), OpenOptions::default()).unwrap_err();
    let Error::Incomplete { missing, total, first, .. } = &error else { panic!("{error}") };
    assert_eq!((*missing, *total), (units.len() - 1, units.len()));
    assert_eq!(*first, layout::unit_name(&writer.plan().buckets()[units[1].bucket], &units[1]));
    let store = Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap();
    assert_eq!(store.missing_units(), &units[1..]);
    let rows = units[0].rows.start.0 as usize..units[0].rows.end.0 as usize;
    assert!(store.rows().iter().skip(rows.start).take(rows.len()).all(|row| row.status != Status::Missing));
}

#[test]
fn a_flipped_bit_in_any_table_or_document_is_found_when_it_is_read() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let read_all = || {
        let store = Store::open(folder.path(), OpenOptions::default())?;
        store.annotations(RowId(0)).map(|_| ())
    };
    read_all().unwrap();
    for name in [
        layout::ROOT,
        layout::MANIFEST,
        layout::PLAN,
        layout::SAMPLES,
        layout::ANNOTATIONS,
        layout::CATEGORIES,
    ] {
        let path = folder.path().join(name);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(1 + good.len() / 40) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let error = read_all().err().unwrap_or_else(|| panic!("{name}: byte {at} was not missed"));
            assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{name}: {error}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    read_all().unwrap();
}
