//! What the cases share: where the samples and the built program are, small pictures, and store comparison.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The real samples, or `None` with a printed reason where they are not on this machine.
pub fn samples() -> Option<PathBuf> {
    let named = std::env::var_os("FEATCACHE_SAMPLES").map(PathBuf::from);
    let beside = workspace().join("../shared/samples");
    let found = named.into_iter().chain([beside]).find(|folder| folder.join("README.md").is_file());
    if found.is_none() {
        skipped("no samples: set FEATCACHE_SAMPLES to their folder");
    }
    found
}

/// Says that the running case, or a part of it, did nothing, and why. What a passing case prints is
/// swallowed by the test harness; this is not, because it goes to stderr itself.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("a case"));
    // Without a stderr there is nobody to tell.
    drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()));
}

/// The built `featcache` program: `cargo xtask test` builds it before the cases run.
///
/// # Panics
/// If it has not been built.
pub fn featcache() -> Command {
    let exe = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/cases-… → target/<profile>/featcache
    let program = exe.ancestors().nth(2).unwrap_or(&exe).join("featcache");
    assert!(program.is_file(), "{} is not built: run cargo xtask test", program.display());
    let mut command = Command::new(program);
    for launcher in ["RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "RUST_LOG"] {
        command.env_remove(launcher);
    }
    command
}

/// Runs `featcache` with `args`, split at spaces.
///
/// # Panics
/// If the program cannot be started.
pub fn run(args: &str) -> Output {
    match featcache().args(args.split_whitespace()).output() {
        Ok(output) => output,
        Err(error) => panic!("featcache {args}: {error}"),
    }
}

/// Runs `featcache` and expects success; its stdout.
///
/// # Panics
/// If it ends with another code.
pub fn done(args: &str) -> String {
    let output = run(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "featcache {args}\n{:?}\n{out}\n{err}", output.status);
    out
}

/// Bytes as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every file below `root` that is part of a store's content, with its bytes: `runs/` is provenance.
///
/// # Panics
/// If a folder cannot be read.
pub fn content(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => panic!("{}: {error}", folder.display()),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path != root.join("runs") {
                    folders.push(path);
                }
            } else if let (Ok(name), Ok(bytes)) = (path.strip_prefix(root), std::fs::read(&path)) {
                files.insert(name.display().to_string(), bytes);
            }
        }
    }
    files
}

/// Expects two stores to have the same files with the same bytes.
///
/// # Panics
/// At the first difference, naming the file.
pub fn assert_same_content(expected: &Path, found: &Path) {
    let (expected, found) = (content(expected), content(found));
    let names =
        |files: &std::collections::BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "files differ");
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
}

/// A JPEG of a smooth seeded pattern.
///
/// # Panics
/// If the picture cannot be encoded.
pub fn jpeg(height: usize, width: usize, seed: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let (x, y, s) = (x as u32, y as u32, seed.wrapping_mul(2_654_435_761) >> 8);
            pixels.push((x * 3 + s) as u8);
            pixels.push((y * 5 + (s >> 4)) as u8);
            pixels.push(((x * y) / 7 + (s >> 9)) as u8);
        }
    }
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width,
        pitch: width * 3,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    match turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2) {
        Ok(bytes) => bytes.to_vec(),
        Err(error) => panic!("jpeg: {error}"),
    }
}
