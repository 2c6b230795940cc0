//! What the writer asks of a file system, as the smallest trait that a fault-injecting test storage can
//! wrap, and its one real implementation. Holds no knowledge of the store's layout or formats.

use crate::{Error, Result};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file system as the writer sees it. Every error carries the path it is about.
///
/// Paths are full paths; the layout alone decides which are legal.
pub trait Storage: std::fmt::Debug + Send + Sync {
    /// Creates a new file for appending; fails if the path exists. While the handle lives, its lock tells
    /// other processes that the writer does too (where the file system has locks).
    fn create(&self, path: &Path) -> Result<Box<dyn StorageFile>>;
    /// Renames a file over whatever is at `to`, atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Makes the folder's entries durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;
    /// Creates a folder and its missing parents, durably. An existing folder is fine, and may be one whose
    /// creator died before it made it durable: who relies on it syncs its parent.
    fn create_dir_all(&self, path: &Path) -> Result<()>;
    /// Removes a file. A file that is not there is fine.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Whether something is at the path.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Length of a file in bytes.
    fn file_len(&self, path: &Path) -> Result<u64>;
    /// Names in a folder, sorted; empty if there is no such folder. What is not UTF-8 in a name is U+FFFD,
    /// which no name of a store has.
    fn list(&self, path: &Path) -> Result<Vec<String>>;
    /// The whole file; [`Error::Corrupt`] if it is longer than `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>>;
    /// Locks the file at `path`, which is created if need be. Locks are advisory and die with the process; a
    /// file that we may not open has none.
    fn lock(&self, path: &Path, wait: Wait) -> Result<Locking>;
    /// Removes the file unless a live process holds its lock; whether it was removed. A file that we may not
    /// open or remove stays.
    fn reap(&self, path: &Path) -> Result<bool>;
}

/// A file being written, front to back.
pub trait StorageFile: Send {
    /// Appends all bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes the content durable.
    fn sync(&mut self) -> Result<()>;
}

/// Whether to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until the holder lets go or dies.
    Block,
    /// Not at all.
    Try,
}

/// What came of [`Storage::lock`].
#[derive(Debug)]
pub enum Locking {
    /// Ours until dropped.
    Held(Lock),
    /// Held by someone else.
    Busy,
    /// The file system has no locks, or not for us.
    Unsupported,
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    /// The open file description is what holds the lock.
    _file: File,
}

/// The local (or mounted) file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct FsStorage;

/// Bytes after which the kernel is told to begin writing. Left alone it waits for seconds or for gigabytes,
/// and the sync of a unit's shards would then stall the pipeline for as long as they take.
const WRITE_BEHIND_BYTES: u64 = 8 << 20;

struct FsFile {
    file: File,
    path: PathBuf,
    /// Bytes appended, and how many of them the kernel has been told to write.
    appended: u64,
    begun: u64,
}

impl FsFile {
    fn write_behind(&mut self) {
        let waiting = self.appended - self.begun;
        if let Some(length) = std::num::NonZeroU64::new(waiting).filter(|n| n.get() >= WRITE_BEHIND_BYTES) {
            // Of dirty pages this advice begins the writing and drops none; a file system that ignores it
            // writes when `sync` says so.
            let _ = rustix::fs::fadvise(&self.file, self.begun, Some(length), rustix::fs::Advice::DontNeed);
            self.begun = self.appended;
        }
    }
}

impl StorageFile for FsFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.appended += bytes.len() as u64;
        self.write_behind();
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))
    }
}

impl Storage for FsStorage {
    fn create(&self, path: &Path) -> Result<Box<dyn StorageFile>> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(Error::io(path))?;
            // A reaper may have seen the file between its creation and this lock. It unlinks under the
            // lock, so once we hold it the link count tells whether the file is still there. A file
            // system without locks has no reapers either.
            let locked = file.lock().is_ok();
            if !locked || file.metadata().map_err(Error::io(path))?.nlink() > 0 {
                return Ok(Box::new(FsFile { file, path: path.to_owned(), appended: 0, begun: 0 }));
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io(to))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let folder = File::open(path).map_err(Error::io(path))?;
        match folder.sync_all() {
            // Some network file systems cannot sync a folder and say so.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            done => done.map_err(Error::io(path)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        match fs::create_dir(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(e) => Err(Error::io(path)(e)),
            Ok(()) => self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map_err(Error::io(path)),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(Error::io(path))
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        Ok(fs::metadata(path).map_err(Error::io(path))?.len())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let entries = match fs::read_dir(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io(path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(Error::io(path))?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        let file = open_file(path).map_err(Error::io(path))?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::corrupt(path, format!("expected at most {limit} bytes, found more")));
        }
        Ok(bytes)
    }

    fn lock(&self, path: &Path, wait: Wait) -> Result<Locking> {
        loop {
            let file = match open_to_lock(path, true) {
                Err(e) if is_denied(&e) => {
                    log::debug!("{} cannot be locked: {e}", path.display());
                    return Ok(Locking::Unsupported);
                }
                file => file.map_err(Error::io(path))?,
            };
            match wait {
                Wait::Block if file.lock().is_err() => return Ok(Locking::Unsupported),
                Wait::Block => {}
                Wait::Try => match file.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Ok(Locking::Busy),
                    Err(TryLockError::Error(_)) => return Ok(Locking::Unsupported),
                },
            }
            // The last holder may have removed the file while we waited; a lock on a removed file
            // excludes nobody.
            if file.metadata().map_err(Error::io(path))?.nlink() > 0 {
                return Ok(Locking::Held(Lock { _file: file }));
            }
        }
    }

    fn reap(&self, path: &Path) -> Result<bool> {
        let stays = |e: std::io::Error| {
            log::debug!("{} stays: {e}", path.display());
            Ok(false)
        };
        let file = match open_to_lock(path, false) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) if is_denied(&e) => return stays(e),
            file => file.map_err(Error::io(path))?,
        };
        // Without locks nobody can tell a dead writer's file from a live one's: leave it.
        if file.try_lock().is_err() {
            return Ok(false);
        }
        match fs::remove_file(path) {
            Err(e) if is_denied(&e) => stays(e),
            removed => removed.map(|()| true).map_err(Error::io(path)),
        }
    }
}

/// Opens a file to read it. What is none is refused; a named pipe does not hold us up until somebody writes
/// into it.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let kind = file.metadata()?.file_type();
    match kind {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(std::io::Error::other("not a file")),
    }
}

/// Opens a file for its lock. Another user's file may be readable only, and that suffices for a lock.
fn open_to_lock(path: &Path, create: bool) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path);
    match file {
        Err(e) if is_denied(&e) => open_file(path).map_err(|_| e),
        file => file,
    }
}

/// Whether somebody has put something here that is not ours to open, change or remove.
fn is_denied(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::IsADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_writers_file_is_never_reaped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".tmp-x");
        let mut file = FsStorage.create(&path).unwrap();
        file.append(b"alive").unwrap();
        assert!(!FsStorage.reap(&path).unwrap());
        assert!(path.exists());
        drop(file);
        assert!(FsStorage.reap(&path).unwrap());
        assert!(!path.exists());
        assert!(!FsStorage.reap(&path).unwrap());
    }

    #[test]
    fn creation_is_exclusive_and_errors_carry_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let _file = FsStorage.create(&path).unwrap();
        let error = FsStorage.create(&path).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_lock_excludes_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".lock");
        let held = FsStorage.lock(&path, Wait::Try).unwrap();
        assert!(matches!(held, Locking::Held(_)));
        assert!(matches!(FsStorage.lock(&path, Wait::Try).unwrap(), Locking::Busy));
        drop(held);
        assert!(matches!(FsStorage.lock(&path, Wait::Block).unwrap(), Locking::Held(_)));
    }

    /// What another user left there, as far as whoever runs the tests can be denied anything (root cannot,
    /// except by a folder).
    #[test]
    fn what_cannot_be_opened_or_removed_stays_and_locks_nobody_out() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, closed) = (folder.path().join(".tmp-x"), folder.path().join(".tmp-y"));
        fs::create_dir(&path).unwrap();
        fs::write(&closed, b"").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert!(!FsStorage.reap(&path).unwrap());
        assert!(path.exists());
        for wait in [Wait::Try, Wait::Block] {
            for path in [&path, &closed] {
                assert!(!matches!(FsStorage.lock(path, wait).unwrap(), Locking::Busy));
            }
        }
        FsStorage.reap(&closed).unwrap();
    }

    #[test]
    fn names_that_are_not_utf_8_are_listed() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff")), b"").unwrap();
        assert_eq!(FsStorage.list(folder.path()).unwrap(), ["a\u{fffd}"]);
    }

    #[test]
    fn reads_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        FsStorage.create(&path).unwrap().append(b"12345").unwrap();
        assert_eq!(FsStorage.read(&path, 5).unwrap(), b"12345");
        assert!(matches!(FsStorage.read(&path, 4), Err(Error::Corrupt { .. })));
    }
}
