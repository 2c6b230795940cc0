//! What a run's folder and its recipe may hold, whoever wrote them: changed bytes, numbers that never end.

use crate::drawn_store::{DrawnStore, recipe};
use featcache_heads::Error;
use featcache_heads::checkpoint::{Checkpoint, LOG_FILE};
use featcache_heads::recipe::{MAX_EPOCHS, TrainRecipe};
use featcache_heads::train::{TrainSettings, train};
use std::path::Path;

#[test]
fn one_changed_bit_anywhere_in_a_checkpoint_is_found() {
    let drawn = DrawnStore::default().write();
    let (store, folder) = (drawn.open(), drawn.folder("run"));
    train(&store, &recipe("linear", "train.steps = 1"), &folder, &TrainSettings::default()).unwrap();
    let path = Checkpoint::latest(&folder);
    let whole = std::fs::read(&path).unwrap();
    let state = Checkpoint::read(&path).unwrap().state;
    for (number, at) in (0..whole.len()).step_by(23).chain([whole.len() - 1]).enumerate() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (number % 8);
        std::fs::write(&path, &changed).unwrap();
        match Checkpoint::read(&path) {
            Err(Error::Corrupt { .. }) => {}
            // The name of the hash: what it is of is unchanged.
            Ok(found) if at < 40 => assert_eq!(found.state, state),
            other => panic!("byte {at} of {}: {other:?}", whole.len()),
        }
    }
}

#[test]
fn a_checkpoint_with_impossible_offsets_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let path = Checkpoint::latest(folder.path());
    for offsets in ["[0,18446744073709551615]", "[18446744073709551615,18446744073709551615]", "[8,4]"] {
        let header =
            format!("{{\"model.a\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{offsets}}}}}");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        std::fs::write(&path, file).unwrap();
        assert!(matches!(Checkpoint::read(&path), Err(Error::Corrupt { .. })), "{offsets}");
    }
}

#[test]
fn recipes_that_would_never_begin_are_refused() {
    let refused = |text: &str| match TrainRecipe::parse(text, Path::new("r.toml")) {
        Err(error) => error.to_string(),
        Ok(recipe) => panic!("{recipe:?}"),
    };
    let linear = |epochs: u64| format!("[head]\nkind = \"linear\"\n[train]\nbatch = 1\nepochs = {epochs}\n");
    TrainRecipe::parse(&linear(MAX_EPOCHS), Path::new("r.toml")).unwrap();
    let found = refused(&linear(1_000_000_000_000));
    assert_eq!(found, "r.toml: train.epochs is 1000000000000, expected 1 to 10000");
    let upernet = |keys: &str| {
        refused(&format!(
            "head.kind = \"upernet\"\ntrain.steps = 1\ntrain.batch = 1\n[head.upernet]\n{keys}\n"
        ))
    };
    let found = upernet("channels = 4294967295");
    assert_eq!(found, "r.toml: head.upernet.channels is 4294967295, expected 1 to 65536");
    let found = upernet("pool_scales = [1, 100000]");
    assert_eq!(found, "r.toml: head.upernet.pool_scales is [1, 100000], expected 1 to 64 each");
    let found = upernet("auxiliary = { level = \"p2\", channels = 4294967295 }");
    assert!(found.contains("head.upernet.auxiliary.channels is 4294967295"), "{found}");
    // A mistake of form is told in one line, with its own line.
    let found = refused("[head]\nkind = \"linear\"\ncolour = 3\n[train]\nsteps = 1\nbatch = 1\n");
    assert!(found.starts_with("r.toml: line 3, colour = 3: unknown field `colour`"), "{found}");
    assert!(!found.contains('\n'), "{found}");
}

#[test]
fn views_that_never_fill_a_batch_are_refused_before_the_first_step() {
    // Views are buckets of their own: of 13 samples of one size, six show one view and seven the other.
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    for (batch, steps) in [(7, 24), (8, 24)] {
        let fills = batch < 8;
        let keys = format!("train.batch = {batch}\ntrain.steps = {steps}\ntrain.drop_last = true");
        let folder = drawn.folder(&format!("run-{batch}"));
        let mut recipe = recipe("linear", "train.steps = 1");
        recipe.train.batch = batch;
        recipe.train.steps = Some(steps);
        recipe.train.drop_last = true;
        match train(&store, &recipe, &folder, &TrainSettings::default()) {
            Ok(summary) => assert!(fills && summary.step == steps, "{keys}"),
            Err(error) => {
                assert!(!fills && error.to_string().starts_with("no bucket has"), "{keys}: {error}")
            }
        }
    }
}

#[test]
fn a_log_that_was_written_over_costs_its_lines_and_not_the_run() {
    let drawn = DrawnStore::default().write();
    let (store, folder) = (drawn.open(), drawn.folder("run"));
    let recipe = recipe("linear", "train.steps = 4\ntrain.log_every = 1");
    train(&store, &recipe, &folder, &TrainSettings::default()).unwrap();
    let path = folder.join(LOG_FILE);
    let whole = std::fs::read(&path).unwrap();
    let cut = whole.len() - 10;
    std::fs::write(&path, [&whole[..cut], b"\xff\xfe\0\n\xc3"].concat()).unwrap();
    let again = train(&store, &recipe, &folder, &TrainSettings::default()).unwrap();
    assert_eq!(again.step, 4);
    let log = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let kept = String::from_utf8_lossy(&whole);
    let kept: Vec<&str> = kept.lines().collect();
    assert!(log.lines().take(kept.len() - 1).eq(kept[..kept.len() - 1].iter().copied()), "{log}");
}
