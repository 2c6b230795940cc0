//! A small store with objects in COCO's form whose features say where they are, for the cases of training
//! detectors.

use crate::written_store::{WrittenStore, features, store_recipe};
use featcache_heads::mask::Segmentation;
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::seed::Seed;
use featcache_store::listing::Label;
use featcache_store::{
    Annotation, Block, Category, DType, LevelSpec, ListedSample, Listing, Place, PlanRow, ResizeRule, RowId,
    SampleKey, Size, WriterOptions,
};
use std::path::Path;

/// Ids and names of the categories; the ids have gaps.
pub(crate) const CATEGORIES: [(i64, &str); 3] = [(2, "block"), (5, "wedge"), (9, "tower")];

/// What is drawn; the default is a store that trains.
#[derive(Debug, Clone)]
pub(crate) struct ObjectStore {
    /// Ids of the categories in the store's list.
    pub(crate) category_ids: [i64; 3],
    /// Objects to add to the sample `train-00`.
    pub(crate) more: Vec<Label>,
    /// Key of a sample whose features are numbers, but too large to compute with.
    pub(crate) poisoned: Option<&'static str>,
    /// Samples of split `train`.
    pub(crate) train: usize,
}

impl Default for ObjectStore {
    fn default() -> Self {
        let category_ids = CATEGORIES.map(|(id, _)| id);
        Self { category_ids, more: Vec::new(), poisoned: None, train: 8 }
    }
}

/// A recipe for a small detector of this preset; `extra` holds lines `table.key = value`, which win.
pub(crate) fn recipe(preset: &str, extra: &str) -> TrainRecipe {
    let mut lines = vec![
        "head.kind = \"detector\"".to_owned(),
        format!("detector.preset = {preset:?}"),
        "detector.neck.channels = 32".into(),
        "detector.neck.outputs = 3".into(),
        "detector.rpn.channels = 32".into(),
        "detector.rpn.anchor_scale = 6.0".into(),
        "detector.rpn.samples = 64".into(),
        "detector.rpn.train = { per_level = 100, keep = 60 }".into(),
        "detector.rpn.test = { per_level = 100, keep = 60 }".into(),
        "detector.head.samples = 32".into(),
        "detector.head.box.fc_channels = 64".into(),
        "detector.head.mask.convs = 1".into(),
        "detector.head.mask.channels = 32".into(),
        "train.batch = 2".into(),
        "train.seed = 5".into(),
        "optimizer.lr = 0.002".into(),
        "optimizer.clip_norm = 10.0".into(),
        "schedule.decay = \"cosine\"".into(),
        "schedule.warmup_steps = 10".into(),
        "schedule.warmup_ratio = 0.01".into(),
    ];
    for line in extra.lines() {
        let key = line.split(' ').next().unwrap_or_default();
        lines.retain(|old| !old.starts_with(&format!("{key} ")));
        lines.push(line.to_owned());
    }
    TrainRecipe::parse(&lines.join("\n"), Path::new("objects")).unwrap()
}

/// A polygon's annotation.
pub(crate) fn polygon(category_id: i64, bbox: [f64; 4], points: &[f64]) -> Label {
    let area = bbox[2] * bbox[3];
    let segmentation = Some(format!("[{points:?}]"));
    Label::Object { category_id, bbox, area, iscrowd: false, segmentation }
}

impl ObjectStore {
    /// Samples of two sizes in views `base` and `hflip`, each with two or three objects; `train-02` has
    /// none and `train-05` a crowd; split `val` has two of its own.
    pub(crate) fn write(&self) -> WrittenStore {
        let recipe = store_recipe("ab", ResizeRule::KeepRatio { short: 96, long: 160 }, [6, 9, 12]);
        WrittenStore::new(&recipe, self.listing(), WriterOptions::default(), |id, row| {
            features(recipe.levels.iter().map(|level| self.block(id, row, level)))
        })
    }

    fn listing(&self) -> Listing {
        let mut listing = Listing { dataset: "coco".into(), ..Listing::default() };
        let mut image_id = 0;
        for (split, count) in [("train", self.train), ("val", 2)] {
            for i in 0..count {
                let key = SampleKey(format!("{split}-{i:02}"));
                image_id += 7;
                let mut labels = objects(&key.0);
                if key.0 == "train-00" {
                    labels.extend(self.more.iter().cloned());
                }
                for (number, label) in (0..).zip(labels) {
                    let (split, key) = (split.into(), key.clone());
                    listing.annotations.push(Annotation {
                        split,
                        key,
                        id: Some(image_id * 100 + number),
                        label,
                    });
                }
                listing.samples.push(ListedSample {
                    split: split.into(),
                    source: format!("{key}.jpg"),
                    image_id: Some(image_id),
                    size: Ok(source_size(&key.0)),
                    key,
                });
            }
        }
        let named = self.category_ids.iter().zip(CATEGORIES);
        listing.categories =
            named.map(|(&id, (_, name))| Category { id, name: name.into(), supercategory: None }).collect();
        listing
    }

    /// One level of a row: channel c of a cell is 2 where an object of class c mod 3 lies and 0 elsewhere,
    /// plus noise. The scale grows with the level.
    fn block(&self, id: RowId, row: &PlanRow, level: &LevelSpec) -> Block {
        let (key, Place { bucket: padded, valid, .. }) = (row.key.0.as_str(), row.place.clone().unwrap());
        let hflip = &*row.view == "hflip";
        let width = padded.width as usize;
        let mut classes = vec![usize::MAX; padded.area() as usize];
        for label in objects(key) {
            let Label::Object { category_id, segmentation: Some(text), iscrowd: false, .. } = label else {
                continue;
            };
            let mask =
                Segmentation::parse(&text).unwrap().place(source_size(key), valid, hflip, padded).unwrap();
            let class = CATEGORIES.iter().position(|(id, _)| *id == category_id).unwrap();
            let bitmap = mask.to_bitmap();
            classes.iter_mut().zip(bitmap).filter(|(_, inside)| *inside == 1).for_each(|(c, _)| *c = class);
        }
        let [h, w, c] = level.shape(padded);
        let stride = level.stride as usize;
        let mut stream = Seed(id.0).named(&level.name).stream();
        let mut bytes = Vec::with_capacity(h * w * c * 4);
        for cell in 0..h * w {
            let (y, x) = (cell / w * stride + stride / 2, cell % w * stride + stride / 2);
            let class = classes[y * width + x];
            for channel in 0..c {
                let signal = if channel % 3 == class { 2.0 } else { 0.0 };
                let value = (signal + 0.2 * stream.uniform()) as f32 * stride as f32;
                let value = if self.poisoned == Some(key) { f32::MAX } else { value };
                bytes.extend(value.to_le_bytes());
            }
        }
        Block { shape: [h, w, c], dtype: DType::F32, bytes }
    }
}

/// Every third sample is wide; sides are no multiples of anything.
pub(crate) fn source_size(key: &str) -> Size {
    let number: u32 = key.rsplit('-').next().unwrap_or_default().parse().unwrap();
    if number % 3 == 2 { Size::new(75, 121) } else { Size::new(83, 97) }
}

/// The objects of a sample, seeded by its key, apart from each other.
pub(crate) fn objects(key: &str) -> Vec<Label> {
    if key == "train-02" {
        return Vec::new();
    }
    let size = source_size(key);
    let mut stream = Seed(3).named(key).stream();
    let mut range = |from: f64, to: f64| from + (to - from) * stream.uniform();
    let mut labels = Vec::new();
    // One object a cell of a grid of two by two: none hides another.
    let (half_w, half_h) = (f64::from(size.width) / 2.0, f64::from(size.height) / 2.0);
    for cell in 0..3 {
        let (left, top) = (f64::from(cell % 2) * half_w, f64::from(cell / 2) * half_h);
        let class = (range(0.0, 2.999) as usize).min(2);
        let (w, h) = match class {
            2 => (range(10.0, 14.0), range(30.0, half_h - 3.0)),
            _ => (range(22.0, half_w - 6.0), range(20.0, half_h - 6.0)),
        };
        let (x, y) = (left + range(0.0, half_w - w - 1.0), top + range(0.0, half_h - h - 1.0));
        let points = match class {
            1 => vec![x, y + h, x + w, y + h, x + w / 2.0, y],
            _ => vec![x, y, x + w, y, x + w, y + h, x, y + h],
        };
        labels.push(polygon(CATEGORIES[class].0, [x, y, w, h], &points));
    }
    if key == "train-05" {
        // COCO's crowds have run lengths: here the whole picture outside of its first column.
        let (h, w) = (size.height, size.width);
        let segmentation = format!("{{\"size\": [{h}, {w}], \"counts\": [{h}, {}]}}", h * (w - 1));
        labels.push(Label::Object {
            category_id: 2,
            bbox: [1.0, 0.0, f64::from(w - 1), f64::from(h)],
            area: f64::from(h * (w - 1)),
            iscrowd: true,
            segmentation: Some(segmentation),
        });
    }
    labels
}
