//! Brings a fresh clone to where cargo can build it: system programs, then libtorch in `.libtorch`, then
//! proof that it computes. Done once; a second run only looks.
//!
//! `.libtorch` is made beside its place and moved there when it is whole, so that a killed set-up leaves
//! nothing that could be taken for good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{output, run};
use crate::program::{Build, build};
use crate::{libtorch, say, tools, wheel};

/// Raise it when the layout of `.libtorch` changes while the wheels stay: older set-ups are then replaced.
const LAYOUT: u32 = 1;

/// Says inside `.libtorch` what it was made from and how large its libraries are.
const MARKER: &str = "featcache-setup";

const SMOKE: &str = include_str!("smoke.c");

/// `cargo xtask setup`: the set-up, then the program's own look at this machine.
pub(crate) fn setup_and_prove(root: &Path) -> Result<()> {
    setup(root)?;
    run(build(root, Build::Program)?.arg("doctor"))
}

/// Everything that building needs, installed if missing.
pub(crate) fn setup(root: &Path) -> Result<()> {
    if let Some(folder) = libtorch::users_own(root) {
        if folder.as_os_str().is_empty() {
            bail!(
                "LIBTORCH is set but empty: unset it, or set it to the folder of a libtorch {}",
                libtorch::VERSION
            );
        }
        tools::ensure(false)?;
        libtorch::check(&folder)
            .context("LIBTORCH is set but does not fit (unset it to have one fetched)")?;
        return Ok(());
    }
    let folder = libtorch::own_folder(root);
    if is_whole(&folder) {
        return tools::ensure(false);
    }
    if folder.exists() && !folder.join(MARKER).exists() {
        // Put there by hand, a link to an installation for example: used if it fits, never overwritten.
        tools::ensure(false)?;
        return libtorch::check(&folder)
            .with_context(|| format!("{} was not made by this set-up (move it away)", folder.display()));
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "set-up fetches libtorch for Linux on x86-64 only: install libtorch {} and set LIBTORCH to its folder",
            libtorch::VERSION
        );
    }
    tools::ensure(true)?;
    install(root, &folder)
}

/// Makes `.libtorch` beside its place and moves it there. A lock, which the kernel frees when its holder is
/// killed, keeps two set-ups apart; so a leftover that is found under the lock is nobody's.
fn install(root: &Path, folder: &Path) -> Result<()> {
    let lock = root.join(".libtorch.lock");
    let file = fs::File::create(&lock).with_context(|| format!("failed to create {}", lock.display()))?;
    if file.try_lock().is_err() {
        say("another set-up is at work here; waiting for it");
        file.lock().with_context(|| format!("failed to lock {}", lock.display()))?;
    }
    if is_whole(folder) {
        return Ok(());
    }
    let partial = root.join(".libtorch.partial");
    remove(&partial)?;
    fs::create_dir_all(partial.join("lib"))
        .with_context(|| format!("failed to create {}", partial.display()))?;
    wheel::fetch_into(&partial)?;
    finish_libraries(&partial)?;
    smoke(&partial)?;
    let marker = marker(&partial)?;
    write(&partial.join(MARKER), &marker)?;
    remove(folder)?;
    fs::rename(&partial, folder)
        .with_context(|| format!("failed to move libtorch to {}", folder.display()))?;
    fs::File::open(root).and_then(|root| root.sync_all()).context("failed to sync the workspace's folder")?;
    say(&format!("libtorch {} is in {}", libtorch::VERSION, folder.display()));
    Ok(())
}

/// What the bindings expect of a libtorch and the wheels do not have: a `libtorch.so` that wants no CUDA
/// (the real one holds no code, only the names of the libraries to load), and a version to check.
fn finish_libraries(partial: &Path) -> Result<()> {
    let empty = partial.join("empty.c");
    write(&empty, "")?;
    let library = partial.join("lib/libtorch.so");
    output(Command::new("cc").args(["-shared", "-o"]).args([&library, &empty]))
        .context("failed to link an empty libtorch.so")?;
    remove(&empty)?;
    write(&partial.join("build-version"), &format!("{}\n", libtorch::VERSION))?;
    for path in libraries(partial)? {
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.with_context(|| format!("failed to sync {}", path.display()))?;
    }
    Ok(())
}

/// Multiplies two matrices with the libraries of `folder`, in a process of their own.
fn smoke(folder: &Path) -> Result<()> {
    let (source, program) = (folder.join("smoke.c"), folder.join("smoke"));
    write(&source, SMOKE)?;
    let lib = folder.join("lib");
    let mut cc = Command::new("cc");
    cc.arg("-o").args([&program, &source]).arg("-L").arg(&lib).args(["-ltorch_cpu", "-lc10"]);
    cc.arg(format!("-Wl,-rpath,{}", lib.display()));
    // The CUDA libraries that libtorch_cpu.so wants are the loader's business, not this link's.
    cc.arg("-Wl,--allow-shlib-undefined");
    run(&mut cc).context("failed to link a program with libtorch")?;
    let found = output(&mut Command::new(&program)).context("libtorch was fetched but does not run")?;
    if found.trim() != libtorch::VERSION {
        bail!("expected libtorch {}, the one fetched says {}", libtorch::VERSION, found.trim());
    }
    say(&format!("libtorch {} loads and multiplies", found.trim()));
    remove(&source)?;
    remove(&program)
}

/// Whether the folder is a set-up of this version with every library at its full size.
fn is_whole(folder: &Path) -> bool {
    match (fs::read_to_string(folder.join(MARKER)), marker(folder)) {
        (Ok(written), Ok(expected)) => written == expected,
        _ => false,
    }
}

fn marker(folder: &Path) -> Result<String> {
    let mut text = format!("layout {LAYOUT}\n{}", wheel::pins());
    for path in libraries(folder)? {
        let bytes = fs::metadata(&path).with_context(|| format!("failed to read {}", path.display()))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        text += &format!("{name} {bytes}\n");
    }
    Ok(text)
}

fn libraries(folder: &Path) -> Result<Vec<PathBuf>> {
    let lib = folder.join("lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("failed to list {}", lib.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// Removes a file, a link or a folder; what is not there is removed already.
fn remove(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("failed to remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_up_is_whole_only_with_its_marker_and_every_byte_of_its_libraries() {
        let folder = std::env::temp_dir().join(format!("featcache-xtask-setup-{}", std::process::id()));
        let library = folder.join("lib/libtorch_cpu.so");
        fs::create_dir_all(folder.join("lib")).expect("the temporary folder can be written");
        fs::write(&library, b"0123456789").expect("the temporary folder can be written");
        assert!(!is_whole(&folder), "without its marker");
        let text = marker(&folder).expect("the folder can be listed");
        write(&folder.join(MARKER), &text).expect("the temporary folder can be written");
        assert!(is_whole(&folder));
        fs::write(&library, b"01234").expect("the temporary folder can be written");
        assert!(!is_whole(&folder), "with half of a library");
        fs::write(&library, b"0123456789").expect("the temporary folder can be written");
        write(&folder.join(MARKER), &text.replace("torch==", "torch==0."))
            .expect("the temporary folder can be written");
        assert!(!is_whole(&folder), "made from other wheels");
        remove(&folder).expect("it was just written");
        assert!(!is_whole(&folder), "gone");
    }
}
