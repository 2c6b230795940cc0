//! Each bad input ends in one clear line (what, where, expected, found), the documented exit code, and costs
//! nothing that was committed.

use featcache_tests::{assert_same_content, content, done, featcache, jpeg, run, skipped, text, workspace};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Runs, expects `code` and exactly one line on stderr holding all of `words`.
#[track_caller]
pub(crate) fn refused(args: &str, code: i32, words: &[&str]) {
    let mut command = featcache();
    refused_from(command.arg("--quiet").args(args.split_whitespace()), code, words);
}

/// As [`refused`], of a command that something was done to.
#[track_caller]
pub(crate) fn refused_from(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let args = format!("{command:?}");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args}\n{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("warn")).collect();
    assert_eq!(lines.len(), 1, "{args}\n{stderr}");
    for word in words {
        assert!(lines[0].contains(word), "{args}: {word:?} is not in\n{stderr}");
    }
}

const FAKE: &str = "--backbone fake --compute fp32 --resize none";

pub(crate) fn pictures(root: &Path, count: u32) {
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
    refused(&format!("{command} {FAKE} --levels p2,p9"), 2, &["level \"p9\" is unknown", "has p2, p3"]);
    refused(&format!("{command} {FAKE} --views mirror"), 2, &["mirror", "hflip"]);
    refused(&format!("{command} {FAKE} --resize 800x1333"), 2, &["800x1333"]);
    refused(&format!("{command} {FAKE} --store p2=int3"), 2, &["int3"]);
    refused(&format!("{command} {FAKE} --rank 3 --world 2"), 2, &["rank 3 is not below the world size 2"]);
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
            "image id 1",
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
    refused(&format!("{command} {FAKE}"), 3, &["format 2 is newer than 1"]);
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
    let extract =
        |store: &Path| format!("extract folder --root {} --out {} {FAKE}", root.display(), store.display());
    refused(&extract(&store), 3, &[&file.display().to_string(), "Not a directory"]);
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("notes.txt"), b"somebody's").unwrap();
    refused(&format!("inspect {}", foreign.display()), 3, &[&foreign.display().to_string()]);

    // Permissions do not bind root, so that root gives its own up for this: to nobody.
    let (locked, store) = (folder.path().join("locked"), folder.path().join("locked/store"));
    std::fs::create_dir(&locked).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (&root, 0o755), (&locked, 0o555)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let program = featcache();
    let mut command = match rustix::process::geteuid().is_root() {
        false => featcache(),
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program.get_program());
            let mut probe = Command::new("setpriv");
            probe.args(command.get_args()).arg("--version");
            if !probe.output().is_ok_and(|output| output.status.success()) {
                skipped("root, and no setpriv to run the program as somebody else");
                return;
            }
            command
        }
    };
    let command = command.arg("--quiet").args(extract(&store).split_whitespace());
    refused_from(command, 3, &[&store.display().to_string(), "Permission denied"]);
}

#[test]
fn a_disk_that_is_full_half_way_costs_what_was_not_committed() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store, whole) =
        (folder.path().join("p"), folder.path().join("store"), folder.path().join("whole"));
    pictures(&root, 3);
    // Its shards are a hundred times as large as the others'.
    std::fs::write(root.join("large.jpg"), jpeg(400, 560, 9)).unwrap();
    let extract = |store: &Path| {
        format!("extract folder --root {} --out {} {FAKE} --shard-mib 0", root.display(), store.display())
    };
    done(&format!("--quiet {}", extract(&whole)));
    // A write past the limit fails as one on a full disk does, once the signal for it is ignored.
    let limited = |blocks: u64| {
        let program = featcache();
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(program.get_program()).arg("--quiet");
        command.args(extract(&store).split_whitespace());
        command
    };
    refused_from(&mut limited(LIMIT_BLOCKS), 3, &[&store.display().to_string(), "File too large"]);
    // Commit records, without the locks and temporaries beside them.
    let units = |store: &Path| {
        let mut files = content(store);
        files.retain(|name, _| name.starts_with("units/") && name.ends_with(".parquet"));
        files
    };
    let (committed, all) = (units(&store), units(&whole));
    assert!((1..all.len()).contains(&committed.len()), "{} of {}", committed.len(), all.len());
    refused_from(&mut limited(LIMIT_BLOCKS), 3, &["File too large"]);
    assert!(units(&store) == committed, "what is committed stays");
    done(&format!("--quiet {}", extract(&store)));
    assert_same_content(&whole, &store);
}

/// Blocks of 512 bytes: shards of the small pictures fit, those of the large one do not.
const LIMIT_BLOCKS: u64 = 200;

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
    refused(&format!("inspect {}", root.display()), 3, &[&format!("store not found in {}", root.display())]);
    let path = store.join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replacen("plan.parquet", "../../plan.parquet", 1)).unwrap();
    let output = run(&format!("--quiet verify {}", store.display()));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(all.contains("leaves"), "{all}");

    // Sizes that pass 64 bits together, in a document that is consistent with itself.
    let mut lying: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for i in 0..2 {
        lying["files"][i]["bytes"] = u64::MAX.into();
    }
    lying.as_object_mut().unwrap().remove("content_blake3");
    let content = blake3::hash(lying.to_string().as_bytes()).to_hex().to_string();
    lying["content_blake3"] = content.into();
    std::fs::write(&path, lying.to_string()).unwrap();
    refused(&format!("inspect {}", store.display()), 5, &["manifest.json", "add up"]);
    assert_eq!(run(&format!("--quiet verify {}", store.display())).status.code(), Some(5));
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
    let shown = config.display().to_string();
    for (content, line, what) in [
        ("[extract]\nbackbone = \"fake\"\nbackbon = \"fake\"\n", 3, "[extract] backbon: unknown key"),
        ("# of another command, but of no use\n[plan]\nout = \"s\"\n", 3, "[plan] out: unknown key"),
        ("[extract]\nexif = true\n\n[extrakt]\nexif = true\n", 4, "table extrakt is unknown"),
        ("backbone = \"fake\"\n", 1, "key backbone is unknown"),
        ("extract = 3\n", 1, "extract is not a table"),
        ("[bench.read]\nsamples = 8\nsample = 8\n", 3, "[bench.read] sample: unknown key"),
        ("[bench.raed]\nsamples = 8\n", 1, "[bench] raed: unknown key"),
        ("[extract]\nlevels = [\"p3\", [\"p4\"]]\n", 2, "[extract] levels: expected a string"),
        ("[extract]\nconfig = \"other.toml\"\n", 2, "[extract] config: unknown key"),
        ("[extract]\nbackbone = \"fake\nresize = \"none\"\n", 2, ""),
        ("[extract]\nexif = true\nexif = true\n", 3, ""),
    ] {
        std::fs::write(&config, content).unwrap();
        refused(&command, 2, &[&format!("config {shown}, line {line}: {what}")]);
    }
}

#[test]
fn a_typed_flag_wins_over_any_of_its_group_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("p");
    pictures(&root, 1);
    let config = folder.path().join("c.toml");
    let weights = workspace().join("assets/swinv2-demo.safetensors");
    let plan = |flags: &str| {
        format!(
            "--quiet --config {} plan folder --root {} --backbone swinv2-demo --time-images 0 {flags}",
            config.display(),
            root.display()
        )
    };
    std::fs::write(&config, "[plan]\nrandom_weights = 3\n").unwrap();
    done(&plan(&format!("--weights {}", weights.display())));
    done(&plan("--random-weights=4"));
    // Without a typed one the file's own is taken, and two of them in the file are one too many.
    std::fs::write(&config, "[plan]\nweights = \"no/such/file.safetensors\"\n").unwrap();
    refused(&plan(""), 3, &["no/such/file.safetensors"]);
    std::fs::write(&config, "[plan]\nweights = \"w\"\nrandom_weights = 3\n").unwrap();
    assert_eq!(run(&plan("")).status.code(), Some(2));
}

#[test]
fn labels_are_not_drawn_where_no_row_has_features() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store, out) =
        (folder.path().join("pictures"), folder.path().join("store"), folder.path().join("out"));
    std::fs::create_dir(&root).unwrap();
    let whole = jpeg(40, 56, 0);
    std::fs::write(root.join("half.jpg"), &whole[..whole.len() / 2]).unwrap();
    done(&format!("--quiet extract folder --root {} --out {} {FAKE}", root.display(), store.display()));
    let inspect = format!("inspect {} --sample half.jpg --truth {}", store.display(), out.display());
    refused(&inspect, 3, &["store", "no row has features to draw on: give --root DIR"]);
}

#[test]
fn numbers_out_of_range_are_usage_errors() {
    for (args, what) in [
        ("train s --recipe r --out o --threads 0", "expected 1 to 1024, found 0"),
        ("train s --recipe r --out o --threads 99999", "expected 1 to 1024, found 99999"),
        ("train s --recipe r --out o --reader-threads 0", "expected 1 to 1024, found 0"),
        ("train s --recipe r --out o --prefetch-mib 99999999999999999", "99999999999999999 is not in"),
        ("extract folder --root . --backbone fake --out o --batch 0", "expected 1 to 65536, found 0"),
        ("extract folder --root . --backbone fake --out o --decoders 0", "expected 1 to 1024, found 0"),
        ("extract folder --root . --backbone fake --out o --shard-mib 99999999999999", "is not in"),
        ("verify s --against-model 0", "expected a number from 1, found 0"),
        ("inspect s --sample k --pca p --pca-samples 0", "expected a number from 1, found 0"),
        ("bench extract --images 0", "expected 1 to 65536, found 0"),
        ("bench extract --repeats 0", "expected a number from 1, found 0"),
        ("bench read s --threads 1,0", "expected 1 to 1024, found 0"),
        ("bench read s --samples -3", "-3"),
        ("demo --train 0", "expected 1 to 1048576, found 0"),
    ] {
        let output = run(&format!("--quiet {args}"));
        assert_eq!(output.status.code(), Some(2), "featcache {args}");
        assert!(text(&output.stderr).contains(what), "featcache {args}: {}", text(&output.stderr));
    }
}
