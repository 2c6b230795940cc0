//! Reading in a process and in those forked off it: no deadlock, no mixed data. What PyTorch's workers do.
//! Compiled for tests only.

use crate::fixture::{commit, features, folder_in_memory, listing, recipe};
use crate::mapped_file::MappedFile;
use crate::sink::{FeatureSink, RowOutcome};
use crate::{
    Batch, Encodings, LevelId, OpenOptions, PagePolicy, ReadOptions, Reader, RowId, Status, Store,
    StoreWriter, WriterOptions,
};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A process that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Set in the process that a test of this module has to itself.
const ALONE: &str = "FEATCACHE_TEST_ALONE";

/// Does the work of the named test in a process of its own: one that is forked off inherits what other tests
/// have open, and would hold the locks of their files.
fn alone(test: &str, work: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    let program = std::env::current_exe().unwrap();
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let output = Command::new(program).args(["--exact", &name]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Forks off a process that does `work` and ends well if that says so.
fn fork(work: impl FnOnce() -> bool) -> Pid {
    #[expect(unsafe_code, reason = "there is no safe fork")]
    // SAFETY: the new process has this thread alone. What it does until `_exit` relies on no other thread and
    // on no lock that one may hold: it prints nothing, and glibc's allocator is ready for forks.
    let process = unsafe { libc::fork() };
    match Pid::from_raw(process) {
        None => {
            let status = i32::from(!catch_unwind(AssertUnwindSafe(work)).unwrap_or(false));
            #[expect(unsafe_code, reason = "std's end runs what others have left for it")]
            // SAFETY: ends this process and nothing else.
            unsafe {
                libc::_exit(status)
            }
        }
        Some(child) => child,
    }
}

/// Waits for a process; panics if it hangs or did not end well.
fn join(child: Pid) {
    let status = end_of(child);
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
}

/// Waits for a process; panics if it hangs.
fn end_of(child: Pid) -> WaitStatus {
    let begin = Instant::now();
    loop {
        match waitpid(Some(child), WaitOptions::NOHANG).unwrap() {
            Some((_, status)) => return status,
            None if begin.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(2)),
            None => {
                kill_process(child, Signal::KILL).unwrap();
                panic!("a forked process hangs");
            }
        }
    }
}

/// Batches of a quarter of a megabyte a row: reads that are worth several threads.
fn large_rows(path: &Path) -> Store {
    let mut recipe = recipe();
    recipe.levels[0].channels = 1024;
    let encodings = Encodings::parse("bf16", &recipe.levels).unwrap();
    let writer = StoreWriter::create_or_resume(
        path,
        &recipe,
        &encodings,
        || Ok(listing(40)),
        WriterOptions::default(),
    );
    let writer = writer.unwrap();
    for unit in writer.missing_units().unwrap() {
        commit(&writer, &unit);
    }
    writer.finish().unwrap();
    Store::open(path, OpenOptions::default()).unwrap()
}

/// The rows of each bucket, and what they hold.
struct Expected(Vec<(Vec<RowId>, Vec<Vec<u8>>)>);

impl Expected {
    fn of(path: &Path, store: &Store) -> Self {
        let options = WriterOptions::default();
        let writer = StoreWriter::create_or_resume(
            path,
            store.recipe(),
            store.encodings(),
            || Ok(listing(40)),
            options,
        );
        let writer = writer.unwrap();
        let buckets = store.buckets().iter().map(|bucket| {
            let ids = (bucket.rows.start.0..bucket.rows.end.0).map(RowId);
            let ids: Vec<RowId> = ids.filter(|id| store.row(*id).unwrap().status == Status::Ok).collect();
            let mut levels = vec![Vec::new(); store.recipe().levels.len()];
            for id in &ids {
                let RowOutcome::Features { blocks, .. } = features(writer.plan(), *id) else {
                    panic!("{id}")
                };
                levels.iter_mut().zip(blocks).for_each(|(level, block)| level.extend(block.bytes));
            }
            (ids, levels)
        });
        Self(buckets.collect())
    }

    /// Whether every bucket reads back as it should, several times over.
    fn comes_back(&self, reader: &Reader, batch: &mut Batch, rounds: usize) -> bool {
        let levels: Vec<LevelId> = (0..2).map(LevelId).collect();
        (0..rounds).all(|_| {
            self.0.iter().filter(|(ids, _)| !ids.is_empty()).all(|(ids, expected)| {
                reader.read(ids, &levels, None, batch).is_ok()
                    && (0..2).all(|level| batch.level(level).bytes == expected[level])
            })
        })
    }
}

#[test]
fn parent_and_children_read_on_after_a_fork() {
    alone("parent_and_children_read_on_after_a_fork", read_on_after_a_fork);
}

fn read_on_after_a_fork() {
    let folder = folder_in_memory();
    let path = folder.path().join("store");
    let store = large_rows(&path);
    let expected = Expected::of(&path, &store);
    for pages in [PagePolicy::Buffered, PagePolicy::Mapped] {
        read_on_after_a_fork_by(pages, &store, &expected);
    }
}

fn read_on_after_a_fork_by(pages: PagePolicy, store: &Store, expected: &Expected) {
    let options = ReadOptions { threads: 3, open_files: 3, pages, ..ReadOptions::default() };
    let (reader, mut batch) = (store.reader(options).unwrap(), Batch::new());
    assert!(expected.comes_back(&reader, &mut batch, 1), "before the fork, and with threads that run");
    let children: Vec<Pid> = (0..4)
        .map(|number| {
            fork(|| {
                let other = store.reader(options).unwrap();
                match number % 2 {
                    0 => expected.comes_back(&reader, &mut batch, 20),
                    _ => expected.comes_back(&other, &mut Batch::new(), 20),
                }
            })
        })
        .collect();
    assert!(expected.comes_back(&reader, &mut batch, 20));
    children.into_iter().for_each(join);
    assert!(expected.comes_back(&reader, &mut batch, 1), "after the children have ended");
}

#[test]
fn a_fork_in_the_middle_of_anothers_read_harms_nobody() {
    alone("a_fork_in_the_middle_of_anothers_read_harms_nobody", fork_in_the_middle_of_a_read);
}

fn fork_in_the_middle_of_a_read() {
    let folder = folder_in_memory();
    let path = folder.path().join("store");
    let store = large_rows(&path);
    let expected = Expected::of(&path, &store);
    let options = ReadOptions { threads: 3, pages: PagePolicy::Mapped, ..ReadOptions::default() };
    let (reader, mut batch) = (store.reader(options).unwrap(), Batch::new());
    assert!(expected.comes_back(&reader, &mut batch, 1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let (reader, mut batch) = (store.reader(options).unwrap(), Batch::new());
            let mut right = true;
            while right && !done.load(Ordering::Relaxed) {
                right = expected.comes_back(&reader, &mut batch, 1);
            }
            right
        });
        for _ in 0..20 {
            join(fork(|| expected.comes_back(&reader, &mut batch, 2)));
        }
        done.store(true, Ordering::Relaxed);
        assert!(busy.join().unwrap());
    });
}

/// A map of its own that nobody guards, of a file that has shrunk; and a signal from elsewhere.
#[test]
fn a_bus_error_that_is_not_ours_ends_the_process_as_before() {
    alone("a_bus_error_that_is_not_ours_ends_the_process_as_before", || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = memmap2::MmapOptions::new().map_raw_read_only(&file).unwrap();
        assert!(MappedFile::of(&file).is_some(), "the handler is there now");
        file.set_len(0).unwrap();
        let touch = || {
            #[expect(unsafe_code, reason = "what a library may not do")]
            // SAFETY: mapped, if without a file: the signal is what this is about.
            unsafe {
                map.as_ptr().read_volatile() == 1
            }
        };
        // Rust's own handler, which was there before, lets the signal of another process pass once.
        let signal = || (0..2).all(|_| kill_process(rustix::process::getpid(), Signal::BUS).is_ok());
        for (what, end) in [("a map", end_of(fork(touch))), ("a signal", end_of(fork(signal)))] {
            assert_eq!(end.terminating_signal(), Some(Signal::BUS.as_raw()), "{what}: {end:?}");
        }
    });
}
