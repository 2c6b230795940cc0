//! The JSON of docs/format.md, parsed by the code that reads stores. Compiled for tests only.

use crate::layout;
use crate::manifest::Manifest;
use crate::run::Run;
use crate::spec::Spec;
use crate::table::record::RecordHeader;
use crate::zarr::{array_document, check_document, group_document};
use crate::{
    Bucket, DEFAULT_SHARD_BYTES, Encoding, Encodings, LevelArrays, LevelSpec, NumberFormat, RowId, Size,
};
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
fn the_zarr_documents_of_the_format_page_are_what_the_code_writes() {
    let document = |name| -> serde_json::Value { serde_json::from_str(example(name)).unwrap() };
    assert_eq!(document("group"), group_document());
    let spec: serde_json::Value = serde_json::from_str(example("spec")).unwrap();
    let level: LevelSpec = serde_json::from_value(spec["recipe"]["levels"][0].clone()).unwrap();
    let bucket = Bucket {
        split: "val2017".into(),
        view: "base".into(),
        size: Size::new(800, 1088),
        rows: RowId(0)..RowId(1000),
        unit_rows: 1,
    };
    let unit_rows = crate::bucket::unit_rows(std::slice::from_ref(&level), &bucket, DEFAULT_SHARD_BYTES);
    let bucket = Bucket { unit_rows, ..bucket };
    let array = LevelArrays::new(&bucket, &level, NumberFormat::Bf16.into()).unwrap().payload;
    check_document(Path::new("array"), &array_document(&array), &document("array")).unwrap();
    let encodings = Encodings::uniform(std::slice::from_ref(&level), "pca32".parse::<Encoding>().unwrap());
    let bases = crate::projections::documents(std::slice::from_ref(&level), &encodings);
    check_document(Path::new("basis"), &bases["projections/p2/basis"], &document("basis")).unwrap();
}

#[test]
fn the_limits_of_the_format_page_are_those_of_the_code() {
    for (what, limit) in [
        ("root document, manifest, bytes", crate::spec::MAX_DOCUMENT_BYTES),
        ("document of an array, bytes", crate::open_shard::MAX_ARRAY_DOCUMENT_BYTES),
        ("sides of a resize rule, pixels", crate::geometry::MAX_TARGET_SIDE.into()),
        ("`pad_divisor`", crate::recipe::MAX_PAD_DIVISOR.into()),
        ("channels of a level", crate::recipe::MAX_CHANNELS.into()),
        ("one sample of one level, bytes", crate::chunk::MAX_SAMPLE_BYTES),
        ("the same of a level with `+zstd`", crate::chunk::MAX_COMPRESSED_SAMPLE_BYTES),
        ("payload of a chunk of such a level, bytes", crate::chunk::MAX_COMPRESSED_CHUNK_BYTES),
        ("elements of a basis", crate::projection::MAX_ELEMENTS as u64),
        ("inner chunks of a shard", crate::array::MAX_SHARD_CHUNKS),
        ("key, source, error, name of a category, bytes", crate::plan::MAX_TEXT_BYTES as u64),
        ("error as our writer keeps it, characters", crate::plan::MAX_REASON_CHARS as u64),
        ("segmentation or label map, bytes", crate::table::annotations::MAX_LABEL_BYTES as u64),
    ] {
        let line = format!("| {what} | {limit} |");
        assert!(FORMAT_PAGE.contains(&line), "{line}");
    }
    let (rows, expansion) = (crate::table::MAX_ROWS_PER_BYTE, crate::table::allowance::MAX_EXPANSION);
    assert!(FORMAT_PAGE.contains(&format!("more than {rows} rows for a byte")));
    assert!(FORMAT_PAGE.contains(&format!("more than {expansion} bytes\nin memory for one")));
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
