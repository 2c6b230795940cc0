//! Rules on the text of one file: its first line, its length, its name, words that must not be in it. Rules
//! that look at a second file are not here.

use std::path::Path;

use super::{File, Finding};

/// Names that hold what nobody named.
const NAMELESS: [&str; 8] = ["mod", "util", "utils", "common", "helper", "helpers", "types", "misc"];

/// Words that must not be in a Rust source, and why. Cut in two, so that this file does not hold them.
const UNWANTED: [(&str, &str); 6] = [
    (concat!("TO", "DO"), "an issue is the place for what is left to do"),
    (concat!("FIX", "ME"), "an issue is the place for what is left to do"),
    (concat!("to", "do!("), "a stub is not a seam"),
    (concat!("unimple", "mented!("), "a stub is not a seam"),
    (
        concat!("#[al", "low("),
        "`#[expect(…, reason = \"…\")]` says why and notices when it is no longer needed",
    ),
    (
        concat!("#![al", "low("),
        "`#[expect(…, reason = \"…\")]` says why and notices when it is no longer needed",
    ),
];

/// Folders of the machines that this was written on.
const ABSOLUTE: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Lines after which a file has to say why it is one file.
const LONG: usize = 800;

/// How a long file's first line says it.
const LONG_REASON: &str = "long because";

/// Rules on any text.
pub(super) fn check_any(file: &File, findings: &mut Vec<Finding>) {
    for (number, line) in (1..).zip(file.text.lines()) {
        for folder in ABSOLUTE {
            if mentions_folder(line, folder) {
                findings.push(Finding::new(
                    &file.path,
                    number,
                    format!("`{folder}` is a folder of one machine"),
                ));
            }
        }
    }
}

/// Rules on Rust.
pub(super) fn check_rust(file: &File, findings: &mut Vec<Finding>) {
    let first = file.text.lines().next().unwrap_or_default();
    if !first.starts_with("//! ") {
        findings.push(Finding::new(
            &file.path,
            1,
            "opens without `//!`: say what the file holds and must not do",
        ));
    }
    let lines = file.text.lines().count();
    if lines > LONG && !first.contains(LONG_REASON) {
        let what =
            format!("{lines} lines: look for the second noun, or say `{LONG_REASON} …` in the first line");
        findings.push(Finding::new(&file.path, 1, what));
    }
    if nameless(&file.path) {
        findings.push(Finding::new(&file.path, 1, "a file is named after the noun it defines"));
    }
    for (number, line) in (1..).zip(file.text.lines()) {
        for (word, why) in UNWANTED {
            if line.contains(word) {
                findings.push(Finding::new(&file.path, number, format!("`{word}`: {why}")));
            }
        }
    }
}

fn nameless(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| NAMELESS.contains(&stem))
}

/// Whether the line names the folder itself, not one whose name ends the same way.
fn mentions_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before
            .is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '_' | '-' | '.' | '}' | '>'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.into(), text: text.into(), bytes: 0 };
        let mut findings = Vec::new();
        check_any(&file, &mut findings);
        check_rust(&file, &mut findings);
        findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
    }

    #[test]
    fn a_file_in_order_has_no_findings() {
        assert_eq!(findings("store/src/plan.rs", "//! Plans.\nfn plan() {}\n"), Vec::<String>::new());
    }

    #[test]
    fn every_unwanted_word_is_found_on_its_line() {
        for (word, _) in UNWANTED {
            let found = findings("store/src/plan.rs", &format!("//! Plans.\n// {word}\n"));
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with("2: "), "{found:?}");
        }
    }

    #[test]
    fn a_missing_first_line_a_nameless_file_and_a_long_one_are_found() {
        assert_eq!(findings("store/src/plan.rs", "fn plan() {}\n").len(), 1);
        assert_eq!(findings("store/src/utils.rs", "//! Things.\n").len(), 1);
        let body = "//\n".repeat(LONG);
        assert_eq!(findings("store/src/plan.rs", &format!("//! Plans.\n{body}")).len(), 1);
        assert_eq!(findings("store/src/plan.rs", &format!("//! Plans, long because …\n{body}")).len(), 0);
    }

    #[test]
    fn a_machines_folder_is_found_and_a_relative_one_is_not() {
        assert!(mentions_folder(&format!("open(\"{}x\")", ABSOLUTE[0]), ABSOLUTE[0]));
        assert!(!mentions_folder(&format!("some{}x", ABSOLUTE[0]), ABSOLUTE[0]));
        assert!(!mentions_folder("../shared/samples", ABSOLUTE[0]));
    }
}
