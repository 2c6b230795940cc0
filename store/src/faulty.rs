//! A storage for crash tests: it fails at the n-th step, and it refuses orders of steps that would lose
//! data in a power cut. Compiled for tests only.

use crate::storage::{FsStorage, Locking, Storage, StorageFile, Wait};
use crate::{Error, Result, layout};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What happens at the fatal step and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is gone: that step is done by half, and no later one happens.
    Crash,
    /// That one step fails, later ones work.
    Once(ErrorKind),
}

/// The local file system without its syncs, which are counted and checked instead.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStorage {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Steps until the fault; `None` once it has happened, or never will.
    left: Option<usize>,
    dead: bool,
    unsynced_files: BTreeSet<PathBuf>,
    unsynced_folders: BTreeSet<PathBuf>,
}

impl FaultyStorage {
    /// Fails at step `n`, counted from zero.
    pub(crate) fn failing_at(n: usize, fault: Fault) -> Self {
        Self::new(Some(n), fault)
    }

    /// Never fails.
    pub(crate) fn sound() -> Self {
        Self::new(None, Fault::Crash)
    }

    /// The storage of another process on the same machine: it never fails, and what this one left unsynced
    /// still is.
    pub(crate) fn next_process(&self) -> Self {
        let next = Self::sound();
        next.state().unsynced_folders.clone_from(&self.state().unsynced_folders);
        next
    }

    /// Folders with entries that a power cut would take.
    pub(crate) fn unsynced_folders(&self) -> Vec<PathBuf> {
        self.state().unsynced_folders.iter().cloned().collect()
    }

    fn new(left: Option<usize>, fault: Fault) -> Self {
        let (unsynced_files, unsynced_folders) = Default::default();
        let state = State { fault, left, dead: false, unsynced_files, unsynced_folders };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Whether the fault has happened.
    pub(crate) fn has_failed(&self) -> bool {
        let state = self.state();
        state.left.is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a step that changes something.
    fn step(&self, path: &Path) -> Result<()> {
        let mut state = self.state();
        let failure = |kind: ErrorKind| Err(Error::io(path)(kind.into()));
        if state.dead {
            return failure(ErrorKind::Other);
        }
        match state.left {
            Some(0) => {
                state.left = None;
                match state.fault {
                    Fault::Crash => {
                        state.dead = true;
                        failure(ErrorKind::Other)
                    }
                    Fault::Once(kind) => failure(kind),
                }
            }
            Some(left) => {
                state.left = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

struct FaultyFile {
    storage: FaultyStorage,
    file: Box<dyn StorageFile>,
    path: PathBuf,
}

impl StorageFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.storage.state().unsynced_files.insert(self.path.clone());
        if let Err(error) = self.storage.step(&self.path) {
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.storage.step(&self.path)?;
        self.storage.state().unsynced_files.remove(&self.path);
        Ok(())
    }
}

impl Storage for FaultyStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn StorageFile>> {
        self.step(path)?;
        let file = FsStorage.create(path)?;
        Ok(Box::new(FaultyFile { storage: self.clone(), file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        {
            let state = self.state();
            assert!(!state.unsynced_files.contains(from), "{} is published unsynced", to.display());
            let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let folder = to.parent().unwrap();
            let is_record = layout::record_number(name).is_some();
            let below = [layout::FEATURES, layout::PROJECTIONS];
            let is_root =
                name == layout::ROOT && !to.components().any(|c| below.iter().any(|b| c.as_os_str() == *b));
            if !state.dead && (is_record || is_root || name == layout::MANIFEST) {
                // Records of other units may still wait for their syncs when this one appears.
                let of_records = |path: &Path| path.components().any(|c| c.as_os_str() == layout::UNITS);
                let is_above = |path: &Path| path != folder && folder.starts_with(path);
                let matters = |path: &Path| !is_record || !of_records(path) || is_above(path);
                let unsynced: Vec<_> =
                    state.unsynced_folders.iter().filter(|unsynced| matters(unsynced)).collect();
                assert!(unsynced.is_empty(), "{} is published before {unsynced:?}", to.display());
            }
        }
        self.step(to)?;
        FsStorage.rename(from, to)?;
        self.state().unsynced_folders.insert(to.parent().unwrap().to_owned());
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(path)?;
        self.state().unsynced_folders.remove(path);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap();
        self.create_dir_all(parent)?;
        self.step(path)?;
        match std::fs::create_dir(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
            created => created.map_err(Error::io(path))?,
        }
        self.state().unsynced_folders.insert(parent.to_owned());
        self.sync_dir(parent)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.step(path)?;
        FsStorage.remove(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        FsStorage.exists(path)
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        FsStorage.file_len(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        FsStorage.list(path)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        FsStorage.read(path, limit)
    }

    fn lock(&self, path: &Path, wait: Wait) -> Result<Locking> {
        self.step(path)?;
        FsStorage.lock(path, wait)
    }

    fn reap(&self, path: &Path) -> Result<bool> {
        self.step(path)?;
        FsStorage.reap(path)
    }
}
