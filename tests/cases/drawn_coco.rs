//! Drawn truth and detections: the cases of `tests/parity/coco_eval_goldens.py`, and a set as large as COCO's.

use featcache_heads::mask::Rle;
use featcache_heads::metric::coco::{Detection, GroundTruth, Object, Picture};
use featcache_heads::seed::Seed;
use featcache_store::{Category, Size};

fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut stream = Seed(seed).stream();
    move |bound| stream.bits() % bound
}

/// Run lengths of a box with teeth; see `ragged` of the script.
fn ragged([height, width]: [u32; 2], [x, y, w, h]: [f64; 4], step: u32) -> Vec<u32> {
    let clip = |v: f64, end: u32| v.clamp(0.0, f64::from(end)) as u32;
    let (left, right) = (clip(x, width), clip(x + w + 1.0, width));
    let (top, bottom) = (clip(y, height), clip(y + h + 1.0, height));
    let mut runs = vec![(false, 0)];
    let mut push = |inside: bool, count: u32| match runs.last_mut() {
        _ if count == 0 => {}
        Some((last, length)) if *last == inside => *length += count,
        _ => runs.push((inside, count)),
    };
    for column in 0..width {
        let (a, b) = (top + column % step, bottom.saturating_sub(column / step % 3));
        if (left..right).contains(&column) && a < b {
            push(false, a);
            push(true, b - a);
            push(false, height - b);
        } else {
            push(false, height);
        }
    }
    runs.into_iter().map(|(_, count)| count).collect()
}

/// The same truth and detections as `case` of the script.
pub(crate) fn case(number: u64) -> (GroundTruth, Vec<Detection>) {
    let mut d = draws(number);
    let count = 1 + d(5);
    let ids: Vec<i64> = (0..count).map(|i| (3 * i + 1 + d(3)) as i64).collect();
    let count = 1 + d(6);
    let mut images: Vec<(i64, [u32; 2])> =
        (0..count).map(|i| ((10 * i + d(10)) as i64, [100 + d(60) as u32, 100 + d(60) as u32])).collect();
    if d(2) == 1 {
        images.reverse();
    }
    let (mut objects, mut detections) = (Vec::<Object>::new(), Vec::new());
    for &(image_id, size @ [height, width]) in &images {
        let first = objects.len();
        let (empty, count) = (d(4), d(10));
        for _ in 0..if empty == 0 { 0 } else { count } {
            let (category_id, kind) = (ids[d(ids.len() as u64) as usize], d(8));
            let mut quarter = |bound: u32| d(u64::from(bound)) as f64 / 4.0;
            let [mut x, mut y, mut w, mut h] = [4 * width, 4 * height, 240, 240].map(&mut quarter);
            let (kind_of_area, area, crowd) = (d(6), d(12_000), d(7) == 0);
            let [a, b] = [0, 0].map(|_| d(9) as f64 / 4.0);
            let step = 1 + d(4) as u32;
            match kind {
                0 => w = 0.0,
                1 => (w, h) = (32.0, 32.0),
                2 => (w, h) = (96.0, 96.0),
                3 => (w, h) = (16.0, 64.0),
                4 if objects.len() > first => [x, y, w, h] = objects[objects.len() - 1].bbox,
                _ => {}
            }
            let area = match kind_of_area {
                0 => 1024.0,
                1 => 9216.0,
                2 => area as f64,
                _ => w * h,
            };
            let (right, bottom) = (x + w + 1.0, y + h + 1.0);
            let polygon = [x, y, right, y + a, right, bottom, x - b, bottom];
            let segmentation = match crowd {
                true => format!("{{\"size\": {size:?}, \"counts\": {:?}}}", ragged(size, [x, y, w, h], step)),
                false => format!("[{polygon:?}]"),
            };
            objects.push(Object {
                id: Some(objects.len() as i64 + 1),
                image_id,
                category_id,
                bbox: [x, y, w, h],
                area,
                crowd,
                segmentation: Some(segmentation),
            });
        }
        let (many, count) = (d(12), d(25));
        for _ in 0..[0, 115].get(many as usize).copied().unwrap_or(count) {
            let (copy, pick, mut category_id) = (d(3), d(1000), ids[d(ids.len() as u64) as usize]);
            let shift = [0; 4].map(|_| (d(9) as f64 - 4.0) / 2.0);
            let mut quarter = |bound: u32| d(u64::from(bound)) as f64 / 4.0;
            let [mut x, mut y, mut w, mut h] = [4 * width, 4 * height, 240, 240].map(&mut quarter);
            let (coarse, few, fine, step) = (d(3), d(6), d(100_000), 1 + d(4) as u32);
            let here = &objects[first..];
            if copy > 0 && !here.is_empty() {
                let base = &here[pick as usize % here.len()];
                category_id = base.category_id;
                [x, y, w, h] = base.bbox;
                if copy == 1 {
                    (x, y) = (x + shift[0], y + shift[1]);
                    (w, h) = ((w + shift[2]).max(0.0), (h + shift[3]).max(0.0));
                }
            }
            if many == 1 {
                category_id = ids[0];
            }
            let counts = ragged(size, [x, y, w, h], step);
            detections.push(Detection {
                image_id,
                category_id,
                score: if coarse == 0 { few as f64 / 8.0 } else { fine as f64 / 100_000.0 },
                bbox: (number % 4 != 2).then_some([x, y, w, h]),
                mask: (!number.is_multiple_of(4))
                    .then(|| Rle::new(Size::new(height, width), counts).unwrap()),
            });
        }
    }
    let size = |[height, width]: [u32; 2]| Some(Size::new(height, width));
    let pictures = images.into_iter().map(|(id, sides)| Picture { id, size: size(sides) }).collect();
    (GroundTruth::new(categories(&ids), pictures, objects).unwrap(), detections)
}

pub(crate) fn categories(ids: &[i64]) -> Vec<Category> {
    ids.iter().map(|&id| Category { id, name: id.to_string(), supercategory: None }).collect()
}

/// A polygon of 32 points in a box.
fn rhombus([x, y, w, h]: [f64; 4]) -> Vec<f64> {
    let corners = [[0.5, 0.0], [1.0, 0.5], [0.5, 1.0], [0.0, 0.5]];
    let between = |i: usize| {
        let ([ax, ay], [bx, by], part) = (corners[i / 8], corners[(i / 8 + 1) % 4], (i % 8) as f64 / 8.0);
        [x + w * (ax + (bx - ax) * part), y + h * (ay + (by - ay) * part)]
    };
    (0..32).flat_map(between).collect()
}

/// As many pictures, categories and objects as COCO's validation set, a hundred detections a picture.
pub(crate) fn whole_set() -> (GroundTruth, Vec<Detection>) {
    let mut d = draws(2017);
    let mut bbox = move || {
        let mut eighth = |bound: u64| d(bound * 8) as f64 / 8.0;
        [eighth(500), eighth(350), 4.0 + eighth(140), 4.0 + eighth(130)]
    };
    let mut d = draws(80);
    let (mut objects, mut detections) = (Vec::new(), Vec::with_capacity(500_000));
    for image_id in 0..5_000 {
        let first = objects.len();
        for _ in 0..d(15) {
            let bbox = bbox();
            objects.push(Object {
                id: Some(objects.len() as i64 + 1),
                image_id,
                // Every third is of one category, as people are in COCO.
                category_id: if d(3) == 0 { 1 } else { 1 + d(80) as i64 },
                bbox,
                area: bbox[2] * bbox[3] * 0.6,
                crowd: d(80) == 0,
                segmentation: Some(format!("[{:?}]", rhombus(bbox))),
            });
        }
        let here = &objects[first..];
        for rank in 0..100 {
            let (mut bbox, mut category_id) = (bbox(), 1 + d(80) as i64);
            if let Some(object) = here.get(rank % 20) {
                let shift = [0; 4].map(|_| d(64) as f64 / 8.0 - 4.0);
                bbox = [0, 1, 2, 3].map(|side| object.bbox[side] + shift[side]);
                category_id = object.category_id;
            }
            let score = d(1 << 20) as f64 / (1 << 20) as f64;
            // As many masks as detectors leave of a picture.
            let mask =
                (rank < 25).then(|| Rle::new(Size::new(480, 640), ragged([480, 640], bbox, 3)).unwrap());
            detections.push(Detection { image_id, category_id, score, bbox: Some(bbox), mask });
        }
    }
    let ids: Vec<i64> = (1..=80).collect();
    let pictures = (0..5_000).map(|id| Picture { id, size: Some(Size::new(480, 640)) }).collect();
    (GroundTruth::new(categories(&ids), pictures, objects).unwrap(), detections)
}
