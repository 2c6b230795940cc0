//! One flipped bit anywhere in a store's features or tables is found by `verify`, naming the file, and by the
//! read that touches it, naming level and row.

use featcache_store::{Batch, OpenOptions, ReadOptions, RowId, Status, Store, VerifyOptions, verify};
use featcache_tests::{content, done, jpeg};
use std::path::Path;

/// Reads everything; the first error's text.
fn read_all(path: &Path) -> Result<(), String> {
    let store = Store::open(path, OpenOptions::default()).map_err(|e| e.to_string())?;
    let reader = store.reader(ReadOptions::default()).map_err(|e| e.to_string())?;
    let mut batch = Batch::new();
    for row in store.rows().iter().filter(|row| row.status == Status::Ok) {
        store.annotations(row.id).map_err(|e| e.to_string())?;
        for level in &store.recipe().levels {
            let level = store.level(&level.name).map_err(|e| e.to_string())?;
            reader.read(&[row.id], &[level], None, &mut batch).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

fn problems(path: &Path) -> Vec<String> {
    match verify(path, VerifyOptions::default(), &|_, _| {}) {
        Ok(found) => found.problems.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir_all(&root).unwrap();
    for index in 0..5u32 {
        std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 96, index)).unwrap();
    }
    done(&format!(
        "--quiet extract folder --root {} --backbone fake --compute fp32 --resize none --out {}",
        root.display(),
        store.display()
    ));
    assert_eq!(problems(&store), Vec::<String>::new());
    read_all(&store).unwrap();

    let mut state = 7u64;
    let mut random = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut flips, mut by_read) = (0, 0);
    for (name, bytes) in content(&store) {
        let shard = name.contains("/c.");
        for _ in 0..if shard { 40 } else { 12 } {
            let (at, bit) = (random(bytes.len()), random(8));
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(store.join(&name), &damaged).unwrap();
            let found = problems(&store);
            assert!(
                found.iter().any(|problem| problem.contains(&name)),
                "{name}: bit {bit} of byte {at} of {}: {found:?}",
                bytes.len()
            );
            let read = read_all(&store);
            if shard {
                // Shards of this size have no gaps: payloads, checksums and index are all that there is.
                let error = read.expect_err(&format!("{name}: bit {bit} of byte {at} came back as features"));
                assert!(error.contains(&name), "{error}");
                by_read += 1;
            }
            flips += 1;
        }
        std::fs::write(store.join(&name), &bytes).unwrap();
    }
    assert!(flips > 150 && by_read >= 160, "{flips} flips, {by_read} by read");
    assert_eq!(problems(&store), Vec::<String>::new());
}

#[test]
fn a_damaged_row_is_named_and_the_others_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let (root, path) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir_all(&root).unwrap();
    for index in 0..3u32 {
        std::fs::write(root.join(format!("{index}.jpg")), jpeg(64, 64, index)).unwrap();
    }
    done(&format!(
        "--quiet extract folder --root {} --backbone fake --compute fp32 --resize none --out {}",
        root.display(),
        path.display()
    ));
    let shard = path.join("features/all/base/64x64/p3/c.0.0.0.0");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    let [first, second] = [0, 1].map(|id| store.row(RowId(id)).unwrap());
    let found = problems(&path);
    let named = format!("level p3, row {} ({})", first.id, first.key);
    assert!(found.iter().any(|problem| problem.contains(&named)), "{found:?}");
    let reader = store.reader(ReadOptions::default()).unwrap();
    let level = store.level("p3").unwrap();
    let mut batch = Batch::new();
    let error = reader.read(&[first.id], &[level], None, &mut batch).unwrap_err().to_string();
    assert!(error.contains("p3") && error.contains(&first.key.0), "{error}");
    reader.read(&[second.id], &[level], None, &mut batch).unwrap();
}
