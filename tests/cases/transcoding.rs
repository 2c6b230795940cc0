//! `featcache transcode` as a user runs it: what it makes, how it goes on after kills and signals, what it refuses
//! with which exit code.

use featcache_tests::{assert_same_content, content, done, featcache, jpeg, run, text};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Kills in all; several hit each store before it is finished.
const KILLS: usize = 40;
const KILLS_A_STORE: usize = 8;

fn extract(root: &Path, store: &Path, more: &str) {
    done(&format!(
        "--quiet extract folder --root {} --backbone fake --compute fp32 --resize none --shard-mib 0 --threads 1 \
         --decoders 1 --out {} {more}",
        root.display(),
        store.display()
    ));
}

/// Forty-nine pictures, one of them cut off. A folder is one split: that others can be left out is tested in the
/// store.
fn pictures(root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    for index in 0..48u32 {
        let (height, width) = [(40, 56), (56, 40), (48, 48)][index as usize % 3];
        std::fs::write(root.join(format!("{index:03}.jpg")), jpeg(height, width, index)).unwrap();
    }
    std::fs::write(root.join("broken.jpg"), &jpeg(40, 56, 99)[..700]).unwrap();
}

/// Ends with this code, and says this.
fn refused(args: &str, code: i32, message: &str) {
    let output = run(args);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "featcache {args}\n{error}");
    assert!(error.contains(message), "featcache {args}\n{error}");
}

#[test]
fn a_transcoded_store_is_what_extraction_would_have_made_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (root, source) = (folder.path().join("pictures"), folder.path().join("source"));
    pictures(&root);
    extract(&root, &source, "--store f32 --views base,hflip --images-licence CC0");
    let (target, expected) = (folder.path().join("target"), folder.path().join("expected"));
    let (from, to) = (source.display(), target.display());
    let command =
        format!("transcode {from} {to} --store int8,p4=e4m3fn,p5=bf16 --levels p4,p2,p5 --views hflip");
    let report: serde_json::Value = serde_json::from_str(&done(&format!("--json {command}"))).unwrap();
    extract(
        &root,
        &expected,
        "--store int8,p4=e4m3fn,p5=bf16 --levels p2,p4,p5 --views hflip --images-licence CC0",
    );
    assert_same_content(&expected, &target);
    assert_eq!((report["rows"].as_u64(), report["failed"].as_u64()), (Some(49), Some(1)), "{report}");
    let bytes: usize = content(&target).values().map(Vec::len).sum();
    // The manifest does not list itself.
    let manifest = std::fs::metadata(target.join("manifest.json")).unwrap().len();
    assert_eq!(report["bytes"].as_u64(), Some(bytes as u64 - manifest), "{report}");
    let ratio = report["bytes"].as_f64().unwrap() / report["source_bytes"].as_f64().unwrap();
    assert_eq!(report["ratio"].as_f64(), Some(ratio), "{report}");
    assert_eq!(report["finished"], true);
    let again = done(&command);
    assert!(again.contains("0 of 49 rows, 1 failed"), "{again}");
    let last = again.lines().last().unwrap();
    assert!(last.contains("every checksum of the source was checked, every shard read back"), "{again}");

    let notes = std::fs::read_dir(target.join("runs")).unwrap().map(|entry| {
        let run: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        run["notes"].clone()
    });
    let notes: Vec<_> = notes.collect();
    assert_eq!(notes.len(), 1, "a run that did nothing leaves no note");
    assert_eq!(notes[0]["source_encodings"], "p2=f32,p3=f32,p4=f32,p5=f32");
    assert_eq!(notes[0]["source_fingerprint"], report["source_fingerprint"]);
    assert!(notes[0]["root"].as_str().unwrap().ends_with("pictures"));

    // Bases are calibrated on the same rows as extraction calibrates them on, of the same values.
    let (basis, extracted) = (folder.path().join("basis"), folder.path().join("extracted"));
    let encodings = "--store f32,p3=pca5+int8,p4=pca6+bf16+zstd";
    done(&format!("transcode {from} {} {encodings}", basis.display()));
    extract(&root, &extracted, &format!("{encodings} --views base,hflip --images-licence CC0"));
    assert_same_content(&extracted, &basis);

    // Nothing dropped: the same fingerprint. Less of what was quantised: the rest as it was.
    let (whole, wider) = (folder.path().join("whole"), folder.path().join("wider"));
    let whole_report = done(&format!("--json transcode {from} {} --store int4", whole.display()));
    let whole_report: serde_json::Value = serde_json::from_str(&whole_report).unwrap();
    assert_eq!(whole_report["fingerprint"], whole_report["source_fingerprint"]);
    let text =
        done(&format!("transcode {} {} --store p2=bf16 --split all", whole.display(), wider.display()));
    assert!(text.contains("p2: what int4 had lost stays lost: relative L2"), "{text}");
    let shown = done(&format!("inspect {}", wider.display()));
    let loss = |line: &str| line.split_whitespace().nth(6).unwrap().to_owned();
    let lines =
        |text: &str| text.lines().filter(|line| line.contains(" int4 ")).map(loss).collect::<Vec<_>>();
    assert_eq!(lines(&shown).len(), 3, "{shown}");
    done(&format!("verify {}", wider.display()));
}

#[test]
fn what_a_store_cannot_be_made_of_ends_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let (root, source) = (folder.path().join("pictures"), folder.path().join("source"));
    pictures(&root);
    extract(&root, &source, "--store bf16");
    let (from, to) = (source.display().to_string(), folder.path().join("target").display().to_string());
    let transcode = |more: &str| format!("transcode {from} {to} {more}");
    for (more, message) in [
        ("--store p9=int8", "level \"p9\": expected one of p2, p3, p4, p5"),
        ("--store int7", "unknown"),
        ("--levels p2,p9", "level \"p9\": expected one of p2, p3, p4, p5"),
        ("--levels p3 --store p2=int8", "level \"p2\": expected one of p3"),
        ("--levels p2,p2", "given twice"),
        ("--views flip", "view \"flip\": expected one of base"),
        ("--split test", "split \"test\": expected one of all"),
        ("--memory-mib 0", "expected 1 to"),
    ] {
        refused(&transcode(more), 2, message);
    }
    refused(&format!("transcode {from} {from}"), 3, "apart from the source");
    refused(&format!("transcode {from} {from}/inside/of/it --store int8"), 3, "apart from the source");
    refused(&format!("transcode {} {to}", root.display()), 3, "a featcache store not found");
    refused(
        &format!("transcode {from} {} --store int8", root.display()),
        3,
        "expected a featcache store or an empty",
    );
    assert!(!folder.path().join("target").exists());

    done(&transcode("--store int8"));
    refused(&transcode("--store int4"), 4, "encodings differs");
    refused(&transcode("--store int8 --levels p2"), 4, "levels differs");
    // Other features of the same pictures by the same recipe, as far as the two stores tell.
    let other = folder.path().join("other");
    done(&format!("transcode {from} {} --store p2=f16", other.display()));
    refused(&format!("transcode {} {to} --store int8", other.display()), 4, "source content differs");

    let half = folder.path().join("half");
    done(&format!("transcode {from} {}", half.display()));
    std::fs::remove_file(half.join("manifest.json")).unwrap();
    let unit = half.join("units/all/base/64x64").read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(unit).unwrap();
    refused(
        &format!("transcode {} {to}2", half.display()),
        6,
        "1 of 49 units are missing (first: all/base/64x64/",
    );

    // The last level of the last unit with features: those before are committed by then, and stay.
    let shard_of = |unit: u64| source.join(format!("features/all/base/64x64/p5/c.{unit}.0.0.0"));
    let length = |unit: u64| std::fs::metadata(shard_of(unit)).unwrap().len();
    let unit = (0..49).rev().find(|unit| length(*unit) == (0..49).map(length).max().unwrap()).unwrap();
    let shard = shard_of(unit);
    let good = std::fs::read(&shard).unwrap();
    let mut bad = good.clone();
    bad[3] ^= 4;
    std::fs::write(&shard, bad).unwrap();
    let damaged = format!("transcode {from} {to}3 --store int8");
    refused(&damaged, 5, &format!("{}: corrupt: level p5, row ", shard.display()));
    let begun = done(&format!("--json inspect {to}3 --incomplete"));
    let begun: serde_json::Value = serde_json::from_str(&begun).unwrap();
    let missing: u64 =
        begun["splits"].as_array().unwrap().iter().map(|s| s["missing"].as_u64().unwrap()).sum();
    assert_eq!(missing, 49 - unit, "{begun}");
    std::fs::write(&shard, good).unwrap();
    let resumed = done(&damaged);
    assert!(resumed.contains(&format!("{missing} of 49 rows")), "{resumed}");
    assert_same_content(Path::new(&to), Path::new(&format!("{to}3")));
}

fn start(source: &Path, target: &Path) -> Child {
    let (source, target) = (source.display(), target.display());
    let args = format!("--quiet transcode {source} {target} --store int8,p5=f16 --memory-mib 1 --threads 2");
    let words = args.split_whitespace();
    featcache().args(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A number below `bound`, from a fixed seed: a failure can be run again.
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn killed_and_interrupted_transcodings_resume_to_the_same_bytes() {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (root, source) = (folder.path().join("pictures"), folder.path().join("source"));
    pictures(&root);
    extract(&root, &source, "--store f32 --views base,hflip");
    let undisturbed = folder.path().join("undisturbed");
    let started = std::time::Instant::now();
    assert!(start(&source, &undisturbed).wait_with_output().unwrap().status.success());
    // Moments reach a little past the end of a run, so that finishing is hit as well as starting.
    let span = (started.elapsed().as_micros() as u64).max(20_000) * 5 / 4;
    let (mut moments, mut stopped) = (Moments(1), 0);
    for round in 0..KILLS / KILLS_A_STORE {
        let store = folder.path().join(format!("store{round}"));
        for turn in 0..KILLS_A_STORE / 2 {
            let mut workers = [start(&source, &store), start(&source, &store)];
            for worker in &mut workers {
                std::thread::sleep(Duration::from_micros(moments.below(span)));
                match turn {
                    0 => {
                        let pid = rustix::process::Pid::from_child(worker);
                        // One that has ended by then has no process to signal.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                    _ => worker.kill().unwrap(),
                }
            }
            for worker in workers {
                let output = worker.wait_with_output().unwrap();
                let stderr = text(&output.stderr);
                // 6: interrupted. Without a code: killed, as also by a signal before the handler is there.
                assert!(matches!(output.status.code(), None | Some(0 | 6)), "round {round}: {stderr}");
                stopped += usize::from(output.status.code() != Some(0));
            }
        }
        let workers: Vec<Child> = (0..[1, 3][round % 2]).map(|_| start(&source, &store)).collect();
        for worker in workers {
            let output = worker.wait_with_output().unwrap();
            assert!(output.status.success(), "round {round}: {}", text(&output.stderr));
        }
        assert_same_content(&undisturbed, &store);
        std::fs::remove_dir_all(&store).unwrap();
    }
    assert!(stopped > KILLS / 4, "only {stopped} of {KILLS} kills hit a running worker");
}
