//! Rows whose bytes on disk are spoilt: training and scoring name them and stop, or go on without them and
//! count them; by every page policy.

use featcache_tests::{content, done, run, text};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A store of drawn scenes, three of them to train on.
fn drawn_store(folder: &Path) -> PathBuf {
    let (drawn, store) = (folder.join("drawn"), folder.join("store"));
    done(&format!("--quiet demo --draw-only --train 3 --val 1 --out {}", drawn.display()));
    done(&format!(
        "--quiet extract ade20k --split training,validation --root {} --out {} --resize none --backbone fake --compute fp32",
        drawn.join("scenes/ade20k").display(),
        store.display()
    ));
    store
}

#[test]
fn corrupt_rows_end_a_training_or_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path());
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, "[head]\nkind = \"linear\"\n[train]\nsteps = 6\nbatch = 1\n").unwrap();
    let train = |run: &str, more: &str| {
        format!(
            "--quiet --json train {} --threads 1 --recipe {} --out {} {more}",
            store.display(),
            recipe.display(),
            folder.path().join(run).display()
        )
    };
    let eval = |more: &str| {
        let trained = folder.path().join("direct");
        format!("--quiet --json eval {} {} --threads 1 {more}", trained.display(), store.display())
    };
    let mut losses = Vec::new();
    for pages in ["auto", "buffered", "mapped", "dontcache", "direct"] {
        let trained: Value = serde_json::from_str(&done(&train(pages, &format!("--pages {pages}")))).unwrap();
        assert_eq!((&trained["skipped_rows"], &trained["step"]), (&0.into(), &6.into()), "{pages}");
        losses.push(trained["loss"].clone());
    }
    assert!(losses.iter().all(|loss| loss == &losses[0]), "{losses:?}");
    let scored: Value = serde_json::from_str(&done(&eval(""))).unwrap();
    assert_eq!(scored["skipped"], 0);

    // The first row of one shard of each split.
    let files = content(&store);
    for split in ["training", "validation"] {
        let of_split = format!("features/{split}/");
        let mut shards = files.iter().filter(|(name, _)| name.starts_with(&of_split) && name.contains("/c."));
        let (name, bytes) = shards.next().unwrap();
        let mut bytes = bytes.clone();
        bytes[0] ^= 1;
        std::fs::write(store.join(name), bytes).unwrap();
    }
    for pages in ["buffered", "mapped", "dontcache", "direct"] {
        let output = run(&train(&format!("strict-{pages}"), &format!("--pages {pages}")));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{pages}: {error}");
        assert!(error.contains("the checksum crc32c") && error.contains("level p"), "{error}");
        let run = format!("lenient-{pages}");
        let output = done(&train(&run, &format!("--skip-corrupt --pages {pages}")));
        let trained: Value = serde_json::from_str(&output).unwrap();
        // Two epochs of three rows, one of which is spoilt.
        assert_eq!((&trained["skipped_rows"], &trained["step"]), (&2.into(), &6.into()), "{pages}: {output}");
        assert!(folder.path().join(run).join("checkpoint-latest.safetensors").exists());
    }
    assert_eq!(run(&eval("")).status.code(), Some(5));
    // The only row to score on is spoilt.
    let scored: Value = serde_json::from_str(&done(&eval("--skip-corrupt"))).unwrap();
    assert_eq!(scored["skipped"], 1, "{scored}");
}

#[test]
fn objects_of_rows_that_are_left_out_are_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    done(&format!("--quiet demo --draw-only --train 2 --val 2 --out {}", at("drawn")));
    done(&format!(
        "--quiet extract coco --split train,val --root {}/scenes/coco --out {} --resize none --backbone fake",
        at("drawn"),
        at("store")
    ));
    let recipe = "[head]\nkind = \"detector\"\n[detector.neck]\nchannels = 16\noutputs = 4\n[detector.rpn]\n\
                  channels = 16\ntrain = { per_level = 50, keep = 40 }\ntest = { per_level = 50, keep = 40 }\n\
                  [detector.head]\nsamples = 16\n[detector.head.box]\nfc_channels = 16\n[detector.head.mask]\n\
                  convs = 1\nchannels = 16\n[train]\nsteps = 1\nbatch = 2\n";
    std::fs::write(at("recipe.toml"), recipe).unwrap();
    done(&format!(
        "--quiet train {} --threads 1 --recipe {} --out {} --split train",
        at("store"),
        at("recipe.toml"),
        at("run")
    ));
    let eval = || -> Value {
        let output = done(&format!(
            "--quiet --json eval {} {} --threads 1 --split val --skip-corrupt",
            at("run"),
            at("store")
        ));
        serde_json::from_str(&output).unwrap()
    };
    let whole = eval();
    let store = folder.path().join("store");
    let files = content(&store);
    let mut shards =
        files.iter().filter(|(name, _)| name.starts_with("features/val/") && name.contains("/c."));
    let (name, bytes) = shards.next().unwrap();
    let mut bytes = bytes.clone();
    bytes[0] ^= 1;
    std::fs::write(store.join(name), bytes).unwrap();
    let part = eval();
    let figure = |scored: &Value, name: &str| scored["scores"][name].as_u64().unwrap();
    assert_eq!((figure(&whole, "samples"), figure(&whole, "skipped")), (2, 0), "{whole}");
    assert_eq!((figure(&part, "samples"), figure(&part, "skipped")), (1, 1), "{part}");
    let objects = [&whole, &part].map(|scored| figure(scored, "objects"));
    assert!(0 < objects[1] && objects[1] < objects[0], "{objects:?}");
}
