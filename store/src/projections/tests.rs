//! Bases of stores: written, read back in every way, refused where they are not what the store says.

use super::*;
use crate::fixture::{commit, contents, features, folder_in_memory, projection, recipe, unfinished};
use crate::sink::{FeatureSink, RowOutcome};
use crate::{
    Batch, DType, LevelId, OpenOptions, Projected, ReadOptions, RowBand, Spec, Status, Store, StoreWriter,
    VerifyOptions, WriterOptions, verify,
};
use std::path::Path;

fn open_store(path: &Path) -> Result<Store> {
    Store::open(path, OpenOptions { incomplete: true })
}

#[test]
fn coefficients_and_channels_come_back_whole_and_in_bands() {
    let folder = folder_in_memory();
    let recipe = recipe();
    let encodings = Encodings::parse("p2=pca3+int8+zstd,p3=pca16+int4", &recipe.levels).unwrap();
    let mut new = contents(12);
    new.projections.insert("p2", projection(3, 8));
    new.projections.insert("p3", projection(16, 16));
    let options = WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() };
    let writer =
        StoreWriter::create_or_resume(folder.path(), &recipe, &encodings, || Ok(new), options).unwrap();
    for unit in writer.missing_units().unwrap() {
        commit(&writer, &unit);
    }
    writer.finish().unwrap();
    let found = verify(folder.path(), VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!(found.problems, []);
    let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
    let levels = [LevelId(0), LevelId(1)];
    let mut batch = Batch::new();
    let mut rows = 0;
    for projected in [Projected::Channels, Projected::Coefficients] {
        for dtype in [None, Some(DType::F32), Some(DType::F16)] {
            let reader = store.reader(ReadOptions { projected, dtype, ..ReadOptions::default() }).unwrap();
            for row in store.rows().iter().filter(|row| row.status == Status::Ok) {
                rows += 1;
                let RowOutcome::Features { blocks, .. } = features(writer.plan(), row.id) else {
                    panic!("row {} has no features", row.id)
                };
                for band in [None, Some(RowBand { start: 0, end: 1 }), Some(RowBand { start: 1, end: 4 })] {
                    reader.read(&[row.id], &levels, band, &mut batch).unwrap();
                    for (number, level) in recipe.levels.iter().enumerate() {
                        let (found, encoding) = (batch.level(number), encodings.of(&level.name).unwrap());
                        let whole = encoding.round_trip(
                            &blocks[number],
                            store.projections().of(&level.name),
                            projected,
                            found.dtype,
                        );
                        let whole = whole.unwrap();
                        let [_, h, w, c] = found.shape;
                        let channels = match projected {
                            Projected::Channels => level.channels,
                            Projected::Coefficients => encoding.coefficients(level.channels),
                        };
                        assert_eq!(c, channels as usize);
                        let first = band.map_or(0, |band| band.start as usize * 8 / level.stride as usize);
                        let row_bytes = w * c * found.dtype.bytes();
                        let expected = &whole[first * row_bytes..(first + h) * row_bytes];
                        assert!(found.bytes == expected, "{projected:?} {band:?} {}", level.name);
                    }
                }
            }
        }
    }
    assert!(rows > 30);
}

#[test]
fn a_new_store_must_have_the_bases_that_its_encodings_need() {
    let recipe = recipe();
    let create = |encodings: &str, projections: Projections| {
        let folder = folder_in_memory();
        let encodings = Encodings::parse(encodings, &recipe.levels).unwrap();
        let new = NewStore { projections, ..contents(3) };
        let options = WriterOptions::default();
        let error = StoreWriter::create_or_resume(folder.path(), &recipe, &encodings, || Ok(new), options)
            .unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        error.to_string()
    };
    let of = |level: &str, k, c| {
        let mut projections = Projections::default();
        projections.insert(level, projection(k, c));
        projections
    };
    for (encodings, projections, message) in [
        ("p3=pca5", Projections::default(), "expected p3 5x16, found none"),
        ("bf16", of("p3", 5, 16), "expected none, found p3 5x16"),
        ("p3=pca5", of("p3", 4, 16), "expected p3 5x16, found p3 4x16"),
        ("p3=pca5", of("p3", 5, 8), "expected p3 5x16, found p3 5x8"),
        ("p3=pca5", of("p2", 5, 8), "expected p3 5x16, found p2 5x8"),
    ] {
        let error = create(encodings, projections);
        assert!(error.contains(message), "{error}");
    }
}

/// Changes the root document's spec.
fn edit(folder: &Path, change: impl Fn(&mut Spec)) {
    let root = folder.join(layout::ROOT);
    let bytes = std::fs::read(&root).unwrap();
    let mut spec = Spec::parse(&bytes, &root).unwrap();
    change(&mut spec);
    let mut document: Value = serde_json::from_slice(&bytes).unwrap();
    document["attributes"]["featcache"] = serde_json::to_value(&spec).unwrap();
    std::fs::write(&root, document.to_string()).unwrap();
}

#[test]
fn bases_that_are_not_what_the_store_says_are_corruptions() {
    let folder = folder_in_memory();
    let writer = unfinished(folder.path());
    let paths = chunks("p3").map(|path| folder.path().join(path));
    let good = paths.each_ref().map(|path| std::fs::read(path).unwrap());
    assert_eq!(good.each_ref().map(Vec::len), [5 * 16 * 4 + 4, 16 * 4 + 4]);
    assert_eq!(
        open_store(folder.path()).unwrap().projections().of("p3").unwrap().basis(),
        projection(5, 16).basis()
    );
    let refused = |path: &Path, what: &str| {
        let reopened = StoreWriter::create_or_resume(
            folder.path(),
            &recipe(),
            &crate::fixture::encodings(),
            || -> Result<NewStore> { panic!("there is a store") },
            WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() },
        );
        for error in [open_store(folder.path()).unwrap_err(), reopened.unwrap_err()] {
            let text = error.to_string();
            assert!(matches!(&error, Error::Corrupt { path: found, .. } if found == path), "{text}");
            assert!(text.contains(what), "{text}");
        }
    };
    for (path, good) in paths.iter().zip(&good) {
        let mut bad = good.clone();
        bad[7] ^= 1;
        std::fs::write(path, &bad).unwrap();
        refused(path, "blake3: expected");
        std::fs::write(path, &good[..good.len() - 1]).unwrap();
        refused(path, &format!("expected {} bytes, found {}", good.len(), good.len() - 1));
        std::fs::write(path, [&good[..], &[0; 100]].concat()).unwrap();
        refused(path, &format!("expected {} bytes", good.len()));
        std::fs::remove_file(path).unwrap();
        refused(path, "the file is missing");
        std::fs::write(path, good).unwrap();
    }
    // Numbers under hashes that are right.
    let set = |bytes: &[u8]| {
        std::fs::write(&paths[0], bytes).unwrap();
        edit(folder.path(), |spec| {
            spec.projections.get_mut("p3").unwrap().basis_blake3 = Digest::of(bytes).blake3;
        });
    };
    let with = |at: usize, value: f32| {
        let mut values = good[0][..good[0].len() - 4].to_vec();
        values[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
        values.extend(crc32c(&values));
        values
    };
    for (at, value, what) in [
        (3, f32::NAN, "basis: element 3: expected a number, found NaN"),
        (20, f32::INFINITY, "element 20: expected a number, found inf"),
        (0, 3.0, "rows 0 and 0: expected a product of 1, as they are orthonormal"),
    ] {
        set(&with(at, value));
        refused(&paths[0], what);
    }
    let mut wrong_sum = good[0].clone();
    wrong_sum[322] ^= 1;
    set(&wrong_sum);
    refused(&paths[0], "the checksum crc32c: expected");
    set(&good[0]);
    drop(open_store(folder.path()).unwrap());
    // A document of another shape, and a spec that names other levels.
    let document = folder.path().join(layout::basis("p3")).join(layout::ROOT);
    let text = std::fs::read_to_string(&document).unwrap();
    std::fs::write(&document, text.replace("16", "15")).unwrap();
    refused(&document, "expected 16, found 15");
    std::fs::write(&document, text).unwrap();
    edit(folder.path(), |spec| {
        let hashes = spec.projections.remove("p3").unwrap();
        spec.projections.insert("p2".into(), hashes);
    });
    refused(&folder.path().join(layout::ROOT), "projections: expected those of p3, found p2");
    drop(writer);
}

#[test]
fn verification_reads_the_bases_of_finished_and_unfinished_stores() {
    let folder = folder_in_memory();
    let writer = unfinished(folder.path());
    let check = |incomplete: bool| verify(folder.path(), VerifyOptions { incomplete }, &|_, _| {}).unwrap();
    let before = check(true);
    assert_eq!(before.problems, []);
    let unit = writer.missing_units().unwrap().remove(0);
    commit(&writer, &unit);
    writer.finish().unwrap();
    let after = check(false);
    assert_eq!(after.problems, []);
    let manifest = open_store(folder.path()).unwrap().manifest().unwrap().clone();
    for path in chunks("p3") {
        assert!(manifest.file(&path).is_some(), "{path}");
        let file = folder.path().join(&path);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[5] ^= 2;
        std::fs::write(&file, bad).unwrap();
        let problems = check(false).problems;
        assert!(problems.iter().any(|problem| problem.path == file), "{problems:?}");
        std::fs::write(&file, good).unwrap();
    }
}
