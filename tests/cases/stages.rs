//! The stages of an extraction when something goes wrong in one of them: panics, lost files, refused writes,
//! features that are no numbers. What was committed before stays, and nothing wrong is committed.

use clap::Parser;
use featcache::cli::{Cli, Command, ExtractArgs};
use featcache_extractor::backbone::{self, Backbone, BackboneOptions, SwinV2Config};
use featcache_extractor::budget::Budget;
use featcache_extractor::counters::Counters;
use featcache_extractor::extract::{self, Ended, Extraction};
use featcache_extractor::preprocess::Input;
use featcache_extractor::source::{Prepared, Source};
use featcache_extractor::weights::WeightSource;
use featcache_extractor::worker::Worker;
use featcache_extractor::{Error, Result, dataset};
use featcache_store::{
    Appended, Claim, Commit, Encodings, FeatureSink, Finish, Listing, NullSink, OpenOptions, Plan, PlanRow,
    Poison, RowOutcome, Status, Store, StoreWriter, Unit, UnitSink, WriterOptions,
};
use featcache_tests::{jpeg, run, text};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

static NEVER: AtomicBool = AtomicBool::new(false);

/// `extract folder` with the fake backbone and a unit a picture, as its words on the command line.
fn words(root: &Path, store: &Path) -> String {
    format!(
        "--quiet extract folder --root {} --backbone fake --compute fp32 --resize none --shard-mib 0 --out {}",
        root.display(),
        store.display()
    )
}

/// What those words ask for.
struct Job {
    args: ExtractArgs,
    backbone: Box<dyn Backbone>,
    recipe: featcache_store::Recipe,
    listing: Listing,
}

impl Job {
    fn new(root: &Path, store: &Path) -> Self {
        let words = format!("featcache {}", words(root, store));
        let Command::Extract(args) = Cli::try_parse_from(words.split_whitespace()).unwrap().command else {
            panic!("{words}")
        };
        let recipe = featcache::model::planned_recipe(&args.recipe, &args.weights).unwrap();
        let options = BackboneOptions { compute: recipe.backbone.compute, ..BackboneOptions::default() };
        let backbone = backbone::build("fake", &WeightSource::Random(0), &options).unwrap();
        let listing = dataset::open("folder", root, &dataset::Wanted::default())
            .unwrap()
            .list(&recipe.preprocess)
            .unwrap();
        Self { args, backbone, recipe, listing }
    }

    fn plan(&self) -> Plan {
        Plan::new(&self.recipe, &self.listing, 0).unwrap()
    }

    fn writer(&self) -> StoreWriter {
        let encodings = Encodings::parse("bf16", &self.recipe.levels).unwrap();
        let options = WriterOptions { shard_bytes: Some(0), ..WriterOptions::default() };
        let listing = || Ok(self.listing.clone());
        StoreWriter::create_or_resume(&self.args.out, &self.recipe, &encodings, listing, options).unwrap()
    }

    fn extract<S: FeatureSink>(
        &self,
        sink: &S,
        prepare: &(dyn Fn(&PlanRow) -> Result<Prepared> + Sync),
    ) -> (Result<Ended>, Counters) {
        let counters = Counters::new(sink.plan(), &sink.missing_units().unwrap());
        let extraction = Extraction {
            worker: Worker { rank: 0, world: 1 },
            prepare,
            recipe: &self.recipe,
            kept: &[0, 1, 2, 3],
            batch: 1,
            decoders: 2,
            stop: &NEVER,
            counters: &counters,
        };
        let ended = extract::run(&extraction, self.backbone.as_ref(), sink);
        (ended, counters)
    }
}

fn pictures(count: u32) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir_all(&root).unwrap();
    for index in 0..count {
        std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 64, index)).unwrap();
    }
    (folder, root, store)
}

/// A grey picture of the planned size.
fn grey(row: &PlanRow) -> Result<Prepared> {
    let valid = row.place.as_ref().unwrap().valid;
    let rgb = vec![128; 3 * valid.height as usize * valid.width as usize];
    Ok(Prepared { source_blake3: Some("00".repeat(32)), input: Ok(Input { valid, rgb }) })
}

#[test]
fn a_panicking_decoder_ends_the_run_and_is_named() {
    let (_folder, root, store) = pictures(8);
    let job = Job::new(&root, &store);
    let writer = job.writer();
    let panicking = |row: &PlanRow| match row.source.as_str() {
        "3.jpg" => panic!("a bug in a decoder"),
        _ => grey(row),
    };
    let error = job.extract(&writer, &panicking).0.unwrap_err();
    assert!(
        matches!(&error, Error::StagePanicked { stage: "decode", source_file: Some(file) } if file == "3.jpg"),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "the decode stage panicked at 3.jpg");
    // Nothing more is committed by this writer; another goes on where it ended.
    let missing = writer.missing_units().unwrap();
    assert!(!missing.is_empty() && writer.begin(&missing[0]).is_err());
    let writer = job.writer();
    assert_eq!(job.extract(&writer, &grey).0.unwrap(), Ended::Done);
    assert_eq!(writer.finish().unwrap(), Finish::Done);
}

#[test]
fn lost_files_end_the_run_and_are_not_recorded() {
    let (_folder, root, store) = pictures(4);
    let job = Job::new(&root, &store);
    let writer = job.writer();
    let elsewhere = root.with_file_name("elsewhere");
    std::fs::rename(&root, &elsewhere).unwrap();
    std::fs::create_dir(&root).unwrap();
    let source = Source::new(&root, &job.recipe).unwrap();
    let prepare = |row: &PlanRow| source.prepare(&row.source, &row.view, &row.place);
    let error = job.extract(&writer, &prepare).0.unwrap_err();
    assert!(matches!(error, Error::SourceLost { .. }), "{error:?}");
    drop(writer);
    let output = run(&words(&root, &store));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains(".jpg: was there when the dataset was listed") && stderr.contains("No such file"),
        "{stderr}"
    );
    assert_eq!(job.writer().missing_units().unwrap().len(), 4);
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&elsewhere, &root).unwrap();
    // A picture of another size is an outcome: its bytes say so.
    std::fs::write(root.join("2.jpg"), jpeg(32, 64, 2)).unwrap();
    let output = run(&words(&root, &store));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let store = Store::open(&store, OpenOptions::default()).unwrap();
    for row in store.rows() {
        match (row.key.0.as_str(), &row.status) {
            ("2.jpg", Status::Failed(reason)) => assert!(reason.starts_with("size changed"), "{reason}"),
            (_, status) => assert_eq!(*status, Status::Ok, "{}", row.key),
        }
    }
}

/// Hands out one unit, which it then refuses to take; the others seem to be claimed by a live worker.
struct Refusing(NullSink);

struct RefusingUnit;

impl FeatureSink for Refusing {
    type Unit = RefusingUnit;
    type Row = RowOutcome;

    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn missing_units(&self) -> featcache_store::Result<Vec<Unit>> {
        self.0.missing_units()
    }

    fn claim(&self, unit: &Unit) -> featcache_store::Result<Option<Claim>> {
        if unit.number == 0 { self.0.claim(unit) } else { Ok(None) }
    }

    fn encode(&self, _: usize, outcome: RowOutcome) -> featcache_store::Result<RowOutcome> {
        Ok(outcome)
    }

    fn begin(&self, _: &Unit) -> featcache_store::Result<RefusingUnit> {
        Ok(RefusingUnit)
    }

    fn poison(&self) -> &Poison {
        self.0.poison()
    }
}

impl UnitSink for RefusingUnit {
    type Row = RowOutcome;

    fn append(&mut self, outcome: RowOutcome) -> featcache_store::Result<Appended> {
        self.append_encoded(outcome)
    }

    fn append_encoded(&mut self, _: RowOutcome) -> featcache_store::Result<Appended> {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(featcache_store::Error::io("shard")(full))
    }

    fn commit(self) -> featcache_store::Result<Commit> {
        panic!("a unit without rows is committed")
    }
}

#[test]
fn a_write_error_is_told_while_others_hold_the_rest() {
    let (_folder, root, store) = pictures(3);
    let (told, result) = std::sync::mpsc::channel();
    // Not joined: without the error's way to the feeder this thread never ends.
    std::thread::spawn(move || {
        let job = Job::new(&root, &store);
        let ended = job.extract(&Refusing(NullSink::new(job.plan())), &grey).0;
        drop(told.send(ended.map_err(|error| error.to_string())));
    });
    let ended = result.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(ended.as_ref().unwrap_err().contains("shard"), "{ended:?}");
}

#[test]
fn a_unit_that_another_worker_lets_go_is_done_here() {
    let (_folder, root, store) = pictures(3);
    let job = Job::new(&root, &store);
    let (writer, other) = (job.writer(), job.writer());
    let held = other.missing_units().unwrap().remove(1);
    let claim = other.claim(&held).unwrap().unwrap();
    let (ended, counters) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while other.missing_units().unwrap().len() > 1 {
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(claim);
        });
        job.extract(&writer, &grey)
    });
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!((counters.fill().units(), counters.fill().elsewhere()), (3, 0));
    assert_eq!(writer.finish().unwrap(), Finish::Done);
}

#[test]
fn counters_are_of_what_lies_on_disk_and_of_all_failures() {
    let (_folder, root, store) = pictures(5);
    std::fs::write(root.join("4.jpg"), b"\xff\xd8\xff").unwrap();
    let job = Job::new(&root, &store);
    let null = NullSink::new(job.plan());
    let (ended, raw) = job.extract(&null, &grey);
    assert_eq!(ended.unwrap(), Ended::Done);
    let writer = job.writer();
    assert_eq!(Counters::new(writer.plan(), &writer.missing_units().unwrap()).failed(), 1);
    let failing = |row: &PlanRow| match row.source.as_str() {
        "0.jpg" => Ok(Prepared { source_blake3: None, input: Err("broken since".into()) }),
        _ => grey(row),
    };
    let (ended, counters) = job.extract(&writer, &failing);
    assert_eq!(ended.unwrap(), Ended::Done);
    assert_eq!((counters.fill().total(), counters.fill().done()), (5, 5));
    assert_eq!((counters.failed(), counters.fill().failed()), (2, 1));
    // Three of four rows, binary32 held as bfloat16, with a few bytes of checksums.
    let payload = raw.fill().bytes() / 4 * 3 / 2;
    assert_eq!(raw.fill().bytes(), null.bytes());
    assert!(
        (payload..payload + 3 * 4 * 64).contains(&counters.fill().bytes()),
        "{} {payload}",
        counters.fill().bytes()
    );
}

#[test]
fn features_that_are_no_numbers_are_recorded_failures() {
    let (folder, root, store) = pictures(2);
    let parameters = SwinV2Config::named("swinv2-demo").unwrap().parameters();
    let weights = WeightSource::Random(2).matched(&parameters).unwrap();
    let tensor = |p| weights.tensor(p, Kind::Float, Device::Cpu).unwrap();
    let tensors: Vec<(String, Tensor)> = parameters.iter().map(|p| (p.name.clone(), tensor(p))).collect();
    let spoilt = &tensors.iter().find(|(name, _)| name == "layers.3.blocks.0.mlp.fc2.bias").unwrap().1;
    let _ = spoilt.narrow(0, 7, 1).fill_(f64::NAN);
    let path = folder.path().join("weights.safetensors");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let report = featcache_tests::done(&format!(
        "--quiet --json extract folder --root {} --backbone swinv2-demo --weights {} --resize none --out {}",
        root.display(),
        path.display(),
        store.display()
    ));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["failed"], 2, "{report}");
    assert_eq!(report["failures"][0]["reason"], "features of p5 are not finite", "{report}");
}

#[test]
fn memory_is_shared_and_never_overdrawn() {
    let budget = Budget::new(100);
    let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (budget, held, most) = (&budget, &held, &most);
            scope.spawn(move || {
                for turn in 0..200 {
                    // Some want more than there is in all, and get all.
                    let wanted = 1 + (thread * 131 + turn * 17) % 140;
                    let share = budget.take(wanted);
                    let now = held.fetch_add(wanted.min(100), Ordering::SeqCst) + wanted.min(100);
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    held.fetch_sub(wanted.min(100), Ordering::SeqCst);
                    drop(share);
                }
            });
        }
    });
    let most = most.into_inner();
    assert!((50..=100).contains(&most), "{most}");
}
