//! Slips of the finger and odd surroundings: numbers beyond reason, paths that are no text, pipes that are
//! closed or that nobody writes into. Each ends soon, with the documented exit code, and never in a panic.

use crate::bad_input::{pictures, refused, refused_from};
use featcache_tests::{done, featcache, run, text};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const FAKE: &str = "--backbone fake --compute fp32 --resize none";

/// A store of three pictures, in `folder`.
fn store(folder: &Path) -> String {
    let (root, store) = (folder.join("pictures"), folder.join("store"));
    pictures(&root, 3);
    done(&format!("--quiet extract folder --root {} --out {} {FAKE}", root.display(), store.display()));
    store.display().to_string()
}

/// The output of a command that is to end by itself.
fn ends(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{command:?} does not come to an end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn numbers_beyond_reason_end_with_2() {
    for (args, what) in [
        ("extract folder --root . --backbone fake --out o --batch 18446744073709551615", "1 to 65536"),
        ("extract folder --root . --backbone fake --out o --batch 1000000000000", "1 to 65536"),
        ("bench extract --images 1000000000000", "1 to 65536"),
        ("bench extract --size 4294967295x4294967295 --dir nowhere", "sides from 1 to 8192"),
        ("bench extract --size 65536x1 --dir nowhere", "sides from 1 to 8192"),
        ("demo --draw-only --train 18446744073709551615 --out nowhere", "1 to 1048576"),
        ("demo --draw-only --val 4000000000 --out nowhere", "1 to 1048576"),
        ("verify s --against-model 1 --tolerance nan", "a number from 0, found nan"),
        ("predict r p.jpg --out o --score nan", "a number from 0 to 1, found nan"),
        ("predict r p.jpg --out o --score 1.5", "a number from 0 to 1, found 1.5"),
    ] {
        let output = ends(featcache().arg("--quiet").args(args.split(' ')));
        assert_eq!(output.status.code(), Some(2), "featcache {args}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(what), "featcache {args}: {}", text(&output.stderr));
    }
    assert!(!Path::new("nowhere").exists());
}

#[test]
fn a_batch_beyond_the_store_is_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let bench = format!("--json bench read {store} --repeats 1 --threads 1 --batch {}", usize::MAX);
    let bench: Value = serde_json::from_str(&done(&bench)).unwrap();
    assert_eq!(bench["stores"][0]["bench"]["samples"], 3);
}

#[test]
fn more_threads_than_cpus_are_as_many_as_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pictures");
    pictures(&root, 1);
    let plan = format!("--json plan folder --root {} {FAKE} --time-images 1 --threads 1024", root.display());
    let output = ends(featcache().args(plan.split(' ')));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(found["estimate"]["threads"], allowed.min(1024));
    let warned = text(&output.stderr).contains("--threads 1024");
    assert_eq!(warned, allowed < 1024, "{}", text(&output.stderr));
}

#[test]
fn paths_need_not_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let (root, store, bench) = (at(b"pictures\xff"), at(b"store\xfe"), at(b"bench\xfd"));
    pictures(&root, 2);
    let extract = |command: &mut Command| {
        let flags = command.args(["--quiet", "extract", "folder"]).args(FAKE.split(' '));
        flags.arg("--root").arg(&root).arg("--out").arg(&store).output().unwrap()
    };
    let extracted = extract(&mut featcache());
    assert_eq!(extracted.status.code(), Some(0), "{}", text(&extracted.stderr));
    let verified = featcache().args(["--json", "verify"]).arg(&store).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
    let words = "bench read --repeats 1 --threads 1";
    let read = featcache().args(words.split(' ')).arg(&store).output().unwrap();
    assert_eq!(read.status.code(), Some(0), "{}", text(&read.stderr));
    let words = "bench extract --backbone fake --size 32x32 --images 1 --repeats 1 --dir";
    let benched = featcache().args(words.split(' ')).arg(&bench).output().unwrap();
    assert_eq!(benched.status.code(), Some(0), "{}", text(&benched.stderr));
    // A config file of such a name is looked for, not passed over.
    let config = OsStr::from_bytes(b"--config=no\xff.toml");
    refused_from(featcache().arg(config).arg("doctor"), 3, &["config no"]);
}

#[test]
fn a_closed_pipe_is_a_success_and_a_full_one_an_error_of_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for json in [&["--json"][..], &[]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = featcache().args(json).args(["inspect", &store]).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{json:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{json:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        refused_from(featcache().args(json).args(["inspect", &store]).stdout(full), 3, &["stdout", "space"]);
    }
}

#[test]
fn a_pipe_among_pictures_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("coco"), folder.path().join("store"));
    pictures(&root.join("val"), 1);
    std::fs::create_dir(root.join("annotations")).unwrap();
    let images = "{\"id\":1,\"file_name\":\"0.jpg\"},{\"id\":2,\"file_name\":\"pipe.jpg\"}";
    let json = format!("{{\"images\":[{images}]}}");
    std::fs::write(root.join("annotations/instances_val.json"), json).unwrap();
    let (pipe, weights) = (root.join("val/pipe.jpg"), folder.path().join("weights"));
    for path in [&pipe, &weights] {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }
    let (root, store) = (root.display(), store.display());
    let extract = format!("--quiet --json extract coco --root {root} --out {store} {FAKE}");
    let output = ends(featcache().args(extract.split(' ')));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"][0]["key"], "pipe");
    assert_eq!(report["failures"][0]["reason"], "unreadable: not a file");
    let weights = weights.display();
    let plan = format!("plan coco --root {root} --backbone swinv2-demo --time-images 0 --weights {weights}");
    let output = ends(featcache().args(plan.split(' ')));
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("not a file"), "{}", text(&output.stderr));
}

#[test]
fn a_pipe_in_a_store_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut files: Vec<_> = walk(Path::new(&store));
    // Left over from writing: nobody reads them.
    files.retain(|file| !file.starts_with(Path::new(&store).join("runs")));
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let aside = folder.path().join("aside");
        std::fs::rename(&file, &aside).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let output = ends(featcache().args(["--quiet", "verify", &store]));
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(matches!(output.status.code(), Some(3 | 5)), "{}: {said}", file.display());
        assert!(said.contains("not a file"), "{}: {said}", file.display());
        std::fs::rename(&aside, &file).unwrap();
    }
    done(&format!("--quiet verify {store}"));
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn names_that_cannot_be_meant_are_refused() {
    for results in ["..", "/", "a/.."] {
        refused(&format!("eval run store --results {results}"), 2, &["expected the name of a file"]);
    }
    refused(
        "extract folder --root . --backbone ../x --out o",
        3,
        &["backbone \"../x\" is unknown: expected "],
    );
}

#[test]
fn a_demo_is_not_drawn_into_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    refused(&format!("demo --draw-only --out {store}"), 3, &[&store, "holds a store: give another --out"]);
    done(&format!("--quiet verify {store}"));
}

#[test]
fn two_heads_do_not_share_a_folder() {
    let at = |out: &str| format!("train s --recipe a.toml --out runs/a --recipe b.toml --out {out}");
    refused(&at("runs/a"), 2, &["--out runs/a is given twice"]);
    refused(&at("./runs/a"), 2, &["--out ./runs/a is given twice"]);
    assert!(!text(&run(&at("runs/b")).stderr).contains("twice"));
}

#[test]
fn a_config_file_gives_values_where_flags_take_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    for (content, what) in [
        ("pca_samples = true", "pca_samples: expected a value, found true"),
        ("incomplete = \"yes\"", "incomplete: expected true or false, found \"yes\""),
    ] {
        std::fs::write(&config, format!("[inspect]\n{content}\n")).unwrap();
        refused(&format!("--config {} inspect store", config.display()), 2, &["line 2", what]);
    }
}
