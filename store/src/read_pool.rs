//! The few threads that share the reads of a batch. None starts before the first use, and a process that
//! was forked off never touches its parent's: it starts its own.

use crate::{Error, Result};

/// Threads of one reader: the caller's own and `threads - 1` more.
#[derive(Debug)]
pub(crate) struct ReadPool {
    threads: usize,
    /// The process that started the pool, and the pool.
    started: Option<(u32, rayon::ThreadPool)>,
}

impl ReadPool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), started: None }
    }

    /// Threads that work on a batch, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` once for each item, on as many threads; the caller's thread takes the first. Returns
    /// when all are done.
    pub(crate) fn run<T: Send>(&mut self, items: Vec<T>, work: impl Fn(T) + Sync) -> Result<()> {
        let mut items = items.into_iter();
        let Some(first) = items.next() else { return Ok(()) };
        if items.len() == 0 {
            work(first);
            return Ok(());
        }
        let pool = self.pool()?;
        pool.in_place_scope(|scope| {
            let work = &work;
            for item in items {
                scope.spawn(move |_| work(item));
            }
            work(first);
        });
        Ok(())
    }

    fn pool(&mut self) -> Result<&rayon::ThreadPool> {
        self.leave_parents_threads();
        if self.started.is_none() {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(self.threads.saturating_sub(1).max(1))
                .thread_name(|i| format!("featcache-read-{i}"))
                .build()
                .map_err(|e| Error::invalid(format!("read threads do not start: {e}")))?;
            self.started = Some((std::process::id(), pool));
        }
        match &self.started {
            Some((_, pool)) => Ok(pool),
            None => Err(Error::invalid("read threads do not start")),
        }
    }

    /// After a fork the pool's threads do not exist here, and its locks may be held for ever by what was
    /// running at that moment: it is given up, not dropped.
    fn leave_parents_threads(&mut self) {
        if let Some((process, pool)) = self.started.take() {
            if process == std::process::id() {
                self.started = Some((process, pool));
            } else {
                std::mem::forget(pool);
            }
        }
    }
}

impl Drop for ReadPool {
    fn drop(&mut self) {
        self.leave_parents_threads();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::thread::ThreadId;

    fn threads_used(pool: &mut ReadPool, items: usize) -> Vec<ThreadId> {
        let used = Mutex::new(Vec::new());
        let work = |_| used.lock().unwrap().push(std::thread::current().id());
        pool.run((0..items).collect(), work).unwrap();
        used.into_inner().unwrap()
    }

    #[test]
    fn no_thread_starts_before_it_is_needed() {
        let mut pool = ReadPool::new(3);
        assert_eq!(threads_used(&mut pool, 0), []);
        assert_eq!(threads_used(&mut pool, 1), [std::thread::current().id()]);
        assert!(pool.started.is_none());
        let used = threads_used(&mut pool, 3);
        assert_eq!(used.len(), 3);
        assert!(used.contains(&std::thread::current().id()) && pool.started.is_some());
    }

    /// After a fork the child sees the parent's pool under the parent's process id.
    #[test]
    fn a_parents_threads_are_left_alone() {
        let mut pool = ReadPool::new(2);
        threads_used(&mut pool, 2);
        if let Some((process, _)) = &mut pool.started {
            *process = 0;
        }
        assert_eq!(threads_used(&mut pool, 2).len(), 2);
        assert_eq!(pool.started.as_ref().map(|(process, _)| *process), Some(std::process::id()));
    }
}
