//! Each bad input ends in one clear line (what, where, expected, found), the documented exit code, and costs
//! nothing that was committed.

use featcache_tests::{content, done, jpeg, run, text};
use std::path::Path;

/// Runs, expects `code` and exactly one line on stderr holding all of `words`.
#[track_caller]
fn refused(args: &str, code: i32, words: &[&str]) {
    let output = run(&format!("--quiet {args}"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "featcache {args}\n{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("warn")).collect();
    assert_eq!(lines.len(), 1, "featcache {args}\n{stderr}");
    for word in words {
        assert!(lines[0].contains(word), "featcache {args}: {word:?} is not in\n{stderr}");
    }
}

const FAKE: &str = "--backbone fake --compute fp32 --resize none";

fn pictures(root: &Path, count: u32) {
    std::fs::create_dir_all(root).unwrap();
    for index in 0..count {
        std::fs::write(root.join(format!("{index}.jpg")), jpeg(40, 56, index)).unwrap();
    }
}

#[test]
fn usage_errors_end_with_2() {
    assert_eq!(run("extract").status.code(), Some(2));
    assert_eq!(run("no-such-verb").status.code(), Some(2));
    assert_eq!(run("--help").status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("p"), folder.path().join("s"));
    pictures(&root, 1);
    let command = format!("extract folder --root {} --out {}", root.display(), store.display());
    refused(&format!("{command} --backbone swinv2-t"), 2, &["--weights", "--random-weights"]);
    refused(&format!("{command} {FAKE} --levels p2,p9"), 2, &["p9", "p2"]);
    refused(&format!("{command} {FAKE} --views mirror"), 2, &["mirror", "hflip"]);
    refused(&format!("{command} {FAKE} --resize 800x1333"), 2, &["800x1333"]);
    refused(&format!("{command} {FAKE} --store p2=int3"), 2, &["int3"]);
    refused(&format!("{command} {FAKE} --rank 3 --world 2"), 2, &["3", "2"]);
    assert!(!store.exists(), "a usage error must leave nothing behind");
}

#[test]
fn a_dataset_that_is_not_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("coco");
    let store = folder.path().join("store");
    let command = |root: &Path| {
        format!("extract coco --split val --root {} --out {} {FAKE}", root.display(), store.display())
    };
    refused(&command(&folder.path().join("nowhere")), 3, &["nowhere"]);
    std::fs::create_dir_all(root.join("annotations")).unwrap();
    std::fs::create_dir_all(root.join("val")).unwrap();
    refused(&command(&root), 3, &["instances_val.json"]);
    let json = root.join("annotations/instances_val.json");
    for (content, word) in [
        ("{ not json", "instances_val.json"),
        ("[1, 2]", "instances_val.json"),
        ("{\"info\": {}}", "images"),
        (
            "{\"images\":[{\"id\":1,\"file_name\":\"a.jpg\",\"width\":5,\"height\":5},\
              {\"id\":1,\"file_name\":\"b.jpg\",\"width\":5,\"height\":5}],\"annotations\":[],\"categories\":[]}",
            "1",
        ),
        (
            "{\"images\":[{\"id\":1,\"file_name\":\"../../etc/passwd\",\"width\":5,\"height\":5}],\
              \"annotations\":[],\"categories\":[]}",
            "passwd",
        ),
    ] {
        std::fs::write(&json, content).unwrap();
        refused(&command(&root), 3, &["instances_val.json", word]);
    }
    let left = if store.exists() { content(&store) } else { Default::default() };
    assert!(left.is_empty(), "a dataset that cannot be listed left {:?}", left.keys());
}

#[test]
fn pictures_listed_but_absent_are_outcomes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("coco");
    let store = folder.path().join("store");
    pictures(&root.join("val"), 1);
    std::fs::create_dir_all(root.join("annotations")).unwrap();
    std::fs::write(
        root.join("annotations/instances_val.json"),
        "{\"images\":[{\"id\":1,\"file_name\":\"0.jpg\",\"width\":56,\"height\":40},\
          {\"id\":2,\"file_name\":\"gone.jpg\",\"width\":5,\"height\":5}],\"annotations\":[],\
          \"categories\":[{\"id\":7,\"name\":\"seven\"}]}",
    )
    .unwrap();
    let command =
        format!("extract coco --split val --root {} --out {} {FAKE}", root.display(), store.display());
    let report: serde_json::Value =
        serde_json::from_str(&done(&format!("--quiet --json {command}"))).unwrap();
    assert_eq!(report["failed"], 1);
    assert_eq!(report["failures"][0]["key"], "gone");
    assert_eq!(
        run(&format!("--quiet {command} --strict")).status.code(),
        Some(6),
        "--strict counts failures"
    );
}

#[test]
fn another_recipe_or_a_newer_format_is_refused_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("p"), folder.path().join("s"));
    pictures(&root, 3);
    let command = format!("extract folder --root {} --out {}", root.display(), store.display());
    done(&format!("--quiet {command} {FAKE}"));
    let before = content(&store);
    refused(&format!("{command} {FAKE} --views base,hflip"), 4, &["views"]);
    refused(
        &format!("{command} --backbone fake --compute bf16 --resize none"),
        4,
        &["compute", "fp32", "bf16"],
    );
    refused(&format!("{command} {FAKE} --store f16"), 4, &["f16", "bf16"]);
    refused(&format!("{command} {FAKE} --split other"), 4, &["other"]);
    assert_eq!(before, content(&store), "a refused run changed the store");
    let path = store.join("zarr.json");
    let document = std::fs::read_to_string(&path).unwrap();
    let newer =
        document.replacen("\"format\": 1", "\"format\": 2", 1).replacen("\"format\":1", "\"format\":2", 1);
    assert_ne!(document, newer);
    std::fs::write(&path, newer).unwrap();
    refused(&format!("{command} {FAKE}"), 3, &["2", "1", "newer"]);
    refused(&format!("inspect {}", store.display()), 3, &["newer"]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("p");
    pictures(&root, 1);
    let file = folder.path().join("file");
    std::fs::write(&file, b"in the way").unwrap();
    let store = file.join("store");
    refused(
        &format!("extract folder --root {} --out {} {FAKE}", root.display(), store.display()),
        3,
        &["file"],
    );
    // A full disk, without filling one.
    if Path::new("/dev/full").exists() {
        let store = folder.path().join("foreign");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(store.join("notes.txt"), b"somebody's").unwrap();
        refused(&format!("inspect {}", store.display()), 3, &["foreign"]);
    }
}

#[test]
fn weights_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("p"), folder.path().join("s"));
    pictures(&root, 1);
    let weights = folder.path().join("w.safetensors");
    std::fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    let command = format!(
        "extract folder --root {} --out {} --backbone swinv2-demo --weights {}",
        root.display(),
        store.display(),
        weights.display()
    );
    refused(&command, 3, &["w.safetensors"]);
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    safetensors::serialize_to_file([("norm.weight", tensor)], None, &weights).unwrap();
    refused(&command, 3, &["w.safetensors", "missing"]);
    assert!(!store.exists(), "weights are checked before a store is made");
}

#[test]
fn stores_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("p"), folder.path().join("s"));
    pictures(&root, 2);
    done(&format!("--quiet extract folder --root {} --out {} {FAKE}", root.display(), store.display()));
    refused(&format!("inspect {}", root.display()), 3, &["p"]);
    let path = store.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replacen("plan.parquet", "../../plan.parquet", 1)).unwrap();
    let output = run(&format!("--quiet verify {}", store.display()));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(all.contains("leaves"), "{all}");
}

#[test]
fn a_config_file_is_a_second_spelling_of_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("p"), folder.path().join("s"));
    pictures(&root, 2);
    let config = folder.path().join("c.toml");
    std::fs::write(
        &config,
        "[extract]\nbackbone = \"fake\"\ncompute = \"fp32\"\nresize = \"none\"\nlevels = [\"p3\", \"p5\"]\n",
    )
    .unwrap();
    let command = format!(
        "--quiet --json --config {} extract folder --root {} --out {} --levels p4",
        config.display(),
        root.display(),
        store.display()
    );
    done(&command);
    let shown: serde_json::Value =
        serde_json::from_str(&done(&format!("--json inspect {}", store.display()))).unwrap();
    let levels: Vec<_> =
        shown["levels"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(levels, ["p4"], "a typed flag wins over the file");
    std::fs::write(&config, "[extract]\nbackbon = \"fake\"\n").unwrap();
    let output = run(&command);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--backbon"), "{}", text(&output.stderr));
}
