//! Stores that cases write: a recipe for drawn features, the writing of all rows, and the folder on disk.

use featcache_store::sink::{FeatureSink, UnitSink};
use featcache_store::{
    BackboneSpec, Block, Compute, Encodings, Finish, LevelSpec, Listing, NewStore, OpenOptions, PlanRow,
    Preprocess, Recipe, ResizeRule, RowId, RowOutcome, Store, StoreWriter, ViewSpec, WriterOptions,
};
use std::path::{Path, PathBuf};

/// A store `store` in a folder of its own, gone when dropped.
#[derive(Debug)]
pub(crate) struct WrittenStore {
    folder: tempfile::TempDir,
}

impl WrittenStore {
    /// The finished store in f32, each row as `outcome` says.
    pub(crate) fn new(
        recipe: &Recipe,
        listing: Listing,
        options: WriterOptions,
        outcome: impl Fn(RowId, &PlanRow) -> RowOutcome,
    ) -> Self {
        Self::encoded("f32", recipe, listing, options, outcome)
    }

    /// As [`WrittenStore::new`], in these encodings and with the bases that they need.
    pub(crate) fn encoded(
        encodings: &str,
        recipe: &Recipe,
        store: impl Into<NewStore>,
        options: WriterOptions,
        outcome: impl Fn(RowId, &PlanRow) -> RowOutcome,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let encodings = Encodings::parse(encodings, &recipe.levels).unwrap();
        let path = folder.path().join("store");
        let writer = StoreWriter::create_or_resume(&path, recipe, &encodings, || Ok(store), options).unwrap();
        for unit in writer.missing_units().unwrap() {
            let mut sink = writer.begin(&unit).unwrap();
            for id in unit.rows.start.0..unit.rows.end.0 {
                sink.append(outcome(RowId(id), &writer.plan().rows()[id as usize])).unwrap();
            }
            sink.commit().unwrap();
        }
        assert!(matches!(writer.finish().unwrap(), Finish::Done));
        Self { folder }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&self.folder("store"), OpenOptions::default()).unwrap()
    }
}

/// A recipe in views `base` and `hflip` with levels `p2`, `p3`, `p4` of these channels; `weights` are two
/// hex digits of the weights' hash.
pub(crate) fn store_recipe(weights: &str, resize: ResizeRule, channels: [u32; 3]) -> Recipe {
    let level = |(name, stride, channels): (&str, u32, u32)| LevelSpec {
        name: name.into(),
        stride,
        channels,
        tap: format!("tap-{name}"),
        norm: "none".into(),
    };
    let [p2, p3, p4] = channels;
    Recipe {
        backbone: BackboneSpec {
            name: "drawn".into(),
            weights_blake3: weights.repeat(32),
            compute: Compute::Fp32,
            options: Default::default(),
        },
        preprocess: Preprocess {
            decoder: "none".into(),
            exif_transpose: false,
            resize,
            resampler: "pillow-bilinear-hv".into(),
            mean: [0.5; 3],
            std: [0.5; 3],
            pad_divisor: 32,
        },
        views: vec![ViewSpec::named("base").unwrap(), ViewSpec::named("hflip").unwrap()],
        levels: [("p2", 4, p2), ("p3", 8, p3), ("p4", 16, p4)].map(level).into(),
    }
}

/// A row's features, one block a level.
pub(crate) fn features(blocks: impl Iterator<Item = Block>) -> RowOutcome {
    RowOutcome::Features { blocks: blocks.collect(), source_blake3: "ef".repeat(32) }
}
