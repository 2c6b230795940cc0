//! Hostile files: whatever the bytes, the outcome is pixels or a reason, in bounded time and memory.

use featcache_extractor::Error;
use featcache_extractor::image::{self, ExifRule, ImageError, Limits};
use featcache_extractor::resample::{self, Resampler};
use featcache_store::Size;
use proptest::prelude::*;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// What every picture is resized to.
const SQUARE: Size = Size { height: 64, width: 64 };
/// What no file may pass.
const TIME: Duration = Duration::from_secs(10);
const PEAK_BYTES: u64 = 2 << 30;

fn tiny(name: &str) -> Vec<u8> {
    let goldens: Value = serde_json::from_str(include_str!("../parity/pillow_goldens.json")).unwrap();
    let text = goldens["tiny"][name]["file"].as_str().unwrap().to_owned();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Peak resident memory of this process.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs in a process of its own, so that the peak is the decoder's.
#[test]
#[ignore = "started by every_broken_file_ends_in_time_and_memory"]
fn decode_broken_files() {
    let Some(samples) = featcache_tests::samples() else { return };
    let mut count = 0;
    for folder in std::fs::read_dir(samples.join("broken/images")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let started = Instant::now();
            let limits = Limits::default();
            let probed = image::probe_file(&path, ExifRule::Apply, &limits);
            let bytes = image::read_file(&path, &limits).unwrap();
            let decoded = bytes.and_then(|bytes| image::decode_oriented(&bytes, ExifRule::Apply, &limits));
            for resampler in [Resampler::Bilinear, Resampler::Bicubic] {
                let resized =
                    decoded.as_ref().map(|picture| resample::resize(picture, SQUARE, resampler, &limits));
                assert!(resized.is_err() || resized.unwrap().is_ok_and(|resized| resized.size == SQUARE));
            }
            let took = started.elapsed();
            assert!(took < TIME, "{}: {took:?}", path.display());
            match decoded {
                Ok(picture) => {
                    assert_eq!(probed, Ok(picture.size), "{}", path.display());
                    assert_eq!(
                        picture.rgb.len() as u64,
                        3 * u64::from(picture.size.height) * u64::from(picture.size.width)
                    );
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
    let peak = peak_bytes();
    assert!(peak < PEAK_BYTES, "peak {peak} bytes");
    println!("decoded {count} files, peak {} MiB", peak >> 20);
}

#[test]
fn every_broken_file_ends_in_time_and_memory() {
    if featcache_tests::samples().is_none() {
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broken_images::decode_broken_files", "--include-ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("decoded "), "{text}");
}

/// A grey picture one pixel wide.
fn tall(height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header().unwrap().write_image_data(&vec![0x80; height as usize]).unwrap();
    file
}

/// The whole way from a folder to a store, several decoders at a time. The tall picture is small as a file and
/// as pixels, and gigabytes between the two passes of resizing.
#[test]
fn extraction_of_hostile_pictures_stays_in_time_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("pictures"), folder.path().join("store"));
    std::fs::create_dir_all(&root).unwrap();
    for name in ["tall_1.png", "tall_2.png"] {
        std::fs::write(root.join(name), tall(15_000_000)).unwrap();
    }
    std::fs::write(root.join("good.jpg"), featcache_tests::jpeg(64, 64, 1)).unwrap();
    let mut roots = vec![root];
    roots.extend(featcache_tests::samples().map(|samples| samples.join("broken/images")));
    for (index, root) in roots.iter().enumerate() {
        let started = Instant::now();
        let report: Value = serde_json::from_str(&featcache_tests::done(&format!(
            "--quiet --json extract folder --root {} --backbone fake --compute fp32 --resize square:64 \
             --decoders 4 --threads 1 --out {}-{index}",
            root.display(),
            store.display()
        )))
        .unwrap();
        assert!(report["peak_rss_bytes"].as_u64().unwrap() < PEAK_BYTES, "{report}");
        assert!(started.elapsed() < 6 * TIME, "{:?}", started.elapsed());
        if index == 0 {
            assert_eq!(report["failed"], 2, "{report}");
            let reason = report["failures"][0]["reason"].as_str().unwrap();
            assert!(reason.starts_with("too large: ") && reason.contains("bytes to resize"), "{reason}");
        }
    }
}

fn too_large(bytes: &[u8], limits: &Limits) -> &'static str {
    match image::decode(bytes, limits) {
        Err(ImageError::TooLarge { what, found, limit }) => {
            assert!(found > limit);
            what
        }
        other => panic!("{:?}", other.map(|picture| picture.size)),
    }
}

#[test]
fn limits_refuse_before_decoding() {
    let jpeg = tiny("rgb_420.jpg");
    let png = tiny("rgb8_interlaced.png");
    let defaults = Limits::default();
    for file in [&jpeg, &png] {
        assert_eq!(too_large(file, &Limits { pixels: 90, ..defaults }), "pixels");
        assert_eq!(too_large(file, &Limits { decoded_bytes: 270, ..defaults }), "decoded bytes");
        assert_eq!(too_large(file, &Limits { file_bytes: 100, ..defaults }), "file bytes");
        let probed = image::probe(file, ExifRule::Ignore, &Limits { pixels: 90, ..defaults });
        assert!(matches!(probed, Err(ImageError::TooLarge { what: "pixels", .. })), "{probed:?}");
    }
}

/// A progressive JPEG whose last scan stands there a thousand times: each would walk all coefficients.
#[test]
fn scan_bombs_are_refused() {
    let file = tiny("progressive.jpg");
    let scan = file.windows(2).rposition(|window| window == [0xFF, 0xDA]).unwrap();
    let (head, last) = (&file[..scan], &file[scan..file.len() - 2]);
    let bomb = [head, &last.repeat(1000), &[0xFF, 0xD9]].concat();
    assert_eq!(too_large(&bomb, &Limits::default()), "scans");
    assert_eq!(
        too_large(&file, &Limits { scan_pixels: 37 * 21 * 3, ..Limits::default() }),
        "pixels times scans"
    );
    assert!(image::decode(&file, &Limits::default()).is_ok());
}

/// A header that promises the largest JPEG: refused from its header, in no time.
#[test]
fn a_promised_giant_is_refused() {
    let mut file = tiny("grey.jpg");
    let frame = file.windows(2).position(|window| window == [0xFF, 0xC0]).unwrap();
    file[frame + 5..frame + 9].fill(0xFF);
    assert_eq!(too_large(&file, &Limits::default()), "pixels");
}

#[test]
fn other_containers_are_named() {
    let named: [(&[u8], &str); 8] = [
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"GIF89a\x01\0\x01\0", "GIF"),
        (b"BM\x3a\0\0\0\0\0\0\0\x36\0", "BMP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "HEIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ];
    for (bytes, container) in named {
        let error = image::decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("{container} is not supported: expected JPEG or PNG"));
    }
    assert_eq!(image::decode(b"", &Limits::default()), Err(ImageError::Empty));
    let error = image::decode(b"<html>", &Limits::default()).unwrap_err().to_string();
    assert_eq!(error, "not a picture: expected JPEG or PNG, found bytes 3c 68 74 6d 6c 3e");
}

#[test]
fn a_missing_file_and_a_folder_are_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none.jpg"), folder.path().to_owned()] {
        let probed = image::probe_file(&path, ExifRule::Ignore, &Limits::default());
        assert!(matches!(probed, Err(ImageError::Unreadable { .. })), "{probed:?}");
        let read = image::read_file(&path, &Limits::default());
        assert!(matches!(read, Err(Error::Io { .. })), "{read:?}");
    }
}

/// A header behind more than the first read: found all the same.
#[test]
fn a_header_far_behind_is_found() {
    let file = tiny("orientation_6.jpg");
    let mut comment = vec![0xFF, 0xFE, 0xFF, 0xFF];
    comment.resize(2 + 0xFFFF, b'x');
    for copies in [1, 5] {
        let long = [&file[..2], &comment.repeat(copies), &file[2..]].concat();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.txt");
        std::fs::write(&path, &long).unwrap();
        assert_eq!(image::probe_file(&path, ExifRule::Ignore, &Limits::default()), Ok(Size::new(6, 11)));
        assert_eq!(image::probe_file(&path, ExifRule::Apply, &Limits::default()), Ok(Size::new(11, 6)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged files never panic, and probing never promises another size than decoding gives.
    #[test]
    fn damage_is_survived(
        which in 0usize..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        insert in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let names = ["rgb_420.jpg", "progressive.jpg", "cmyk.jpg", "orientation_5.jpg", "palette4_short.png", "exif.png"];
        let mut file = tiny(names[which]);
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        let at = cut.index(file.len());
        file.splice(at..at, insert);
        let limits = Limits { pixels: 1 << 22, ..Limits::default() };
        let probed = image::probe(&file, ExifRule::Apply, &limits);
        if let Ok(picture) = image::decode_oriented(&file, ExifRule::Apply, &limits) {
            prop_assert_eq!(probed, Ok(picture.size));
        }
    }
}
