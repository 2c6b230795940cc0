//! From the bytes of a file to 8-bit RGB pixels, bit-equal to Pillow's `Image.open(f).convert("RGB")`.
//!
//! The container is told by its first bytes, never by the file's name. Whatever the bytes are, the
//! outcome is pixels or an [`ImageError`]: no panic, and no allocation before [`Limits`] allowed it.
//! Where we differ from Pillow on purpose:
//! - 16-bit grey PNG is scaled to its upper 8 bits, as Pillow does for every other 16-bit mode; Pillow's
//!   `I;16` → RGB clips at 255, which turns nearly every such picture white;
//! - checksums of PNG text and colour-profile chunks, and how far they inflate, do not matter to pixels
//!   and are not looked at: Pillow refuses a text chunk that inflates past 1 MB;
//! - containers other than JPEG and PNG are refused by name.

pub mod exif;
mod jpeg;
pub mod limits;
mod png;
mod turbo;

pub use exif::{ExifRule, Orientation};
pub use limits::Limits;

use crate::Error;
use featcache_store::Size;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Height and width in pixels.
    pub size: Size,
    /// `[height, width, 3]`, row-major, RGB, 8 bits.
    pub rgb: Vec<u8>,
}

/// Why a file does not become pixels: recorded with its row. Texts name no path: the row does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// A known container that is not decoded.
    #[error("{container} is not supported: expected JPEG or PNG")]
    Unsupported {
        /// Its name.
        container: &'static str,
    },
    /// Not a picture.
    #[error("not a picture: expected JPEG or PNG, found bytes {found}")]
    Unknown {
        /// The first bytes, in hex.
        found: String,
    },
    /// Decoding would cost more than allowed.
    #[error("too large: {found} {what}, limit {limit}")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The bytes end before the picture does.
    #[error("truncated: {what}")]
    Truncated {
        /// Where it ends.
        what: String,
    },
    /// The bytes contradict their format.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
    /// The file is not the one that was planned.
    #[error("size changed: planned {planned}, decoded {found}")]
    SizeChanged {
        /// Source size in the plan.
        planned: Size,
        /// Size of the decoded picture.
        found: Size,
    },
    /// One of the sizes of a resize is empty.
    #[error("resize from {from} to {to}: expected at least 1x1")]
    NoPixels {
        /// Size of the picture.
        from: Size,
        /// Size wanted.
        to: Size,
    },
    /// The file cannot be read at listing, or its decoder not be started.
    #[error("unreadable: {reason}")]
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl ImageError {
    fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    fn truncated(what: impl Into<String>) -> Self {
        Self::Truncated { what: what.into() }
    }
}

/// Containers that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Jpeg,
    Png,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Size as stored.
    size: Size,
    /// How the stored rows and columns are to be turned; `Orientation::default()` where not asked.
    orientation: Orientation,
    /// Bytes of pixels and coefficients that decoding holds for each pixel.
    bytes_per_pixel: u64,
}

/// Decodes a file's bytes, the EXIF orientation ignored as Pillow's `Image.open` does.
///
/// # Errors
/// [`ImageError`] where the bytes are not a picture that `limits` allow.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    limits.check_file(bytes.len() as u64)?;
    match sniff(bytes)? {
        Container::Jpeg => jpeg::decode(bytes, limits),
        Container::Png => png::decode(bytes, limits),
    }
}

/// As [`decode`], then turned by `rule`: `PIL.ImageOps.exif_transpose` for [`ExifRule::Apply`].
///
/// # Errors
/// As [`decode`].
pub fn decode_oriented(bytes: &[u8], rule: ExifRule, limits: &Limits) -> Result<Picture, ImageError> {
    let picture = decode(bytes, limits)?;
    match rule {
        ExifRule::Ignore => Ok(picture),
        ExifRule::Apply => Ok(header(bytes, rule, Extent::Whole)?.orientation.apply(picture)),
    }
}

/// Size that [`decode_oriented`] will give, from the header alone.
///
/// # Errors
/// [`ImageError`] where the header is not one of a picture that `limits` allow.
pub fn probe(bytes: &[u8], rule: ExifRule, limits: &Limits) -> Result<Size, ImageError> {
    limits.check_file(bytes.len() as u64)?;
    let header = header(bytes, rule, Extent::Whole)?;
    limits.check_size(header.size)?;
    Ok(header.orientation.apply_size(header.size))
}

/// As [`probe`], reading no more of the file than its header needs.
///
/// # Errors
/// As [`probe`], and [`ImageError::Unreadable`] where the file cannot be read.
pub fn probe_file(path: &Path, rule: ExifRule, limits: &Limits) -> Result<Size, ImageError> {
    let (mut file, length) = open_file(path).map_err(unreadable)?;
    limits.check_file(length)?;
    let mut bytes = Vec::new();
    // Headers end in the first kilobytes unless a camera or a colour profile put much before them.
    for prefix in [16 << 10, 256 << 10] {
        read_up_to(&mut file, &mut bytes, prefix)?;
        if bytes.len() < prefix {
            break;
        }
        match header(&bytes, rule, Extent::Prefix) {
            Err(ImageError::Truncated { .. }) => {}
            found => return limited(found?, limits),
        }
    }
    read_up_to(&mut file, &mut bytes, usize::try_from(limits.file_bytes).unwrap_or(usize::MAX))?;
    limited(header(&bytes, rule, Extent::Whole)?, limits)
}

/// Bytes that [`decode_oriented`] holds at its peak, from the header alone.
pub(crate) fn decoding_bytes(bytes: &[u8], rule: ExifRule) -> Result<u64, ImageError> {
    let header = header(bytes, rule, Extent::Whole)?;
    // A picture is turned into a second one.
    let turned = if header.orientation == Orientation::default() { 0 } else { 3 };
    Ok(header.size.area().saturating_mul(header.bytes_per_pixel + turned))
}

/// Reads a whole file. The inner error is what is wrong with the file itself: more bytes than [`Limits`]
/// allow. Nothing of it is read then.
///
/// # Errors
/// [`Error::Io`] where the file is not there or does not let itself be read, which tells nothing of what is
/// in it.
pub fn read_file(path: &Path, limits: &Limits) -> crate::Result<Result<Vec<u8>, ImageError>> {
    let (mut file, length) = open_file(path).map_err(Error::io(path))?;
    if let Err(error) = limits.check_file(length) {
        return Ok(Err(error));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let read = file.by_ref().take(limits.file_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(Error::io(path))?;
    Ok(limits.check_file(bytes.len() as u64).map(|()| bytes))
}

/// Opens a file and tells its length.
pub(crate) fn open_file(path: &Path) -> std::io::Result<(File, u64)> {
    let file = featcache_store::storage::open_file(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn limited(header: Header, limits: &Limits) -> Result<Size, ImageError> {
    limits.check_size(header.size)?;
    Ok(header.orientation.apply_size(header.size))
}

fn read_up_to(file: &mut File, bytes: &mut Vec<u8>, total: usize) -> Result<(), ImageError> {
    let missing = total.saturating_sub(bytes.len()) as u64;
    file.by_ref().take(missing).read_to_end(bytes).map_err(unreadable)?;
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unreadable(error: std::io::Error) -> ImageError {
    ImageError::Unreadable { reason: error.to_string() }
}

/// Whether bytes are a whole file or its beginning, where running out means "read more".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Prefix,
}

fn header(bytes: &[u8], rule: ExifRule, extent: Extent) -> Result<Header, ImageError> {
    match sniff(bytes)? {
        Container::Jpeg => jpeg::header(bytes, rule),
        Container::Png => png::header(bytes, rule, extent),
    }
}

/// Tells the container by its first bytes.
fn sniff(bytes: &[u8]) -> Result<Container, ImageError> {
    let unsupported = |container| Err(ImageError::Unsupported { container });
    match bytes {
        [] => Err(ImageError::Empty),
        [0xFF, 0xD8, 0xFF, ..] => Ok(Container::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Container::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => unsupported("WebP"),
        [b'G', b'I', b'F', b'8', ..] => unsupported("GIF"),
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => unsupported("BMP"),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => unsupported("TIFF"),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => unsupported(match brand {
            [b'a', b'v', b'i', ..] => "AVIF",
            [b'h', b'e', ..] | [b'm', b'i', b'f', b'1', ..] => "HEIF",
            _ => "an ISO media container",
        }),
        [0, 0, 0, 12, b'j', b'P', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => unsupported("JPEG 2000"),
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', ..] => unsupported("JPEG XL"),
        [0, 0, 1, 0, ..] => unsupported("ICO"),
        [b'8', b'B', b'P', b'S', ..] => unsupported("PSD"),
        _ => Err(ImageError::Unknown {
            found: bytes.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
        }),
    }
}
