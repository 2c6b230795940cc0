//! The rule that every relative link in a Markdown file leads somewhere: to a file that is there and, where
//! it names a heading, to a heading that is there. Links to other hosts are not followed.

use std::path::Path;

use super::{File, Finding};

/// Adds a finding for every dead link.
pub(super) fn check(root: &Path, file: &File, files: &[File], findings: &mut Vec<Finding>) {
    for (number, target) in links(&file.text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (place, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = match place {
            "" => file.path.clone(),
            place => file.path.parent().unwrap_or(Path::new("")).join(place),
        };
        if !root.join(&path).exists() {
            findings.push(Finding::new(&file.path, number, format!("dead link to `{target}`")));
            continue;
        }
        let linked = files
            .iter()
            .find(|other| other.path == path && other.path.extension().is_some_and(|e| e == "md"));
        if !heading.is_empty()
            && linked.is_some_and(|other| !anchors(&other.text).any(|anchor| anchor == heading))
        {
            findings.push(Finding::new(&file.path, number, format!("no heading for `{target}`")));
        }
    }
}

/// Line numbers and targets of the inline links and pictures outside code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let in_code = line[..at].matches('`').count() % 2 == 1;
            if let (false, Some((target, _))) = (in_code, line[at + 2..].split_once(')')) {
                found.push((number, target.split_whitespace().next().unwrap_or_default()));
            }
        }
    }
    found
}

/// The anchors that headings get: lower case, blanks to hyphens, punctuation gone.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(text: &str) -> Vec<String> {
        let root = &Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = File { path: "README.md".into(), text: text.into(), bytes: 0 };
        let files = [File { path: "README.md".into(), text: text.into(), bytes: 0 }];
        let mut findings = Vec::new();
        check(root, &file, &files, &mut findings);
        findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
    }

    #[test]
    fn a_link_to_a_file_that_is_there_is_alive() {
        assert_eq!(
            dead("[manifest](Cargo.toml) ![x](xtask/src/main.rs) [far](https://example.org/x)"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_dead_link_is_found_on_its_line_and_code_is_left_alone() {
        let text = "fine\n[gone](docs/gone.md)\n```\n[code](gone.md)\n```\n`[code](gone.md)`\n";
        assert_eq!(dead(text), ["2: dead link to `docs/gone.md`"]);
    }

    #[test]
    fn a_heading_is_found_by_its_anchor() {
        assert_eq!(dead("# The read plane, in short\n[x](#the-read-plane-in-short)"), Vec::<String>::new());
        assert_eq!(dead("# Title\n[x](#gone)"), ["2: no heading for `#gone`"]);
    }
}
