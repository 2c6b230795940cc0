//! The Zarr v3 documents of a store: groups, arrays, consolidated metadata; and the check that a document
//! found on disk is the one that the store's spec implies. Reads and writes no files.

use crate::array::ArraySpec;
use crate::canonical::first_difference;
use crate::compression::ZSTD_LEVEL;
use crate::{Compression, ElementType, Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of every Zarr metadata document.
pub const DOCUMENT: &str = "zarr.json";

/// Document of a group without attributes.
pub fn group_document() -> Value {
    json!({ "zarr_format": 3, "node_type": "group", "attributes": {} })
}

/// Document of an array: shards of whole units, inner chunks of one band, crc32c on both. Rows without
/// features have no chunks and read as NaN, which no reader can mistake for features; those of a quantised
/// level do so by their scales.
pub fn array_document(array: &ArraySpec) -> Value {
    let little = json!({ "name": "bytes", "configuration": { "endian": "little" } });
    let index_codecs = json!([little, { "name": "crc32c" }]);
    let bytes = array.byte_axis();
    let zstd = || json!({ "name": "zstd", "configuration": { "level": ZSTD_LEVEL, "checksum": false } });
    let codecs = match array.geometry.compression {
        Compression::None => index_codecs.clone(),
        Compression::Zstd if bytes == 1 => json!([little, zstd(), { "name": "crc32c" }]),
        // The axis of an element's bytes first: all first bytes of a chunk, then all second ones.
        Compression::Zstd => {
            let transpose = json!({ "name": "transpose", "configuration": { "order": [4, 0, 1, 2, 3] } });
            json!([transpose, little, zstd(), { "name": "crc32c" }])
        }
    };
    let (height, width, channels) = (array.cells.height, array.cells.width, array.channels);
    let fill_value = match array.element {
        // Floats whose bytes are all ones are NaN.
        ElementType::Float(_) if bytes > 1 => json!(255),
        ElementType::Float(_) => json!("NaN"),
        ElementType::Int8 | ElementType::Uint8 => json!(0),
    };
    let data_type = if bytes > 1 { ElementType::Uint8.zarr_name() } else { array.element.zarr_name() };
    // Sides of the array, of a shard, of a chunk.
    let sides = |rows: u64, height: u32| {
        let sides = [rows, u64::from(height), u64::from(width), u64::from(channels), bytes as u64];
        if bytes > 1 { json!(sides) } else { json!(sides.get(..4)) }
    };
    let mut names = vec!["row", "height", "width", "channel"];
    names.extend((bytes > 1).then_some("byte"));
    let attributes = array.attributes.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    json!({
        "zarr_format": 3,
        "node_type": "array",
        "shape": sides(array.rows, height),
        "data_type": data_type,
        "chunk_grid": {
            "name": "regular",
            "configuration": { "chunk_shape": sides(array.unit_rows, height) },
        },
        "chunk_key_encoding": { "name": "default", "configuration": { "separator": "." } },
        "fill_value": fill_value,
        "codecs": [{
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": sides(1, array.geometry.band_rows),
                "codecs": codecs,
                "index_codecs": index_codecs,
                "index_location": "end",
            },
        }],
        "dimension_names": names,
        "attributes": Value::Object(attributes.collect()),
    })
}

/// Every document below the root: folder relative to the store → document, for the arrays and for each
/// group on the way to them.
pub fn hierarchy<'a>(arrays: impl IntoIterator<Item = &'a ArraySpec>) -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for array in arrays {
        add_array(&mut documents, &array.path, array_document(array));
    }
    documents
}

/// Adds the document of the array at `path`, and of each group on the way to it.
pub(crate) fn add_array(documents: &mut BTreeMap<String, Value>, path: &str, document: Value) {
    for (end, _) in path.match_indices('/') {
        documents.entry(path.chars().take(end).collect()).or_insert_with(group_document);
    }
    documents.insert(path.to_owned(), document);
}

/// Document of an array of numbers in binary32 that is one chunk: its sides and their names.
pub(crate) fn plain_array_document(sides: &[(u64, &str)]) -> Value {
    let shape: Vec<u64> = sides.iter().map(|(side, _)| *side).collect();
    let names: Vec<&str> = sides.iter().map(|(_, name)| *name).collect();
    json!({
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": { "name": "regular", "configuration": { "chunk_shape": shape } },
        "chunk_key_encoding": { "name": "default", "configuration": { "separator": "." } },
        "fill_value": "NaN",
        "codecs": [{ "name": "bytes", "configuration": { "endian": "little" } }, { "name": "crc32c" }],
        "dimension_names": names,
        "attributes": {},
    })
}

/// The root group: `spec` under `attributes.featcache`, and the hierarchy as consolidated metadata, so
/// that a store can be browsed without listing files.
pub fn root_document(spec: &Value, hierarchy: &BTreeMap<String, Value>) -> Value {
    let metadata: Map<String, Value> = hierarchy.clone().into_iter().collect();
    json!({
        "zarr_format": 3,
        "node_type": "group",
        "attributes": { "featcache": spec },
        "consolidated_metadata": { "kind": "inline", "must_understand": false, "metadata": metadata },
    })
}

/// A document as it is written: indented JSON with sorted keys and a final newline.
pub fn document_bytes(document: &Value) -> Vec<u8> {
    let mut sorted = document.clone();
    // serde_json keeps insertion order if any crate of the build asks for that; equal stores must not
    // depend on it.
    sorted.sort_all_objects();
    format!("{sorted:#}\n").into_bytes()
}

/// Parses a document found at `path`; [`Error::Corrupt`] if it is not JSON.
pub fn parse_document(bytes: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::corrupt(path, format!("not JSON: {e}")))
}

/// Checks that the document found at `path` is the expected one; [`Error::Corrupt`] names the first field
/// that differs, what was expected and what was found.
pub fn check_document(path: &Path, expected: &Value, found: &Value) -> Result<()> {
    match first_difference(expected, found) {
        None => Ok(()),
        Some((field, expected, found)) => {
            Err(Error::corrupt(path, format!("field {field}: expected {expected}, found {found}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Size};

    fn array() -> ArraySpec {
        let path = "features/val/base/64x64/p2".to_owned();
        ArraySpec::new(path, 10, 4, Size::new(16, 16), 8, DType::Bf16).unwrap()
    }

    #[test]
    fn every_group_on_the_way_has_a_document() {
        let documents = hierarchy([&array()]);
        let paths: Vec<_> = documents.keys().map(String::as_str).collect();
        let up_to = ["features", "features/val", "features/val/base", "features/val/base/64x64"];
        assert_eq!(paths, [&up_to[..], &["features/val/base/64x64/p2"]].concat());
        let root = root_document(&json!({ "format": 1 }), &documents);
        assert_eq!(root["consolidated_metadata"]["metadata"]["features"], group_document());
        assert_eq!(parse_document(&document_bytes(&root), Path::new("x")).unwrap(), root);
    }

    #[test]
    fn names_the_field_that_differs() {
        let expected = array_document(&array());
        assert!(check_document(Path::new("z"), &expected, &expected).is_ok());
        let codec = "/codecs/0/configuration/index_location";
        for (pointer, value, message) in [
            ("/shape/0", json!(11), "field shape[0]: expected 10, found 11"),
            ("/data_type", json!("float16"), "field data_type: expected bfloat16, found float16"),
            (codec, json!("start"), "codecs[0].configuration.index_location: expected end"),
            ("/fill_value", json!("x".repeat(999)), "…"),
        ] {
            let mut found = expected.clone();
            *found.pointer_mut(pointer).unwrap() = value;
            let error = check_document(Path::new("z"), &expected, &found).unwrap_err().to_string();
            assert!(error.contains(message) && error.len() < 400, "{error}");
        }
        let mut found = expected.clone();
        found["storage_transformers"] = json!([1]);
        let error = check_document(Path::new("z"), &expected, &found).unwrap_err().to_string();
        assert!(error.contains("storage_transformers: expected nothing"), "{error}");
        assert!(check_document(Path::new("z"), &expected, &json!(null)).is_err());
    }
}
