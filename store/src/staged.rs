//! A file on its way into the store: written under a temporary name, durable before it is visible.
//! Does not decide when anything becomes visible: its owner calls [`Staged::publish`].

use crate::open_shard::open;
use crate::storage::{Storage, StorageFile};
use crate::{Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What temporary names start with; nothing else in a store does.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// Length and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Bytes.
    pub bytes: u64,
    /// BLAKE3, lowercase hex.
    pub blake3: String,
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
    }

    /// The digest of a file that a store names, read once in pieces. [`Error::Corrupt`] if it is missing.
    pub fn of_file(path: &Path) -> Result<Self> {
        Self::of_open(&open(path)?, path)
    }

    /// The digest of a file that is open, whatever its position; `path` is for messages.
    pub(crate) fn of_open(file: &File, path: &Path) -> Result<Self> {
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        loop {
            match file.read_at(&mut piece, hasher.count()) {
                Ok(0) => {
                    let blake3 = hasher.finalize().to_hex().to_string();
                    return Ok(Self { bytes: hasher.count(), blake3 });
                }
                Ok(read) => {
                    hasher.update(piece.get(..read).unwrap_or_default());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(path)(e)),
            }
        }
    }

    /// Refuses a file whose hash is not the expected one.
    pub fn check(&self, path: &Path, blake3: &str) -> Result<()> {
        if self.blake3 == blake3 {
            return Ok(());
        }
        Err(Error::corrupt(path, format!("blake3: expected {blake3}, found {}", self.blake3)))
    }
}

/// A temporary file beside its target. Dropped without [`publish`](Self::publish) it was never there.
pub struct Staged {
    storage: Arc<dyn Storage>,
    /// `Some` until published or dropped: the handle's lock keeps reapers away.
    file: Option<Box<dyn StorageFile>>,
    temporary: PathBuf,
    target: PathBuf,
    bytes: u64,
    hasher: blake3::Hasher,
    durable: bool,
}

impl Staged {
    /// Starts a file that will become `target`; its folder is created.
    pub fn create(storage: &Arc<dyn Storage>, target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let folder = target.parent().unwrap_or(Path::new(""));
        let name = target
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::invalid(format!("{}: not a file name", target.display())))?;
        storage.create_dir_all(folder)?;
        let process = std::process::id();
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let temporary = folder.join(format!("{TEMPORARY_PREFIX}{name}-{process}-{number}"));
            match storage.create(&temporary) {
                // Another host's process of the same number.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
                file => {
                    return Ok(Self {
                        storage: Arc::clone(storage),
                        file: Some(file?),
                        temporary,
                        target: target.to_owned(),
                        bytes: 0,
                        hasher: blake3::Hasher::new(),
                        durable: false,
                    });
                }
            }
        }
    }

    /// Appends all bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.durable = false;
        let file = self.file.as_mut().ok_or_else(|| Error::invalid("the file is already published"))?;
        file.append(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Bytes appended so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the content durable and says what it is.
    pub fn sync(&mut self) -> Result<Digest> {
        if let Some(file) = self.file.as_mut().filter(|_| !self.durable) {
            file.sync()?;
            self.durable = true;
        }
        Ok(Digest { bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }

    /// Makes the content durable, reads it back and compares it with what was appended.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the disk gives back anything else.
    pub(crate) fn sync_and_read_back(&mut self) -> Result<Digest> {
        let digest = self.sync()?;
        let file = open(&self.temporary)?;
        // What is durable may leave the page cache, so that it is the disk that answers. A file system that
        // does not know this advice answers from memory.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let found = Digest::of_open(&file, &self.temporary)?;
        found.check(&self.target, &digest.blake3)?;
        Ok(digest)
    }

    /// Gives the file its name, replacing what has it. The caller syncs the folder.
    pub fn publish(mut self) -> Result<Digest> {
        let digest = self.sync()?;
        self.storage.rename(&self.temporary, &self.target)?;
        self.file = None;
        Ok(digest)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = self.storage.remove(&self.temporary)
        {
            // The next run reaps it.
            log::warn!("leaving a temporary file behind: {error}");
        }
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("target", &self.target).field("bytes", &self.bytes).finish()
    }
}

/// Writes a whole small file durably: temporary, sync, rename, folder sync.
pub fn write_file(storage: &Arc<dyn Storage>, target: &Path, bytes: &[u8]) -> Result<Digest> {
    let mut staged = Staged::create(storage, target)?;
    staged.append(bytes)?;
    let digest = staged.publish()?;
    storage.sync_dir(target.parent().unwrap_or(Path::new("")))?;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FsStorage;

    #[test]
    fn a_disk_that_gives_back_other_bytes_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let mut staged = Staged::create(&storage, &folder.path().join("a")).unwrap();
        staged.append(&[7; 10_000]).unwrap();
        assert_eq!(staged.sync_and_read_back().unwrap(), Digest::of(&[7; 10_000]));
        let file = File::options().write(true).open(&staged.temporary).unwrap();
        file.write_all_at(&[8], 5000).unwrap();
        let error = staged.sync_and_read_back().unwrap_err();
        assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with("a")), "{error}");
    }

    #[test]
    fn dropped_files_were_never_there() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let target = folder.path().join("a/b");
        let mut staged = Staged::create(&storage, &target).unwrap();
        staged.append(b"x").unwrap();
        drop(staged);
        assert_eq!(storage.list(&folder.path().join("a")).unwrap(), Vec::<String>::new());
        let digest = write_file(&storage, &target, b"x").unwrap();
        assert_eq!(digest, Digest::of(b"x"));
        assert_eq!(storage.list(&folder.path().join("a")).unwrap(), ["b"]);
    }
}
