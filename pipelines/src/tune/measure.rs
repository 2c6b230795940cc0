//! What encodings cost and lose on the levels of a store, measured on some of its rows. Trains nothing.

use super::bases::Bases;
use crate::exit::{ExitCode, failure};
use anyhow::Result;
use featcache_store::{
    Batch, Block, Encoding, Encodings, LevelId, RateMemory, ReadOptions, RowId, Size, Status, Store, Trial,
    TrialReport,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// An encoding on a level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelMeasure {
    /// Name of the level.
    pub level: String,
    /// The encoding, as `--store` takes it.
    pub encoding: String,
    /// Bytes that the level takes of an image, scales and offsets included: the mean over the store. What
    /// compression leaves of them is measured.
    pub bytes_per_image: f64,
    /// What it loses, and how fast it is.
    pub trial: TrialReport,
}

/// How many rows with features a store has of every size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    rows: BTreeMap<Size, u64>,
}

impl Footprint {
    /// Of all rows that have features.
    pub fn of(store: &Store) -> Self {
        let mut rows = BTreeMap::new();
        for size in store.rows().iter().filter(|row| row.status == Status::Ok).filter_map(|row| row.bucket) {
            *rows.entry(size).or_default() += 1;
        }
        Self { rows }
    }

    /// Bytes that a level of the store takes of an image, in all of its views, in this encoding and before
    /// compression: the mean over the images.
    pub fn bytes_per_image(&self, store: &Store, level: usize, encoding: Encoding) -> f64 {
        let Some(spec) = store.recipe().levels.get(level) else { return 0.0 };
        let bytes = |(size, rows): (&Size, &u64)| encoding.sample_bytes(spec.shape(*size)) * rows;
        let total: u64 = self.rows.iter().map(bytes).sum();
        let views = store.recipe().views.len().max(1);
        total as f64 * views as f64 / self.rows.values().sum::<u64>().max(1) as f64
    }
}

/// Tries encodings on levels of these rows, each with the encodings that are wanted of it.
///
/// # Errors
/// Unreadable rows; values that an encoding cannot hold; [`ExitCode::Incomplete`] once `stop` is set.
pub fn measure(
    store: &Store,
    bases: &Bases<'_>,
    rows: &[RowId],
    wanted: &[(usize, Encoding)],
    read: ReadOptions,
    stop: &AtomicBool,
) -> Result<Vec<LevelMeasure>> {
    let reader = store.reader(read)?;
    let trial = |&(level, encoding): &(usize, Encoding)| {
        let spec = store.level_spec(LevelId(level))?;
        Ok(Trial::new(encoding, bases.of(&spec.name, encoding)?, spec.channels as usize)?)
    };
    let mut trials = wanted.iter().map(trial).collect::<Result<Vec<Trial>>>()?;
    let mut batch = Batch::new();
    for &row in rows {
        if stop.load(Ordering::Relaxed) {
            return Err(failure(ExitCode::Incomplete, "stopped while encodings were measured"));
        }
        for level in 0..store.recipe().levels.len() {
            if !wanted.iter().any(|(of, _)| *of == level) {
                continue;
            }
            reader.read(&[row], &[LevelId(level)], None, &mut batch)?;
            if batch.rows().is_empty() {
                continue;
            }
            let read = batch.level(0);
            let [_, h, w, c] = read.shape;
            let block = Block { shape: [h, w, c], dtype: read.dtype, bytes: read.bytes.to_vec() };
            for (trial, _) in trials.iter_mut().zip(wanted).filter(|(_, (of, _))| *of == level) {
                trial.add(row, &block)?;
            }
        }
    }
    let (footprint, mut memory) = (Footprint::of(store), RateMemory::default());
    let name = |row: u64| match store.row(RowId(row)) {
        Ok(row) => [row.split.to_string(), row.view.to_string(), row.key.0.to_string()],
        Err(_) => <[String; 3]>::default(),
    };
    let measures = wanted.iter().zip(trials).map(|(&(level, encoding), trial)| {
        let trial = trial.report(&mut memory, name)?;
        Ok(LevelMeasure {
            level: store.level_spec(LevelId(level))?.name.clone(),
            encoding: encoding.to_string(),
            bytes_per_image: footprint.bytes_per_image(store, level, encoding) * trial.compressed_to,
            trial,
        })
    });
    measures.collect()
}

/// Bytes that encodings take of an image: those of their levels, which were measured.
pub fn bytes_per_image(measures: &[LevelMeasure], encodings: &Encodings) -> f64 {
    let held = encodings.iter().filter_map(|(level, encoding)| {
        let text = encoding.to_string();
        measures.iter().find(|measure| measure.level == level && measure.encoding == text)
    });
    held.map(|measure| measure.bytes_per_image).sum()
}
