//! Label maps and mean IoU against OpenCV, mmsegmentation's formulas and ADE20K's demo predictions.

use featcache_heads::labels::{IGNORE, LabelRule, Placement, Target, ZeroLabel};
use featcache_heads::metric::mean_iou::MeanIou;
use featcache_heads::seed::Seed;
use featcache_store::{Category, Size};
use std::path::Path;
use tch::Tensor;

fn bits(name: &str) -> impl Iterator<Item = u64> + use<> {
    let mut stream = Seed(7).named(name).stream();
    std::iter::repeat_with(move || stream.bits())
}

fn categories(ids: impl Iterator<Item = i64>) -> Vec<Category> {
    ids.map(|id| Category { id, name: format!("class {id}"), supercategory: None }).collect()
}

/// A PNG of `depth` bits a pixel from packed lines.
fn png(size: Size, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.width, size.height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        // A palette that maps neighbours to the same colour: looking it up would lose the labels.
        encoder.set_palette(vec![7; 3 << (depth as usize).min(8)]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

#[test]
fn equals_mmseg_with_ignored_and_absent_classes() {
    let mut metric = MeanIou::new(7);
    for (i, pixels) in [31 * 17, 8 * 8, 40 * 23].into_iter().enumerate() {
        let pick = |name: &str, count| bits(&format!("iou.{name}.{i}")).map(move |x| x % count).take(pixels);
        let label: Vec<i16> = pick("label", 6).map(|x| if x == 5 { IGNORE } else { x as i16 }).collect();
        let copy = pick("copy", 3).map(|x| x == 0);
        let predicted: Vec<u16> = pick("pred", 5)
            .zip(copy)
            .zip(&label)
            .map(|((x, copy), &label)| match copy && label != IGNORE && label != 4 {
                true => label as u16,
                false => {
                    if x == 4 {
                        5
                    } else {
                        x as u16
                    }
                }
            })
            .collect();
        metric.add(&predicted, &label).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.json");
    let numbers: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let expected = &numbers["mean_iou"];
    let scores = metric.scores(&[]);
    let near = |found: Option<f64>, expected: &serde_json::Value| match (found, expected.as_f64()) {
        (Some(a), Some(b)) => assert!((a - b).abs() < 1e-14, "{a}, expected {b}"),
        (a, b) => assert_eq!(a, b),
    };
    near(scores.miou, &expected["miou"]);
    near(scores.macc, &expected["macc"]);
    near(scores.aacc, &expected["aacc"]);
    for (class, score) in scores.classes.iter().enumerate() {
        near(score.iou, &expected["iou"][class]);
        near(score.accuracy, &expected["accuracy"][class]);
    }
    assert_eq!((scores.classes[6].iou, scores.classes[5].accuracy), (None, None));
}

#[test]
fn nothing_seen_has_no_score() {
    let mut metric = MeanIou::new(2);
    metric.add(&[1, 0], &[IGNORE, IGNORE]).unwrap();
    let scores = metric.scores(&[]);
    assert_eq!((scores.miou, scores.macc, scores.aacc), (None, None, None));
    assert_eq!(metric.add(&[2], &[0]).unwrap_err(), "predicted class 2 of 2");
    assert_eq!(metric.add(&[1], &[2]).unwrap_err(), "labelled class 2 of 2");
    assert_eq!(metric.add(&[1], &[0, 0]).unwrap_err(), "1 pixels predicted, 2 labelled");
    assert_eq!(metric, MeanIou::new(2));
}

#[test]
fn demo_predictions_of_ade20k_score_one() {
    let Some(samples) = featcache_tests::samples() else { return };
    let rule = LabelRule::new(&categories(1..=150), ZeroLabel::Ignore).unwrap();
    let mut metric = MeanIou::new(150);
    let mut pictures = 0;
    for entry in std::fs::read_dir(samples.join("ade20k/sample_predictions")).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |folder: &str| {
            let png = std::fs::read(samples.join("ade20k").join(folder).join(&name)).unwrap();
            let header = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
            let size = Size::new(header.info().height, header.info().width);
            rule.target(&png, size).unwrap()
        };
        let (predicted, truth) = (read("sample_predictions"), read("annotations/validation"));
        // Ignored pixels of the prediction may be any class: their truth is ignored too.
        let predicted: Vec<u16> = predicted.classes.iter().map(|&class| class.max(0) as u16).collect();
        metric.add(&predicted, &truth.classes).unwrap();
        pictures += 1;
    }
    assert!(pictures >= 3);
    let scores = metric.scores(rule.names());
    assert_eq!((scores.miou, scores.macc, scores.aacc), (Some(1.0), Some(1.0), Some(1.0)));
    assert!(scores.classes.iter().filter(|class| class.iou == Some(1.0)).count() > 10);
}

#[test]
fn placement_equals_opencv_nearest() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/heads.safetensors");
    let golden: std::collections::BTreeMap<_, _> =
        Tensor::read_safetensors(golden).unwrap().into_iter().collect();
    let sizes = [[37, 53, 64, 91], [100, 75, 33, 25], [512, 683, 41, 55], [9, 7, 9, 7], [3, 5, 50, 49]];
    for (i, [h, w, vh, vw]) in sizes.into_iter().enumerate() {
        let classes = bits(&format!("place.{i}")).map(|x| (x % 150) as i16).take((h * w) as usize).collect();
        let target = Target { size: Size::new(h, w), classes };
        let expected: Vec<u8> = Vec::try_from(golden[&format!("place.{i}")].reshape([-1])).unwrap();
        let (valid, padded) = (Size::new(vh, vw), Size::new(vh + 3, vw + 5));
        for hflip in [false, true] {
            let placed = target.place(Placement { valid, hflip, padded });
            assert_eq!(placed.size, padded);
            for y in 0..padded.height {
                for x in 0..padded.width {
                    let found = placed.classes[(y * padded.width + x) as usize];
                    if y >= vh || x >= vw {
                        assert_eq!(found, IGNORE);
                    } else {
                        let x = if hflip { vw - 1 - x } else { x };
                        assert_eq!(found, i16::from(expected[(y * vw + x) as usize]), "{i} {y} {x}");
                    }
                }
            }
        }
    }
}

#[test]
fn label_values_are_kept_at_every_depth() {
    let size = Size::new(2, 5);
    let values = [1u8, 0, 1, 1, 0, 0, 1, 1, 0, 1];
    let packed = |depth: usize| -> Vec<u8> {
        let mut data = Vec::new();
        for line in values.chunks(5) {
            let mut bits: Vec<bool> =
                line.iter().flat_map(|v| (0..depth).rev().map(move |bit| v >> bit & 1 == 1)).collect();
            bits.resize(bits.len().div_ceil(8) * 8, true);
            data.extend(
                bits.chunks(8).map(|byte| byte.iter().fold(0u8, |sum, &bit| sum << 1 | u8::from(bit))),
            );
        }
        data
    };
    let rule = LabelRule::new(&categories(1..=3), ZeroLabel::Class).unwrap();
    assert_eq!(rule.names()[0], "background");
    let expected: Vec<i16> = values.iter().map(|&v| i16::from(v)).collect();
    use png::{BitDepth, ColorType};
    for colour in [ColorType::Grayscale, ColorType::Indexed] {
        for depth in [BitDepth::One, BitDepth::Two, BitDepth::Four, BitDepth::Eight] {
            let png = png(size, colour, depth, &packed(depth as usize));
            assert_eq!(rule.target(&png, size).unwrap().classes, expected, "{colour:?} {depth:?}");
        }
    }
    let data: Vec<u8> = [300u16, 1, 0, 255, 2].iter().flat_map(|v| v.to_be_bytes()).collect();
    let png = png(Size::new(1, 5), ColorType::Grayscale, BitDepth::Sixteen, &data);
    let rule = LabelRule::new(&categories([1, 2, 300].into_iter()), ZeroLabel::Ignore).unwrap();
    assert_eq!(rule.target(&png, Size::new(1, 5)).unwrap().classes, [2, 0, IGNORE, IGNORE, 1]);
}

#[test]
fn label_maps_that_do_not_fit_are_refused() {
    use png::{BitDepth, ColorType};
    let rule = LabelRule::new(&categories(1..=150), ZeroLabel::Ignore).unwrap();
    let size = Size::new(2, 2);
    let grey = png(size, ColorType::Grayscale, BitDepth::Eight, &[0, 1, 150, 151]);
    let text = rule.target(&grey, size).unwrap_err();
    assert_eq!(text, "value 151 is no category (expected at most 150, or 255)");
    let text = rule.target(&grey, Size::new(2, 3)).unwrap_err();
    assert_eq!(text, "is 2x2, its picture is 2x3");
    let rgb = png(size, ColorType::Rgb, BitDepth::Eight, &[0; 12]);
    assert_eq!(rule.target(&rgb, size).unwrap_err(), "has colour type Rgb, expected grey or palette");
    assert!(rule.target(&grey[..50], size).unwrap_err().starts_with("not a readable PNG"));
    assert!(rule.target(b"", size).unwrap_err().starts_with("not a readable PNG"));
    assert!(LabelRule::new(&categories([1, 1].into_iter()), ZeroLabel::Ignore).is_err());
    assert!(LabelRule::new(&categories([0, 1].into_iter()), ZeroLabel::Ignore).is_err());
    assert!(LabelRule::new(&categories([70_000].into_iter()), ZeroLabel::Ignore).is_err());
    assert!(LabelRule::new(&[], ZeroLabel::Ignore).is_err());
}
