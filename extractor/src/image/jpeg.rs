//! JPEG as Pillow reads it: which files it accepts, at which size, and their pixels.
//!
//! Pillow drives libjpeg itself and ignores its warnings; it fails where libjpeg fails and where the
//! decoder asks for bytes after the file's end. TurboJPEG instead makes up an end-of-image marker and
//! warns, so what a warning stands for is found out here.

use super::exif::{self, ExifRule, Orientation};
use super::turbo::{Decompressor, Layout, Outcome};
use super::{Header, ImageError, Limits, Picture};
use featcache_store::Size;

const SOF2: u8 = 0xC2;
const DHT: u8 = 0xC4;
const JPG: u8 = 0xC8;
const SOF10: u8 = 0xCA;
const DAC: u8 = 0xCC;
const RST0: u8 = 0xD0;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DRI: u8 = 0xDD;
const DHP: u8 = 0xDE;
const APP1: u8 = 0xE1;

/// Frames that libjpeg-turbo decodes: baseline, extended, progressive, lossless; arithmetic both ways.
const FRAMES: [u8; 6] = [0xC0, 0xC1, SOF2, 0xC3, 0xC9, SOF10];

/// What stands before the first scan.
struct Head {
    size: Size,
    components: u8,
    frame: u8,
    scan_components: u8,
    /// The scan has restart markers, behind which decoding may go on.
    restarts: bool,
    /// Offset of the first scan's marker.
    scan: usize,
    /// EXIF segments joined, as Pillow joins them, without their first `Exif\0\0`.
    exif: Vec<u8>,
    /// The last XMP segment.
    xmp: Vec<u8>,
}

impl Head {
    /// Several scans: libjpeg holds all coefficients and decodes only at the end of the file.
    fn multi_scan(&self) -> bool {
        matches!(self.frame, SOF2 | SOF10) || self.scan_components < self.components
    }

    fn layout(&self) -> Layout {
        if self.components == 4 { Layout::Cmyk } else { Layout::Rgb }
    }

    /// Bytes of pixels, and of coefficients where all of them are held.
    fn bytes_per_pixel(&self) -> u64 {
        let coefficients = if self.multi_scan() { 2 * u64::from(self.components) } else { 0 };
        self.layout().bytes() as u64 + coefficients
    }
}

/// Size and, where asked for, orientation.
pub(super) fn header(bytes: &[u8], rule: ExifRule) -> Result<Header, ImageError> {
    let head = head(bytes)?;
    let orientation = match rule {
        ExifRule::Ignore => Orientation::default(),
        ExifRule::Apply => exif::orientation(&head.exif, &head.xmp),
    };
    Ok(Header { size: head.size, orientation, bytes_per_pixel: head.bytes_per_pixel() })
}

/// Decodes a JPEG to RGB.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let head = head(bytes)?;
    let layout = head.layout();
    limits.check_decoded(head.size, head.bytes_per_pixel())?;
    if head.multi_scan() {
        limits.check_scans(head.size, scans(bytes, head.scan))?;
    }
    let mut pixels = vec![0; head.size.height as usize * head.size.width as usize * layout.bytes()];
    let mut decompressor = Decompressor::new(limits.decoded_bytes, limits.scans)?;
    match decompressor.decompress(bytes, layout, head.size, &mut pixels) {
        Outcome::Clean => {}
        Outcome::Failed(what) => return Err(ImageError::corrupt(what)),
        Outcome::Warned(warning) => {
            if starved(&mut decompressor, bytes, &head, layout, &warning, &mut pixels) {
                return Err(ImageError::truncated("the file ends before its last pixels"));
            }
        }
    }
    if layout == Layout::Cmyk {
        cmyk_to_rgb(&mut pixels);
    }
    Ok(Picture { size: head.size, rgb: pixels })
}

/// Whether the decoder ran past the end of a file that it complained about: then Pillow raises, while
/// it ignores every other warning.
///
/// libjpeg keeps only its first warning, so the file is decoded again with markers behind it that no
/// decoder survives: reaching one is a failure with that marker's name. Without that failure, `pixels`
/// are rewritten as they were.
fn starved(
    decompressor: &mut Decompressor,
    bytes: &[u8],
    head: &Head,
    layout: Layout,
    warning: &str,
    pixels: &mut [u8],
) -> bool {
    let mut decompress_with =
        |tail: &[u8]| decompressor.decompress(&[bytes, tail].concat(), layout, head.size, pixels);
    // Longer than a segment can be: a segment cut by the file's end swallows what follows.
    let ended = warning.starts_with("Premature end of JPEG file")
        || match decompress_with(&[0xFF, JPG].repeat(usize::from(u16::MAX) / 2 + 2)) {
            Outcome::Failed(what) => what.contains("0xc8"),
            Outcome::Clean | Outcome::Warned(_) => false,
        };
    if !ended {
        return false;
    }
    if head.multi_scan() {
        return true;
    }
    // One scan: Pillow is content once all its rows are there, whatever follows. They are if the scan
    // ended at a marker inside the file ...
    if !head.restarts && warning == "Corrupt JPEG data: premature end of data segment" {
        return false;
    }
    // ... or if only the end marker is missing and the entropy decoder, which takes some bytes ahead, did
    // not ask for more than the file has: then all of a padding behind the file is left over.
    const PADDING: usize = 16;
    match decompress_with(&[&[0; PADDING][..], &[0xFF, EOI]].concat()) {
        Outcome::Warned(warning) => warning
            .strip_prefix("Corrupt JPEG data: ")
            .and_then(|rest| rest.strip_suffix(" extraneous bytes before marker 0xd9"))
            .and_then(|count| count.parse::<usize>().ok())
            .is_none_or(|count| count < PADDING),
        Outcome::Clean | Outcome::Failed(_) => true,
    }
}

/// Reads the segments up to the first scan.
fn head(bytes: &[u8]) -> Result<Head, ImageError> {
    let mut frame: Option<(u8, Size, u8)> = None;
    let (mut exif, mut xmp) = (Vec::new(), Vec::new());
    let mut restarts = false;
    let mut at = 2;
    loop {
        let (marker, found_at) =
            next_marker(bytes, at).ok_or_else(|| ImageError::truncated("the file ends in its header"))?;
        at = found_at + 2;
        match marker {
            // Stand-alone markers. A second SOI is libjpeg's to refuse, as it is in Pillow.
            RST0..=SOI => continue,
            EOI => return Err(ImageError::corrupt("the image ends before its first scan")),
            0x01..=0xBF => return Err(ImageError::corrupt(format!("marker 0xff{marker:02x} in the header"))),
            _ => {}
        }
        let body = segment(bytes, at)?;
        at += 2 + body.len();
        match marker {
            DHT | DAC => {}
            DRI => restarts = body.iter().any(|&b| b != 0),
            JPG | DHP => return Err(unsupported_frame(marker)),
            0xC0..=0xCF => {
                let &[precision, h1, h0, w1, w0, components, ..] = body else {
                    return Err(ImageError::corrupt(format!("a frame header of {} bytes", body.len())));
                };
                if !FRAMES.contains(&marker) {
                    return Err(unsupported_frame(marker));
                }
                if precision != 8 {
                    return Err(ImageError::corrupt(format!("{precision} bits a sample, expected 8")));
                }
                if !matches!(components, 1 | 3 | 4) {
                    return Err(ImageError::corrupt(format!("{components} components, expected 1, 3 or 4")));
                }
                let size =
                    Size::new(u16::from_be_bytes([h1, h0]).into(), u16::from_be_bytes([w1, w0]).into());
                frame = Some((marker, size, components));
            }
            APP1 => match body {
                [b'E', b'x', b'i', b'f', 0, 0, rest @ ..] => exif.extend_from_slice(rest),
                _ => {
                    if let Some(rest) = body.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
                        xmp = rest.to_vec();
                    }
                }
            },
            SOS => {
                let (frame, size, components) =
                    frame.ok_or_else(|| ImageError::corrupt("a scan before any frame header"))?;
                let scan_components = body.first().copied().unwrap_or(0);
                return Ok(Head {
                    size,
                    components,
                    frame,
                    scan_components,
                    restarts,
                    scan: found_at,
                    exif,
                    xmp,
                });
            }
            _ => {}
        }
    }
}

fn unsupported_frame(marker: u8) -> ImageError {
    ImageError::corrupt(format!("JPEG process 0xff{marker:02x} is not supported"))
}

/// Counts scans from the first one's marker to the end of the image.
fn scans(bytes: &[u8], first: usize) -> u32 {
    let mut count = 0;
    let mut at = first;
    while let Some((marker, found_at)) = next_marker(bytes, at) {
        at = found_at + 2;
        match marker {
            EOI => break,
            0x01..=0xBF | RST0..=SOI => continue,
            SOS => count += 1,
            _ => {}
        }
        // A table may hold bytes that look like markers.
        at += segment(bytes, at).map_or(0, |body| 2 + body.len());
    }
    count
}

/// The next marker at or after `from` and its offset; stuffed zeros and fill bytes are passed over.
fn next_marker(bytes: &[u8], from: usize) -> Option<(u8, usize)> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xFF)?;
        match *bytes.get(at + 1)? {
            0xFF => at += 1,
            0x00 => at += 2,
            marker => return Some((marker, at)),
        }
    }
}

/// The body of the segment whose length field is at `at`.
fn segment(bytes: &[u8], at: usize) -> Result<&[u8], ImageError> {
    let ends = || ImageError::truncated("the file ends in its header");
    let &[hi, lo] = bytes.get(at..at + 2).ok_or_else(ends)? else { return Err(ends()) };
    let length = usize::from(u16::from_be_bytes([hi, lo]));
    if length < 2 {
        return Err(ImageError::corrupt(format!("a segment of length {length}, expected at least 2")));
    }
    bytes.get(at + 2..at + length).ok_or_else(ends)
}

/// Adobe's inverted CMYK to RGB in place, with Pillow's arithmetic (`Convert.c`, `cmyk2rgb` after the
/// raw mode `CMYK;I`); keeps the first three quarters.
fn cmyk_to_rgb(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for i in 0..count {
        let [c, m, y, k] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2], pixels[4 * i + 3]];
        for (channel, ink) in [c, m, y].into_iter().enumerate() {
            pixels[3 * i + channel] = k - mul_div_255(255 - ink, k);
        }
    }
    pixels.truncate(3 * count);
    pixels.shrink_to_fit();
}

/// `round(a · b / 255)`, which is at most `b`.
fn mul_div_255(a: u8, b: u8) -> u8 {
    let product = u16::from(a) * u16::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}
