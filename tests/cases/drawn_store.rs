//! A small store whose features say which class their cell has, for the cases of loader and training.

use crate::written_store::{WrittenStore, features, store_recipe};
use featcache_heads::labels::{LabelRule, Placement, ZeroLabel};
use featcache_heads::recipe::TrainRecipe;
use featcache_heads::seed::Seed;
use featcache_store::listing::Label;
use featcache_store::{
    Annotation, Block, Category, DType, LevelSpec, ListedSample, Listing, NewStore, Place, PlanRow,
    Projections, ResizeRule, RowId, RowOutcome, SampleKey, Size, WriterOptions,
};
use std::path::Path;

/// Keys of a short run of twelve steps over several epochs.
pub(crate) const STEPS: &str =
    "train.steps = 12\ntrain.batch = 3\ntrain.log_every = 1\ntrain.checkpoint_every = 4";

/// What is drawn; the default is a store that trains.
#[derive(Debug, Clone)]
pub(crate) struct DrawnStore {
    /// Two hex digits of the weights' hash.
    pub(crate) weights: &'static str,
    /// Names of the categories 1, 2, 3.
    pub(crate) classes: [&'static str; 3],
    /// Key of a sample whose features are numbers, but too large to compute with.
    pub(crate) poisoned: Option<&'static str>,
    /// Key of a sample whose label map is larger than its picture.
    pub(crate) large_label: Option<&'static str>,
    /// In front of every key: other pictures of the same recipe, none of them special.
    pub(crate) prefix: &'static str,
    /// How its levels are held.
    pub(crate) encodings: &'static str,
    /// The bases that they need.
    pub(crate) projections: Projections,
}

impl Default for DrawnStore {
    fn default() -> Self {
        Self {
            weights: "ab",
            classes: ["wall", "sky", "tree"],
            poisoned: None,
            large_label: None,
            prefix: "",
            encodings: "f32",
            projections: Projections::default(),
        }
    }
}

/// A recipe for a small head; `extra` holds lines `table.key = value`.
pub(crate) fn recipe(kind: &str, extra: &str) -> TrainRecipe {
    let mut lines = vec![
        format!("head.kind = {kind:?}"),
        "train.batch = 4".into(),
        "train.seed = 11".into(),
        "optimizer.lr = 0.02".into(),
        "optimizer.clip_norm = 1.0".into(),
        "schedule.warmup_steps = 2".into(),
    ];
    if kind == "upernet" {
        lines.extend(
            ["channels = 16", "norm = \"batch\"", "auxiliary = { level = \"p3\", channels = 8 }"]
                .map(|line| format!("head.upernet.{line}")),
        );
    }
    for line in extra.lines() {
        let key = line.split(' ').next().unwrap_or_default();
        lines.retain(|old| !old.starts_with(&format!("{key} ")));
        lines.push(line.to_owned());
    }
    TrainRecipe::parse(&lines.join("\n"), Path::new("drawn")).unwrap()
}

/// Splits with their numbers of samples.
const SPLITS: [(&str, usize); 2] = [("train", 21), ("val", 7)];

impl DrawnStore {
    /// 21 train and 7 val samples of two sizes in views `base` and `hflip`; `train-07` failed, `val-03`
    /// has no label map. Labels are blocks of 32 pixels in the picture, with ignored ones.
    pub(crate) fn write(&self) -> WrittenStore {
        let recipe = store_recipe(self.weights, ResizeRule::KeepRatio { short: 64, long: 128 }, [8, 12, 16]);
        let options = WriterOptions { shard_bytes: Some(100_000), ..WriterOptions::default() };
        let new = NewStore { listing: self.listing(), projections: self.projections.clone() };
        WrittenStore::encoded(self.encodings, &recipe, new, options, |id, row| match row.key.0.as_str() {
            "train-07" => RowOutcome::Failed { reason: "drawn to fail".into(), source_blake3: None },
            _ => features(recipe.levels.iter().map(|level| self.block(id, row, level))),
        })
    }

    fn listing(&self) -> Listing {
        let mut listing = Listing { dataset: "ade20k".into(), ..Listing::default() };
        for (split, count) in SPLITS {
            for i in 0..count {
                let key = SampleKey(format!("{}{split}-{i:02}", self.prefix));
                let size = source_size(&key.0);
                if key.0 != "val-03" {
                    let label = Label::LabelMap { png: self.label_png(&key.0) };
                    listing.annotations.push(Annotation {
                        split: split.into(),
                        key: key.clone(),
                        id: None,
                        label,
                    });
                }
                listing.samples.push(ListedSample {
                    split: split.into(),
                    source: format!("{key}.jpg"),
                    key,
                    image_id: None,
                    size: Ok(size),
                });
            }
        }
        listing.categories = self.categories();
        listing
    }

    fn categories(&self) -> Vec<Category> {
        let category = |(id, name): (i64, &&str)| Category { id, name: (*name).into(), supercategory: None };
        (1..).zip(&self.classes).map(category).collect()
    }

    fn label_png(&self, key: &str) -> Vec<u8> {
        let mut size = source_size(key);
        size.height += u32::from(self.large_label == Some(key));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size.width, size.height);
        encoder.set_color(png::ColorType::Grayscale);
        let blocks: Vec<u8> = Seed(1).named(key).stream_of(64).collect();
        let pixels: Vec<u8> = (0..size.height)
            .flat_map(|y| (0..size.width).map(move |x| (y / 32 * 8 + x / 32) as usize))
            .map(|block| blocks[block % 64] % 4)
            .collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        bytes
    }

    /// One level of a row: channel c of a cell is 2 where its class is c mod 4 and 0 elsewhere, plus
    /// noise; ignored and padded cells are noise alone. The scale grows with the level.
    fn block(&self, id: RowId, row: &PlanRow, level: &LevelSpec) -> Block {
        let (key, Place { bucket: padded, valid, .. }) = (row.key.0.as_str(), row.place.clone().unwrap());
        let hflip = &*row.view == "hflip";
        let rule = LabelRule::new(&self.categories(), ZeroLabel::Ignore).unwrap();
        let plain = Self { large_label: None, ..self.clone() };
        let target = rule.target(&plain.label_png(key), source_size(key)).unwrap();
        let target = target.place(Placement { valid, hflip, padded });
        let [h, w, c] = level.shape(padded);
        let mut stream = Seed(id.0).named(&level.name).stream();
        let mut bytes = Vec::with_capacity(h * w * c * 4);
        for cell in 0..h * w {
            let half = level.stride / 2;
            let (y, x) = ((cell / w) as u32 * level.stride + half, (cell % w) as u32 * level.stride + half);
            let class = target.classes[(y * padded.width + x) as usize];
            for channel in 0..c {
                let signal = if class >= 0 && channel % 4 == class as usize { 2.0 } else { 0.0 };
                let value = (signal + stream.uniform() - 0.5) as f32 * level.stride as f32;
                let value = if self.poisoned == Some(key) { f32::MAX } else { value };
                bytes.extend(value.to_le_bytes());
            }
        }
        Block { shape: [h, w, c], dtype: DType::F32, bytes }
    }
}

/// Every third sample is wide.
fn source_size(key: &str) -> Size {
    let number: u32 = key.rsplit('-').next().unwrap_or_default().parse().unwrap();
    if number % 3 == 2 { Size::new(64, 128) } else { Size::new(64, 64) }
}

/// Bytes of a seed's stream.
trait StreamOf {
    fn stream_of(self, count: usize) -> impl Iterator<Item = u8>;
}

impl StreamOf for Seed {
    fn stream_of(self, count: usize) -> impl Iterator<Item = u8> {
        let mut stream = self.stream();
        (0..count).map(move |_| (stream.bits() >> 32) as u8)
    }
}
