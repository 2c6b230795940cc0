//! The rule that code shown in a Markdown file is code that compiles: a block that opens with
//! ```` ```rust path/to/file.rs ```` must stand in that file, line after line.

use std::path::Path;

use super::{File, Finding};

/// Adds a finding for every block that is not what its file says.
pub(super) fn check(file: &File, files: &[File], findings: &mut Vec<Finding>) {
    for block in blocks(&file.text) {
        let Some(source) = files.iter().find(|other| other.path == Path::new(block.path)) else {
            findings.push(Finding::new(&file.path, block.number, format!("no file `{}`", block.path)));
            continue;
        };
        if !stands_in(&block.lines, &source.text) {
            let what = format!("these lines do not stand in `{}`", block.path);
            findings.push(Finding::new(&file.path, block.number, what));
        }
    }
}

/// A block of code that names its file.
struct Block<'a> {
    number: usize,
    path: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(block) = &mut open {
            if line == "```" {
                found.extend(open.take());
            } else {
                block.lines.push(line);
            }
        } else if let Some(path) = line.strip_prefix("```rust ") {
            open = Some(Block { number, path: path.trim(), lines: Vec::new() });
        }
    }
    found
}

/// Whether `lines` follow one another in `text`, indentation aside.
fn stands_in(lines: &[&str], text: &str) -> bool {
    let wanted: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    let there: Vec<&str> = text.lines().map(str::trim).collect();
    !wanted.is_empty() && there.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_differs_from_its_file_is_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into(), bytes: 0 };
        let code = file("a/b.rs", "fn main() {\n    one();\n    two();\n}\n");
        let found = |block: &str| {
            let page = file("README.md", &format!("text\n\n```rust {block}\n```\n"));
            let mut findings = Vec::new();
            check(&page, std::slice::from_ref(&code), &mut findings);
            findings.len()
        };
        assert_eq!(found("a/b.rs\none();\ntwo();"), 0);
        assert_eq!(found("a/b.rs\ntwo();\none();"), 1);
        assert_eq!(found("a/b.rs"), 1);
        assert_eq!(found("a/c.rs\none();"), 1);
    }
}
