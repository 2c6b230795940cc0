//! What opening a store of many rows takes, in seconds and memory. Without features worth the name: it is
//! about the tables.
//!
//! `cargo run --release -p featcache-store --example many_rows -- write DIR 1000000`, then
//! `cargo run --release -p featcache-store --example many_rows -- open DIR`: each open in a process of its own,
//! because the peak is the process's.

use featcache_store::{
    BackboneSpec, Block, Compute, DType, Encodings, FeatureSink, LevelSpec, ListedSample, Listing,
    OpenOptions, Preprocess, Recipe, ResizeRule, Result, RowId, RowOutcome, SampleKey, Size, Status, Store,
    StoreWriter, UnitSink, ViewSpec, WriterOptions,
};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn main() -> std::result::Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = std::io::stdout();
    match words[..] {
        ["write", path, rows] => write(Path::new(path), rows.parse()?)?,
        ["open", path] => {
            let before = peak_bytes()?;
            let start = Instant::now();
            let store = Store::open(Path::new(path), OpenOptions::default())?;
            let seconds = start.elapsed().as_secs_f64();
            let rows = store.rows().len();
            let peak = peak_bytes()?;
            let ok = store.rows().iter().filter(|row| row.status == Status::Ok).count();
            writeln!(
                out,
                "{rows} rows ({ok} with features) open in {seconds:.3} s, peak {:.1} MB, {:.1} MB before",
                peak as f64 / 1e6,
                before as f64 / 1e6
            )?;
        }
        _ => writeln!(out, "write DIR ROWS or open DIR")?,
    }
    Ok(())
}

/// The largest resident memory that this process has had.
fn peak_bytes() -> std::result::Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// COCO's names and sizes, three sizes, one level of a few cells.
fn write(path: &Path, samples: usize) -> Result<()> {
    let recipe = Recipe {
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
            mean: [0.0; 3],
            std: [1.0; 3],
            pad_divisor: 32,
        },
        views: vec![ViewSpec::named("base")?],
        levels: vec![LevelSpec {
            name: "p5".into(),
            stride: 32,
            channels: 8,
            tap: "fake".into(),
            norm: "none".into(),
        }],
    };
    let listing = || {
        let sample = |i: usize| {
            let key = SampleKey(format!("{i:012}"));
            let size = [Size::new(480, 640), Size::new(640, 480), Size::new(640, 640)][i % 3];
            let source = format!("train2017/{key}.jpg");
            ListedSample { split: "train2017".into(), key, source, image_id: Some(i as i64), size: Ok(size) }
        };
        let samples = (0..samples).map(sample).collect();
        Ok(Listing { dataset: "folder".into(), samples, ..Listing::default() })
    };
    let encodings = Encodings::parse("bf16", &recipe.levels)?;
    let options = WriterOptions { shard_bytes: Some(1 << 20), ..WriterOptions::default() };
    let writer = StoreWriter::create_or_resume(path, &recipe, &encodings, listing, options)?;
    for unit in writer.missing_units()? {
        let mut rows = writer.begin(&unit)?;
        for id in unit.rows.start.0..unit.rows.end.0 {
            let row = writer.plan().row(RowId(id));
            let size = row.and_then(|row| row.place.as_ref().ok()).map_or(Size::new(32, 32), |p| p.bucket);
            let shape = recipe.levels[0].shape(size);
            let bytes = vec![0; shape.iter().product::<usize>() * DType::Bf16.bytes()];
            let source_blake3 = blake3::hash(&id.to_le_bytes()).to_hex().to_string();
            let blocks = vec![Block { shape, dtype: DType::Bf16, bytes }];
            rows.append(RowOutcome::Features { blocks, source_blake3 })?;
        }
        rows.commit()?;
    }
    writer.finish()?;
    Ok(())
}
