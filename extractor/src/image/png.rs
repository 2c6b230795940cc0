//! PNG as Pillow reads it: every colour type and bit depth to RGB, alpha dropped.
//!
//! The chunks before the image data are walked here, so that their checksums count as they do in Pillow
//! and nothing of them is inflated; the `png` crate inflates and unfilters only the image.

use super::exif::{self, ExifRule, Orientation};
use super::{Extent, Header, ImageError, Limits, Picture};
use featcache_store::Size;
use png::{BitDepth, ColorType};
use std::io::Cursor;

const SIGNATURE: usize = 8;
/// Bytes of a decoded pixel.
const RGB: u64 = 3;

/// Size and, where asked for, orientation.
pub(super) fn header(bytes: &[u8], rule: ExifRule, extent: Extent) -> Result<Header, ImageError> {
    let head = head(bytes, rule)?;
    let orientation = match rule {
        ExifRule::Ignore => Orientation::default(),
        // The tag may stand behind the image data.
        ExifRule::Apply if extent == Extent::Prefix => {
            return Err(ImageError::truncated("the file goes on behind its image data"));
        }
        ExifRule::Apply => exif::orientation(&head.exif, &head.xmp),
    };
    Ok(Header { size: head.size, orientation, bytes_per_pixel: RGB })
}

/// Decodes a PNG to RGB.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let head = head(bytes, ExifRule::Ignore)?;
    limits.check_decoded(head.size, RGB)?;
    let mut options = png::DecodeOptions::default();
    // Pillow checks the chunks' checksums up to the image data, which `head` does, and for the image data
    // only the one inside the stream.
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let decoder = png::Decoder::new_with_options(Cursor::new(bytes), options);
    let mut reader = decoder.read_info().map_err(failed)?;
    let info = reader.info();
    if (info.height, info.width) != (head.size.height, head.size.width) {
        return Err(ImageError::corrupt("two image headers"));
    }
    if let Some(frame) = info.frame_control()
        && (frame.height, frame.width) != (head.size.height, head.size.width)
    {
        return Err(ImageError::corrupt("a first animation frame smaller than the picture"));
    }
    let (h, w) = (head.size.height as usize, head.size.width as usize);
    let expand = Expand {
        color: info.color_type,
        depth: info.bit_depth,
        palette: info.palette.as_deref().unwrap_or_default().to_vec(),
    };
    let mut rgb = vec![0; h * w * 3];
    // Rows are asked for one by one, and no more than there are: what follows the last one is not read.
    let mut expanded = vec![0; w * 3];
    for (x0, y0, dx, dy) in if head.interlaced { ADAM7.as_slice() } else { &[(0, 0, 1, 1)] } {
        let columns = w.saturating_sub(*x0).div_ceil(*dx);
        for y in (*y0..h).step_by(*dy).filter(|_| columns > 0) {
            let row = reader
                .next_row()
                .map_err(failed)?
                .ok_or_else(|| ImageError::truncated("the image data ends early"))?;
            let out = &mut rgb[3 * w * y..3 * w * (y + 1)];
            if *dx == 1 {
                expand.row(row.data(), out);
                continue;
            }
            expand.row(row.data(), &mut expanded[..3 * columns]);
            for (column, pixel) in expanded.as_chunks::<3>().0[..columns].iter().enumerate() {
                let at = 3 * (x0 + column * dx);
                out[at..at + 3].copy_from_slice(pixel);
            }
        }
    }
    Ok(Picture { size: head.size, rgb })
}

/// First column, first row, column step and row step of each pass of an interlaced picture.
const ADAM7: [(usize, usize, usize, usize); 7] =
    [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];

fn failed(error: png::DecodingError) -> ImageError {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::truncated("the file ends before its last pixels")
        }
        error => ImageError::corrupt(error.to_string()),
    }
}

/// How packed samples become RGB.
struct Expand {
    color: ColorType,
    depth: BitDepth,
    palette: Vec<u8>,
}

impl Expand {
    /// One row of packed samples to `out`, 3 bytes a pixel.
    fn row(&self, packed: &[u8], out: &mut [u8]) {
        // 16-bit samples are big-endian: the first byte is the upper one, which is what Pillow keeps.
        let sample = if self.depth == BitDepth::Sixteen { 2 } else { 1 };
        match self.color {
            ColorType::Rgb | ColorType::Rgba => {
                let step = if self.color == ColorType::Rgb { 3 * sample } else { 4 * sample };
                if step == 3 {
                    out.copy_from_slice(&packed[..out.len()]);
                    return;
                }
                for (pixel, rgb) in packed.chunks_exact(step).zip(out.chunks_exact_mut(3)) {
                    rgb.copy_from_slice(&[pixel[0], pixel[sample], pixel[2 * sample]]);
                }
            }
            ColorType::GrayscaleAlpha => {
                for (pixel, rgb) in packed.chunks_exact(2 * sample).zip(out.chunks_exact_mut(3)) {
                    rgb.fill(pixel[0]);
                }
            }
            ColorType::Grayscale => {
                for (x, rgb) in out.chunks_exact_mut(3).enumerate() {
                    rgb.fill(match self.depth {
                        BitDepth::Eight | BitDepth::Sixteen => packed[sample * x],
                        depth => bits(packed, x, depth) * (255 / ((1 << depth as u8) - 1)),
                    });
                }
            }
            ColorType::Indexed => {
                for (x, rgb) in out.chunks_exact_mut(3).enumerate() {
                    let index = match self.depth {
                        BitDepth::Eight | BitDepth::Sixteen => packed[x],
                        depth => bits(packed, x, depth),
                    };
                    let at = 3 * usize::from(index);
                    // Behind the end of the palette Pillow has black.
                    rgb.copy_from_slice(self.palette.get(at..at + 3).unwrap_or(&[0; 3]));
                }
            }
        }
    }
}

/// The x-th sample of fewer than 8 bits.
fn bits(packed: &[u8], x: usize, depth: BitDepth) -> u8 {
    let depth = depth as usize;
    let bit = x * depth;
    (packed[bit / 8] >> (8 - depth - bit % 8)) & ((1 << depth) - 1)
}

/// What stands around the image data.
struct Head {
    size: Size,
    interlaced: bool,
    exif: Vec<u8>,
    xmp: Vec<u8>,
}

/// Walks the chunks up to the image data, and behind it where the EXIF tag may stand there.
fn head(bytes: &[u8], rule: ExifRule) -> Result<Head, ImageError> {
    let mut at = SIGNATURE;
    let (kind, body) = chunk(bytes, &mut at)?;
    let &[w3, w2, w1, w0, h3, h2, h1, h0, _, _, _, _, interlace, ..] = body else {
        return Err(ImageError::corrupt(format!("an image header of {} bytes, expected 13", body.len())));
    };
    if kind != *b"IHDR" {
        return Err(ImageError::corrupt(format!("first chunk {}, expected IHDR", name(kind))));
    }
    let size = Size::new(u32::from_be_bytes([h3, h2, h1, h0]), u32::from_be_bytes([w3, w2, w1, w0]));
    let (exif, xmp) = (Vec::new(), Vec::new());
    let mut head = Head { size, interlaced: interlace != 0, exif, xmp };
    loop {
        if bytes.get(at + 4..at + 8) == Some(b"IDAT") {
            break;
        }
        let (kind, body) = chunk(bytes, &mut at)?;
        if kind == *b"IEND" {
            return Err(ImageError::corrupt("no image data"));
        }
        head.note(kind, body);
    }
    if rule == ExifRule::Apply {
        // Trouble behind the pixels does not matter: Pillow stops looking there, too.
        while let Ok((kind, body)) = chunk_unchecked(bytes, &mut at) {
            match &kind {
                b"IEND" => break,
                b"IDAT" => {}
                _ => head.note(kind, body),
            }
        }
    }
    Ok(head)
}

impl Head {
    fn note(&mut self, kind: [u8; 4], body: &[u8]) {
        match &kind {
            b"eXIf" => self.exif = body.to_vec(),
            b"iTXt" => {
                // Keyword, uncompressed, method, language and translated keyword empty or not.
                if let Some([0, _, rest @ ..]) = body.strip_prefix(b"XML:com.adobe.xmp\0") {
                    let mut fields = rest.splitn(3, |&b| b == 0);
                    if let Some(text) = fields.nth(2) {
                        self.xmp = text.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
}

/// The chunk at `at`, its checksum checked; moves `at` behind it.
fn chunk<'a>(bytes: &'a [u8], at: &mut usize) -> Result<([u8; 4], &'a [u8]), ImageError> {
    let start = *at;
    let (kind, body) = chunk_unchecked(bytes, at)?;
    let stored = bytes.get(*at - 4..*at);
    if stored != Some(&crc32(&bytes[start + 4..*at - 4]).to_be_bytes()) {
        return Err(ImageError::corrupt(format!("checksum of chunk {}", name(kind))));
    }
    Ok((kind, body))
}

fn chunk_unchecked<'a>(bytes: &'a [u8], at: &mut usize) -> Result<([u8; 4], &'a [u8]), ImageError> {
    let ends = || ImageError::truncated("the file ends in its header");
    let &[l3, l2, l1, l0, k0, k1, k2, k3] = bytes.get(*at..*at + 8).ok_or_else(ends)? else {
        return Err(ends());
    };
    let kind = [k0, k1, k2, k3];
    if !kind.iter().all(u8::is_ascii_alphabetic) {
        return Err(ImageError::corrupt(format!("chunk name {}", name(kind))));
    }
    let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
    let body = bytes.get(*at + 8..*at + 8 + length).ok_or_else(ends)?;
    if bytes.len() < *at + 12 + length {
        return Err(ends());
    }
    *at += 12 + length;
    Ok((kind, body))
}

fn name(kind: [u8; 4]) -> String {
    kind.escape_ascii().to_string()
}

/// CRC-32 of PNG (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &b| TABLE[((crc ^ u32::from(b)) & 0xFF) as usize] ^ (crc >> 8))
}
