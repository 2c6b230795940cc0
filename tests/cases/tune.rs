//! `tune`: versions of features are what stores of their encodings would give, the reference is a plain
//! training, budgets choose as the help says.

use crate::drawn_store::{DrawnStore, STEPS, recipe};
use featcache::scene::{SceneOptions, write_dataset};
use featcache::tune::candidate::{Candidates, Origin, store_text};
use featcache::tune::choice::Budget;
use featcache::tune::curve::{Loss, Point};
use featcache_heads::Version;
use featcache_heads::checkpoint::Checkpoint;
use featcache_heads::evaluate::{EvaluateJob, EvaluateSettings, evaluate_run, evaluate_runs};
use featcache_heads::run::Run;
use featcache_heads::seed::Seed;
use featcache_heads::selection::{HoldOut, Selection};
use featcache_heads::train::{TrainJob, TrainSettings, train, train_together};
use featcache_store::{Encodings, LevelSpec, Projection, Projections, Spread};
use featcache_tests::{done, run, text};
use serde_json::Value;
use tch::Device;

/// Ways to hold the drawn store's levels: its own, and three that lose.
const VERSIONS: [&str; 4] =
    ["f32", "int8", "p2=int4,p3=e4m3fn,p4=bf16", "p2=pca4+int8,p3=int8+zstd,p4=pca16+f16"];

/// Bases of unit vectors for what encodings hold as coefficients.
fn bases(encodings: &Encodings, levels: &[LevelSpec]) -> Projections {
    let mut projections = Projections::default();
    for level in levels {
        let Some(k) = encodings.of(&level.name).unwrap().projection else { continue };
        let (k, c) = (k.get() as usize, level.channels as usize);
        let basis = (0..k * c).map(|at| f32::from(u8::from(at / c == at % c))).collect();
        projections.insert(&level.name, Projection::new(basis, vec![0.25; c]).unwrap());
    }
    projections
}

#[test]
fn a_version_is_what_a_store_of_its_encodings_gives() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let recipe = recipe("upernet", STEPS);
    let versions = VERSIONS.map(|text| {
        let encodings = Encodings::parse(text, &store.recipe().levels).unwrap();
        let projections = bases(&encodings, &store.recipe().levels);
        Version { encodings, projections }
    });
    let folders = [0, 1, 2, 3].map(|number| drawn.folder(&format!("run-{number}")));
    let jobs = [0, 1, 2, 3].map(|number| TrainJob {
        recipe: &recipe,
        folder: &folders[number],
        weights: None,
        version: Some(&versions[number]),
    });
    train_together(&store, &jobs, &TrainSettings::default()).unwrap();
    let runs = folders.each_ref().map(|folder| Run::open(folder, Device::Cpu).unwrap());
    // Every head on every version.
    let pairs = [0, 1, 2, 3].map(|run| [0, 1, 2, 3].map(|version| (run, version))).concat();
    let evaluations: Vec<EvaluateJob<'_>> = pairs
        .iter()
        .map(|&(run, version)| EvaluateJob { run: &runs[run], version: Some(&versions[version]) })
        .collect();
    let settings = EvaluateSettings::default();
    let reports = evaluate_runs(&evaluations, &store, &settings).unwrap();

    let mut differ = 0;
    for (version, encodings) in VERSIONS.into_iter().enumerate() {
        let projections = versions[version].projections.clone();
        let other = DrawnStore { encodings, projections, ..DrawnStore::default() }.write();
        let (store, folder) = (other.open(), other.folder("run"));
        train(&store, &recipe, &folder, &TrainSettings::default()).unwrap();
        let [ours, theirs] =
            [&folders[version], &folder].map(|folder| std::fs::read(Checkpoint::latest(folder)).unwrap());
        assert!(ours == theirs, "{encodings}: the heads differ");
        let features = |folder| std::fs::read(std::path::Path::join(folder, "features.json")).unwrap();
        assert_eq!(features(&folders[version]), features(&folder), "{encodings}");
        for (&(run, of), report) in pairs.iter().zip(&reports).filter(|((_, of), _)| *of == version) {
            let alone = evaluate_run(&runs[run], &store, &settings).unwrap();
            assert_eq!(alone.scores, report.scores, "head {run} on {}", VERSIONS[of]);
            assert_eq!((alone.samples, alone.unlabelled), (report.samples, report.unlabelled));
        }
        differ += u32::from(version > 0 && ours != std::fs::read(Checkpoint::latest(&folders[0])).unwrap());
    }
    assert_eq!(differ, 3, "encodings that lose something make other heads");
}

#[test]
fn what_is_held_out_is_not_trained_on() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let held = HoldOut::new(&store, "train", 0.25, Seed(3)).unwrap();
    let samples = |only: bool| {
        let mut selection = Selection::new(&store, "train", &[]).unwrap();
        selection.retain(&store, |row| Ok(held.holds(&row.key) == only)).unwrap();
        selection.samples.len() as u64
    };
    assert_eq!((samples(true), samples(false)), (5, 15));
    let recipe = recipe("linear", "train.steps = 1");
    let settings = TrainSettings { split: Some("train".into()), without: Some(&held), ..Default::default() };
    let folder = drawn.folder("run");
    assert_eq!(train(&store, &recipe, &folder, &settings).unwrap().samples, 15);
    let settings =
        EvaluateSettings { split: Some("train".into()), only: Some(&held), ..EvaluateSettings::default() };
    let run = Run::open(&folder, Device::Cpu).unwrap();
    assert_eq!(evaluate_run(&run, &store, &settings).unwrap().samples, 5);
    assert_eq!(HoldOut::new(&store, "train", 0.25, Seed(3)).unwrap(), held);
    assert_ne!(HoldOut::new(&store, "train", 0.25, Seed(4)).unwrap(), held);
    // Never all and never none.
    for (share, count) in [(0.001, 1), (0.999, 19)] {
        let held = HoldOut::new(&store, "train", share, Seed(0)).unwrap();
        let held = store.rows().iter().filter(|row| &*row.view == "base" && held.holds(&row.key)).count();
        assert_eq!(held, count);
    }
}

fn point(store: &str, origin: Origin, bytes: f64, loss: Option<f64>) -> Point {
    let median = loss.map(|loss| Loss::of(&[1.0], &[1.0 - loss]).unwrap());
    Point {
        store: store.into(),
        origin,
        bytes_per_image: bytes,
        of_reference: bytes / 16.0,
        of_bf16: bytes / 16.0,
        scores: vec![],
        metric: Spread::of(vec![]),
        mask_ap: None,
        loss: median,
        loss_untrained: None,
    }
}

#[test]
fn budgets_choose_as_the_help_says() {
    let points = [
        point("bf16", Origin::Reference, 16.0, None),
        point("int8", Origin::Uniform, 8.0, Some(0.001)),
        point("e4m3fn", Origin::Uniform, 8.0, Some(0.02)),
        point("mixed", Origin::Search, 6.0, Some(-0.001)),
        point("int4", Origin::Uniform, 4.0, Some(0.03)),
        point("failed", Origin::Given, 1.0, None),
    ];
    let choose = |bytes_per_image, max_loss| {
        let choice = Budget { bytes_per_image, max_loss }.choose(&points).unwrap();
        assert_eq!(choice.store, points[choice.point].store);
        (choice.store, choice.meets)
    };
    // A loss: the fewest bytes that hold it; a loss that is not known holds nothing.
    assert_eq!(choose(None, Some(0.005)), ("mixed".into(), true));
    assert_eq!(choose(None, Some(0.05)), ("int4".into(), true));
    assert_eq!(choose(None, Some(0.0)), ("mixed".into(), true));
    // Bytes: the least loss that fits.
    assert_eq!(choose(Some(16.0), None), ("mixed".into(), true));
    assert_eq!(choose(Some(5.0), None), ("int4".into(), true));
    // Both, and what is nearest where nothing meets them.
    assert_eq!(choose(Some(7.0), Some(0.005)), ("mixed".into(), true));
    assert_eq!(choose(Some(5.0), Some(0.005)), ("int4".into(), false));
    assert_eq!(choose(Some(0.5), None), ("failed".into(), false));
    assert_eq!(choose(Some(1.0), None), ("failed".into(), false), "what is unknown holds no budget");
    // With nothing but the reference, that is it.
    let alone = Budget { bytes_per_image: None, max_loss: Some(0.005) }.choose(&points[..1]).unwrap();
    assert!(alone.meets && alone.is_reference);
    assert_eq!(Budget { bytes_per_image: None, max_loss: None }.choose(&[]), None);
}

#[test]
fn losses_are_within_a_seed() {
    let loss = Loss::of(&[0.5, 0.8, 0.4], &[0.49, 0.8, 0.41]).unwrap();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
    near(loss.median, 0.0);
    near(loss.least, -0.025);
    near(loss.greatest, 0.02);
    // Mean -1/600, standard deviation 0.0225462, t 4.303.
    near((loss.uncertainty.unwrap() * 1e6).round(), 56013.0);
    assert_eq!(loss.within_noise, Some(true));
    let sure = Loss::of(&[0.5, 0.5, 0.5], &[0.45, 0.4501, 0.4499]).unwrap();
    assert_eq!(sure.within_noise, Some(false));
    // The median of two is between them, and of one seed no noise is known.
    near(Loss::of(&[1.0, 1.0], &[0.9, 0.7]).unwrap().median, 0.2);
    assert_eq!(Loss::of(&[1.0], &[0.9]).unwrap().within_noise, None);
    // A reference that scores nothing tells nothing.
    assert_eq!(Loss::of(&[0.0, 0.0], &[0.0, 0.1]), None);
}

#[test]
fn candidates_are_there_once() {
    let levels = crate::written_store::store_recipe(
        "ab",
        featcache_store::ResizeRule::KeepRatio { short: 64, long: 128 },
        [8, 12, 16],
    )
    .levels;
    let mut candidates = Candidates::new(&Encodings::parse("", &levels).unwrap());
    let texts = ["bf16", "p2=int4", "p2=int4,p3=bf16", "int8"].map(str::to_owned);
    candidates.add_given(&texts, &levels).unwrap();
    let found: Vec<String> = candidates.all().iter().map(|one| store_text(&one.encodings)).collect();
    assert_eq!(found, ["bf16", "p2=int4,p3=bf16,p4=bf16", "int8"]);
    let wanted: Vec<String> =
        candidates.wanted(&levels).iter().map(|(level, encoding)| format!("{level} {encoding}")).collect();
    assert_eq!(wanted, ["0 bf16", "0 int4", "0 int8", "1 bf16", "1 int8", "2 bf16", "2 int8"]);
}

#[track_caller]
fn json(args: &str) -> Value {
    serde_json::from_str(&done(&format!("--quiet --json {args}"))).unwrap()
}

#[test]
fn the_program_tunes_label_maps_and_objects() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write_dataset(&folder.path().join("scenes"), &SceneOptions { train: 4, val: 2, ..Default::default() })
        .unwrap();
    let linear = "[head]\nkind = \"linear\"\n[train]\nsteps = 3\nbatch = 2\nseed = 5\n";
    let detector = "[head]\nkind = \"detector\"\n[detector.neck]\nchannels = 16\noutputs = 4\n[detector.rpn]\n\
                    channels = 16\ntrain = { per_level = 50, keep = 40 }\ntest = { per_level = 50, keep = 40 }\n\
                    [detector.head]\nsamples = 16\n[detector.head.box]\nfc_channels = 16\n[detector.head.mask]\n\
                    convs = 1\nchannels = 16\n[detector.inference]\nscore = 0.0\n[train]\nsteps = 2\nbatch = 2\n";
    std::fs::write(at("linear.toml"), linear).unwrap();
    std::fs::write(at("detector.toml"), detector).unwrap();
    for (dataset, splits, recipe) in
        [("ade20k", ["training", "validation"], "linear"), ("coco", ["train", "val"], "detector")]
    {
        let (store, root, head) = (
            at(&format!("store-{dataset}")),
            at(&format!("scenes/{dataset}")),
            at(&format!("{recipe}.toml")),
        );
        done(&format!(
            "--quiet extract {dataset} --root {root} --split {} --backbone fake --resize none --out {store}",
            splits.join(",")
        ));
        let out = at(&format!("out-{dataset}"));
        let tune = format!(
            "tune {store} --head {head} --out {out} --seeds 2 --candidate int8;p2=pca4+int4 --max-loss 100% \
             --measure-rows 2 --threads 1"
        );
        let tuned = json(&tune);
        let stores: Vec<&str> = tuned["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["store"].as_str().unwrap())
            .collect();
        assert_eq!(stores, ["bf16", "int8", "p2=pca4+int4,p3=bf16,p4=bf16,p5=bf16"]);
        assert_eq!(tuned["seeds"].as_array().unwrap().len(), 2);
        let bytes: Vec<f64> =
            [0, 1, 2].iter().map(|&at| tuned["points"][at]["of_bf16"].as_f64().unwrap()).collect();
        assert!(
            bytes[0] == 1.0 && (0.5..0.6).contains(&bytes[1]) && (0.3..0.8).contains(&bytes[2]),
            "{bytes:?}"
        );
        assert!(std::path::Path::new(&format!("{out}/curve.png")).is_file());
        let written: Value =
            serde_json::from_slice(&std::fs::read(format!("{out}/tune.json")).unwrap()).unwrap();
        assert_eq!(written, tuned);
        for measure in tuned["levels"].as_array().unwrap() {
            let lost = measure["trial"]["loss"]["relative_l2"].as_f64().unwrap();
            assert_eq!(lost == 0.0, measure["encoding"] == "bf16", "{measure}");
            assert_eq!(measure["trial"]["loss"]["rows"], 2);
        }

        // The reference is a plain training and scoring, to the last digit.
        let plain = at(&format!("plain-{dataset}"));
        done(&format!(
            "--quiet train {store} --recipe {head} --out {plain} --split {} --threads 1",
            splits[0]
        ));
        let scored = json(&format!("eval {plain} {store} --split {} --threads 1", splits[1]));
        let score = match dataset {
            "coco" => &scored["scores"]["boxes"]["ap"],
            _ => &scored["scores"]["miou"],
        };
        assert_eq!(tuned["points"][0]["scores"][0], *score);
        assert_eq!(tuned["eval_samples"], 2);

        // Once more: all heads are there.
        let again = json(&tune);
        assert_eq!(again["points"], tuned["points"]);

        // A budget that nothing meets: the nearest is named, and the result is there all the same.
        let output = run(&format!("--quiet {} --bytes-per-image 1kB", tune.replace("--max-loss 100%", "")));
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains("no candidate has at most 1.00 kB an image; the nearest: "), "{said}");
        assert!(said.contains("\n  --store int8\n"), "{said}");
    }
    // One split: some of its samples are held out.
    let held = format!(
        "tune {} --head {} --out {} --split training --eval-split training --hold-out 0.5 --seeds 1 --candidate \
         int4 --measure-rows 1 --threads 1",
        at("store-ade20k"),
        at("linear.toml"),
        at("out-held")
    );
    let output = run(&format!("--quiet --json {held}"));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", text(&output.stderr));
    let tuned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&tuned["train_samples"], &tuned["eval_samples"]), (&2.into(), &2.into()));

    for (arguments, code, said) in [
        (
            format!("{} --candidate int9", at("store-coco")),
            2,
            "--candidate: encoding \"int9\": \"int9\" is unknown",
        ),
        (format!("{} --candidate p9=int8", at("store-coco")), 2, "--candidate: encoding of level \"p9\""),
        (format!("{} --bytes-per-image 0", at("store-coco")), 2, "expected a number of bytes such as 60kB"),
        (format!("{} --max-loss 2", at("store-coco")), 2, "expected a share such as 0.5% or 0.005"),
        // Before any head is trained.
        (format!("{} --view nope", at("store-coco")), 3, "view \"nope\" is not in the store"),
        // A head of another task than the store's labels.
        (at("store-ade20k"), 3, "no sample of split \"training\" has objects"),
        (at("nowhere"), 3, "a featcache store not found"),
    ] {
        let output = run(&format!(
            "--quiet tune {arguments} --head {} --out {} --seeds 1 --measure-rows 1",
            at("detector.toml"),
            at("out-bad")
        ));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
        assert!(stderr.contains(said), "{arguments}: {stderr}");
    }
    assert!(!std::path::Path::new(&at("out-bad/runs")).exists());
}
