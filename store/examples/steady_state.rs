//! Whether reading on takes more and more: memory, allocations and open files over many epochs of a store, and
//! over many openings of shards.
//!
//! `cargo run --release -p featcache-store --example steady_state -- STORE [EPOCHS [POLICY]]`: every row,
//! 8 at a time; then
//! 5,000 openings of shards with room for two open files.

use featcache_store::{Batch, LevelId, OpenOptions, PagePolicy, ReadOptions, RowId, Status, Store};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

type Failure = Box<dyn std::error::Error>;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args_os().skip(1);
    let path = words.next().ok_or("usage: steady_state STORE [EPOCHS [POLICY]]")?;
    let epochs: u32 = words.next().and_then(|word| word.into_string().ok()?.parse().ok()).unwrap_or(100);
    let pages = words.next().map_or(Ok(PagePolicy::default()), |word| word.to_string_lossy().parse())?;
    let options = ReadOptions { pages, ..ReadOptions::default() };
    let store = Store::open(path.as_ref(), OpenOptions::default())?;
    let levels: Vec<LevelId> = (0..store.recipe().levels.len()).map(LevelId).collect();
    let batches: Vec<Vec<RowId>> = store
        .buckets()
        .iter()
        .flat_map(|bucket| {
            let ids = (bucket.rows.start.0..bucket.rows.end.0).map(RowId);
            let ids: Vec<RowId> = ids.filter(|id| store.rows().status(*id) == Some(Status::Ok)).collect();
            ids.chunks(8).map(<[RowId]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    let mut out = std::io::stdout();
    let (reader, mut batch) = (store.reader(options)?, Batch::new());
    let mut epoch = || batches.iter().try_for_each(|rows| reader.read(rows, &levels, None, &mut batch));
    (0..3).try_for_each(|_| epoch())?;
    let before = (resident()?, open_files()?, ALLOCATIONS.load(Ordering::Relaxed));
    (0..epochs).try_for_each(|_| epoch())?;
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before.2;
    writeln!(
        out,
        "{epochs} epochs of {} batches: {:.1} allocations a batch, resident {} -> {} kB, files {} -> {}",
        batches.len(),
        allocations as f64 / (f64::from(epochs) * batches.len() as f64),
        before.0,
        resident()?,
        before.1,
        open_files()?
    )?;

    let narrow = store.reader(ReadOptions { open_files: 2, ..options })?;
    let firsts: Vec<RowId> = store
        .buckets()
        .iter()
        .flat_map(|bucket| {
            let starts = (bucket.rows.start.0..bucket.rows.end.0).step_by(bucket.unit_rows.max(1) as usize);
            starts.map(RowId).filter(|id| store.rows().status(*id) == Some(Status::Ok)).collect::<Vec<_>>()
        })
        .collect();
    if firsts.len() * levels.len() < 3 {
        return Err("expected a store of at least three shards".into());
    }
    let (mut opened, mut before) = (0, None);
    for row in firsts.iter().cycle() {
        narrow.read(&[*row], &levels, None, &mut batch)?;
        opened += levels.len();
        if opened > 500 && before.is_none() {
            before = Some((resident()?, open_files()?));
        }
        if opened >= 5500 {
            break;
        }
    }
    let (memory, files) = before.unwrap_or_default();
    writeln!(
        out,
        "5000 shards opened: resident {memory} -> {} kB, files {files} -> {}",
        resident()?,
        open_files()?
    )?;
    Ok(())
}

/// Resident memory, in kB.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Files that this process has open.
fn open_files() -> Result<usize, Failure> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}
