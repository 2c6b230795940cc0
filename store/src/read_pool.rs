//! The few threads that share the reads of a batch. None starts before the first use, and a process that
//! was forked off never touches its parent's: it starts its own.
//!
//! Not a rayon pool: handing work to one allocates, and a batch must not.

use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that waits looks again and again for so long before it sleeps: waking one up takes as long as
/// reading a megabyte, and batches often follow each other.
const PATIENCE: Duration = Duration::from_micros(50);

/// Threads of one reader: the caller's own and up to `threads - 1` more.
#[derive(Debug)]
pub(crate) struct ReadPool {
    threads: usize,
    started: Option<Started>,
}

/// The threads, and the process that started them.
#[derive(Debug)]
struct Started {
    process: u32,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Jobs so far: tells a thread that a job is not the one it has just done. Written under the lock.
    jobs: AtomicU64,
    /// Threads that have not finished the job. Written under the lock.
    running: AtomicUsize,
    /// There is a job, or no more to come.
    begun: Condvar,
    /// The last thread of a job is through.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    panicked: bool,
    stopped: bool,
}

/// Work for the threads below number `workers`; the caller is number 0.
#[derive(Clone, Copy)]
struct Job {
    work: &'static (dyn Fn(usize) + Sync),
    workers: usize,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job of {}", self.workers)
    }
}

impl ReadPool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), started: None }
    }

    /// Threads that work on a batch at most, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` once with each number below `workers`, on as many threads; the caller's takes 0.
    /// Returns when all are done.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the system has no thread left; nothing has been done then.
    ///
    /// # Panics
    /// If `work` does, on any thread.
    pub(crate) fn run(&mut self, workers: usize, work: &(dyn Fn(usize) + Sync)) -> Result<()> {
        if workers <= 1 {
            (0..workers).for_each(work);
            return Ok(());
        }
        let shared = Arc::clone(&self.started(workers - 1)?.shared);
        {
            let mut state = shared.lock();
            state.panicked = false;
            state.job = Some(Job { work: for_ever(work), workers });
            shared.running.store(workers - 1, Ordering::Relaxed);
            shared.jobs.fetch_add(1, Ordering::Relaxed);
            shared.begun.notify_all();
        }
        // Waits for the others, whether this thread's share returns or panics.
        let others = Others(&shared);
        work(0);
        drop(others);
        let panicked = std::mem::take(&mut shared.lock().panicked);
        assert!(!panicked, "a reading thread panicked");
        Ok(())
    }

    /// The threads, at least `count` of them.
    fn started(&mut self, count: usize) -> Result<&mut Started> {
        self.leave_parents_threads();
        let started = self.started.get_or_insert_with(|| Started {
            process: std::process::id(),
            shared: Arc::default(),
            threads: Vec::new(),
        });
        while started.threads.len() < count {
            let (shared, number) = (Arc::clone(&started.shared), started.threads.len() + 1);
            let thread = std::thread::Builder::new()
                .name(format!("featcache-read-{number}"))
                .spawn(move || shared.serve(number))
                .map_err(|e| Error::invalid(format!("a reading thread does not start: {e}")))?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// After a fork the threads do not exist here, and their locks may be held for ever by what was
    /// running at that moment: they are given up, not joined.
    fn leave_parents_threads(&mut self) {
        if let Some(started) = self.started.take() {
            if started.process == std::process::id() {
                self.started = Some(started);
            } else {
                std::mem::forget(started);
            }
        }
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        self.leave_parents_threads();
        if let Some(Started { shared, threads, .. }) = self.started.take() {
            shared.lock().stopped = true;
            shared.begun.notify_all();
            for thread in threads {
                // A panic has been reported by the run that it belongs to.
                let _ended = thread.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of thread `number`.
    fn serve(&self, number: usize) {
        let mut done = 0;
        let mut state = self.lock();
        loop {
            let jobs = self.jobs.load(Ordering::Relaxed);
            match state.job.filter(|job| jobs != done && number < job.workers) {
                Some(job) => {
                    done = jobs;
                    drop(state);
                    let ended = catch_unwind(AssertUnwindSafe(|| (job.work)(number)));
                    state = self.lock();
                    state.panicked |= ended.is_err();
                    if self.running.fetch_sub(1, Ordering::Relaxed) == 1 {
                        self.ended.notify_all();
                    }
                    drop(state);
                    wait_a_little(|| self.jobs.load(Ordering::Relaxed) != done);
                    state = self.lock();
                }
                None if state.stopped => return,
                None => state = self.begun.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The threads that work beside the caller.
struct Others<'a>(&'a Shared);

impl Drop for Others<'_> {
    fn drop(&mut self) {
        let running = || self.0.running.load(Ordering::Relaxed);
        wait_a_little(|| running() == 0);
        let mut state = self.0.lock();
        while running() > 0 {
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.job = None;
    }
}

/// Returns when `is_so`, or when [`PATIENCE`] is over.
fn wait_a_little(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() && begin.elapsed() < PATIENCE {
        std::hint::spin_loop();
    }
}

/// The same reference, for threads that outlive what it refers to.
fn for_ever<'a>(work: &'a (dyn Fn(usize) + Sync + 'a)) -> &'static (dyn Fn(usize) + Sync) {
    #[expect(unsafe_code, reason = "a thread that is kept cannot be told a borrow's lifetime")]
    // SAFETY: `ReadPool::run`, the only caller, puts it into the pool's state and drops an `Others` before
    // it returns or unwinds, which waits until every thread of the job is through with it and takes it away.
    unsafe {
        std::mem::transmute::<&'a (dyn Fn(usize) + Sync + 'a), &'static (dyn Fn(usize) + Sync)>(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::ThreadId;

    fn threads_used(pool: &mut ReadPool, workers: usize) -> BTreeMap<usize, ThreadId> {
        let used = Mutex::new(BTreeMap::new());
        pool.run(workers, &|number| {
            let before = used.lock().unwrap().insert(number, std::thread::current().id());
            assert_eq!(before, None, "each number once");
        })
        .unwrap();
        used.into_inner().unwrap()
    }

    #[test]
    fn no_thread_starts_before_it_is_needed() {
        let mut pool = ReadPool::new(3);
        assert!(threads_used(&mut pool, 0).is_empty());
        assert_eq!(threads_used(&mut pool, 1), BTreeMap::from([(0, std::thread::current().id())]));
        assert!(pool.started.is_none());
        for workers in [3, 2, 3, 5] {
            let used = threads_used(&mut pool, workers);
            assert_eq!(used.keys().copied().collect::<Vec<_>>(), (0..workers).collect::<Vec<_>>());
            assert_eq!(used[&0], std::thread::current().id());
        }
        assert_eq!(pool.started.as_ref().map(|started| started.threads.len()), Some(4));
    }

    #[test]
    fn all_shares_are_done_when_it_returns() {
        let mut pool = ReadPool::new(4);
        let sum = AtomicUsize::new(0);
        for round in 0..2000 {
            let workers = 2 + round % 3;
            pool.run(workers, &|number| {
                sum.fetch_add(number + 1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(sum.swap(0, Ordering::Relaxed), workers * (workers + 1) / 2);
        }
    }

    #[test]
    fn a_panic_of_any_share_is_the_callers_and_the_pool_lives_on() {
        let mut pool = ReadPool::new(3);
        for culprit in 0..3 {
            let work = |number| assert_ne!(number, culprit);
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(3, &work)));
            assert!(outcome.is_err(), "share {culprit}");
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(3, &|number| panic!("share {number}"))));
        assert!(outcome.is_err(), "all shares");
        assert_eq!(threads_used(&mut pool, 3).len(), 3);
    }

    /// After a fork the child sees the parent's threads under the parent's process id.
    #[test]
    fn a_parents_threads_are_left_alone() {
        let mut pool = ReadPool::new(2);
        threads_used(&mut pool, 2);
        if let Some(started) = &mut pool.started {
            started.process = 0;
        }
        assert_eq!(threads_used(&mut pool, 2).len(), 2);
        assert_eq!(pool.started.as_ref().map(|started| started.process), Some(std::process::id()));
    }
}
