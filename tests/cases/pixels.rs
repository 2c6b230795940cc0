//! Pixels against Pillow's: decoding, orientation, resizing, and what is refused; then `prepare` and
//! `collate` against arithmetic done by hand. Goldens: `tests/parity/pillow_goldens.py`.

use featcache_extractor::image::{self, ExifRule, ImageError, Limits, Picture};
use featcache_extractor::preprocess::{self, DECODER, Input, Planned, Preparation};
use featcache_extractor::resample::{self, Resampler};
use featcache_store::{Preprocess, ResizeRule, Size, ViewSpec};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

fn goldens() -> Value {
    serde_json::from_str(include_str!("../parity/pillow_goldens.json")).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

fn outcome(picture: Result<Picture, ImageError>) -> String {
    match picture {
        Ok(picture) => format!("{} {}", picture.size, hash(&picture.rgb)),
        Err(error) => format!("error: {error}"),
    }
}

/// Pillow's outcome and ours are the same pixels, or both are errors.
fn agree(pillow: &str, ours: &str) -> bool {
    pillow == ours || (pillow.starts_with("error: ") && ours.starts_with("error: "))
}

fn object<'a>(value: &'a Value, name: &str) -> &'a Map<String, Value> {
    value[name].as_object().unwrap()
}

/// Compares both outcomes of a file; returns what disagrees.
fn compare(name: &str, bytes: &[u8], expected: &Value) -> Vec<String> {
    let plain = expected[0].as_str().unwrap();
    let oriented = expected[1].as_str().unwrap_or(plain);
    let limits = Limits::default();
    [(ExifRule::Ignore, plain), (ExifRule::Apply, oriented)]
        .into_iter()
        .filter_map(|(rule, pillow)| {
            let decoded = image::decode_oriented(bytes, rule, &limits);
            if let Ok(picture) = &decoded {
                assert_eq!(image::probe(bytes, rule, &limits), Ok(picture.size), "{name}: probe by {rule:?}");
            }
            let ours = outcome(decoded);
            (!agree(pillow, &ours)).then(|| format!("{name} {rule:?}: Pillow {pillow}, we {ours}"))
        })
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Differences that are meant, as `crate::image` documents them.
const MEANT: [(&str, &str); 6] = [
    ("broken/images/exif_orientation/Pillow__hopper_orientation_6.webp", "WebP is not supported"),
    ("broken/images/other_container_or_misnamed/Pillow__hopper.webp", "WebP is not supported"),
    ("broken/images/other_container_or_misnamed/Pillow__iss634.webp", "WebP is not supported"),
    ("broken/images/other_container_or_misnamed/sharp__4.webp", "WebP is not supported"),
    ("broken/images/other_container_or_misnamed/Pillow__tiff_16bit_RGB.tiff", "TIFF is not supported"),
    // Pillow refuses a text chunk that inflates past a megabyte; texts are not looked at here.
    ("broken/images/png_corrupt/Pillow__png_decompression_dos.png", "1x1 "),
];

#[test]
fn samples_decode_as_pillow_decodes_them() {
    let Some(samples) = featcache_tests::samples() else { return };
    let goldens = goldens();
    let mut wrong = Vec::new();
    for (name, expected) in object(&goldens, "samples") {
        let bytes = std::fs::read(samples.join(name)).unwrap();
        let found = compare(name, &bytes, expected);
        match MEANT.iter().find(|(meant, _)| meant == name) {
            Some((_, ours)) => {
                let clearly = !found.is_empty() && found.iter().all(|text| text.contains(ours));
                assert!(clearly, "{name}: {found:?}, expected {ours}");
            }
            None => wrong.extend(found),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(object(&goldens, "samples").len() > 300);
}

#[test]
fn tiny_pictures_and_their_broken_variants_decode_as_pillow_decodes_them() {
    let goldens = goldens();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, entry) in object(&goldens, "tiny") {
        let file = hex(entry["file"].as_str().unwrap());
        wrong.extend(compare(name, &file, &entry["outcomes"]));
        for (what, pillow) in object(entry, "variants") {
            let changed = variant(&file, what);
            let ours = outcome(image::decode(&changed, &Limits::default()));
            let pillow = pillow.as_str().unwrap();
            if !agree(pillow, &ours) {
                wrong.push(format!("{name}, {what}: Pillow {pillow}, we {ours}"));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 400, "{count}");
}

/// The changes that `variants` in the goldens' script makes.
fn variant(file: &[u8], what: &str) -> Vec<u8> {
    let words: Vec<&str> = what.split(' ').collect();
    let number = |i: usize| words[i].parse::<usize>().unwrap();
    let mut bytes = file.to_vec();
    match words[0] {
        "cut" => bytes.truncate(file.len() - number(1)),
        "zeros" => {
            bytes.truncate(file.len() - 2);
            bytes.resize(file.len() - 2 + number(1), 0);
        }
        "junk" => bytes.extend(0..number(1) as u8),
        "byte" => bytes[number(1)] = number(2) as u8,
        other => panic!("variant {other}"),
    }
    bytes
}

fn check_resizes(name: &str, picture: &Picture, expected: &Map<String, Value>) {
    for (what, golden) in expected {
        let (size, filter) = what.split_once(' ').unwrap();
        let (height, width) = size.split_once('x').unwrap();
        let size = Size::new(height.parse().unwrap(), width.parse().unwrap());
        let resampler: Resampler = filter.parse().unwrap();
        let resized = resample::resize(picture, size, resampler, &Limits::default()).unwrap();
        assert_eq!(resized.size, size);
        assert_eq!(hash(&resized.rgb), golden.as_str().unwrap(), "{name} to {what}");
    }
}

#[test]
fn resizing_is_pillows() {
    let goldens = goldens();
    for (name, entry) in object(&goldens, "tiny").iter().filter(|(_, entry)| entry["resize"].is_object()) {
        let file = hex(entry["file"].as_str().unwrap());
        let picture = image::decode(&file, &Limits::default()).unwrap();
        check_resizes(name, &picture, object(entry, "resize"));
    }
    let Some(samples) = featcache_tests::samples() else { return };
    for (name, expected) in object(&goldens, "resize") {
        let picture = image::decode(&std::fs::read(samples.join(name)).unwrap(), &Limits::default()).unwrap();
        check_resizes(name, &picture, expected.as_object().unwrap());
    }
}

/// Pillow gives 255 for nearly every 16-bit grey sample; here it is the upper byte.
#[test]
fn grey_of_16_bits_is_scaled() {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 3, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header().unwrap().write_image_data(&[0x00, 0xFF, 0x12, 0x34, 0xFF, 0xFF]).unwrap();
    let picture = image::decode(&file, &Limits::default()).unwrap();
    assert_eq!(picture.rgb, [0, 0, 0, 0x12, 0x12, 0x12, 255, 255, 255]);
}

#[test]
fn resizing_to_nothing_is_an_error() {
    let picture = Picture { size: Size::new(2, 2), rgb: vec![0; 12] };
    assert!(matches!(
        resample::resize(&picture, Size::new(0, 3), Resampler::Bilinear, &Limits::default()),
        Err(ImageError::NoPixels { .. })
    ));
    assert!("pillow-lanczos-hv".parse::<Resampler>().unwrap_err().to_string().contains("pillow-bilinear-hv"));
}

/// Between the passes a tall picture has its old height and the new width: that is counted before it is made.
#[test]
fn resizing_takes_no_more_memory_than_the_limits_allow() {
    let tall = Picture { size: Size::new(100_000, 1), rgb: vec![200; 300_000] };
    let to = Size::new(64, 64);
    for resampler in [Resampler::Bilinear, Resampler::Bicubic] {
        let bytes = resample::resize_bytes(tall.size, to, resampler);
        // Pixels before, between and after the passes, and four bytes a tap.
        let pixels = 300_000 + 100_000 * 64 * 3 + 64 * 64 * 3;
        assert!((pixels + 800_000..pixels + 2_000_000).contains(&bytes), "{bytes}");
        let limits = |decoded_bytes| Limits { decoded_bytes, ..Limits::default() };
        let refused = resample::resize(&tall, to, resampler, &limits(bytes - 1)).unwrap_err();
        assert_eq!(refused.to_string(), format!("too large: {bytes} bytes to resize, limit {}", bytes - 1));
        let resized = resample::resize(&tall, to, resampler, &limits(bytes)).unwrap();
        assert!(resized.rgb.iter().all(|&value| value == 200));
        // An axis that stays costs nothing.
        assert_eq!(resample::resize_bytes(Size::new(7, 9), Size::new(7, 9), resampler), 7 * 9 * 3);
        assert!(resample::resize_bytes(tall.size, Size::new(64, 1), resampler) < 3_000_000);
    }
    let giant = Size::new(178_956_970, 1);
    assert!(resample::resize_bytes(giant, to, Resampler::Bilinear) > 30 << 30);
    let most = Size::new(u32::MAX, u32::MAX);
    assert!(resample::resize_bytes(most, Size::new(u32::MAX - 1, 1), Resampler::Bicubic) > 1 << 60);
}

fn recipe(exif_transpose: bool) -> Preprocess {
    Preprocess {
        decoder: DECODER.into(),
        exif_transpose,
        resize: ResizeRule::None,
        resampler: Resampler::Bilinear.name().into(),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        pad_divisor: 32,
    }
}

fn tiny(name: &str) -> Vec<u8> {
    hex(goldens()["tiny"][name]["file"].as_str().unwrap())
}

#[test]
fn prepare_turns_resizes_and_mirrors_in_this_order() {
    let file = tiny("orientation_6.jpg");
    let limits = Limits::default();
    let picture = image::decode_oriented(&file, ExifRule::Apply, &limits).unwrap();
    let planned = Planned { source: picture.size, valid: Size::new(16, 9) };
    let preparation = Preparation::of(&recipe(true), limits).unwrap();
    let base = preparation.prepare(&file, &ViewSpec::named("base").unwrap(), planned).unwrap();
    let resized = resample::resize(&picture, planned.valid, Resampler::Bilinear, &limits).unwrap();
    assert_eq!(base, Input { valid: planned.valid, rgb: resized.rgb.clone() });
    let mirrored = preparation.prepare(&file, &ViewSpec::named("hflip").unwrap(), planned).unwrap();
    for y in 0..16 {
        for x in 0..9 {
            let at = |x: usize| 3 * (9 * y + x);
            assert_eq!(mirrored.rgb[at(x)..at(x) + 3], base.rgb[at(8 - x)..at(8 - x) + 3]);
        }
    }
    // The plan was made without turning: a recorded failure, not a distorted picture.
    let ignoring = Preparation::of(&recipe(false), limits).unwrap();
    let error = ignoring.prepare(&file, &ViewSpec::named("base").unwrap(), planned).unwrap_err();
    assert_eq!(error.to_string(), "size changed: planned 11x6, decoded 6x11");
}

#[test]
fn a_recipe_of_another_decoder_is_refused() {
    let other = Preprocess { decoder: "zune".into(), ..recipe(false) };
    let error = Preparation::of(&other, Limits::default()).unwrap_err().to_string();
    assert_eq!(error, format!("decoder \"zune\" is unknown: expected {DECODER}"));
}

#[test]
fn collate_normalises_then_pads_and_ignores_batch_mates() {
    let input = |h: u32, w: u32, seed: u32| Input {
        valid: Size::new(h, w),
        rgb: (0..h * w * 3).map(|i| (i.wrapping_mul(2654435761).wrapping_add(seed) >> 13) as u8).collect(),
    };
    let inputs = [input(5, 7, 1), input(6, 8, 2), input(1, 1, 3)];
    let bucket = Size::new(6, 8);
    let recipe = recipe(false);
    let batch = preprocess::collate(&inputs, bucket, &recipe, Device::Cpu).unwrap();
    assert_eq!(batch.size(), [3, 3, 6, 8]);
    assert_eq!(batch.kind(), Kind::Float);
    assert!(batch.is_contiguous());
    let values = Vec::<f32>::try_from(batch.reshape([-1])).unwrap();
    for (n, input) in inputs.iter().enumerate() {
        for c in 0..3 {
            for y in 0..6 {
                for x in 0..8 {
                    let found = values[((n * 3 + c) * 6 + y) * 8 + x];
                    let (h, w) = (input.valid.height as usize, input.valid.width as usize);
                    let expected = if y < h && x < w {
                        let sample = f32::from(input.rgb[3 * (y * w + x) + c]);
                        (sample / 255.0 - recipe.mean[c] as f32) / recipe.std[c] as f32
                    } else {
                        0.0
                    };
                    assert_eq!(found.to_bits(), expected.to_bits(), "sample {n}, channel {c}, {y}, {x}");
                }
            }
        }
    }
    let alone = preprocess::collate(&inputs[..1], bucket, &recipe, Device::Cpu).unwrap();
    assert!(alone.equal(&batch.narrow(0, 0, 1)));
    let empty: Tensor = preprocess::collate(&[], bucket, &recipe, Device::Cpu).unwrap();
    assert_eq!(empty.size(), [0, 3, 6, 8]);
}

#[test]
fn collate_refuses_inputs_that_do_not_fit() {
    let input = Input { valid: Size::new(5, 4), rgb: vec![0; 60] };
    for bucket in [Size::new(4, 8), Size::new(8, 3)] {
        let error = preprocess::collate(std::slice::from_ref(&input), bucket, &recipe(false), Device::Cpu)
            .unwrap_err();
        assert!(error.to_string().contains("input of 5x4"), "{error}");
    }
    let short = Input { rgb: vec![0; 59], ..input };
    assert!(preprocess::collate(&[short], Size::new(8, 8), &recipe(false), Device::Cpu).is_err());
}
