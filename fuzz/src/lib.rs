//! A small store to damage: what the fuzz targets share. Hashes and checksums are put right after the
//! damage, so that it reaches the parsers behind them.

use featcache_store::listing::Label;
use featcache_store::{
    Annotation, BackboneSpec, Block, Category, Compute, DType, Encodings, FeatureSink, LevelSpec,
    ListedSample, Listing, Manifest, OpenOptions, Preprocess, Recipe, ResizeRule, RowId, RowOutcome,
    SampleKey, Size, Store, StoreWriter, UnitSink, ViewSpec, WriterOptions,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;

/// A store in memory, for one process.
pub struct Prey {
    folder: TempDir,
    /// `zarr.json` and `manifest.json` as they were written.
    pub root: Value,
    pub manifest: Value,
    /// The tables as they were written.
    files: BTreeMap<String, Vec<u8>>,
}

/// The process's store. Panics inside the Parquet reader are caught by the store, and libFuzzer's own hook,
/// which ends the process at once, is taken away; a panic that leaves the store still counts.
pub fn prey() -> &'static Prey {
    static PREY: OnceLock<Prey> = OnceLock::new();
    PREY.get_or_init(|| {
        std::panic::set_hook(Box::new(|_| {}));
        Prey::new()
    })
}

impl Prey {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("store");
        let options = WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() };
        let writer = StoreWriter::create_or_resume(&path, &recipe(), &encodings(), || Ok(listing()), options);
        let writer = writer.unwrap();
        for unit in writer.missing_units().unwrap() {
            let mut rows = writer.begin(&unit).unwrap();
            for id in unit.rows.start.0..unit.rows.end.0 {
                let size = writer.plan().row(RowId(id)).unwrap().place.as_ref().unwrap().bucket;
                let recipe = recipe();
                let blocks = recipe.levels.iter().map(|level| {
                    let shape = level.shape(size);
                    Block { shape, dtype: DType::Bf16, bytes: vec![0; shape.iter().product::<usize>() * 2] }
                });
                let source_blake3 = blake3::hash(&id.to_le_bytes()).to_hex().to_string();
                rows.append(RowOutcome::Features { blocks: blocks.collect(), source_blake3 }).unwrap();
            }
            rows.commit().unwrap();
        }
        writer.finish().unwrap();
        let json = |name| serde_json::from_slice(&std::fs::read(path.join(name)).unwrap()).unwrap();
        let (root, manifest) = (json("zarr.json"), json("manifest.json"));
        let listed: Manifest = serde_json::from_value(Value::clone(&manifest)).unwrap();
        let tables = listed.files.iter().filter(|file| file.path.ends_with(".parquet"));
        let files = tables.map(|file| (file.path.clone(), std::fs::read(path.join(&file.path)).unwrap()));
        Self { folder, root, manifest, files: files.collect() }
    }

    /// A file of the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("store").join(name)
    }

    /// Opens the store with another file in the place of one of its own, under hashes that fit, and looks at
    /// all that it says. A store that is not complete has no manifest.
    pub fn open_with(&self, name: &str, change: impl FnOnce(&[u8]) -> Vec<u8>, complete: bool) {
        let bytes = change(&self.files[name]);
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let (mut root, mut manifest) = (self.root.clone(), self.manifest.clone());
        let field = name.replace(".parquet", "_blake3");
        let spec = &mut root["attributes"]["featcache"];
        if spec.get(&field).is_some() {
            spec[&field] = hash.clone().into();
        }
        let root = root.to_string();
        let root_hash = blake3::hash(root.as_bytes()).to_hex().to_string();
        for entry in manifest["files"].as_array_mut().into_iter().flatten() {
            for (path, hash) in [(name, &hash), ("zarr.json", &root_hash)] {
                if entry["path"] == path {
                    entry["blake3"] = hash.clone().into();
                }
            }
        }
        std::fs::write(self.path(name), &bytes).unwrap();
        std::fs::write(self.path("zarr.json"), root).unwrap();
        match complete {
            true => std::fs::write(self.path("manifest.json"), Self::sealed(manifest).to_string()).unwrap(),
            false => std::fs::remove_file(self.path("manifest.json")).unwrap_or_default(),
        }
        if let Ok(store) = Store::open(&self.path(""), OpenOptions { incomplete: true }) {
            for row in store.rows() {
                assert_eq!(store.row(row.id).unwrap(), row);
            }
            // Each opens a row group: a few of them show what all do.
            for row in store.rows().iter().step_by(7).filter(|_| name == "annotations.parquet") {
                let _annotations = store.annotations(row.id);
            }
        }
        std::fs::write(self.path(name), &self.files[name]).unwrap();
    }

    /// Puts the manifest's own hash right.
    pub fn sealed(mut manifest: Value) -> Value {
        if let Some(fields) = manifest.as_object_mut() {
            fields.remove("content_blake3");
            let hash = blake3::hash(manifest.to_string().as_bytes()).to_hex().to_string();
            manifest["content_blake3"] = hash.into();
        }
        manifest
    }
}

/// A file after the edits that a fuzzer's bytes stand for, four a piece: where (two bytes), what, and with
/// which value. So every input starts from a file that is right, and no corpus is needed.
pub fn damaged(file: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for &[low, high, edit, value] in edits.as_chunks::<4>().0.iter().take(64) {
        let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len().max(1);
        // Counted from the end as well: footers and indexes lie there.
        let at = if edit & 8 == 0 { at } else { bytes.len().saturating_sub(at + 1) };
        match (edit % 6, bytes.get_mut(at)) {
            (0, Some(byte)) => *byte = value,
            (1, Some(byte)) => *byte ^= value,
            (2, Some(byte)) => *byte = byte.wrapping_add(value as i8 as u8),
            (3, _) => bytes.insert(at.min(bytes.len()), value),
            (4, Some(_)) => drop(bytes.remove(at)),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

fn recipe() -> Recipe {
    let level = |name: &str, stride, channels| LevelSpec {
        name: name.into(),
        stride,
        channels,
        tap: name.into(),
        norm: "none".into(),
    };
    Recipe {
        backbone: BackboneSpec {
            name: "fake".into(),
            weights_blake3: "ab".repeat(32),
            compute: Compute::Bf16,
            options: Default::default(),
        },
        preprocess: Preprocess {
            decoder: "libjpeg-turbo+png".into(),
            exif_transpose: false,
            resize: ResizeRule::KeepRatio { short: 32, long: 64 },
            resampler: "pillow-bilinear-hv".into(),
            mean: [0.5; 3],
            std: [0.25; 3],
            pad_divisor: 32,
        },
        views: vec![ViewSpec::named("base").unwrap(), ViewSpec::named("hflip").unwrap()],
        levels: vec![level("p2", 4, 8), level("p3", 8, 16)],
    }
}

fn encodings() -> Encodings {
    Encodings::parse("p2=int8,p3=f32", &recipe().levels).unwrap()
}

fn listing() -> Listing {
    let mut listing = Listing { dataset: "folder".into(), ..Listing::default() };
    for i in 0..24 {
        let (split, key) = (["train", "val"][i % 2], SampleKey(format!("s{i:03}")));
        let size = Size::new(64, [64, 100][i % 2]);
        let label = match i % 3 {
            0 => Label::LabelMap { png: vec![i as u8; 100] },
            _ => Label::Object {
                category_id: 1,
                bbox: [1.5, 2.0, 3.0, i as f64],
                area: 0.5,
                iscrowd: i % 4 == 0,
                segmentation: (i % 2 == 0).then(|| "[[1,2,3,4,5,6]]".to_owned()),
            },
        };
        listing.annotations.push(Annotation {
            split: split.into(),
            key: key.clone(),
            id: Some(i as i64),
            label,
        });
        let source = format!("images/{key}.jpg");
        listing.samples.push(ListedSample {
            split: split.into(),
            source,
            key,
            image_id: Some(i as i64),
            size: Ok(size),
        });
    }
    listing.categories.push(Category { id: 1, name: "wall".into(), supercategory: None });
    listing
}
