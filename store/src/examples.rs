//! The JSON of docs/format.md, parsed by the code that reads stores. Compiled for tests only.

use crate::layout;
use crate::manifest::Manifest;
use crate::run::Run;
use crate::spec::Spec;
use crate::table::record::RecordHeader;
use serde_json::json;
use std::path::Path;

const FORMAT_PAGE: &str = include_str!("../../docs/format.md");

fn example(name: &str) -> &'static str {
    let (_, after) = FORMAT_PAGE.split_once(&format!("<!-- example: {name} -->\n```json\n")).unwrap();
    after.split_once("```").unwrap().0
}

#[test]
fn the_examples_of_the_format_page_are_what_the_code_reads() {
    let spec: serde_json::Value = serde_json::from_str(example("spec")).unwrap();
    let root = json!({ "zarr_format": 3, "node_type": "group", "attributes": { "featcache": spec } });
    let spec = Spec::parse(root.to_string().as_bytes(), Path::new(layout::ROOT)).unwrap();
    let manifest = Manifest::parse(example("manifest").as_bytes(), Path::new(layout::MANIFEST)).unwrap();
    assert_eq!(manifest.recipe, spec.recipe);
    assert_eq!(manifest.fingerprint, spec.fingerprint);

    let record: RecordHeader = serde_json::from_str(example("record")).unwrap();
    layout::check_relative(&record.files[0].path).unwrap();
    let run: Run = serde_json::from_str(example("run")).unwrap();
    layout::check_name("run id", &run.id).unwrap();
}

#[test]
fn unknown_fields_are_refused() {
    let spec: serde_json::Value = serde_json::from_str(example("spec")).unwrap();
    for (pointer, field) in [
        ("", "author"),
        ("/recipe", "author"),
        ("/recipe/preprocess", "gamma"),
        ("/recipe/preprocess/resize", "mode"),
        ("/recipe/levels/0", "stages"),
        ("/dataset", "root"),
    ] {
        let mut spec = spec.clone();
        spec.pointer_mut(pointer).unwrap()[field] = json!("x");
        let root = json!({ "attributes": { "featcache": spec } });
        let error = Spec::parse(root.to_string().as_bytes(), Path::new("zarr.json")).unwrap_err();
        assert!(error.to_string().contains(field), "{pointer}/{field}: {error}");
    }
}
