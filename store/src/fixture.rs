//! Small recipes, listings and features that the tests of this crate share. Compiled for tests only.

use crate::listing::Label;
use crate::sink::{FeatureSink, UnitSink};
use crate::{
    Annotation, BackboneSpec, Block, Category, Compute, DType, Encodings, LevelSpec, ListedSample, Listing,
    NewStore, Plan, Preprocess, Projection, Projections, Recipe, ResizeRule, RowId, RowOutcome, SampleKey,
    Size, StoreWriter, Unit, ViewSpec, WriterOptions,
};
use std::path::Path;

/// A disk takes its time over thousands of small files, and none of these tests is about the disk: what is
/// synced, and when, `faulty` checks.
pub(crate) fn folder_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Two levels, two views, inputs of at most 64 pixels a side.
pub(crate) fn recipe() -> Recipe {
    let level = |name: &str, stride, channels| LevelSpec {
        name: name.into(),
        stride,
        channels,
        tap: format!("tap-{name}"),
        norm: "none".into(),
    };
    Recipe {
        backbone: BackboneSpec {
            name: "fake".into(),
            weights_blake3: "ab".repeat(32),
            compute: Compute::Bf16,
            options: [("window".to_owned(), "8".to_owned())].into(),
        },
        preprocess: Preprocess {
            decoder: "libjpeg-turbo+png".into(),
            exif_transpose: false,
            resize: ResizeRule::KeepRatio { short: 32, long: 64 },
            resampler: "pillow-bilinear-hv".into(),
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            pad_divisor: 32,
        },
        views: vec![ViewSpec::named("base").unwrap(), ViewSpec::named("hflip").unwrap()],
        levels: vec![level("p2", 4, 8), level("p3", 8, 16)],
    }
}

/// `count` samples in two splits, three shapes, one in eleven unreadable; labels of both kinds.
pub(crate) fn listing(count: usize) -> Listing {
    let mut listing = Listing { dataset: "folder".into(), ..Listing::default() };
    for i in 0..count {
        let split = if i % 5 == 4 { "val" } else { "train" };
        let key = SampleKey(format!("s{i:04}"));
        let size = match i {
            _ if i % 11 == 7 => Err("png: truncated header".to_owned()),
            _ => Ok([Size::new(100, 150), Size::new(150, 100), Size::new(64, 64)][i % 3]),
        };
        listing.annotations.push(Annotation {
            split: split.into(),
            key: key.clone(),
            id: Some(i as i64),
            label: Label::Object {
                category_id: 1 + (i % 2) as i64,
                bbox: [1.5, 2.0, 3.0, i as f64],
                area: 0.5,
                iscrowd: i % 3 == 0,
                segmentation: (i % 2 == 0).then(|| "[[1,2,3,4,5,6]]".to_owned()),
            },
        });
        if i % 4 == 0 {
            listing.annotations.push(Annotation {
                split: split.into(),
                key: key.clone(),
                id: None,
                label: Label::LabelMap { png: vec![i as u8; 100 + i] },
            });
        }
        listing.samples.push(ListedSample {
            split: split.into(),
            source: format!("images/{key}.jpg"),
            key,
            image_id: Some(1000 + i as i64),
            size,
        });
    }
    for (id, name) in [(1, "wall"), (2, "sky")] {
        listing.categories.push(Category {
            id,
            name: name.into(),
            supercategory: (id == 1).then(|| "indoor".into()),
        });
    }
    listing
}

/// One level quantised, in two arrays, and one as coefficients of a basis.
pub(crate) fn encodings() -> Encodings {
    Encodings::parse("p2=int8,p3=pca5+f32", &recipe().levels).unwrap()
}

/// [`listing`] and the basis that [`encodings`] need.
pub(crate) fn contents(count: usize) -> NewStore {
    let mut projections = Projections::default();
    projections.insert("p3", projection(5, 16));
    NewStore { listing: listing(count), projections }
}

/// Some orthonormal directions of `c` channels: rows of a reflection.
pub(crate) fn projection(k: usize, c: usize) -> Projection {
    let axis: Vec<f64> = (0..c).map(|i| ((i * 37 % 23) as f64 - 11.0) + 0.5).collect();
    let norm: f64 = axis.iter().map(|a| a * a).sum();
    let element = |row: usize, channel: usize| {
        f64::from(u8::from(row == channel)) - 2.0 * axis[row] * axis[channel] / norm
    };
    let basis = (0..k * c).map(|i| element(i / c, i % c) as f32).collect();
    let mean = (0..c).map(|i| (i % 7) as f32 / 8.0 - 0.25).collect();
    Projection::new(basis, mean).unwrap()
}

/// What extraction makes of a row: numbers that follow from key, view and level; sample 3 fails.
pub(crate) fn features(plan: &Plan, id: RowId) -> RowOutcome {
    let row = plan.row(id).unwrap();
    let source_blake3 = blake3::hash(row.source.as_bytes()).to_hex().to_string();
    if row.key.0 == "s0003" {
        let reason = "jpeg: truncated at byte 17".into();
        return RowOutcome::Failed { reason, source_blake3: Some(source_blake3) };
    }
    let bucket = row.place.as_ref().unwrap().bucket;
    let block = |level: &LevelSpec| {
        let shape = level.shape(bucket);
        let mut stream = blake3::Hasher::new()
            .update(format!("{} {} {}", row.key, row.view, level.name).as_bytes())
            .finalize_xof();
        let mut bytes = vec![0; shape.iter().product::<usize>() * 2];
        stream.fill(&mut bytes);
        // Half of the exponents, so that every value is a number.
        bytes.iter_mut().skip(1).step_by(2).for_each(|high| *high &= 0xbf);
        Block { shape, dtype: DType::Bf16, bytes }
    };
    RowOutcome::Features { blocks: plan.levels().iter().map(block).collect(), source_blake3 }
}

/// A store of which every unit but the last is committed.
pub(crate) fn unfinished(path: &Path) -> StoreWriter {
    let options = WriterOptions { shard_bytes: Some(20_000), ..WriterOptions::default() };
    let contents = || Ok(contents(40));
    let writer = StoreWriter::create_or_resume(path, &recipe(), &encodings(), contents, options).unwrap();
    let units = writer.missing_units().unwrap();
    for unit in units.iter().take(units.len() - 1) {
        commit(&writer, unit);
    }
    writer
}

/// Computes and commits a unit.
pub(crate) fn commit(writer: &StoreWriter, unit: &Unit) {
    let mut rows = writer.begin(unit).unwrap();
    for id in unit.rows.start.0..unit.rows.end.0 {
        rows.append(features(writer.plan(), RowId(id))).unwrap();
    }
    rows.commit().unwrap();
}
