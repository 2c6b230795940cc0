//! The demo's drawer: equal seeds give equal files, and every kind of label says the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use featcache::scene::{Ground, SceneOptions, Shape, class_names, draw, run_lengths, write_dataset};
use featcache_store::Size;
use serde_json::Value;

fn small(seed: u64) -> SceneOptions {
    SceneOptions { seed, train: 9, val: 4, ..SceneOptions::default() }
}

/// All files below `dir` with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn equal_seeds_give_equal_files_on_any_number_of_threads() {
    let write = |seed: u64, threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let summary = pool.install(|| write_dataset(dir.path(), &small(seed))).unwrap();
        assert_eq!(summary.pictures, 13);
        files(dir.path())
    };
    let (one, three, other) = (write(1, 1), write(1, 3), write(2, 1));
    assert_eq!(one.len(), 13 * 3 + 3, "a JPEG in each layout, a PNG, two json files and a class list");
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one == three, "the number of threads changed the data set");
    let jpeg = Path::new("coco/train/000000000001.jpg");
    assert_ne!(one[jpeg], other[jpeg], "the seed changes nothing");
    assert_eq!(one[jpeg], one[Path::new("ade20k/images/training/ADE_train_00000001.jpg")]);
}

#[test]
fn splits_and_sizes_are_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = vec![Size::new(64, 96), Size::new(33, 50)];
    write_dataset(dir.path(), &SceneOptions { seed: 3, train: 3, val: 2, sizes }).unwrap();
    let json = json(&dir.path().join("coco/annotations/instances_val.json"));
    let shape = |image: &Value| (image["id"].as_u64(), image["height"].as_u64(), image["width"].as_u64());
    let images: Vec<_> = json["images"].as_array().unwrap().iter().map(shape).collect();
    assert_eq!(images, [(Some(4), Some(33), Some(50)), (Some(5), Some(64), Some(96))]);
    let none = SceneOptions { sizes: Vec::new(), ..small(1) };
    assert!(write_dataset(dir.path(), &none).is_err());
    let flat = SceneOptions { sizes: vec![Size::new(0, 8)], ..small(1) };
    assert!(write_dataset(dir.path(), &flat).is_err());
}

/// The two layouts describe the same pixels: every annotation's mask is exactly the pixels of its
/// class that it owns, its box their extent, its area their number, and together the annotations
/// cover all pixels of shapes, none twice.
#[test]
fn json_and_label_maps_agree_to_the_pixel() {
    let dir = tempfile::tempdir().unwrap();
    let options = SceneOptions { train: 30, ..small(7) };
    write_dataset(dir.path(), &options).unwrap();
    let json = json(&dir.path().join("coco/annotations/instances_train.json"));
    let names = class_names();
    let category = |id: &Value| {
        let found = json["categories"].as_array().unwrap().iter().find(|category| &category["id"] == id);
        let name = found.unwrap()["name"].as_str().unwrap();
        1 + names.iter().position(|other| *other == name).unwrap() as u8
    };
    let (mut crowds, mut parts) = (0, 0);
    for (index, image) in json["images"].as_array().unwrap().iter().enumerate() {
        let width = image["width"].as_u64().unwrap() as usize;
        let png = dir.path().join(format!("ade20k/annotations/training/ADE_train_{:08}.png", index + 1));
        let labels = grey_png(&png);
        assert_eq!(labels.len(), width * image["height"].as_u64().unwrap() as usize);
        let mut owned = vec![0u8; labels.len()];
        let own = json["annotations"].as_array().unwrap().iter().filter(|a| a["image_id"] == image["id"]);
        for annotation in own {
            let mask = mask_of(&annotation["segmentation"], width, labels.len() / width);
            let inside: Vec<usize> = (0..mask.len()).filter(|&at| mask[at]).collect();
            let value = category(&annotation["category_id"]);
            assert!(inside.iter().all(|&at| labels[at] == value), "{annotation}");
            assert_eq!(annotation["area"].as_u64(), Some(inside.len() as u64));
            assert_eq!(
                serde_json::from_value::<[usize; 4]>(annotation["bbox"].clone()).unwrap(),
                extent(&inside, width)
            );
            inside.iter().for_each(|&at| owned[at] += 1);
            crowds += annotation["iscrowd"].as_u64().unwrap();
            parts = parts.max(annotation["segmentation"].as_array().map_or(0, Vec::len));
        }
        for (label, owners) in labels.iter().zip(&owned) {
            assert!(usize::from(*label) <= names.len());
            assert_eq!(*owners, u8::from(usize::from(*label) > Ground::ALL.len()), "label {label}");
        }
    }
    assert!(crowds > 0, "no crowd was drawn");
    assert!(parts > 1, "no object is hidden in the middle");
    let ids: Vec<_> = json["annotations"].as_array().unwrap().iter().map(|a| a["id"].as_u64()).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len());
}

#[test]
fn every_class_appears_and_colour_does_not_tell_it() {
    // The mean of a class's hues as points of the unit circle: at the rim if they are all the same, near
    // the middle if they are spread.
    let mut hues = vec![(0.0f64, 0.0f64, 0u32); class_names().len() + 1];
    for seed in 0..60 {
        let scene = draw(seed, 96, 96, false);
        for (pixel, label) in scene.picture.rgb().chunks_exact(3).zip(scene.labels.values()) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f64::from);
            let (x, y) = (r - (g + b) / 2.0, (g - b) * 0.75f64.sqrt());
            let chroma = x.hypot(y);
            if chroma > 20.0 {
                let (sum_x, sum_y, count) = &mut hues[usize::from(label)];
                (*sum_x, *sum_y, *count) = (*sum_x + x / chroma, *sum_y + y / chroma, *count + 1);
            }
        }
    }
    for (class, (x, y, count)) in class_names().iter().zip(&hues[1..]) {
        assert!(*count > 500, "{class} is hardly drawn: {count} coloured pixels");
        let concentration = x.hypot(*y) / f64::from(*count);
        assert!(concentration < 0.85, "{class} has one colour: {concentration:.2}");
    }
}

#[test]
fn scenes_of_any_size_are_drawn() {
    for (width, height) in [(0, 0), (0, 7), (1, 1), (3, 200), (500, 2)] {
        let scene = draw(5, width, height, true);
        assert_eq!((scene.picture.width(), scene.picture.height()), (width, height));
        assert_eq!(scene.labels.values().len(), width * height);
    }
    assert_eq!(class_names().len(), Ground::ALL.len() + Shape::ALL.len());
}

#[test]
fn run_lengths_go_down_the_columns_and_start_outside() {
    // . # .
    // # # .
    assert_eq!(run_lengths(&[false, true, false, true, true, false], 3), [1, 3, 2]);
    assert_eq!(run_lengths(&[true, false], 2), [0, 1, 1]);
    assert_eq!(run_lengths(&[], 0), [0]);
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn grey_png(path: &Path) -> Vec<u8> {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    assert_eq!(reader.output_color_type(), (png::ColorType::Grayscale, png::BitDepth::Eight));
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut bytes).unwrap();
    bytes
}

/// Fills polygons (even-odd at pixel centres) or run lengths.
fn mask_of(segmentation: &Value, width: usize, height: usize) -> Vec<bool> {
    let mut mask = vec![false; width * height];
    if let Some(counts) = segmentation.get("counts") {
        let counts: Vec<usize> = serde_json::from_value(counts.clone()).unwrap();
        assert_eq!(segmentation["size"], serde_json::json!([height, width]));
        assert_eq!(counts.iter().sum::<usize>(), mask.len());
        let inside =
            counts.iter().enumerate().flat_map(|(run, count)| std::iter::repeat_n(run % 2 == 1, *count));
        for (at, inside) in inside.enumerate() {
            mask[at % height * width + at / height] = inside;
        }
        return mask;
    }
    let polygons: Vec<Vec<f64>> = serde_json::from_value(segmentation.clone()).unwrap();
    for polygon in polygons {
        let points: Vec<&[f64]> = polygon.chunks_exact(2).collect();
        for (at, inside) in mask.iter_mut().enumerate() {
            let (x, y) = ((at % width) as f64 + 0.5, (at / width) as f64 + 0.5);
            let crossed = points
                .iter()
                .zip(points.iter().cycle().skip(1))
                .filter(|(a, b)| a[0] == b[0] && a[0] > x && (a[1] <= y) != (b[1] <= y));
            *inside |= crossed.count() % 2 == 1;
        }
    }
    mask
}

fn extent(pixels: &[usize], width: usize) -> [usize; 4] {
    let ends = |values: Vec<usize>| (*values.iter().min().unwrap(), *values.iter().max().unwrap());
    let (left, right) = ends(pixels.iter().map(|at| at % width).collect());
    let (top, bottom) = ends(pixels.iter().map(|at| at / width).collect());
    [left, top, right - left + 1, bottom - top + 1]
}
