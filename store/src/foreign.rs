//! What a folder may hold that is not of a store, or not what the store says: other people's files, links,
//! leftovers, lying documents. Compiled for tests only.

use crate::crash::{FEW_SAMPLES, assert_equal, contents, extract, open, options, undisturbed};
use crate::faulty::FaultyStorage;
use crate::fixture::{self, encodings, folder_in_memory, recipe};
use crate::*;
use std::path::Path;

#[test]
fn folders_of_something_else_are_left_alone() {
    use std::os::unix::ffi::OsStrExt;
    let not_utf_8 = std::ffi::OsStr::from_bytes(b"\xffrecious");
    for (name, found) in [
        (Path::new("thesis.tex"), "found thesis.tex"),
        (Path::new(not_utf_8), "recious"),
        (Path::new("features/mine.npy"), "found features"),
        (Path::new("plan.parquet"), "found plan.parquet"),
    ] {
        let folder = folder_in_memory();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"precious").unwrap();
        let error = open(folder.path(), FaultyStorage::sound()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(found), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left there");
    }
    let folder = folder_in_memory();
    let missing = folder.path().join("nothing");
    let error = Store::open(&missing, OpenOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// A Zarr hierarchy that is not ours, to read or to write to.
#[test]
fn zarr_groups_of_something_else_are_not_found() {
    let folder = folder_in_memory();
    let root = folder.path().join(layout::ROOT);
    for text in [
        r#"{"zarr_format": 3, "node_type": "group"}"#,
        r#"{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}"#,
    ] {
        std::fs::write(&root, text).unwrap();
        for error in [
            open(folder.path(), FaultyStorage::sound()).unwrap_err(),
            Store::open(folder.path(), OpenOptions::default()).unwrap_err(),
            verify(folder.path(), VerifyOptions::default(), &|_, _| ()).unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
        assert_eq!(contents(folder.path()).len(), 1);
    }
}

/// A store that lost its root document keeps its records: they are of a recipe that nobody knows any more,
/// and must not become part of a new store.
#[test]
fn records_without_a_root_document_are_not_taken_over() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    for name in [layout::ROOT, layout::MANIFEST, layout::SAMPLES] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let before = contents(folder.path());
    let mut other = recipe();
    other.backbone.weights_blake3 = "cd".repeat(32);
    let list = || -> Result<Listing> { panic!("refused before the dataset is listed") };
    let options = options(FaultyStorage::sound());
    let error =
        StoreWriter::create_or_resume(folder.path(), &other, &encodings(), list, options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Invalid { .. }), "{text}");
    assert!(text.contains("found features/") || text.contains("found units/"), "{text}");
    assert_equal(&contents(folder.path()), &before, "refused");
}

/// Folders where files should be stand for whatever of another user's cannot be opened or removed.
#[test]
fn leftovers_that_cannot_be_removed_are_no_obstacle() {
    let folder = folder_in_memory();
    let writer = open(folder.path(), FaultyStorage::sound()).unwrap();
    let units = layout::record_folder(&writer.plan().buckets()[0]);
    let array = layout::array_folder(&writer.plan().buckets()[0], "p2");
    let left = [
        ".create".to_owned(),
        format!("{units}/{}0", layout::CLAIM_PREFIX),
        format!("{units}/{}", layout::PUBLISH_LOCK),
        format!("{array}/.tmp-c.0.0.0.0-1-1"),
    ];
    for name in &left {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert_eq!(extract(folder.path(), FaultyStorage::sound()).unwrap(), Finish::Done);
    assert_eq!(extract(folder.path(), FaultyStorage::sound()).unwrap(), Finish::Done);
    assert_equal(&contents(folder.path()), &undisturbed(extract), "with leftovers");
    assert!(left.iter().all(|name| folder.path().join(name).is_dir()));
}

/// What the spec of a store asks for can be nonsense while every document is well formed.
#[test]
fn impossible_arrays_are_corruptions_of_the_root_document() {
    let folder = folder_in_memory();
    let mut recipe = recipe();
    // 2^20 channels of 2^20 cells in binary32 would pass 1 TiB a sample.
    recipe.preprocess.resize = ResizeRule::Square { side: 8192 };
    (recipe.levels[0].stride, recipe.levels[1].stride) = (1, 1);
    let list = || Ok(fixture::contents(FEW_SAMPLES));
    let encodings = encodings();
    let options = || options(FaultyStorage::sound());
    StoreWriter::create_or_resume(folder.path(), &recipe, &encodings, list, options()).unwrap();
    let root = folder.path().join(layout::ROOT);
    let text = std::fs::read_to_string(&root).unwrap();
    let mut spec = Spec::parse(text.as_bytes(), &root).unwrap();
    for level in &mut spec.recipe.levels {
        level.channels = 1 << 20;
    }
    let fingerprint = spec.recipe.fingerprint();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["attributes"]["featcache"]["recipe"] = serde_json::to_value(&spec.recipe).unwrap();
    document["attributes"]["featcache"]["fingerprint"] = fingerprint.0.into();
    std::fs::write(&root, document.to_string()).unwrap();
    for error in [
        Store::open(folder.path(), OpenOptions { incomplete: true }).unwrap_err(),
        StoreWriter::create_or_resume(
            folder.path(),
            &spec.recipe,
            &encodings,
            || -> Result<Listing> { panic!() },
            options(),
        )
        .unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(matches!(error, Error::Corrupt { path, .. } if path == root), "{text}");
        assert!(text.contains("no feature map"), "{text}");
    }
}

/// Tables, shards and documents that links lead out of the store are refused when they are opened.
#[test]
fn links_out_of_the_store_are_refused_at_open() {
    let (folder, outside) = (folder_in_memory(), folder_in_memory());
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
    let bucket = &store.buckets()[0];
    let read = || {
        let store = Store::open(folder.path(), OpenOptions::default())?;
        store.annotations(RowId(0))?;
        let row = store.rows().iter().find(|row| row.status == Status::Ok).map(|row| row.id);
        let reader = store.reader(ReadOptions::default())?;
        reader.read(&[row.unwrap()], &[LevelId(0)], None, &mut Batch::new())
    };
    read().unwrap();
    let array = layout::array_folder(bucket, "p2");
    for name in [
        layout::ROOT.to_owned(),
        layout::MANIFEST.to_owned(),
        layout::PLAN.to_owned(),
        layout::CATEGORIES.to_owned(),
        layout::SAMPLES.to_owned(),
        layout::ANNOTATIONS.to_owned(),
        format!("{array}/{}", layout::ROOT),
        format!("{array}/c.0.0.0.0"),
        array,
    ] {
        let (inside, moved) = (folder.path().join(&name), outside.path().join("moved"));
        std::fs::rename(&inside, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &inside).unwrap();
        let error = read().unwrap_err();
        assert!(matches!(error, Error::PathEscape { .. }), "{name}: {error}");
        std::fs::remove_file(&inside).unwrap();
        std::fs::rename(&moved, &inside).unwrap();
    }
    read().unwrap();
}

#[test]
fn labels_are_read_from_the_file_that_was_checked() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let store = Store::open(folder.path(), OpenOptions::default()).unwrap();
    let labels = store.annotations(RowId(0)).unwrap();
    assert!(!labels.is_empty());
    let path = folder.path().join(layout::ANNOTATIONS);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"something else").unwrap();
    assert_eq!(store.annotations(RowId(0)).unwrap(), labels);
}

#[test]
fn manifest_paths_that_leave_the_store_are_refused() {
    let folder = folder_in_memory();
    extract(folder.path(), FaultyStorage::sound()).unwrap();
    let path = folder.path().join(layout::MANIFEST);
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in ["../../etc/passwd", "/etc/passwd", "a\\u0000b"] {
        std::fs::write(&path, good.replace("\"samples.parquet\"", &format!("\"{bad}\""))).unwrap();
        let error = Store::open(folder.path(), OpenOptions::default()).unwrap_err();
        assert!(matches!(error, Error::PathEscape { .. }), "{error}");
    }
}
