//! The one door to libjpeg-turbo: a handle that decompresses a whole JPEG and says how it went.
//!
//! The `turbojpeg` crate's own `Decompressor` turns every libjpeg *warning* in a header into an error,
//! so that pictures which Pillow reads could not be read; hence its raw functions here. What a warning
//! means is decided in [`super::jpeg`].

use super::ImageError;
use featcache_store::Size;
use std::ffi::{CStr, c_int};
use turbojpeg::raw;

/// How a decompression ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All pixels, no complaint.
    Clean,
    /// All pixels were written; libjpeg's first warning.
    Warned(String),
    /// libjpeg gave up, and why.
    Failed(String),
}

/// Pixel layouts that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// 3 bytes a pixel.
    Rgb,
    /// 4 bytes a pixel, as stored.
    Cmyk,
}

impl Layout {
    /// Bytes of a pixel.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// libjpeg's warnings (`jerror.h`, `JWRN_*`) begin with these. The error *code* of TurboJPEG cannot be
/// used: after any warning it also calls fatal errors warnings, while the text is always the last one's.
const WARNINGS: [&str; 7] = [
    "Unknown Adobe color transform code",
    "Corrupt JPEG data: ",
    "Inconsistent progression sequence",
    "Warning: unknown JFIF revision",
    "Premature end of JPEG file",
    "Invalid SOS parameters for sequential JPEG",
    "Application transferred too many scanlines",
];

/// A TurboJPEG decompressor.
pub(super) struct Decompressor {
    handle: raw::tjhandle,
}

impl Decompressor {
    /// A new one that allocates at most `decoded_bytes` and reads at most `scans` scans.
    pub(super) fn new(decoded_bytes: u64, scans: u32) -> Result<Self, ImageError> {
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: takes a constant and returns an owned handle or null; `drop` destroys it once.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        if handle.is_null() {
            return Err(ImageError::Unreadable { reason: "libjpeg-turbo cannot be initialised".into() });
        }
        let decompressor = Self { handle };
        let mebibytes = c_int::try_from(decoded_bytes >> 20).unwrap_or(c_int::MAX).max(1);
        for (param, value) in [
            (raw::TJPARAM_TJPARAM_MAXMEMORY, mebibytes),
            (raw::TJPARAM_TJPARAM_SCANLIMIT, c_int::try_from(scans).unwrap_or(c_int::MAX)),
            // Colour profiles are of no use here, and can be large.
            (raw::TJPARAM_TJPARAM_SAVEMARKERS, 0),
        ] {
            #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
            // SAFETY: the handle is live; these parameters take any non-negative int.
            let rc = unsafe { raw::tj3Set(decompressor.handle, param as c_int, value) };
            if rc != 0 {
                return Err(ImageError::Unreadable { reason: decompressor.message() });
            }
        }
        Ok(decompressor)
    }

    /// Decompresses `jpeg` into `pixels`, which holds exactly `size` in `layout`.
    pub(super) fn decompress(
        &mut self,
        jpeg: &[u8],
        layout: Layout,
        size: Size,
        pixels: &mut [u8],
    ) -> Outcome {
        // What libjpeg reads of the header decides how much it writes, so it is asked first. Its return
        // value also covers warnings and is not looked at: the size is.
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: the handle is live, and the pointer is readable for the length of the slice.
        let rc = unsafe { raw::tj3DecompressHeader(self.handle, jpeg.as_ptr(), jpeg.len() as _) };
        if rc != 0 && !self.is_warning() {
            return Outcome::Failed(self.message());
        }
        let found = (self.get(raw::TJPARAM_TJPARAM_JPEGHEIGHT), self.get(raw::TJPARAM_TJPARAM_JPEGWIDTH));
        if found != (i64::from(size.height), i64::from(size.width)) {
            return Outcome::Failed(format!("size {size} in the header, {}x{} to libjpeg", found.0, found.1));
        }
        let row = size.width as usize * layout.bytes();
        let Ok(pitch) = c_int::try_from(row) else {
            return Outcome::Failed(format!("rows of {row} bytes"));
        };
        assert_eq!(pixels.len(), row * size.height as usize, "the caller sizes the buffer by the header");
        let format = match layout {
            Layout::Rgb => raw::TJPF_TJPF_RGB,
            Layout::Cmyk => raw::TJPF_TJPF_CMYK,
        };
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: the handle is live; input is readable for its length; libjpeg writes `height` rows of
        // `pitch` bytes, the size that it has just reported for these very bytes and that `pixels` has.
        let rc = unsafe {
            raw::tj3Decompress8(
                self.handle,
                jpeg.as_ptr(),
                jpeg.len() as _,
                pixels.as_mut_ptr(),
                pitch,
                format as c_int,
            )
        };
        match rc {
            0 => Outcome::Clean,
            _ if self.is_warning() => Outcome::Warned(self.message()),
            _ => Outcome::Failed(self.message()),
        }
    }

    fn get(&self, param: raw::TJPARAM) -> i64 {
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: the handle is live; an unknown parameter gives -1.
        let value = unsafe { raw::tj3Get(self.handle, param as c_int) };
        value.into()
    }

    fn is_warning(&self) -> bool {
        let message = self.message();
        WARNINGS.iter().any(|warning| message.starts_with(warning))
    }

    fn message(&self) -> String {
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: the handle is live and the text NUL-terminated; it is copied before the next call.
        let text = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.handle)) };
        text.to_string_lossy().into_owned()
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "libjpeg-turbo is a C library")]
        // SAFETY: the handle came from `tj3Init` and is destroyed only here.
        unsafe {
            raw::tj3Destroy(self.handle);
        }
    }
}
