//! Training and evaluation from real stores of drawn features: it learns, it resumes to the last bit, it
//! refuses what does not belong together.

use crate::drawn_store::{DrawnStore, STEPS, recipe};
use featcache::exit;
use featcache_heads::checkpoint::{Checkpoint, LOG_FILE, write_checkpoint};
use featcache_heads::evaluate::{EvaluateSettings, evaluate};
use featcache_heads::features::RunFeatures;
use featcache_heads::loader::LoaderOptions;
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::run::Run;
use featcache_heads::train::{TrainProgress, TrainSettings, TrainSummary, train};
use featcache_heads::{Error, Result};
use featcache_store::Store;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;

fn run(store: &Store, recipe: &TrainRecipe, folder: &Path) -> Result<TrainSummary> {
    one_thread();
    train(store, recipe, folder, &TrainSettings::default())
}

/// The number of torch's threads is the process's, and the order of sums depends on it: who compares runs to
/// the last bit, or with those of another process, sets it. Maps this small only make threads wait anyway.
fn one_thread() {
    tch::set_num_threads(1);
}

/// Lines of the log about steps, without the fields that tell the time.
fn curve(folder: &Path) -> Vec<[String; 4]> {
    let text = std::fs::read_to_string(folder.join(LOG_FILE)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let steps = lines.filter(|line| line.get("loss").is_some());
    steps.map(|line| ["step", "loss", "gradient_norm", "lr"].map(|key| line[key].to_string())).collect()
}

fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(curve(a), curve(b));
    let [a, b] = [a, b].map(|folder| std::fs::read(Checkpoint::latest(folder)).unwrap());
    assert!(a == b, "checkpoints differ");
}

#[test]
fn heads_learn_separable_features() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    for kind in ["linear", "upernet"] {
        let folder = drawn.folder(kind);
        let recipe = recipe(kind, "train.epochs = 25\ntrain.log_every = 1000");
        let summary = run(&store, &recipe, &folder).unwrap();
        assert_eq!((summary.backbone_parameters, summary.failed_rows), (0, 2));
        assert_eq!(summary.unlabelled_rows, 0);
        assert!(summary.tunable_parameters > 100);
        let report = evaluate(&folder, &store, &EvaluateSettings::default()).unwrap();
        assert_eq!((report.samples, report.failed, report.unlabelled), (6, 0, 1));
        let miou = report.scores.miou.unwrap();
        assert!(miou > 0.95, "{kind}: mIoU {miou}");
        let settings = EvaluateSettings { batch: 1, ..EvaluateSettings::default() };
        assert_eq!(evaluate(&folder, &store, &settings).unwrap().scores, report.scores);
        let train_split = EvaluateSettings { split: Some("train".into()), ..EvaluateSettings::default() };
        let report = evaluate(&folder, &store, &train_split).unwrap();
        assert_eq!((report.samples, report.failed), (20, 1));
    }
    let settings = TrainSettings { split: Some("val".into()), ..TrainSettings::default() };
    let recipe = recipe("linear", "train.epochs = 2\ntrain.views = [\"base\"]");
    let summary = train(&store, &recipe, &drawn.folder("val"), &settings).unwrap();
    assert_eq!((summary.samples, summary.unlabelled_rows), (7, 2));
}

#[test]
fn a_stopped_run_goes_on_to_the_last_bit() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let recipe = recipe("upernet", STEPS);
    let (whole, parts) = (drawn.folder("whole"), drawn.folder("parts"));
    assert_eq!(run(&store, &recipe, &whole).unwrap().step, 12);
    let mut resumed_at = 0;
    for stop_at in [1, 5, 6, 11] {
        let stop = AtomicBool::new(false);
        let progress = |line: &TrainProgress| stop.store(line.step >= stop_at, Ordering::Relaxed);
        let settings =
            TrainSettings { stop: Some(&stop), progress: Some(&progress), ..TrainSettings::default() };
        let summary = train(&store, &recipe, &parts, &settings).unwrap();
        assert!(summary.stopped);
        assert_eq!((summary.resumed_at, summary.step), (resumed_at, stop_at));
        resumed_at = stop_at;
    }
    let summary = run(&store, &recipe, &parts).unwrap();
    assert_eq!((summary.stopped, summary.resumed_at, summary.step), (false, 11, 12));
    assert_same_run(&whole, &parts);
    // Once more: nothing left to do.
    assert_eq!(run(&store, &recipe, &parts).unwrap().resumed_at, 12);
    assert_same_run(&whole, &parts);
}

#[test]
fn prefetch_threads_and_budget_change_nothing() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let recipe = recipe("upernet", STEPS);
    let reference = drawn.folder("reference");
    run(&store, &recipe, &reference).unwrap();
    for (threads, bytes) in [(3, 1), (4, 1 << 30), (2, 100_000)] {
        let folder = drawn.folder(&format!("threads-{threads}"));
        let loader = LoaderOptions { threads, bytes, ..LoaderOptions::default() };
        train(&store, &recipe, &folder, &TrainSettings { loader, ..TrainSettings::default() }).unwrap();
        assert_same_run(&reference, &folder);
    }
}

/// Environment of the child process that [`a_killed_run_goes_on_to_the_last_bit`] kills.
const CHILD_STORE: &str = "FEATCACHE_TEST_TRAIN_STORE";

#[test]
fn child_that_trains_until_killed() {
    let Some(folder) = std::env::var_os(CHILD_STORE).map(PathBuf::from) else { return };
    let store = Store::open(&folder.join("store"), Default::default()).unwrap();
    one_thread();
    let slow = |_: &TrainProgress| std::thread::sleep(std::time::Duration::from_millis(30));
    let settings = TrainSettings { progress: Some(&slow), ..TrainSettings::default() };
    train(&store, &recipe("upernet", STEPS), &folder.join("killed"), &settings).unwrap();
}

#[test]
fn a_killed_run_goes_on_to_the_last_bit() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let recipe = recipe("upernet", STEPS);
    let (whole, killed) = (drawn.folder("whole"), drawn.folder("killed"));
    run(&store, &recipe, &whole).unwrap();
    for lines in [2, 5, 9] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "training::child_that_trains_until_killed"])
            .env(CHILD_STORE, drawn.root())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begin = std::time::Instant::now();
        let log = killed.join(LOG_FILE);
        let written = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        while written() < lines && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed().as_secs() < 120, "the child trains nothing");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let summary = run(&store, &recipe, &killed).unwrap();
    assert_eq!(summary.step, 12);
    assert_same_run(&whole, &killed);
}

#[test]
fn loss_that_is_not_a_number_keeps_the_last_checkpoint() {
    let drawn = DrawnStore { poisoned: Some("train-05"), ..DrawnStore::default() }.write();
    let store = drawn.open();
    let recipe = recipe("linear", "train.epochs = 2\ntrain.checkpoint_every = 1\ntrain.batch = 2");
    let folder = drawn.folder("run");
    for _ in 0..2 {
        let error = run(&store, &recipe, &folder).unwrap_err();
        let Error::NotFinite { what, step, rows } = &error else { panic!("{error}") };
        assert_eq!(what, "loss main");
        assert!(rows.split(", ").any(|row| row.starts_with("train-05 ")), "{rows}");
        match Checkpoint::read(&Checkpoint::latest(&folder)) {
            Ok(checkpoint) => assert_eq!(checkpoint.state.step, *step),
            Err(error) => assert!(*step == 0, "{error}"),
        }
    }
    let run = Run::open(&folder, Device::Cpu).unwrap();
    let values = run.model.parameters().entries();
    assert!(values.iter().all(|entry| entry.tensor.isfinite().all().int64_value(&[]) == 1));
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (String, String, String) {
    match result.unwrap_err() {
        Error::RunMismatch { field, expected, found, .. } => (field, expected, found),
        error => panic!("{error}"),
    }
}

#[test]
fn what_does_not_belong_together_is_refused_by_field() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let linear = recipe("linear", "train.steps = 2");
    let folder = drawn.folder("run");
    run(&store, &linear, &folder).unwrap();
    let settings = EvaluateSettings::default();

    let other = DrawnStore { weights: "cd", ..DrawnStore::default() }.write();
    for (field, expected, found) in
        [refusal(run(&other.open(), &linear, &folder)), refusal(evaluate(&folder, &other.open(), &settings))]
    {
        assert_eq!(field, "fingerprint");
        assert_eq!((expected, found), (store.fingerprint().0.clone(), other.open().fingerprint().0.clone()));
    }
    let other = DrawnStore { classes: ["wall", "sky", "road"], ..DrawnStore::default() }.write();
    for (field, expected, found) in
        [refusal(run(&other.open(), &linear, &folder)), refusal(evaluate(&folder, &other.open(), &settings))]
    {
        assert_eq!((field, expected, found), ("category 2".into(), "3 \"tree\"".into(), "3 \"road\"".into()));
    }
    let changed = recipe("linear", "train.steps = 2\noptimizer.lr = 0.5");
    let found = refusal(run(&store, &changed, &folder));
    assert_eq!(found, ("recipe.optimizer.lr".into(), "0.02".into(), "0.5".into()));
    let settings = TrainSettings { split: Some("val".into()), ..TrainSettings::default() };
    let found = refusal(train(&store, &linear, &folder, &settings));
    assert_eq!(found, ("split".into(), "train".into(), "val".into()));
}

#[test]
fn a_store_of_other_pictures_is_scored_on_but_not_resumed_from() {
    let drawn = DrawnStore::default().write();
    let linear = recipe("linear", "train.steps = 2");
    let folder = drawn.folder("run");
    run(&drawn.open(), &linear, &folder).unwrap();
    let other = DrawnStore { prefix: "other", ..DrawnStore::default() }.write();
    assert_eq!(drawn.open().fingerprint(), other.open().fingerprint());
    let (field, expected, found) = refusal(run(&other.open(), &linear, &folder));
    assert_eq!((field.as_str(), expected.len(), found.len()), ("samples", 64, 64));
    assert_ne!(expected, found);
    evaluate(&folder, &other.open(), &EvaluateSettings::default()).unwrap();
}

#[test]
fn label_maps_are_not_scored_on_mirrored_views() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let folder = drawn.folder("run");
    run(&store, &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let settings = EvaluateSettings { view: "hflip".into(), ..EvaluateSettings::default() };
    let text = evaluate(&folder, &store, &settings).unwrap_err().to_string();
    assert_eq!(text, "view \"hflip\" is mirrored, expected one that is not for label maps");
}

#[test]
fn a_stopped_evaluation_is_told_from_a_failed_one() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let folder = drawn.folder("run");
    run(&store, &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let stop = AtomicBool::new(true);
    let settings = EvaluateSettings { stop: Some(&stop), ..EvaluateSettings::default() };
    let error = evaluate(&folder, &store, &settings).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error:?}");
    assert!(error.to_string().starts_with("evaluation stopped after "), "{error}");
    assert_eq!(exit::code_of(&error.into()), exit::ExitCode::Incomplete);
}

#[test]
fn a_panic_is_a_bug_and_ends_as_one() {
    assert_eq!(exit::caught(|| exit::ExitCode::Usage), exit::ExitCode::Usage);
    assert_eq!(exit::caught(|| panic!("as it should be: this case panics")), exit::ExitCode::Bug);
}

#[test]
fn a_tensor_that_cannot_be_copied_costs_no_checkpoint() {
    let drawn = DrawnStore::default().write();
    let folder = drawn.folder("run");
    run(&drawn.open(), &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let path = Checkpoint::latest(&folder);
    let (before, state) = (std::fs::read(&path).unwrap(), Checkpoint::read(&path).unwrap().state);
    let good = tch::Tensor::from_slice(&[1f32, 2.0]);
    // Its values lie in no plain memory: copying them out fails, as when a device is gone.
    let bad = good.to_sparse_sparse_dim(1);
    let model = [("a".to_owned(), &good), ("b".to_owned(), &bad)];
    let error = write_checkpoint(&path, &state, model.into_iter(), std::iter::empty()).unwrap_err();
    assert!(matches!(error, Error::Torch { .. }), "{error:?}");
    assert!(before == std::fs::read(&path).unwrap(), "the good checkpoint was replaced");
    let model = [("b".to_owned(), &good), ("a".to_owned(), &good)];
    write_checkpoint(&path, &state, model.into_iter(), std::iter::empty()).unwrap();
    let read = Checkpoint::read(&path).unwrap();
    assert_eq!(read.state, state);
    assert_eq!(read.model.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(read.model.values().all(|tensor| tensor.equal(&good)));
}

#[test]
fn a_run_folder_holds_its_files_alike_and_nothing_else() {
    use std::os::unix::fs::PermissionsExt;
    let drawn = DrawnStore::default().write();
    let (store, folder) = (drawn.open(), drawn.folder("run"));
    std::fs::create_dir(&folder).unwrap();
    // What a kill left: the next attempt writes over it.
    std::fs::write(folder.join(".tmp-checkpoint-latest.safetensors"), b"half").unwrap();
    run(&store, &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<(String, u32)> = entries
        .map(|entry| {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().to_string_lossy().into_owned(), mode)
        })
        .collect();
    found.sort();
    let mode = found[0].1;
    assert_ne!(mode & 0o400, 0);
    let names = ["checkpoint-latest.safetensors", "features.json", "log.jsonl", "recipe.toml"];
    assert_eq!(found, names.map(|name| (name.to_owned(), mode)), "modes are those of the user's umask");
}

#[test]
fn a_refused_training_leaves_no_features_for_the_next() {
    let drawn = DrawnStore::default().write();
    let other = DrawnStore { weights: "cd", ..DrawnStore::default() }.write();
    let folder = drawn.folder("run");
    let refused = recipe("linear", "train.steps = 1\ntrain.views = [\"rotated\"]");
    run(&other.open(), &refused, &folder).unwrap_err();
    // Refused later, when the folder is there already.
    let refused = recipe("linear", "train.steps = 1\ntrain.batch = 100\ntrain.drop_last = true");
    run(&other.open(), &refused, &folder).unwrap_err();
    let store = drawn.open();
    run(&store, &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let features = RunFeatures::read(&folder, &store.fingerprint().0).unwrap();
    assert_eq!((&features.recipe, &features.encodings), (store.recipe(), store.encodings()));
    refusal(RunFeatures::read(&folder, &other.open().fingerprint().0));
    // A run that is refused because the folder is another's changes nothing in it.
    refusal(run(&other.open(), &recipe("linear", "train.steps = 1"), &folder));
    assert_eq!(RunFeatures::read(&folder, &store.fingerprint().0).unwrap(), features);
}

#[test]
fn bad_requests_end_in_one_clear_line() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let text = |result: Result<TrainSummary>| result.unwrap_err().to_string();
    let of = |extra: &str| recipe("linear", &format!("train.steps = 1\n{extra}"));
    let folder = drawn.folder("run");
    let found = text(run(&store, &of("train.views = [\"rotated\"]"), &folder));
    assert_eq!(found, "view \"rotated\" is not in the store, which has base, hflip");
    let found = text(run(&store, &of("head.levels = [\"p9\"]"), &folder));
    assert_eq!(found, "head.levels names \"p9\", the store has p2, p3, p4");
    let settings = TrainSettings { split: Some("test".into()), ..TrainSettings::default() };
    let found = text(train(&store, &of(""), &folder, &settings));
    assert_eq!(found, "split \"test\" is not in the store, which has train, val");
    let found = text(run(&store, &of("train.batch = 100\ntrain.drop_last = true"), &folder));
    assert_eq!(found, "no bucket has train.batch rows, and train.drop_last leaves out the rest");

    let large = DrawnStore { large_label: Some("train-03"), ..DrawnStore::default() }.write();
    let found = text(run(&large.open(), &recipe("linear", "train.epochs = 1"), &large.folder("run")));
    assert_eq!(found, "label map of sample train-03: is 65x64, its picture is 64x64");

    let nothing = drawn.folder("nothing");
    let found = evaluate(&nothing, &store, &EvaluateSettings::default()).unwrap_err();
    assert!(matches!(found, Error::NotFound { .. }), "{found}");
    std::fs::create_dir_all(&nothing).unwrap();
    for damage in [&b""[..], b"not a checkpoint", &[0xff; 64]] {
        std::fs::write(Checkpoint::latest(&nothing), damage).unwrap();
        let found = evaluate(&nothing, &store, &EvaluateSettings::default()).unwrap_err();
        assert!(matches!(found, Error::Corrupt { .. }), "{found}");
        assert!(matches!(run(&store, &of(""), &nothing), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_cut_checkpoint_is_refused_whatever_its_length() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let folder = drawn.folder("run");
    run(&store, &recipe("linear", "train.steps = 1"), &folder).unwrap();
    let path = Checkpoint::latest(&folder);
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(101).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(Checkpoint::read(&path), Err(Error::Corrupt { .. })), "{length}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().state.step, 1);
}

#[test]
fn one_folder_is_trained_by_one_process() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let folder = drawn.folder("run");
    let recipe = recipe("linear", "train.steps = 2");
    let inner = |_: &TrainProgress| {
        let text = run(&store, &recipe, &folder).unwrap_err().to_string();
        assert!(text.ends_with("another process trains in this folder"), "{text}");
    };
    let settings = TrainSettings { progress: Some(&inner), ..TrainSettings::default() };
    assert_eq!(train(&store, &recipe, &folder, &settings).unwrap().step, 2);
}

#[test]
fn recipes_of_the_repository_are_complete() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    for name in ["demo", "linear", "upernet"] {
        let path = folder.join(format!("{name}.toml"));
        let recipe = TrainRecipe::read(&path).unwrap();
        let again = TrainRecipe::parse(&recipe.to_toml().unwrap(), &path).unwrap();
        assert_eq!(recipe, again);
    }
}

#[test]
fn recipes_name_the_key_that_is_wrong() {
    let path = Path::new("recipe.toml");
    let good = "[head]\nkind = \"upernet\"\n[train]\nbatch = 2\nsteps = 3\n";
    assert!(TrainRecipe::parse(good, path).is_ok());
    for (extra, key) in [
        ("epochs = 1", "train.epochs and train.steps"),
        ("bacth = 3", "bacth"),
        ("log_every = 0", "train.log_every is 0"),
        ("precision = \"fp8\"", "fp8"),
        ("[optimizer]\nlr = 0.0", "optimizer.lr is 0"),
        ("[optimizer]\nlr = nan", "optimizer.lr is NaN"),
        ("[optimizer]\nmomentum = 0.9", "momentum"),
        ("[optimizer]\nlr = \"fast\"", "lr"),
        ("[schedule]\ndecay = \"stairs\"", "stairs"),
        ("[schedule]\ndecay = \"step\"", "exactly one of schedule.step_epochs"),
        ("[schedule]\nstep_epochs = [8]", "schedule.step_epochs is [8]"),
        ("[schedule]\ndecay = \"step\"\nstep_shares = [0.9, 0.5]", "schedule.step_shares is [0.9, 0.5]"),
        ("[schedule]\ndecay = \"step\"\nstep_shares = [1.0]", "schedule.step_shares is [1.0]"),
        ("[schedule]\ndecay = \"step\"\nstep_shares = [0.5]\nstep_factor = 2.0", "schedule.step_factor is 2"),
        ("[detector]\n", "detector is given"),
        ("empty = \"maybe\"", "maybe"),
        ("[schedule]\nmin_lr = 1.0", "schedule.min_lr is 1"),
        ("[head.linear]\ndropout = 0.1", "head.linear is given"),
        ("[head.upernet]\nchannels = 0", "head.upernet.channels is 0"),
        ("[head.upernet]\ndropout = 1.0", "head.upernet.dropout is 1"),
        ("[head.upernet]\npool_scales = [0]", "head.upernet.pool_scales"),
        ("[head.upernet]\nchanels = 3", "chanels"),
        ("[labels]\nzero = \"maybe\"", "maybe"),
    ] {
        let error = TrainRecipe::parse(&format!("{good}{extra}\n"), path).unwrap_err().to_string();
        assert!(error.starts_with("recipe.toml: ") && error.contains(key), "{extra}: {error}");
    }
    let error = TrainRecipe::parse("[train]\nbatch = 1\n", path).unwrap_err().to_string();
    assert!(error.contains("head"), "{error}");
    assert!(matches!(TrainRecipe::read(Path::new("/nowhere/recipe.toml")), Err(Error::Io { .. })));
}

#[test]
fn a_damaged_feature_stops_training_and_names_its_sample() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let row = store.find(Some("train"), "train-04", "base").unwrap();
    let shards = drawn.folder("store/features/train/base/64x64/p2");
    let damaged = std::fs::read_dir(shards).unwrap().map(|entry| entry.unwrap().path());
    for path in damaged.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("c.")) {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(row.bucket.unwrap().to_string(), "64x64");
    let recipe = recipe("linear", "train.epochs = 1\ntrain.views = [\"base\"]");
    let error = run(&store, &recipe, &drawn.folder("run")).unwrap_err();
    assert!(matches!(error, Error::Store(featcache_store::Error::Corrupt { .. })), "{error}");
    assert!(error.to_string().contains("train-"), "{error}");
}
