//! Shares the groups of an evaluation among threads.

use super::grouping::Group;
use crate::Result;
use std::sync::{Mutex, PoisonError};

/// Results of `work` on every group, in order; the first error if any.
pub(super) fn in_parallel<T: Send>(
    groups: Vec<Group>,
    threads: usize,
    work: impl Fn(Group) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let threads = threads.min(groups.len());
    if threads <= 1 {
        return groups.into_iter().map(work).collect();
    }
    let mut slots: Vec<Option<Result<T>>> = groups.iter().map(|_| None).collect();
    // Each takes the next group that nobody has: categories differ in size by hundreds.
    let queue = Mutex::new(slots.iter_mut().zip(groups));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((slot, group)) = next() {
                    *slot = Some(work(group));
                }
            });
        }
    });
    drop(queue);
    // A thread that panicked has ended the scope with its panic, so that every slot is filled.
    slots.into_iter().flatten().collect()
}
