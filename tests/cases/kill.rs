//! SIGKILL at random moments: what two concurrent extractions leave behind is resumed by one or three, and the
//! finished store equals an undisturbed one byte for byte.

use featcache_tests::{assert_same_content, done, featcache, jpeg};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Kills in all; several hit each store before it is finished.
const KILLS: usize = 200;
const KILLS_A_STORE: usize = 10;

fn pictures(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for index in 0..48u32 {
        let (height, width) = [(40, 56), (56, 40), (48, 48)][index as usize % 3];
        std::fs::write(folder.join(format!("{index:03}.jpg")), jpeg(height, width, index)).unwrap();
    }
    std::fs::write(folder.join("broken.jpg"), &jpeg(40, 56, 99)[..700]).unwrap();
}

fn arguments(root: &Path, store: &Path) -> Vec<String> {
    let words = format!(
        "--quiet extract folder --root {} --backbone fake --compute fp32 --resize none --views base,hflip \
         --shard-mib 0 --threads 1 --decoders 1 --out {}",
        root.display(),
        store.display()
    );
    words.split_whitespace().map(str::to_owned).collect()
}

fn start(root: &Path, store: &Path) -> Child {
    featcache().args(arguments(root, store)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
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
fn killed_extractions_resume_to_the_same_bytes() {
    // In memory where there is such a folder: a kill loses no page, and 200 of them should take minutes.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let root = folder.path().join("pictures");
    pictures(&root);
    let undisturbed = folder.path().join("undisturbed");
    let started = std::time::Instant::now();
    done(&arguments(&root, &undisturbed).join(" "));
    // Moments reach a little past the end of a run, so that finishing is hit as well as starting.
    let span = (started.elapsed().as_micros() as u64).max(20_000) * 5 / 4;
    let mut moments = Moments(1);
    let mut interrupted = 0;
    for round in 0..KILLS / KILLS_A_STORE {
        let store = folder.path().join(format!("store{round}"));
        for _ in 0..KILLS_A_STORE / 2 {
            let mut workers = [start(&root, &store), start(&root, &store)];
            for worker in &mut workers {
                std::thread::sleep(Duration::from_micros(moments.below(span)));
                worker.kill().unwrap();
            }
            for worker in workers {
                let output = worker.wait_with_output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.code().is_none_or(|code| code == 0), "round {round}: {stderr}");
                interrupted += usize::from(output.status.code().is_none());
            }
        }
        let workers: Vec<Child> = (0..[1, 3][round % 2]).map(|_| start(&root, &store)).collect();
        for worker in workers {
            let output = worker.wait_with_output().unwrap();
            assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_same_content(&undisturbed, &store);
        std::fs::remove_dir_all(&store).unwrap();
    }
    assert!(interrupted > KILLS / 4, "only {interrupted} of {KILLS} kills hit a running worker");
}
