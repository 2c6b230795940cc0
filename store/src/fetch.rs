//! From file ranges to memory: chunks are read straight to where the batch wants them, checksums and gaps
//! aside, and each block of bytes is checked and converted while it is in the processor's cache.
//!
//! Knows nothing of plans and rows: a [`Piece`] is one chunk and its target.

use crate::checksum::{CHECKSUM, Crc32c, crc32c};
use crate::chunk::CHUNK_ALIGNMENT;
use crate::compression::Unpacker;
use crate::encoder::decode;
use crate::open_shard::OpenShard;
use crate::projection::Strip;
use crate::{Compression, DType, NumberFormat, Projection};
use std::fs::File;
use std::io::{ErrorKind, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a read: small enough to be still in the second-level cache when they are checked or converted,
/// and for the kernel to read ahead from disk while they are.
const BLOCK_BYTES: usize = 256 << 10;
/// Vectors of one read: two a chunk.
const VECTORS: usize = 64;
/// A gap of up to this many bytes between two chunks is read over.
const MAX_GAP: u64 = CHUNK_ALIGNMENT;

/// What all chunks of one requested level share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LevelRead<'a> {
    /// Bytes of a chunk's payload.
    pub(crate) payload_bytes: usize,
    /// Bytes of a cell in it, and the numbers that they stand for.
    pub(crate) cell_bytes: usize,
    pub(crate) numbers: usize,
    /// What makes channels of them, if they are coefficients and not to be handed out as such.
    pub(crate) projection: Option<&'a Projection>,
    /// How its numbers are held.
    pub(crate) format: NumberFormat,
    /// What was done to its chunks.
    pub(crate) compression: Compression,
    /// What the batch holds.
    pub(crate) dtype: DType,
}

impl LevelRead<'_> {
    /// Elements of a cell in the batch.
    pub(crate) fn channels(&self) -> usize {
        self.projection.map_or(self.numbers, Projection::channels)
    }

    fn decode(&self, payload: &[u8], affine: &[f32], target: &mut [u8], strip: &mut Strip) {
        decode(self.format, self.projection, payload, affine, target, self.dtype, strip);
    }
}

/// One chunk to read.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) shard: Arc<OpenShard>,
    /// Where the chunk starts in the file.
    pub(crate) offset: u64,
    /// Its bytes there, checksum included.
    pub(crate) bytes: usize,
    pub(crate) level: &'a LevelRead<'a>,
    /// Scales and offsets of the row, of a quantised level; else empty.
    pub(crate) affine: &'a [f32],
    /// Bytes of the payload that are wanted: whole cells.
    pub(crate) window: Range<usize>,
    /// Where they go, converted.
    pub(crate) target: &'a mut [u8],
    /// Which row of the batch, level of the request and band: for messages.
    pub(crate) place: PiecePlace,
}

/// Where a piece belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PiecePlace {
    pub(crate) slot: usize,
    pub(crate) level: usize,
    pub(crate) band: u32,
}

/// Why a piece could not be read.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) place: PiecePlace,
    pub(crate) shard: Arc<OpenShard>,
    pub(crate) cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    /// The operating system's own words.
    Io(std::io::Error),
    /// The file ends at this byte.
    Ends(u64),
    /// The file holds one checksum, its bytes have another; both as the file would hold them.
    Checksum { expected: [u8; CHECKSUM], found: [u8; CHECKSUM] },
    /// The bytes are as they were written, but no frame of what they should hold.
    Frame(String),
}

impl Piece<'_> {
    fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }

    /// Whether the payload can go to its target as it is.
    fn is_direct(&self) -> bool {
        self.level.compression == Compression::None && self.is_as_held()
    }

    /// Whether the whole payload is wanted, and as it is.
    fn is_as_held(&self) -> bool {
        self.level.projection.is_none()
            && self.level.format.payload_element() == self.level.dtype.into()
            && self.window == (0..self.level.payload_bytes)
    }

    /// Bytes of the file that reading this piece moves.
    pub(crate) fn file_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `next` lies right behind this piece in the same file.
    pub(crate) fn continues(&self, next: &Piece<'_>) -> bool {
        Arc::ptr_eq(&self.shard, &next.shard)
            && next.offset.checked_sub(self.end()).is_some_and(|gap| gap < MAX_GAP)
    }

    fn fault(&self, cause: Cause) -> Fault {
        Fault { place: self.place, shard: Arc::clone(&self.shard), cause }
    }
}

/// A thread's own memory for what does not go to a target.
#[derive(Debug)]
pub(crate) struct Scratch {
    block: Vec<u8>,
    /// A compressed chunk as it lies in the file, and what it holds.
    packed: Vec<u8>,
    unpacked: Vec<u8>,
    unpacker: Unpacker,
    strip: Strip,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let (packed, unpacked, unpacker, strip) = Default::default();
        Self { block: vec![0; BLOCK_BYTES + CHECKSUM], packed, unpacked, unpacker, strip }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.block.capacity() + self.packed.capacity() + self.unpacked.capacity()
    }
}

/// The first bytes of memory that only grows.
fn room(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if bytes > memory.len() {
        memory.resize(bytes, 0);
    }
    memory.get_mut(..bytes).unwrap_or_default()
}

/// Reads the pieces, which are sorted by file and offset. With `verify`, no byte of a chunk counts as read
/// before its checksum was found right.
pub(crate) fn fetch(mut pieces: &mut [Piece<'_>], verify: bool, scratch: &mut Scratch) -> Result<(), Fault> {
    while !pieces.is_empty() {
        let count = gatherable(pieces);
        let (now, later) = pieces.split_at_mut(count.max(1));
        match now {
            [piece] if piece.level.compression != Compression::None => fetch_packed(piece, verify, scratch)?,
            [piece] if count == 0 && piece.is_direct() => fetch_by_blocks(piece, verify)?,
            [piece] if count == 0 => fetch_through(piece, verify, scratch)?,
            gathered => fetch_together(gathered, verify, scratch)?,
        }
        pieces = later;
    }
    Ok(())
}

/// How many of the first pieces one read can take to their targets; 0 if the first must go another way.
fn gatherable(pieces: &[Piece<'_>]) -> usize {
    let Some(first) = pieces.first().filter(|piece| piece.is_direct()) else { return 0 };
    let mut bytes = first.file_bytes();
    if bytes > BLOCK_BYTES {
        return 0;
    }
    let mut count = 1;
    for pair in pieces.windows(2).take(VECTORS / 2 - 1) {
        let [piece, next] = pair else { break };
        bytes += next.file_bytes();
        if !next.is_direct() || !piece.continues(next) || bytes > BLOCK_BYTES {
            break;
        }
        count += 1;
    }
    count
}

/// One read for all pieces: payloads to their targets, checksums and gaps to scratch.
fn fetch_together(pieces: &mut [Piece<'_>], verify: bool, scratch: &mut Scratch) -> Result<(), Fault> {
    let Some(first) = pieces.first() else { return Ok(()) };
    let (shard, start, used) = (Arc::clone(&first.shard), first.offset, pieces.len() * 2);
    // How many bytes lie behind each payload up to the next one.
    let mut tails = [CHECKSUM; VECTORS / 2];
    for (tail, pair) in tails.iter_mut().zip(pieces.windows(2)) {
        if let [piece, next] = pair {
            *tail += usize::try_from(next.offset - piece.end()).unwrap_or(0);
        }
    }
    let mut vectors: [IoSliceMut<'_>; VECTORS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut rest = scratch.block.as_mut_slice();
    for ((pair, piece), tail) in vectors.chunks_exact_mut(2).zip(&mut *pieces).zip(tails) {
        // The scratch holds the tails: a block takes 64 of the largest, and there are at most 32.
        let (head, behind) = rest.split_at_mut(tail.min(rest.len()));
        rest = behind;
        if let [payload, aside] = pair {
            *payload = IoSliceMut::new(piece.target);
            *aside = IoSliceMut::new(head);
        }
    }
    let read = read_exact(&shard.file, vectors.get_mut(..used).unwrap_or_default(), start);
    if let Err((cause, at)) = read {
        let piece = pieces.iter().find(|piece| piece.end() > at).or(pieces.first());
        return piece.map_or(Ok(()), |piece| Err(piece.fault(cause)));
    }
    if verify {
        let mut at = 0;
        for (piece, tail) in pieces.iter().zip(tails) {
            let expected = scratch.block.get(at..).and_then(<[u8]>::first_chunk::<CHECKSUM>);
            let (expected, found) = (*expected.unwrap_or(&[0; CHECKSUM]), crc32c(piece.target));
            if expected != found {
                return Err(piece.fault(Cause::Checksum { expected, found }));
            }
            at += tail;
        }
    }
    Ok(())
}

/// One large chunk to its target, block by block.
fn fetch_by_blocks(piece: &mut Piece<'_>, verify: bool) -> Result<(), Fault> {
    let mut stored = [0; CHECKSUM];
    let mut offset = piece.offset;
    let mut crc = Crc32c::new();
    let blocks = piece.target.len().div_ceil(BLOCK_BYTES);
    for (i, block) in piece.target.chunks_mut(BLOCK_BYTES).enumerate() {
        let stored: &mut [u8] = if i + 1 == blocks { &mut stored } else { &mut [] };
        let mut vectors = [IoSliceMut::new(block), IoSliceMut::new(stored)];
        if let Err((cause, _)) = read_exact(&piece.shard.file, &mut vectors, offset) {
            return Err(piece.fault(cause));
        }
        if verify {
            crc.update(block);
        }
        offset += block.len() as u64;
    }
    let found = crc.finish();
    if !verify || found == stored {
        return Ok(());
    }
    Err(piece.fault(Cause::Checksum { expected: stored, found }))
}

/// A chunk of which only a window is wanted, or that has to be converted: through scratch, block by block.
fn fetch_through(piece: &mut Piece<'_>, verify: bool, scratch: &mut Scratch) -> Result<(), Fault> {
    let level = piece.level;
    let LevelRead { payload_bytes, cell_bytes, dtype, .. } = *level;
    let (window, affine) = (piece.window.clone(), piece.affine);
    // Whole cells at a time; one has at most 2^20 channels.
    let step = (BLOCK_BYTES / cell_bytes.max(1)).max(1) * cell_bytes;
    let scratch_block = room(&mut scratch.block, step);
    // Without a check, what is not wanted is not read.
    let wanted = if verify { 0..payload_bytes } else { window.clone() };
    let (mut crc, mut at) = (Crc32c::new(), wanted.start);
    let mut target = &mut *piece.target;
    let mut stored = [0; CHECKSUM];
    let mut outcome = Ok(());
    while at < wanted.end {
        let length = step.min(wanted.end - at);
        let Some(block) = scratch_block.get_mut(..length) else { break };
        let stored: &mut [u8] = if verify && at + length == payload_bytes { &mut stored } else { &mut [] };
        let mut vectors = [IoSliceMut::new(block), IoSliceMut::new(stored)];
        if let Err((cause, _)) = read_exact(&piece.shard.file, &mut vectors, piece.offset + at as u64) {
            outcome = Err(cause);
            break;
        }
        if verify {
            crc.update(block);
        }
        let inside = window.start.clamp(at, at + length) - at..window.end.clamp(at, at + length) - at;
        let payload = block.get(inside).unwrap_or_default();
        let bytes = payload.len() / cell_bytes.max(1) * level.channels() * dtype.bytes();
        let (now, later) = target.split_at_mut(bytes.min(target.len()));
        level.decode(payload, affine, now, &mut scratch.strip);
        target = later;
        at += length;
    }
    let found = crc.finish();
    if outcome.is_ok() && verify && found != stored {
        outcome = Err(Cause::Checksum { expected: stored, found });
    }
    outcome.map_err(|cause| piece.fault(cause))
}

/// A compressed chunk: as a whole, whatever of it is wanted.
fn fetch_packed(piece: &mut Piece<'_>, verify: bool, scratch: &mut Scratch) -> Result<(), Fault> {
    let as_held = piece.is_as_held();
    let packed = room(&mut scratch.packed, piece.bytes);
    if let Err((cause, _)) = read_exact(&piece.shard.file, &mut [IoSliceMut::new(packed)], piece.offset) {
        return Err(piece.fault(cause));
    }
    let Some((frame, stored)) = packed.split_last_chunk::<CHECKSUM>() else { return Ok(()) };
    if verify {
        let found = crc32c(frame);
        if found != *stored {
            return Err(piece.fault(Cause::Checksum { expected: *stored, found }));
        }
    }
    let unpacked =
        if as_held { &mut *piece.target } else { room(&mut scratch.unpacked, piece.level.payload_bytes) };
    if let Err(what) = scratch.unpacker.unpack(frame, unpacked) {
        return Err(piece.fault(Cause::Frame(what)));
    }
    if !as_held {
        let payload = scratch.unpacked.get(piece.window.clone()).unwrap_or_default();
        piece.level.decode(payload, piece.affine, piece.target, &mut scratch.strip);
    }
    Ok(())
}

/// Fills all vectors from `offset`, whatever the kernel hands out at a time. On failure also says how far
/// it came.
fn read_exact(file: &File, mut vectors: &mut [IoSliceMut<'_>], mut offset: u64) -> Result<(), (Cause, u64)> {
    IoSliceMut::advance_slices(&mut vectors, 0);
    while !vectors.is_empty() {
        match rustix::io::preadv(file, vectors, offset).map_err(std::io::Error::from) {
            Ok(0) => return Err((Cause::Ends(offset), offset)),
            Ok(read) => {
                offset += read as u64;
                IoSliceMut::advance_slices(&mut vectors, read);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err((Cause::Io(e), offset)),
        }
    }
    Ok(())
}
