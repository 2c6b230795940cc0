//! What is done to the bytes of a chunk last. Knows nothing of what they mean.

/// What is done to the bytes of a chunk last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Nothing.
    None,
    /// One frame of zstd.
    Zstd,
}
