//! What reading does with the system's page cache. Reads nothing: how a policy is carried out is
//! `payload_file`'s, which of them suits a store and a disk is [`crate::self_test`]'s.

use crate::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Reads that go to the disk at a time where no page cache reads ahead: what one disk needs to be busy.
pub const REQUESTS_IN_FLIGHT: usize = 4;

/// How bytes come from disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PagePolicy {
    /// Through the page cache, where they stay: for stores that fit into memory. The kernel reads ahead.
    #[default]
    Buffered,
    /// As `Buffered`, but what is in the page cache already is copied out of a memory map of the shard, and
    /// small chunks that are not are asked for a batch at a time: for reading epoch after epoch. The first
    /// use of it puts a handler for SIGBUS into the process, which thus survives a file that shrinks (unless
    /// a thread blocks that signal), and leaves all other cases to whoever handled them before. The map
    /// counts as the process's resident memory. Files of others that cannot be written are read as by
    /// `Buffered`.
    Mapped,
    /// Through the page cache, which lets go of them (`RWF_DONTCACHE`, else `POSIX_FADV_DONTNEED`): for
    /// stores that would only push out what others need, on file systems without direct reads.
    DontCache,
    /// Past the page cache (`O_DIRECT`): as `DontCache`, and faster where disks are.
    Direct,
}

impl PagePolicy {
    /// All policies, in the order that messages list them.
    pub const ALL: [Self; 4] = [Self::Buffered, Self::Mapped, Self::DontCache, Self::Direct];

    /// Whether pages stay in the page cache.
    pub(crate) fn fills_the_cache(self) -> bool {
        matches!(self, Self::Buffered | Self::Mapped)
    }

    /// Threads that read a batch, of a reader that was given so many.
    pub(crate) fn threads(self, threads: usize) -> usize {
        match self {
            Self::Buffered | Self::Mapped => threads.max(1),
            // Most of the time they wait for the disk.
            Self::DontCache | Self::Direct => threads.max(REQUESTS_IN_FLIGHT),
        }
    }
}

impl fmt::Display for PagePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Buffered => "buffered",
            Self::Mapped => "mapped",
            Self::DontCache => "dontcache",
            Self::Direct => "direct",
        })
    }
}

impl FromStr for PagePolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|policy| policy.to_string() == text).ok_or_else(|| {
            let known = Self::ALL.map(|policy| policy.to_string()).join(", ");
            Error::invalid(format!("page policy {text:?}: expected one of {known}"))
        })
    }
}
