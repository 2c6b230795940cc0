//! From file ranges to memory: chunks are read straight to where the batch wants them, checksums and gaps
//! aside, and each block of bytes is checked and converted while it is in the processor's cache.
//!
//! Knows nothing of plans and rows: a [`Piece`] is one chunk and its target. A chunk that is found wrong is
//! read once more, from the disk itself, before it counts as corrupt.

use crate::batch::AlignedBytes;
use crate::checksum::{CHECKSUM, Crc32c, crc32c, differs};
use crate::chunk::CHUNK_ALIGNMENT;
use crate::compression::Unpacker;
use crate::encoder::decode;
use crate::mapped_file::Through;
use crate::open_shard::OpenShard;
use crate::payload_file::{PayloadFile, ReadFailure, Way};
use crate::projection::Strip;
use crate::{Compression, DType, NumberFormat, Projection};
use std::fmt;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;

/// Memory for blocks that are read directly: a huge page, because a request of many small ones is cut up on
/// its way to the disk (half the rate).
pub(crate) const DIRECT_SCRATCH_BYTES: usize = 2 << 20;
/// Vectors of one read: two a chunk.
const VECTORS: usize = 64;
/// Bytes of a read out of the page cache that nobody looks at on the way: few calls.
const UNCHECKED_BYTES: usize = 1 << 20;
/// Bytes of a chunk that is asked for before its batch is read; of a larger one the kernel reads ahead by
/// itself, and better so (twice the rate at 150 kB, two thirds of it at 9 MB).
const ANNOUNCED_BYTES: usize = 256 << 10;
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
    /// What was done to its chunks, and the bytes of an element that were taken apart for that.
    pub(crate) compression: Compression,
    pub(crate) byte_axis: usize,
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

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Ends(at) => write!(f, "the file ends at byte {at}"),
            Self::Checksum { expected, found } => f.write_str(&differs(*expected, *found)),
            Self::Frame(what) => f.write_str(what),
        }
    }
}

impl Piece<'_> {
    fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }

    /// Whether the payload can go to its target as it is.
    fn is_direct(&self) -> bool {
        !self.is_packed() && self.is_as_held()
    }

    /// Whether the chunk has to be taken as a whole.
    fn is_packed(&self) -> bool {
        self.level.compression != Compression::None
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

    /// Asks for it if it is small and not in memory.
    pub(crate) fn announce(&self) {
        if self.bytes <= ANNOUNCED_BYTES {
            self.shard.file.announce(&self.file_range());
        }
    }

    /// Where it lies in the file.
    fn file_range(&self) -> Range<u64> {
        self.offset..self.end()
    }

    fn fault(&self, cause: impl Into<Cause>) -> Fault {
        let cause = cause.into();
        Fault { place: self.place, shard: Arc::clone(&self.shard), cause }
    }
}

impl From<ReadFailure> for Cause {
    fn from(failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::Io(error, _) => Self::Io(error),
            ReadFailure::Ends(at) => Self::Ends(at),
        }
    }
}

/// A thread's own memory for what does not go to a target.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    block: AlignedBytes,
    /// What a compressed chunk holds.
    unpacked: Vec<u8>,
    unpacker: Unpacker,
    strip: Strip,
    /// Reads, each of one chunk or of small ones in a row, that were right only when done again.
    pub(crate) mended: u64,
    /// So many of the next reads are taken for wrong.
    #[cfg(test)]
    pub(crate) spoilt: usize,
}

/// Reads the pieces, which are sorted by file and offset. With `verify`, no byte of a chunk counts as read
/// before its checksum was found right. What is copied goes to its target `through` what is said.
pub(crate) fn fetch(
    mut pieces: &mut [Piece<'_>],
    verify: bool,
    through: Through,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    while let Some(first) = pieces.first() {
        let shard = Arc::clone(&first.shard);
        let gathered = gatherable(pieces, shard.file.request_bytes());
        let (now, later) = pieces.split_at_mut(gathered.max(1));
        let range = range_of(now);
        let way = shard.file.way(&range, through);
        let mut outcome = fetch_by(way, now, gathered == 0, verify, scratch);
        if way != Way::Read && !verify && !shard.file.reaches(range.end) {
            outcome = fetch_by(Way::Read, now, gathered == 0, verify, scratch);
        }
        #[cfg(test)]
        let outcome = outcome.and_then(|()| spoil(now, scratch));
        if let Err(fault) = outcome {
            fetch_again(now, fault, verify, scratch)?;
        }
        pieces = later;
    }
    Ok(())
}

/// Reads one large piece, or small ones in a row.
fn fetch_by(
    way: Way,
    pieces: &mut [Piece<'_>],
    is_large: bool,
    verify: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let Some(shard) = pieces.first().map(|first| Arc::clone(&first.shard)) else { return Ok(()) };
    let to_targets = !shard.file.is_direct() && pieces.iter().all(Piece::is_direct);
    match pieces {
        [piece] if is_large && to_targets => fetch_by_blocks(piece, way, verify),
        [piece] if is_large && !piece.is_packed() => fetch_through(piece, &shard.file, way, verify, scratch),
        pieces if to_targets => fetch_together(pieces, way, verify, scratch),
        pieces => fetch_run(pieces, &shard.file, way, verify, scratch),
    }
}

/// Where pieces in a row lie in their file.
fn range_of(pieces: &[Piece<'_>]) -> Range<u64> {
    pieces.first().map_or(0, |first| first.offset)..pieces.last().map_or(0, Piece::end)
}

/// How many of the first pieces one read of at most `block` bytes can take; 0 if the first is larger. All go
/// to their targets as they are, or none does.
fn gatherable(pieces: &[Piece<'_>], block: usize) -> usize {
    let Some(first) = pieces.first() else { return 0 };
    if first.file_bytes() > block {
        return 0;
    }
    let in_reach = |piece: &Piece<'_>| piece.end() - first.offset <= block as u64;
    let pairs = pieces.windows(2).take(VECTORS / 2 - 1);
    1 + pairs
        .take_while(|pair| match pair {
            [piece, next] => piece.continues(next) && in_reach(next) && first.is_direct() == next.is_direct(),
            _ => false,
        })
        .count()
}

/// One read for all pieces: payloads to their targets, checksums and gaps to scratch.
fn fetch_together(
    pieces: &mut [Piece<'_>],
    way: Way,
    verify: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let Some(first) = pieces.first() else { return Ok(()) };
    let (shard, start, used) = (Arc::clone(&first.shard), first.offset, pieces.len() * 2);
    // How many bytes lie behind each payload up to the next one.
    let mut tails = [CHECKSUM; VECTORS / 2];
    for (tail, pair) in tails.iter_mut().zip(pieces.windows(2)) {
        if let [piece, next] = pair {
            *tail += usize::try_from(next.offset - piece.end()).unwrap_or(0);
        }
    }
    // The scratch holds the tails: a block takes 64 of the largest, and there are at most 32.
    scratch.reserve(&shard.file).map_err(|e| first.fault(Cause::Io(e)))?;
    let mut vectors: [IoSliceMut<'_>; VECTORS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut rest = scratch.block.bytes_mut();
    for ((pair, piece), tail) in vectors.chunks_exact_mut(2).zip(&mut *pieces).zip(tails) {
        let (head, behind) = rest.split_at_mut(tail.min(rest.len()));
        rest = behind;
        if let [payload, aside] = pair {
            *payload = IoSliceMut::new(piece.target);
            *aside = IoSliceMut::new(head);
        }
    }
    if let Err(failure) = shard.file.scatter(vectors.get_mut(..used).unwrap_or_default(), start, way) {
        return Err(fault_among(pieces, failure));
    }
    if verify {
        let mut at = 0;
        for (piece, tail) in pieces.iter().zip(tails) {
            let expected = scratch.block.bytes().get(at..).and_then(<[u8]>::first_chunk::<CHECKSUM>);
            check(piece, *expected.unwrap_or(&[0; CHECKSUM]), crc32c(piece.target))?;
            at += tail;
        }
    }
    Ok(())
}

/// One read for all pieces, through scratch: they are unpacked, converted, cut, or read directly.
fn fetch_run(
    pieces: &mut [Piece<'_>],
    file: &PayloadFile,
    way: Way,
    verify: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
    let range = first.offset..last.end();
    let start = range.start;
    scratch.reserve(file).map_err(|e| first.fault(Cause::Io(e)))?;
    let Scratch { block, unpacked, unpacker, strip, .. } = scratch;
    let bytes = match file.read(range, block, way) {
        Ok(bytes) => bytes,
        Err(failure) => return Err(fault_among(pieces, failure)),
    };
    for piece in pieces {
        let at = usize::try_from(piece.offset - start).unwrap_or(usize::MAX);
        let chunk = bytes.get(at..).and_then(|rest| rest.get(..piece.bytes)).unwrap_or_default();
        let Some((held, stored)) = chunk.split_last_chunk::<CHECKSUM>() else {
            return Err(piece.fault(Cause::Frame("shorter than its checksum".to_owned())));
        };
        if verify {
            check(piece, *stored, crc32c(held))?;
        }
        let payload = match (piece.is_packed(), piece.is_as_held()) {
            (false, _) => held,
            (true, true) => {
                unpacker
                    .unpack(held, piece.target, piece.level.byte_axis)
                    .map_err(|what| piece.fault(Cause::Frame(what)))?;
                continue;
            }
            (true, false) => {
                unpacked.resize(unpacked.len().max(piece.level.payload_bytes), 0);
                let payload = unpacked.get_mut(..piece.level.payload_bytes).unwrap_or_default();
                unpacker
                    .unpack(held, payload, piece.level.byte_axis)
                    .map_err(|what| piece.fault(Cause::Frame(what)))?;
                payload
            }
        };
        let wanted = payload.get(piece.window.clone()).unwrap_or_default();
        piece.level.decode(wanted, piece.affine, piece.target, strip);
    }
    Ok(())
}

/// One large chunk to its target, block by block.
fn fetch_by_blocks(piece: &mut Piece<'_>, way: Way, verify: bool) -> Result<(), Fault> {
    let mut stored = [0; CHECKSUM];
    let mut offset = piece.offset;
    let mut crc = Crc32c::new();
    let file = &piece.shard.file;
    // Blocks are for the check, which wants them in the cache; and for reads that bypass the page cache.
    let block_bytes = if verify || !file.is_buffered() { file.request_bytes() } else { UNCHECKED_BYTES };
    let blocks = piece.target.len().div_ceil(block_bytes);
    for (i, block) in piece.target.chunks_mut(block_bytes).enumerate() {
        let stored: &mut [u8] = if i + 1 == blocks { &mut stored } else { &mut [] };
        let mut vectors = [IoSliceMut::new(block), IoSliceMut::new(stored)];
        if let Err(failure) = piece.shard.file.scatter(&mut vectors, offset, way) {
            return Err(piece.fault(failure));
        }
        if verify {
            crc.update(block);
        }
        offset += block.len() as u64;
    }
    if verify { check(piece, stored, crc.finish()) } else { Ok(()) }
}

/// A large chunk of which only a window is wanted, that has to be converted, or that is read directly:
/// through scratch, block by block.
fn fetch_through(
    piece: &mut Piece<'_>,
    file: &PayloadFile,
    way: Way,
    verify: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    let level = piece.level;
    let LevelRead { payload_bytes, cell_bytes, dtype, .. } = *level;
    let (window, affine) = (piece.window.clone(), piece.affine);
    scratch.reserve(file).map_err(|e| piece.fault(Cause::Io(e)))?;
    // Whole cells at a time; one has at most 2^20 channels.
    let step = (file.request_bytes() / cell_bytes.max(1)).max(1) * cell_bytes;
    // Without a check, what is not wanted is not read.
    let wanted = if verify { 0..payload_bytes } else { window.clone() };
    let (mut crc, mut at, mut written) = (Crc32c::new(), wanted.start, 0);
    while at < wanted.end {
        let length = step.min(wanted.end - at);
        let is_last = verify && at + length == payload_bytes;
        let start = piece.offset + at as u64;
        let range = start..start + (length + if is_last { CHECKSUM } else { 0 }) as u64;
        let bytes = match file.read(range, &mut scratch.block, way) {
            Ok(bytes) => bytes,
            Err(failure) => return Err(piece.fault(failure)),
        };
        let (block, stored) = bytes.split_at(length.min(bytes.len()));
        if verify {
            crc.update(block);
        }
        let inside = window.start.clamp(at, at + length) - at..window.end.clamp(at, at + length) - at;
        let payload = block.get(inside).unwrap_or_default();
        let rest = piece.target.get_mut(written..).unwrap_or_default();
        let values = (payload.len() / cell_bytes.max(1) * level.channels() * dtype.bytes()).min(rest.len());
        level.decode(payload, affine, rest.get_mut(..values).unwrap_or_default(), &mut scratch.strip);
        written += values;
        at += length;
        if let Some(stored) = stored.first_chunk::<CHECKSUM>().filter(|_| is_last) {
            check(piece, *stored, crc.finish())?;
        }
    }
    Ok(())
}

/// Pieces that could not be read or are not right, once more and from the disk itself: what the page cache
/// or the way from it has spoiled is not lost. The fault if it stays.
fn fetch_again(
    pieces: &mut [Piece<'_>],
    fault: Fault,
    verify: bool,
    scratch: &mut Scratch,
) -> Result<(), Fault> {
    if let Cause::Ends(_) = fault.cause {
        return Err(fault);
    }
    for piece in pieces {
        let shard = Arc::clone(&piece.shard);
        let file = shard.file.around_the_cache(&piece.file_range()).map_err(|e| piece.fault(Cause::Io(e)))?;
        if piece.is_packed() {
            fetch_run(std::slice::from_mut(piece), &file, Way::Read, verify, scratch)?;
        } else {
            fetch_through(piece, &file, Way::Read, verify, scratch)?;
        }
    }
    log::warn!(
        "{}: {}: right when read again, from the disk itself",
        fault.shard.path.display(),
        fault.cause
    );
    scratch.mended += 1;
    Ok(())
}

#[cfg(test)]
fn spoil(pieces: &[Piece<'_>], scratch: &mut Scratch) -> Result<(), Fault> {
    let Some(left) = scratch.spoilt.checked_sub(1) else { return Ok(()) };
    scratch.spoilt = left;
    pieces.iter().try_for_each(|piece| check(piece, [0; CHECKSUM], [1; CHECKSUM]))
}

/// The fault of the piece at which a read of them all came to its end.
fn fault_among(pieces: &[Piece<'_>], failure: ReadFailure) -> Fault {
    let (ReadFailure::Io(_, at) | ReadFailure::Ends(at)) = &failure;
    let piece = pieces.iter().find(|piece| piece.end() > *at).or(pieces.last());
    piece.map(|piece| piece.fault(failure)).expect("no read without a piece")
}

fn check(piece: &Piece<'_>, expected: [u8; CHECKSUM], found: [u8; CHECKSUM]) -> Result<(), Fault> {
    if expected == found { Ok(()) } else { Err(piece.fault(Cause::Checksum { expected, found })) }
}

impl Scratch {
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.block.capacity() + self.unpacked.capacity() + self.unpacker.capacity()
    }

    /// Memory for a block of this file.
    fn reserve(&mut self, file: &PayloadFile) -> std::io::Result<()> {
        self.block.grow(if file.is_direct() { DIRECT_SCRATCH_BYTES } else { file.request_bytes() + CHECKSUM })
    }
}
