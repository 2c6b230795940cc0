//! Which libtorch the workspace is built against, and whether a folder holds the right one. It looks and
//! compares; fetching is [`crate::wheel`], deciding is [`crate::setup`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The version that the bindings are written for. `tch`'s number in the root `Cargo.toml` belongs to it.
pub(crate) const VERSION: &str = "2.11.0";

/// The libraries that a program of ours is linked to.
const LIBRARIES: [&str; 3] = ["libc10.so", "libtorch_cpu.so", "libtorch.so"];

/// Our own place for it, ignored by git; `.cargo/config.toml` names the same folder.
pub(crate) fn own_folder(root: &Path) -> PathBuf {
    root.join(".libtorch")
}

/// The folder in the user's `LIBTORCH`, if it is not our own: cargo's `[env]` puts ours there where the
/// user has set none.
pub(crate) fn users_own(root: &Path) -> Option<PathBuf> {
    let set = PathBuf::from(std::env::var_os("LIBTORCH")?);
    let same = |left: &Path, right: &Path| match (fs::canonicalize(left), fs::canonicalize(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => left == right,
    };
    (!same(&set, &own_folder(root))).then_some(set)
}

/// Checks that a folder is a libtorch of [`VERSION`]: its version and its libraries.
pub(crate) fn check(folder: &Path) -> Result<()> {
    if !folder.is_absolute() {
        bail!("expected an absolute path to libtorch, found `{}`", folder.display());
    }
    if !folder.is_dir() {
        bail!("expected libtorch {VERSION} in {}, found no such folder", folder.display());
    }
    for library in LIBRARIES {
        let path = folder.join("lib").join(library);
        if !path.is_file() {
            bail!("expected libtorch {VERSION} in {}, found no lib/{library} there", folder.display());
        }
    }
    let found = version(folder)?;
    if found != VERSION {
        bail!("expected libtorch {VERSION} in {}, found {found}", folder.display());
    }
    Ok(())
}

/// The version a folder states: in `build-version` (libtorch archives, our set-up), otherwise in its
/// headers (the torch folder of a Python environment). A local part such as `+cu130` is left out.
fn version(folder: &Path) -> Result<String> {
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Ok(public_part(&text));
    }
    let header = folder.join("include/torch/headeronly/version.h");
    let text = fs::read_to_string(&header).with_context(|| {
        format!("expected libtorch {VERSION} in {}, found no version there", folder.display())
    })?;
    version_in_header(&text)
        .with_context(|| format!("failed to find torch's version in {}", header.display()))
}

fn public_part(text: &str) -> String {
    text.trim().split('+').next().unwrap_or_default().to_owned()
}

fn version_in_header(text: &str) -> Option<String> {
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")))?;
        line.trim().parse::<u32>().ok()
    };
    let (major, minor) = (number("TORCH_VERSION_MAJOR")?, number("TORCH_VERSION_MINOR")?);
    Some(format!("{major}.{minor}.{}", number("TORCH_VERSION_PATCH")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_part_of_a_version_is_left_out() {
        assert_eq!(public_part("2.11.0+cu130\n"), "2.11.0");
    }

    #[test]
    fn version_is_read_from_the_headers() {
        let header =
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 9\n#define TORCH_VERSION_PATCH 1\n";
        assert_eq!(version_in_header(header).as_deref(), Some("2.9.1"));
        assert_eq!(version_in_header("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn a_folder_of_another_version_is_refused_with_both_numbers() {
        let folder = std::env::temp_dir().join(format!("featcache-xtask-libtorch-{}", std::process::id()));
        fs::create_dir_all(folder.join("lib")).expect("the temporary folder can be written");
        for library in LIBRARIES {
            fs::write(folder.join("lib").join(library), b"").expect("the temporary folder can be written");
        }
        fs::write(folder.join("build-version"), "2.9.1+cpu").expect("the temporary folder can be written");
        let refused = check(&folder).expect_err("another version is refused").to_string();
        assert!(refused.contains("expected libtorch 2.11.0") && refused.contains("found 2.9.1"), "{refused}");
        fs::write(folder.join("build-version"), "2.11.0+cpu").expect("the temporary folder can be written");
        check(&folder).expect("the right version is taken");
        fs::remove_file(folder.join("lib/libtorch.so")).expect("it was just written");
        let refused = check(&folder).expect_err("a missing library is refused").to_string();
        assert!(refused.contains("no lib/libtorch.so"), "{refused}");
        fs::remove_dir_all(&folder).expect("it was just written");
    }
}
