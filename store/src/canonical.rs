//! Canonical JSON: one text for one value, so that its hash is an identity. Knows nothing of what the
//! value means.
//!
//! Keys sorted by their UTF-8 bytes, no white space, strings escaped and numbers printed as serde_json
//! does (integers in decimal, floats in their shortest form that reads back exactly).

use serde::Serialize;
use serde_json::Value;

/// The canonical JSON of a value whose maps have string keys.
pub(crate) fn canonical_json(value: &impl Serialize) -> String {
    let mut tree = to_value(value);
    // serde_json keeps insertion order if any crate of the build asks for that.
    tree.sort_all_objects();
    tree.to_string()
}

/// The value as a JSON tree.
pub(crate) fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("the store's documents are structs, string maps, numbers and text")
}

/// The first place, in key order, where two trees differ: its path and both texts.
pub(crate) fn first_difference(ours: &Value, theirs: &Value) -> Option<(String, String, String)> {
    fn at(path: &str, ours: &Value, theirs: &Value) -> Option<(String, String, String)> {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match (ours, theirs) {
            (Value::Object(a), Value::Object(b)) => {
                let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
                keys.sort_unstable();
                keys.dedup();
                keys.into_iter().find_map(|key| {
                    at(&below(key), a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null))
                })
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() && names(ours) == names(theirs) => {
                a.iter().zip(b).enumerate().find_map(|(i, (a, b))| at(&format!("{path}[{i}]"), a, b))
            }
            _ if ours == theirs => None,
            _ => Some((path.to_owned(), shown(ours), shown(theirs))),
        }
    }
    at("", ours, theirs)
}

/// The names of a list of named things: what tells two such lists apart at a glance.
fn names(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(|item| item.get("name")?.as_str()).collect()
}

/// A value for an error message: short, and named things by their names.
fn shown(value: &Value) -> String {
    const LIMIT: usize = 160;
    let text = match (value, names(value)) {
        (Value::Null, _) => "nothing".to_owned(),
        (_, Some(names)) => format!("[{}]", names.join(", ")),
        (Value::String(text), _) => text.clone(),
        _ => canonical_json(value),
    };
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_nothing_is_padded() {
        let value = json!({"b": [1, 0.485, "é\n"], "a": {"z": null, "y": true}});
        assert_eq!(canonical_json(&value), r#"{"a":{"y":true,"z":null},"b":[1,0.485,"é\n"]}"#);
    }

    #[test]
    fn differences_have_paths() {
        let ours = json!({"a": [{"name": "p2", "c": 1}], "b": 1});
        assert_eq!(first_difference(&ours, &ours), None);
        let theirs = json!({"a": [{"name": "p2", "c": 2}], "b": 2});
        assert_eq!(first_difference(&ours, &theirs), Some(("a[0].c".into(), "1".into(), "2".into())));
        let theirs = json!({"a": [{"name": "p2", "c": 1}, {"name": "p3"}], "b": 1});
        assert_eq!(first_difference(&ours, &theirs), Some(("a".into(), "[p2]".into(), "[p2, p3]".into())));
    }
}
