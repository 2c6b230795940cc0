//! Claims: a worker's notice that it is computing a unit, so that others take another. Advisory only:
//! correctness rests on commit records, and computing a unit twice is harmless. See
//! docs/decisions/0001-claims-by-flock.md.

use crate::storage::{Lock, Locking, Storage, Wait};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A unit that this worker computes. Dropping it, or dying, lets the unit go.
#[derive(Debug)]
pub struct Claim {
    _held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Dropped after the file is removed: see [`Storage::lock`] on removed files.
    _lock: Lock,
}

impl Claim {
    /// A claim that nobody else can see.
    pub(crate) fn unlocked() -> Self {
        Self { _held: None }
    }

    /// Claims by locking the file at `path`; `None` if a live worker has it. Where the file system has no
    /// locks everything can be claimed.
    pub(crate) fn take(storage: &Arc<dyn Storage>, path: &Path) -> Result<Option<Self>> {
        match storage.lock(path, Wait::Try)? {
            Locking::Busy => Ok(None),
            Locking::Unsupported => Ok(Some(Self::unlocked())),
            Locking::Held(lock) => Ok(Some(Self {
                _held: Some(Held { storage: Arc::clone(storage), path: path.to_owned(), _lock: lock }),
            })),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.storage.remove(&self.path) {
            // Finishing the store removes it.
            log::debug!("leaving a claim behind: {error}");
        }
    }
}

/// Set when a worker panics: what it was computing, and what others were about to commit on its word,
/// must not become part of the store.
#[derive(Debug, Clone, Default)]
pub struct Poison(Arc<std::sync::atomic::AtomicBool>);

/// Poisons if dropped by a panic.
#[derive(Debug)]
pub struct PoisonGuard(Poison);

impl Poison {
    /// A guard for a thread's whole work.
    pub fn guard(&self) -> PoisonGuard {
        PoisonGuard(self.clone())
    }

    /// Refuses to go on after a panic.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Error::invalid("a worker has panicked: nothing more is committed by this process"));
        }
        Ok(())
    }
}

impl Drop for PoisonGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}
