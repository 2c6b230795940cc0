//! What verification finds, and what it must not mistake for damage.

use super::*;
use crate::fixture::{commit, features, unfinished};
use crate::sink::{FeatureSink, RowOutcome, UnitSink};
use crate::table::record::{Record, RecordHeader, RecordRow};
use crate::{FsStorage, StoreWriter};
use std::sync::Arc;

const INCOMPLETE: VerifyOptions = VerifyOptions { incomplete: true };

fn problems(path: &Path, options: VerifyOptions) -> Vec<String> {
    let found = verify(path, options, &|done, total| assert!(done <= total)).unwrap();
    found.problems.iter().map(ToString::to_string).collect()
}

fn finished(path: &Path) -> StoreWriter {
    let writer = unfinished(path);
    for unit in writer.missing_units().unwrap() {
        commit(&writer, &unit);
    }
    writer.finish().unwrap();
    writer
}

/// A record may tell of features that the shards do not have, and hide those that they have.
#[test]
fn rows_whose_status_does_not_fit_their_shard_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let writer = unfinished(folder.path());
    let unit = writer.missing_units().unwrap().remove(0);
    let bucket = writer.plan().buckets()[unit.bucket].clone();
    let mut rows = writer.begin(&unit).unwrap();
    for id in (unit.rows.start.0..unit.rows.end.0).map(RowId) {
        rows.append(match id == unit.rows.start {
            true => RowOutcome::Failed { reason: "gone".into(), source_blake3: None },
            false => features(writer.plan(), id),
        })
        .unwrap();
    }
    rows.commit().unwrap();
    assert_eq!(problems(folder.path(), INCOMPLETE), Vec::<String>::new());

    let path = folder.path().join(layout::record(&bucket, unit.number));
    let Record { header, rows } = record::read(&path, unit.row_count(), writer.plan().levels()).unwrap();
    let RecordHeader { format, unit: name, files } = header;
    let lie = |(i, row): (usize, RecordRow)| RecordRow {
        error: (i > 0).then(|| "gone".into()),
        losses: vec![],
        ..row
    };
    let rows: Vec<_> = rows.into_iter().enumerate().map(lie).collect();
    assert!(rows.len() > 1);
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    let record = Record { header: RecordHeader { format, unit: name, files }, rows };
    record::write(&storage, &path, writer.plan().levels(), &record).unwrap().publish().unwrap();
    let found = problems(folder.path(), INCOMPLETE);
    // Every array of every level tells: p2 has two.
    assert_eq!(found.len(), 3 * record.rows.len(), "{found:?}");
    for (i, row) in record.rows.iter().enumerate() {
        let id = unit.rows.start.0 + i as u64;
        let what = if i == 0 { "found no chunks" } else { "found some" };
        for level in ["p2", "p3"] {
            let named = format!("level {level}, row {id} ({}): expected", row.key);
            assert!(found.iter().any(|line| line.contains(&named) && line.contains(what)), "{found:?}");
        }
    }
}

/// What its writer never writes, under checksums that are right.
#[test]
fn scales_that_are_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let writer = finished(folder.path());
    let bucket = &writer.plan().buckets()[0];
    let arrays =
        crate::LevelArrays::new(bucket, &writer.plan().levels()[0], crate::NumberFormat::Int8.into())
            .unwrap();
    let affine = arrays.affine.unwrap();
    let path = folder.path().join(affine.shard_path(0));
    let mut bytes = std::fs::read(&path).unwrap();
    let (payload, chunk) = (affine.geometry.payload_bytes() as usize, affine.geometry.chunk_bytes() as usize);
    bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    let checksum = crate::checksum::crc32c(&bytes[..payload]);
    bytes[payload..chunk].copy_from_slice(&checksum);
    std::fs::write(&path, bytes).unwrap();
    let found = problems(folder.path(), VerifyOptions::default());
    let named = "): scale of channel 1: expected a number from 0, found NaN";
    assert!(found.iter().any(|line| line.contains("level p2, row ") && line.ends_with(named)), "{found:?}");
    assert!(found.iter().any(|line| line.contains("p2.affine/c.0.0.0.0: blake3")), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn files_that_are_not_in_the_manifest_are_named() {
    let folder = tempfile::tempdir().unwrap();
    finished(folder.path());
    std::fs::create_dir(folder.path().join("runs")).unwrap();
    for ignored in ["runs/a.json", ".create", "features/train/.tmp-x-1-1"] {
        std::fs::write(folder.path().join(ignored), b"{}").unwrap();
    }
    assert_eq!(problems(folder.path(), VerifyOptions::default()), Vec::<String>::new());
    for surplus in ["notes.txt", "features/train/base/c.9.0.0.0"] {
        std::fs::write(folder.path().join(surplus), b"x").unwrap();
    }
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("units/link")).unwrap();
    let found = problems(folder.path(), VerifyOptions::default());
    assert_eq!(found.len(), 3, "{found:?}");
    for (line, name) in found.iter().zip(["features/train/base/c.9.0.0.0", "notes.txt", "units/link"]) {
        assert!(line.ends_with(&format!("{name}: not a file of the manifest")), "{line}");
    }
}

#[test]
fn sizes_that_pass_64_bits_are_findings() {
    let folder = tempfile::tempdir().unwrap();
    let writer = finished(folder.path());
    let path = folder.path().join(layout::MANIFEST);
    let mut manifest = Manifest::parse(&std::fs::read(&path).unwrap(), &path).unwrap();
    for file in manifest.files.iter_mut().take(2) {
        file.bytes = u64::MAX;
    }
    let lying = Manifest::new(writer.spec(), manifest.splits, manifest.losses, manifest.files);
    std::fs::write(&path, lying.document()).unwrap();
    let found = problems(folder.path(), VerifyOptions::default());
    assert!(found.iter().any(|line| line.contains("add up")), "{found:?}");

    // Of an unfinished store, the records say what there is.
    std::fs::remove_file(&path).unwrap();
    let unit = writer.plan().units().next().unwrap();
    let path = folder.path().join(layout::record(&writer.plan().buckets()[unit.bucket], unit.number));
    let mut record = record::read(&path, unit.row_count(), writer.plan().levels()).unwrap();
    for file in &mut record.header.files {
        file.bytes = u64::MAX;
    }
    let storage: Arc<dyn Storage> = Arc::new(FsStorage);
    record::write(&storage, &path, writer.plan().levels(), &record).unwrap().publish().unwrap();
    let found = problems(folder.path(), INCOMPLETE);
    assert!(found.iter().any(|line| line.contains("expected 18446744073709551615 bytes")), "{found:?}");
}

#[test]
fn missing_tables_are_findings_and_corruptions() {
    for name in [layout::PLAN, layout::CATEGORIES, layout::ANNOTATIONS, layout::SAMPLES] {
        let folder = tempfile::tempdir().unwrap();
        finished(folder.path());
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let read = Store::open(folder.path(), OpenOptions::default())
            .and_then(|store| store.annotations(RowId(0)).map(|_| ()));
        let error = read.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with(name)), "{error}");
        for finished in [true, false] {
            if !finished {
                std::fs::remove_file(folder.path().join(layout::MANIFEST)).unwrap();
            }
            let found = problems(folder.path(), INCOMPLETE);
            let missing = format!("{name}: the file is missing");
            assert_eq!(
                found.iter().any(|line| line.ends_with(&missing)),
                finished || name != layout::SAMPLES,
                "{name}: {found:?}"
            );
        }
    }
}
