//! The rule that every Rust file is a module of something: a file that nobody lists is never compiled, and
//! the tests in it never run. Above all this ties `tests/cases/*.rs` to its `main.rs`.

use std::path::Path;

use super::{File, Finding};

/// Files that cargo finds by itself.
const ROOTS: [&str; 3] = ["lib.rs", "main.rs", "build.rs"];

/// Folders whose files cargo finds by themselves.
const ROOT_FOLDERS: [&str; 4] = ["bin", "examples", "benches", "fuzz_targets"];

/// Adds a finding if no file lists this one.
pub(super) fn check(file: &File, files: &[File], findings: &mut Vec<Finding>) {
    let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(folder) = file.path.parent() else { return };
    if ROOTS.contains(&name)
        || folder.file_name().is_some_and(|name| ROOT_FOLDERS.iter().any(|root| name == *root))
    {
        return;
    }
    let declaration = format!("mod {};", name.trim_end_matches(".rs"));
    let listed = files.iter().filter(|other| may_list(&other.path, folder)).any(|other| {
        other.text.lines().any(|line| {
            let line = line.trim();
            line == declaration
                || line.strip_suffix(&declaration).is_some_and(|before| before.starts_with("pub"))
        })
    });
    if !listed {
        findings.push(Finding::new(
            &file.path,
            1,
            format!("no `{declaration}` anywhere: this file is not compiled"),
        ));
    }
}

/// Whether modules in `folder` are listed in the file at `path`.
fn may_list(path: &Path, folder: &Path) -> bool {
    let beside = path.parent() == Some(folder) && ROOTS.iter().any(|root| path.ends_with(root));
    beside || path == folder.with_extension("rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into(), bytes: 0 }
    }

    fn unlisted(files: &[File]) -> Vec<String> {
        let mut findings = Vec::new();
        files.iter().for_each(|file| check(file, files, &mut findings));
        findings.into_iter().map(|finding| finding.path.display().to_string()).collect()
    }

    #[test]
    fn a_case_that_main_does_not_list_is_found() {
        let mut files =
            vec![file("tests/cases/main.rs", "//! Cases.\nmod plan;\n"), file("tests/cases/plan.rs", "")];
        assert_eq!(unlisted(&files), Vec::<String>::new());
        files.push(file("tests/cases/order.rs", ""));
        assert_eq!(unlisted(&files), ["tests/cases/order.rs"]);
    }

    #[test]
    fn a_module_is_listed_in_the_file_named_like_its_folder() {
        let files = [
            file("heads/src/lib.rs", "pub mod head;\n"),
            file("heads/src/head.rs", "pub(crate) mod linear;\n// mod upernet;\n"),
            file("heads/src/head/linear.rs", ""),
            file("heads/src/head/upernet.rs", ""),
        ];
        assert_eq!(unlisted(&files), ["heads/src/head/upernet.rs"]);
    }
}
