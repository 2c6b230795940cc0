//! Transcoded stores: what they hold, how they resume, what is refused.

use super::*;
use crate::crash::{assert_equal, contents};
use crate::fixture::{commit, features, folder_in_memory, listing, recipe, unfinished};
use crate::sink::{FeatureSink, RowOutcome, UnitSink};
use crate::{Finish, NewStore, OpenOptions, ReadOptions, Recipe, Status, VerifyOptions, verify};
use std::collections::BTreeMap;

/// An extraction of these levels, views and splits of the fixture's listing.
fn extracted(path: &Path, encodings: &str, selection: &Selection) -> StoreWriter {
    let all = recipe();
    let kept = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let recipe = Recipe {
        levels: all.levels.iter().filter(|l| kept(&selection.levels, &l.name)).cloned().collect(),
        views: all.views.iter().filter(|v| kept(&selection.views, &v.name)).cloned().collect(),
        ..all
    };
    let mut listing = listing(40);
    listing.samples.retain(|sample| kept(&selection.splits, &sample.split));
    listing.annotations.retain(|label| kept(&selection.splits, &label.split));
    let options = WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() };
    let encodings = Encodings::parse(encodings, &recipe.levels).unwrap();
    let contents = || {
        let plan = Plan::new(&recipe, &listing, 20_000)?;
        let has_basis = |level: &&LevelSpec| encodings.of(&level.name).unwrap().projection.is_some();
        let levels: Vec<_> = recipe.levels.iter().filter(has_basis).cloned().collect();
        let projections = calibrated(&plan, &levels)?;
        Ok(NewStore { listing, projections })
    };
    let writer = StoreWriter::create_or_resume(path, &recipe, &encodings, contents, options).unwrap();
    for unit in writer.missing_units().unwrap() {
        commit(&writer, &unit);
    }
    assert_eq!(writer.finish().unwrap(), Finish::Done);
    writer
}

fn open(path: &Path) -> Store {
    Store::open(path, OpenOptions::default()).unwrap()
}

fn transcode(source: &Store, target: &Path, encodings: &str, selection: &Selection) -> Result<Finish> {
    let recipe = selection.recipe(source)?;
    let encodings = Encodings::parse_over(encodings, &recipe.levels, |level| source.encodings().of(level))?;
    let transcode = Transcode::create_or_resume(source, target, selection, &encodings, calibrated)?;
    run(&transcode, &AtomicBool::new(false))?;
    transcode.writer().finish()
}

fn run(transcode: &Transcode<'_>, stop: &AtomicBool) -> Result<TranscodeCounters> {
    let missing = transcode.writer().missing_units()?;
    let counters = TranscodeCounters::new(transcode.writer().plan(), &missing);
    // Two rows on their way at most.
    transcode.run(TranscodeOptions { memory_bytes: 1, stop }, &counters)?;
    Ok(counters)
}

/// The leading channels: as good a basis as any here.
fn calibrated(_: &Plan, levels: &[LevelSpec]) -> Result<Projections> {
    let mut projections = Projections::default();
    for level in levels {
        let (k, c) = (4, level.channels as usize);
        let basis = (0..k * c).map(|i| f32::from(u8::from(i / c == i % c))).collect();
        projections.insert(&level.name, Projection::new(basis, vec![0.0; c])?);
    }
    Ok(projections)
}

fn selection(levels: &[&str], views: &[&str], splits: &[&str]) -> Selection {
    let [levels, views, splits] =
        [levels, views, splits].map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    Selection { levels, views, splits }
}

/// From what is held as it was computed, transcoding makes the bytes that an extraction would have written:
/// plan, labels, records, losses and all.
#[test]
fn a_transcoded_store_is_the_one_that_extraction_would_have_made() {
    let folder = folder_in_memory();
    let source = folder.path().join("source");
    extracted(&source, "bf16", &Selection::default());
    let source = open(&source);
    for (i, (encodings, kept)) in [
        ("", Selection::default()),
        ("p2=int8,p3=f32", Selection::default()),
        ("p2=int4,p3=e4m3fn", selection(&["p2", "p3"], &["hflip"], &["val"])),
        ("int8", selection(&["p3"], &[], &["train"])),
        ("f16", selection(&["p2"], &["base"], &[])),
        ("bf16+zstd,p3=pca4+int8+zstd", selection(&[], &[], &["val"])),
        ("pca4", Selection::default()),
    ]
    .into_iter()
    .enumerate()
    {
        let (target, expected) = (folder.path().join(format!("t{i}")), folder.path().join(format!("e{i}")));
        assert_eq!(transcode(&source, &target, encodings, &kept).unwrap(), Finish::Done);
        extracted(&expected, encodings, &kept);
        assert_equal(&contents(&target), &contents(&expected), encodings);
        assert_eq!(verify(&target, VerifyOptions::default(), &|_, _| {}).unwrap().problems, []);
        let same = open(&target).fingerprint() == source.fingerprint();
        assert_eq!(same, kept.levels.len() != 1 && kept.views.is_empty(), "{kept:?}");
    }
}

#[test]
fn codes_are_copied_with_their_losses_and_other_forms_are_made_of_their_values() {
    let folder = folder_in_memory();
    let source = folder.path().join("source");
    extracted(&source, "p2=pca4+int8,p3=int4", &Selection::default());
    let (source, before) = (open(&source), contents(&source));
    let same = folder.path().join("same");
    transcode(&source, &same, "", &Selection::default()).unwrap();
    assert_equal(&contents(&same), &before, "the same encodings");

    // Compression is of the codes as they are, there and back.
    let (packed, unpacked) = (folder.path().join("packed"), folder.path().join("unpacked"));
    transcode(&source, &packed, "p2=pca4+int8+zstd,p3=int4+zstd", &Selection::default()).unwrap();
    transcode(&open(&packed), &unpacked, "p2=pca4+int8,p3=int4", &Selection::default()).unwrap();
    assert_equal(&contents(&unpacked), &before, "unpacked");

    let wide = folder.path().join("wide");
    transcode(&source, &wide, "p2=f32", &Selection::default()).unwrap();
    let wide = open(&wide);
    let losses = &wide.manifest().unwrap().losses;
    // Every value of a code is an f32: nothing more is lost. p3's codes are as they were, and so is their loss.
    assert_eq!(losses.get("p2"), None);
    assert_eq!(losses["p3"], source.manifest().unwrap().losses["p3"]);
    let read = |store: &Store, id| {
        let options = ReadOptions { dtype: Some(crate::DType::F32), ..ReadOptions::default() };
        let mut batch = crate::Batch::new();
        store.reader(options).unwrap().read(&[id], &[crate::LevelId(0)], None, &mut batch).unwrap();
        batch.level(0).bytes.to_vec()
    };
    let ok = |row: &crate::SampleRow| row.status == Status::Ok;
    for row in source.rows().iter().filter(ok) {
        assert_eq!(read(&source, row.id), read(&wide, row.id), "{}", row.key);
    }
}

#[test]
fn failed_rows_stay_failed_and_rows_that_cannot_be_held_fail() {
    let folder = folder_in_memory();
    let source = folder.path().join("source");
    let mut huge = 0;
    {
        let options = WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() };
        let encodings = Encodings::parse("f32", &recipe().levels).unwrap();
        let list = || Ok(listing(12));
        let writer = StoreWriter::create_or_resume(&source, &recipe(), &encodings, list, options).unwrap();
        for unit in writer.missing_units().unwrap() {
            let mut rows = writer.begin(&unit).unwrap();
            for id in (unit.rows.start.0..unit.rows.end.0).map(RowId) {
                let mut outcome = features(writer.plan(), id);
                if let RowOutcome::Features { blocks, .. } = &mut outcome
                    && writer.plan().row(id).unwrap().key.0 == "s0005"
                {
                    // Beyond f16, well within f32.
                    blocks[1].bytes[..2].copy_from_slice(&0x7e80u16.to_le_bytes());
                    huge += 1;
                }
                rows.append(outcome).unwrap();
            }
            rows.commit().unwrap();
        }
        writer.finish().unwrap();
    }
    let (source, target) = (open(&source), folder.path().join("target"));
    transcode(&source, &target, "f16", &Selection::default()).unwrap();
    let target = open(&target);
    for (before, after) in source.rows().iter().zip(target.rows()) {
        match before.key.0.as_str() {
            "s0005" => assert_eq!(after.status, Status::Failed("features of p3 are not finite".into())),
            // The fixture's numbers reach beyond f16 too.
            _ if after.status != before.status => {
                assert_eq!(before.status, Status::Ok);
                assert!(matches!(&after.status, Status::Failed(why) if why.contains("not finite")));
            }
            _ => assert_eq!(after, before),
        }
    }
    assert!(huge > 0);
    let reasons = |store: &Store| -> BTreeMap<String, Status> {
        let failed = store.rows().iter().filter(|row| matches!(row.key.0.as_str(), "s0003" | "s0007"));
        failed.map(|row| (format!("{} {}", row.key, row.view), row.status.clone())).collect()
    };
    assert_eq!(reasons(&source), reasons(&target));
    assert!(reasons(&target).values().all(|status| matches!(status, Status::Failed(_))));
}

#[test]
fn a_stopped_run_and_several_workers_end_in_the_same_bytes() {
    let folder = folder_in_memory();
    let (source, expected) = (folder.path().join("source"), folder.path().join("expected"));
    extracted(&source, "bf16", &Selection::default());
    extracted(&expected, "int8", &Selection::default());
    let (source, target) = (open(&source), folder.path().join("target"));
    let encodings = Encodings::parse("int8", &recipe().levels).unwrap();
    let begin = || {
        Transcode::create_or_resume(&source, &target, &Selection::default(), &encodings, calibrated).unwrap()
    };
    let (transcode, stop) = (begin(), AtomicBool::new(true));
    assert_eq!(run(&transcode, &stop).unwrap().fill().units(), 0);
    assert!(matches!(transcode.writer().finish().unwrap(), Finish::Missing(units) if units > 3));
    let held = transcode.writer().claim(&transcode.writer().missing_units().unwrap()[1]).unwrap();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| run(&begin(), &AtomicBool::new(false)).unwrap())).collect();
        // All but one unit is done; they wait for whoever holds it.
        while transcode.writer().missing_units().unwrap().len() > 1 {
            std::thread::yield_now();
        }
        drop(held);
        let counters: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let units: u64 = counters.iter().map(|counters| counters.fill().units()).sum();
        assert_eq!(units, transcode.writer().plan().unit_count());
        assert!(counters.iter().all(|counters| counters.fill().done() == counters.fill().total()));
    });
    assert_eq!(begin().writer().finish().unwrap(), Finish::Done);
    assert_equal(&contents(&target), &contents(&expected), "three workers");
}

#[test]
fn a_damaged_row_is_named_and_costs_nothing_that_is_committed() {
    let folder = folder_in_memory();
    let path = folder.path().join("source");
    let writer = extracted(&path, "bf16", &Selection::default());
    let unit = writer.plan().units().last().unwrap();
    let bucket = &writer.plan().buckets()[unit.bucket];
    let shard = format!("{}/c.{}.0.0.0", layout::array_folder(bucket, "p3"), unit.number);
    let mut bytes = std::fs::read(path.join(&shard)).unwrap();
    bytes[5] ^= 1;
    std::fs::write(path.join(&shard), bytes).unwrap();
    let (source, target) = (open(&path), folder.path().join("target"));
    let error = transcode(&source, &target, "int8", &Selection::default()).unwrap_err();
    let Error::Corrupt { path: named, what } = &error else { panic!("{error}") };
    assert!(named.ends_with(&shard), "{error}");
    let row = &writer.plan().rows()[unit.rows.start.0 as usize];
    let expected =
        format!("level p3, row {} ({}/{}): band 0: the checksum", unit.rows.start, row.split, row.key);
    assert!(what.contains(&expected), "{error}");
    let begun = Store::open(&target, OpenOptions { incomplete: true }).unwrap();
    assert_eq!(begun.missing_units(), [unit]);
}

#[test]
fn what_makes_no_store_is_refused() {
    let folder = folder_in_memory();
    let path = folder.path().join("source");
    extracted(&path, "bf16", &Selection::default());
    let source = open(&path);
    let target = folder.path().join("target");
    let refused = |target: &Path, encodings: &str, selection: &Selection| {
        transcode(&source, target, encodings, selection).unwrap_err().to_string()
    };
    for (kept, message) in [
        (selection(&["p9"], &[], &[]), "level \"p9\": expected one of p2, p3"),
        (selection(&[], &["rot"], &[]), "view \"rot\": expected one of base, hflip"),
        (selection(&[], &[], &["test"]), "split \"test\": expected one of train, val"),
        (selection(&["p2", "p2"], &[], &[]), "given twice"),
    ] {
        let error = refused(&target, "int8", &kept);
        assert!(error.contains(message), "{error}");
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for inside in [path.clone(), path.join("a/b"), link.join("c"), path.join("x/../../source/y")] {
        let error = refused(&inside, "int8", &Selection::default());
        assert!(error.contains("apart from the source"), "{}: {error}", inside.display());
    }
    let error = refused(folder.path(), "int8", &Selection::default());
    assert!(error.contains("apart from the source"), "{error}");
    assert!(!target.exists());

    transcode(&source, &target, "int8", &Selection::default()).unwrap();
    let error = refused(&target, "int4", &Selection::default());
    assert!(error.contains("encodings differs"), "{error}");
    let error = refused(&target, "int8", &selection(&["p2"], &[], &[]));
    assert!(error.contains("levels differs"), "{error}");
    let error = refused(&target, "int8", &selection(&[], &[], &["val"]));
    assert!(error.contains("dataset.splits differs"), "{error}");

    // A store of other features of the same recipe and rows, and one that was extracted.
    let transcoded = Transcode::create_or_resume(
        &source,
        &target,
        &Selection::default(),
        &Encodings::parse("int8", &recipe().levels).unwrap(),
        calibrated,
    )
    .unwrap();
    let note = |notes| transcoded.writer().record_run(&Run { id: "a".into(), notes, ..Run::default() });
    note(transcoded.notes()).unwrap();
    transcode(&source, &target, "int8", &Selection::default()).unwrap();
    for notes in [BTreeMap::new(), BTreeMap::from([(NOTE_CONTENT.to_owned(), "ff".to_owned())])] {
        note(notes).unwrap();
        let error = refused(&target, "int8", &Selection::default());
        assert!(error.contains("source content differs"), "{error}");
    }

    let begun = folder.path().join("begun");
    unfinished(&begun);
    let begun = Store::open(&begun, OpenOptions { incomplete: true }).unwrap();
    let error = transcode(&begun, &folder.path().join("z"), "", &Selection::default()).unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
}
