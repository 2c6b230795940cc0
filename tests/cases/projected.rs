//! Levels held as coefficients, end to end through the program: extracted with a basis of their own, verified,
//! read as channels and as coefficients, and a head on the coefficients trained, scored and shown a picture.

use featcache::scene::{SceneOptions, write_dataset};
use featcache_heads::run::Run;
use featcache_store::{Batch, DType, OpenOptions, Projected, ReadOptions, RowId, Status, Store};
use featcache_tests::{assert_same_content, done, run, text};
use serde_json::Value;
use std::path::Path;
use tch::Device;

const ENCODINGS: &str = "pca24+int8+zstd,p2=pca12+int8,p5=bf16";

fn json(args: &str) -> Value {
    serde_json::from_str(&done(&format!("--quiet --json {args}"))).unwrap()
}

/// ‖found − expected‖ / ‖expected‖ of every level over all rows.
fn errors(expected: &Store, found: &Store) -> Vec<f64> {
    let read = |store: &Store| -> Vec<Vec<f32>> {
        let options = ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() };
        let (reader, mut batch) = (store.reader(options).unwrap(), Batch::new());
        let levels: Vec<_> =
            store.recipe().levels.iter().map(|level| store.level(&level.name).unwrap()).collect();
        let mut all = vec![Vec::new(); levels.len()];
        for row in store.rows().iter().filter(|row| row.status == Status::Ok) {
            reader.read(&[row.id], &levels, None, &mut batch).unwrap();
            for (level, all) in all.iter_mut().enumerate() {
                let bytes = batch.level(level).bytes.as_chunks().0;
                all.extend(bytes.iter().map(|value| f32::from_le_bytes(*value)));
            }
        }
        all
    };
    let error = |(a, b): (Vec<f32>, Vec<f32>)| {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        assert_eq!(a.len(), b.len());
        norm(&mut a.iter().zip(&b).map(|(a, b)| f64::from(a - b)))
            / norm(&mut a.iter().map(|v| f64::from(*v)))
    };
    read(expected).into_iter().zip(read(found)).map(error).collect()
}

#[test]
fn a_head_learns_from_coefficients_and_a_store_of_them_is_what_it_says() {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let scenes = SceneOptions { seed: 3, train: 6, val: 2, ..SceneOptions::default() };
    write_dataset(folder.path(), &scenes).unwrap();
    let model = "--random-weights 3 --threads 1";
    let extract = |name: &str, encodings: &str, extra: &str| {
        format!(
            "extract ade20k --root {} --split training,validation --backbone swinv2-demo --compute fp32 \
             --resize none {model} --store {encodings} {extra} --out {}",
            at("ade20k"),
            at(name)
        )
    };
    done(&format!("--quiet {}", extract("exact", "f32", "")));
    let plan = json(
        &extract("none", ENCODINGS, "")
            .replace("extract", "plan")
            .replace(&format!(" --out {}", at("none")), ""),
    );
    done(&format!("--quiet {}", extract("store", ENCODINGS, "")));
    // Done already: the basis is the store's.
    done(&format!("--quiet {}", extract("store", ENCODINGS, "")));
    let open = |name: &str| Store::open(&folder.path().join(name), OpenOptions::default()).unwrap();
    let store = open("store");
    let files =
        store.manifest().unwrap().files.len() + 1 + std::fs::read_dir(at("store/runs")).unwrap().count();
    assert_eq!((&plan["files"], &plan["at_most"]), (&files.into(), &true.into()));
    done(&format!("--quiet verify {}", at("store")));
    let live = json(&format!("verify {} --against-model 2 {model}", at("store")));
    assert_eq!(live["within"], true, "{live}");

    // What the bases leave out and int8 rounds, and no more: far less than a random basis would lose.
    let found = errors(&open("exact"), &store);
    assert!(found[0] > 1e-4 && found[0] < 0.3 && found[3] < 0.005, "{found:?}");
    let told = json(&format!("inspect {}", at("store")));
    let planned = plan["levels"][1]["bytes"].as_u64().unwrap();
    let bytes = told["levels"][1]["bytes"].as_u64().unwrap();
    assert!(bytes < planned && bytes > planned / 4, "{bytes} of at most {planned}");
    assert_eq!(told["levels"][0]["encoding"], "pca12+int8");
    done(&format!("--quiet bench read {} --samples 4 --repeats 1 --threads 1", at("store")));

    // The coefficients are those of the basis: channels are made of them.
    let projection = store.projections().of("p2").unwrap();
    let options = ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() };
    let [channels, coefficients] = [Projected::Channels, Projected::Coefficients].map(|projected| {
        let reader = store.reader(ReadOptions { projected, ..options }).unwrap();
        let mut batch = Batch::new();
        reader.read(&[RowId(0)], &[store.level("p2").unwrap()], None, &mut batch).unwrap();
        let values: Vec<f32> =
            batch.level(0).bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        (batch.level(0).shape[3], values)
    });
    assert_eq!((channels.0, coefficients.0), (projection.channels(), 12));
    for (cell, numbers) in channels.1.chunks(channels.0).zip(coefficients.1.chunks(12)).take(50) {
        for (channel, value) in cell.iter().enumerate() {
            let rows = projection.basis().chunks(channels.0);
            let sum: f32 = numbers.iter().zip(rows).map(|(number, row)| number * row[channel]).sum();
            assert!((sum + projection.mean()[channel] - value).abs() < 1e-4);
        }
    }

    learn(folder.path(), &store, model);

    // A basis of other rows is another basis, whatever the recipe says.
    done(&format!("--quiet {}", extract("other", ENCODINGS, "--limit 1")));
    let other = run(&format!("eval {} {} --split validation", at("run"), at("other")));
    assert_eq!(other.status.code(), Some(4), "{}", text(&other.stderr));
    assert!(text(&other.stderr).contains("basis of level p2"), "{}", text(&other.stderr));
    // The same rows give the same bytes, basis included.
    done(&format!("--quiet {}", extract("again", ENCODINGS, "")));
    assert_same_content(&folder.path().join("store"), &folder.path().join("again"));
}

/// Trains, scores and predicts with a head on coefficients, and one on channels beside it.
fn learn(folder: &Path, store: &Store, model: &str) {
    let at = |name: &str| folder.join(name).display().to_string();
    let recipe = |name: &str, projected: &str| {
        let text = format!(
            "[head]\nkind = \"linear\"\nlevels = [\"p2\", \"p3\"]\n{projected}\n[train]\nsteps = 12\nbatch = 2\n\
             [optimizer]\nlr = 0.02\n"
        );
        std::fs::write(at(name), text).unwrap();
    };
    recipe("coefficients.toml", "projected = \"coefficients\"");
    recipe("channels.toml", "");
    for (run_name, recipe, widths) in
        [("run", "coefficients.toml", [12, 24]), ("run-c", "channels.toml", [0, 0])]
    {
        let train =
            format!("train {} --recipe {} --out {} --split training", at("store"), at(recipe), at(run_name));
        let trained = json(&train);
        assert_eq!(trained["backbone_parameters"], 0, "{trained}");
        let run = Run::open(&folder.join(run_name), Device::Cpu).unwrap();
        for (level, width) in run.identity.levels.iter().zip(widths) {
            let full = store.recipe().levels.iter().find(|l| l.name == level.name).unwrap().channels;
            assert_eq!(level.channels, if width == 0 { full } else { width });
        }
        assert_eq!(run.identity.bases.len(), if widths[0] == 0 { 0 } else { 2 });
        let scored = json(&format!("eval {} {} --split validation", at(run_name), at("store")));
        assert!(scored["scores"]["miou"].as_f64().unwrap() >= 0.0, "{scored}");
        let picture = folder.join("ade20k/images/validation");
        let picture = std::fs::read_dir(picture).unwrap().next().unwrap().unwrap().path();
        let predict =
            |out: &str| format!("predict {} {} {model} --out {}", at(run_name), picture.display(), at(out));
        let predicted = json(&predict("predicted"));
        assert!(predicted[0]["error"].is_null(), "{predicted}");
        // Resuming finds the run that it made.
        assert_eq!(json(&train)["resumed_at"], 12);
    }
    // Both on one pass over the store cannot be: they read other numbers.
    let together = run(&format!(
        "train {} --recipe {} --out {} --recipe {} --out {} --split training",
        at("store"),
        at("coefficients.toml"),
        at("together-a"),
        at("channels.toml"),
        at("together-b")
    ));
    assert!(text(&together.stderr).contains("head.projected"), "{}", text(&together.stderr));
    let none = run(&format!(
        "train {} --recipe {} --out {} --split training",
        at("exact"),
        at("coefficients.toml"),
        at("none")
    ));
    assert!(!none.status.success());
    assert!(text(&none.stderr).contains("holds none of its levels as such"), "{}", text(&none.stderr));
    std::fs::remove_file(folder.join("run/projections.safetensors")).unwrap();
    let lost = run(&format!("predict {} {} {model} --out {}", at("run"), at("x.jpg"), at("lost")));
    assert_eq!(lost.status.code(), Some(3), "{}", text(&lost.stderr));
    assert!(text(&lost.stderr).contains("projections.safetensors"), "{}", text(&lost.stderr));
}
