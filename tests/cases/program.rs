//! The program as a script meets it: every verb once on the demo's own drawings with `--json`, the exit codes of
//! interruption, and what the verbs leave behind. What the numbers mean is tested beside the code that makes them.

use featcache::pyramid::{Pyramid, spread};
use featcache_heads::run::Run;
use featcache_heads::segment::SegmentSizes;
use featcache_heads::tensor::feature_map;
use featcache_store::{Batch, OpenOptions, ReadOptions, Store};
use featcache_tests::{done, featcache, jpeg, run, samples, text, workspace};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tch::Device;

/// A command's JSON; its text on stdout is one document and nothing else.
#[track_caller]
fn json(args: &str) -> Value {
    serde_json::from_str(&done(&format!("--quiet --json {args}"))).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

#[test]
fn the_demo_and_what_can_be_done_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let shown = |name: &str| out.join(name).display().to_string();
    let (store, run_folder, weights) = (shown("store"), shown("run"), shown("swinv2-demo.safetensors"));
    let demo = format!("demo --train 3 --val 2 --out {}", out.display());
    let first = json(&demo);
    assert_eq!(
        (&first["pictures"], &first["rows_kept"], &first["steps_kept"]),
        (&5.into(), &0.into(), &0.into())
    );
    assert_eq!(first["backbone_parameters_at_training"], 0);
    assert!(
        first["read_over_preadv"].as_f64().is_some_and(|ratio| ratio > 0.0),
        "{}",
        first["read_over_preadv"]
    );
    assert!(first["images_per_second"].as_f64().unwrap() > 0.0, "{first}");
    assert!((0.0..=1.0).contains(&first["mean_iou"].as_f64().unwrap()), "{first}");
    assert!(out.join("contact-sheet.png").is_file());

    let dataset = format!(
        "ade20k --root {} --split training,validation --backbone swinv2-demo --resize none --views base,hflip",
        shown("scenes/ade20k")
    );
    let plan = json(&format!("plan {dataset} --time-images 1 --device cpu"));
    assert_eq!(plan["rows"], 10);
    assert_eq!(plan["files"], files(&out.join("store")).len(), "files planned and files there");
    assert_eq!((&plan["estimate"]["device"], &plan["estimate"]["timed_images"]), (&"cpu".into(), &1.into()));
    let plan = json(&format!("plan {dataset} --time-images 1 --device auto"));
    assert_ne!(plan["estimate"]["device"], "auto", "the device that was timed, not the word for choosing it");

    let overview = json(&format!("inspect {store}"));
    assert_eq!((&overview["finished"], &overview["categories"]), (&true.into(), &12.into()));
    let level_bytes =
        overview["levels"].as_array().unwrap().iter().map(|level| level["bytes"].as_u64().unwrap());
    assert_eq!(level_bytes.sum::<u64>(), overview["bytes"]);
    let scene = out.join("scenes/ade20k/images/validation");
    let picture = files(&scene).remove(0);
    let key = picture.file_stem().unwrap().to_string_lossy().into_owned();
    let sample = json(&format!("inspect {store} --sample {key} --pca {} --pca-samples 2", shown("pca")));
    assert_eq!((&sample["key"], &sample["split"]), (&key.as_str().into(), &"validation".into()));
    assert_eq!(sample["pictures"].as_array().unwrap().len(), 2 * 4, "two views of four levels");
    assert!(
        sample["pictures"].as_array().unwrap().iter().all(|path| Path::new(path.as_str().unwrap()).is_file())
    );

    let trained =
        json(&format!("train {store} --recipe {} --out {run_folder} --split training", shown("demo.toml")));
    assert_eq!((&trained["resumed_at"], &trained["stopped"]), (&trained["steps"], &false.into()));
    let scored = json(&format!("eval {run_folder} {store} --reader-threads 2 --prefetch-mib 1"));
    assert_eq!((&scored["split"], &scored["samples"]), (&"validation".into(), &2.into()));
    assert_eq!(scored["scores"]["miou"], first["mean_iou"], "the demo's score is eval's");

    let predict = |extra: &str| {
        format!("predict {run_folder} {extra} --weights {weights} --out {}", shown("predicted"))
    };
    let predicted = json(&predict(&picture.display().to_string()));
    let shares =
        predicted[0]["classes"].as_array().unwrap().iter().map(|class| class["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{predicted}");
    assert!(
        ["overlay", "labels"].iter().all(|kind| Path::new(predicted[0][kind].as_str().unwrap()).is_file())
    );
    let no_picture = run(&predict(&shown("demo.toml")));
    assert_eq!(no_picture.status.code(), Some(3));
    assert!(text(&no_picture.stderr).contains("no picture was predicted"), "{}", text(&no_picture.stderr));
    let same_name = folder.path().join(picture.file_name().unwrap());
    std::fs::copy(&picture, &same_name).unwrap();
    let twice = run(&predict(&format!("{} {}", picture.display(), same_name.display())));
    assert_eq!(twice.status.code(), Some(2), "{}", text(&twice.stderr));
    assert!(text(&twice.stderr).contains(&format!("both are {key:?}")), "{}", text(&twice.stderr));

    let second = run(&format!("--quiet {demo}"));
    let second = text(&second.stdout);
    assert!(second.contains("kept: all 10 rows") && second.contains("steps were done already"), "{second}");
    assert!(!second.contains("img/s"), "{second}");
    for (path, kind) in [(&picture, "its picture"), (&out.join("demo.toml"), "its recipe")] {
        assert!(path.is_file(), "{kind} stays");
    }

    let other = json(&format!("{demo} --seed 1"));
    assert_eq!(
        (&other["rows_kept"], &other["steps_kept"]),
        (&0.into(), &0.into()),
        "another seed starts afresh"
    );
    assert!(other["images_per_second"].is_number());
    assert!(out.join("predicted").read_dir().unwrap().next().is_some(), "what the demo did not make stays");
}

#[test]
fn a_demo_never_removes_what_no_demo_made() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("store/precious");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, b"mine").unwrap();
    let output =
        run(&format!("--quiet demo --draw-only --train 1 --val 1 --out {}", folder.path().display()));
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("holds store but no demo.json"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
}

#[test]
fn doctor_and_benchmarks_speak_json_and_clean_up() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(json("doctor")["usable"], true);
    let dir = folder.path().join("mine");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("notes.txt"), b"mine").unwrap();
    let size = "--size 64x64 --images 1 --repeats 1 --threads 1";
    let bench = json(&format!("bench extract --backbone fake --compute fp32 {size} --dir {}", dir.display()));
    assert_eq!(bench["backbones"][0]["name"], "fake");
    assert_eq!(files(&dir), [dir.join("notes.txt")], "the user's folder is as it was");
    let refused = run(&format!("--quiet bench extract --backbone no-such {size} --dir {}", dir.display()));
    assert!(!refused.status.success());
    assert_eq!(files(&dir), [dir.join("notes.txt")], "after a failure too");
}

/// As Ctrl-C does.
fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// Scenes, and a store of the backbone's features of them.
fn scenes_and_store(folder: &Path, backbone: &str) -> (PathBuf, PathBuf) {
    let (drawn, store) = (folder.join("drawn"), folder.join("store"));
    done(&format!("--quiet demo --draw-only --train 3 --val 1 --out {}", drawn.display()));
    let root = drawn.join("scenes/ade20k");
    done(&format!(
        "--quiet extract ade20k --split training,validation --root {} --out {} --resize none {backbone}",
        root.display(),
        store.display()
    ));
    (root, store)
}

#[test]
fn an_interrupted_training_ends_with_6_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = scenes_and_store(folder.path(), "--backbone fake --compute fp32");
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    let lines = "[head]\nkind = \"linear\"\n[train]\nsteps = 300\nbatch = 1\nlog_every = 1\ncheckpoint_every = 1000\n";
    std::fs::write(&recipe, lines).unwrap();
    let args = format!(
        "--quiet --json train {} --threads 1 --recipe {} --out {}",
        store.display(),
        recipe.display(),
        out.display()
    );
    let child =
        featcache().args(args.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (begin, log) = (Instant::now(), out.join("log.jsonl"));
    while std::fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < 4 {
        assert!(begin.elapsed() < Duration::from_secs(60), "training does not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step = stopped["step"].as_u64().unwrap();
    assert_eq!(stopped["stopped"], true);
    assert!((3..300).contains(&step), "{stopped}");
    let rest: Value = serde_json::from_str(&done(&args)).unwrap();
    let fields = ["resumed_at", "step", "stopped"].map(|field| rest[field].clone());
    assert_eq!(fields, [Value::from(step), Value::from(300), Value::from(false)]);
    let scored = json(&format!("eval {} {}", out.display(), store.display()));
    assert_eq!(scored["step"], 300);
}

/// libtorch's threads are in the middle of a step: nothing that they use may be destroyed under them.
#[test]
fn a_second_interruption_ends_a_training_at_once_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = scenes_and_store(folder.path(), "--backbone fake --compute fp32");
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    // Steps of many seconds: the first signal is not answered by the end of one.
    std::fs::write(&recipe, "[head]\nkind = \"upernet\"\n[train]\nsteps = 300\nbatch = 64\n").unwrap();
    let args = format!(
        "--quiet train {} --device cpu --threads 2 --recipe {} --out {}",
        store.display(),
        recipe.display(),
        out.display()
    );
    let mut child =
        featcache().args(args.split(' ')).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !out.is_dir() {
        assert!(begin.elapsed() < Duration::from_secs(60), "training does not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    // Into the first step.
    std::thread::sleep(Duration::from_millis(700));
    interrupt(&child);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("once more to stop at once"));
    interrupt(&child);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}");
}

#[test]
fn predicting_a_picture_equals_reading_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let weights = workspace().join("assets/swinv2-demo.safetensors").display().to_string();
    // Computed in binary32 and held in bfloat16: the head knows what that rounding leaves.
    let flags = format!("--backbone swinv2-demo --compute fp32 --store bf16 --weights {weights}");
    let (root, store) = scenes_and_store(folder.path(), &flags);
    let (recipe, out) = (folder.path().join("recipe.toml"), folder.path().join("run"));
    std::fs::write(
        &recipe,
        "[head]\nkind = \"linear\"\n[train]\nsteps = 3\nbatch = 1\n[optimizer]\nlr = 0.02\n",
    )
    .unwrap();
    let (predicted, out_shown) = (folder.path().join("predicted"), out.display());
    done(&format!("--quiet train {} --recipe {} --out {out_shown}", store.display(), recipe.display()));
    let pictures: Vec<PathBuf> = files(&root.join("images/training"));
    let shown: Vec<String> = pictures.iter().map(|path| path.display().to_string()).collect();
    let predict = format!("predict {out_shown} {} --out {}", shown.join(" "), predicted.display());
    done(&format!("--quiet {predict} --weights {weights}"));

    let store = Store::open(&store, OpenOptions::default()).unwrap();
    let head = Run::open(&out, Device::Cpu).unwrap();
    let reader = store.reader(ReadOptions::default()).unwrap();
    let levels: Vec<_> = head.model.levels().iter().map(|level| store.level(&level.name).unwrap()).collect();
    let mut batch = Batch::new();
    for picture in pictures {
        let key = picture.file_stem().unwrap().to_string_lossy().into_owned();
        let row = store.find(Some("training"), &key, "base").unwrap();
        reader.read(&[row.id], &levels, None, &mut batch).unwrap();
        let maps: Vec<_> = (0..levels.len())
            .map(|i| batch.level(i))
            .map(|l| feature_map(l.bytes, l.shape, l.dtype, head.model.map_kind(), Device::Cpu).unwrap())
            .collect();
        let sizes = SegmentSizes {
            padded: row.bucket.unwrap(),
            valid: row.valid_size.unwrap(),
            original: row.source_size.unwrap(),
        };
        let expected = head.semantic().unwrap().predict(&maps, sizes).unwrap();
        let png = std::fs::File::open(predicted.join(format!("{key}-labels.png"))).unwrap();
        let mut decoder = png::Decoder::new(std::io::BufReader::new(png)).read_info().unwrap();
        let mut values = vec![0; decoder.output_buffer_size().unwrap()];
        decoder.next_frame(&mut values).unwrap();
        // ADE20K's values are class numbers from 1.
        let expected: Vec<u8> = expected.classes.iter().map(|&class| class as u8 + 1).collect();
        let differing = values.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!((differing, values.len()), (0, expected.len()), "{key}");
    }
}

#[test]
fn a_head_learns_real_pictures_by_heart() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (store, out) = (folder.path().join("store"), folder.path().join("run"));
    let shared = workspace();
    done(&format!(
        "--quiet extract ade20k --split training --root {} --out {} --backbone swinv2-demo --weights {} --resize \
         square:128",
        samples.join("ade20k/four_class_variant").display(),
        store.display(),
        shared.join("assets/swinv2-demo.safetensors").display()
    ));
    let recipe = folder.path().join("recipe.toml");
    let lines = "[head]\nkind = \"upernet\"\n[head.upernet]\nchannels = 64\nnorm = \"group\"\ndropout = 0.0\n\
                 [train]\nepochs = 40\nbatch = 4\n[optimizer]\nlr = 4e-3\nclip_norm = 1.0\n";
    std::fs::write(&recipe, lines).unwrap();
    done(&format!("--quiet train {} --recipe {} --out {}", store.display(), recipe.display(), out.display()));
    let scored = json(&format!("eval {} {} --split training", out.display(), store.display()));
    assert_eq!(scored["samples"], 20);
    assert!(scored["scores"]["miou"].as_f64().unwrap() > 0.9, "{}", scored["scores"]);
}

#[test]
fn one_basis_colours_every_sample_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir(&root).unwrap();
    (0..5).for_each(|index| std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 96, index)).unwrap());
    let fake = "--backbone fake --compute fp32 --resize none";
    done(&format!("--quiet extract folder --root {} --out {} {fake}", root.display(), store.display()));
    let opened = Store::open(&store, OpenOptions::default()).unwrap();
    let pyramid = Pyramid::fit(&opened, &spread(&opened, 2)).unwrap();
    for row in opened.rows() {
        let pca = folder.path().join(format!("pca-{}", row.key));
        let args = format!("--sample {} --pca {} --pca-samples 2", row.key, pca.display());
        json(&format!("inspect {} {args}", store.display()));
        for (level, canvas) in opened.recipe().levels.iter().zip(pyramid.render(row.id).unwrap()) {
            let found = std::fs::read(pca.join(format!("{}-base-{}.png", row.key, level.name))).unwrap();
            assert!(found == canvas.png().unwrap(), "{} {}", row.key, level.name);
        }
    }
}

#[test]
fn a_missing_picture_is_not_blamed_on_the_tolerance() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir(&root).unwrap();
    (0..2).for_each(|index| std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 96, index)).unwrap());
    let fake = "--backbone fake --compute fp32 --resize none";
    done(&format!("--quiet extract folder --root {} --out {} {fake}", root.display(), store.display()));
    let verify = |expected: i32| {
        let output = run(&format!("--quiet verify {} --against-model 9", store.display()));
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    verify(0);
    std::fs::remove_file(root.join("1.jpg")).unwrap();
    let one = verify(3);
    assert!(one.contains("1 of 2 rows could not be compared") && !one.contains("OUTSIDE"), "{one}");
    std::fs::remove_file(root.join("0.jpg")).unwrap();
    let none = verify(3);
    assert!(none.contains("2 of 2 rows could not be compared") && !none.contains("tolerance"), "{none}");
    // A picture that is there and another one is the features' difference.
    (0..2).for_each(|index| {
        std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 96, index + 7)).unwrap()
    });
    assert!(verify(4).contains("OUTSIDE the tolerance"));
}
