//! Bases of the levels that candidates hold as coefficients: calibrated once at the greatest number of
//! coefficients, of which fewer are the leading ones. They are those that `transcode` would calibrate.

use crate::calibration::{CALIBRATION_SEED, Calibration, DEFAULT_CALIBRATION_ROWS, sample};
use anyhow::Result;
use featcache_heads::Version;
use featcache_store::{
    Batch, Compression, DType, Encoding, Encodings, LevelId, NumberFormat, Projection, Projections,
    ReadOptions, RowId, Status, Store,
};
use std::num::NonZeroU32;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Bases of a store's levels.
#[derive(Debug)]
pub struct Bases<'a> {
    store: &'a Store,
    /// Of the most coefficients that any candidate holds.
    largest: Projections,
}

impl<'a> Bases<'a> {
    /// Calibrates what these encodings of levels, by position, need.
    ///
    /// # Errors
    /// Unreadable rows; none with features.
    pub fn calibrate(store: &'a Store, wanted: &[(usize, Encoding)], read: ReadOptions) -> Result<Self> {
        let levels = &store.recipe().levels;
        let largest: Encodings = levels
            .iter()
            .enumerate()
            .map(|(number, level)| {
                let of_level = wanted.iter().filter(|(of, encoding)| {
                    *of == number && store.encodings().of(&level.name) != Some(*encoding)
                });
                let projection = of_level.filter_map(|(_, encoding)| encoding.projection).max();
                let (format, compression) = (NumberFormat::F32, Compression::None);
                (level.name.clone(), Encoding { projection, format, compression })
            })
            .collect();
        let mut calibration = Calibration::new(levels, &largest)?;
        if calibration.is_empty() {
            return Ok(Self { store, largest: Projections::default() });
        }
        let placed = store.rows().iter().filter(|row| row.bucket.is_some()).map(|row| row.id.0);
        let rows = sample(placed, DEFAULT_CALIBRATION_ROWS, CALIBRATION_SEED).into_iter().map(RowId);
        log::info!("calibrating the bases of projected levels on {} rows", rows.len());
        let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..read })?;
        let (projected, mut batch) = (calibration.levels().collect::<Vec<_>>(), Batch::new());
        for row in rows {
            // A row without features counts for nothing.
            if store.row(row)?.status != Status::Ok {
                continue;
            }
            for &level in &projected {
                reader.read(&[row], &[LevelId(level)], None, &mut batch)?;
                if batch.rows().is_empty() {
                    continue;
                }
                let read = batch.level(0);
                let shape = read.shape.map(|side| side as i64);
                calibration.add(level, &Tensor::f_from_data_size(read.bytes, &shape, Kind::Float)?)?;
            }
        }
        Ok(Self { store, largest: calibration.finish()? })
    }

    /// The basis of a level in an encoding; `None` where it holds no coefficients.
    ///
    /// # Errors
    /// More coefficients than were calibrated.
    pub fn of(&self, level: &str, encoding: Encoding) -> Result<Option<Arc<Projection>>> {
        // As it is held, it is read as it is: its own basis.
        if self.store.encodings().of(level) == Some(encoding) {
            return Ok(self.store.projections().of(level).map(Arc::clone));
        }
        let first = |k: NonZeroU32| Some(self.largest.of(level)?.first(k).map(Arc::new));
        Ok(encoding.projection.and_then(first).transpose()?)
    }

    /// The version of the features that a store of these encodings would hold.
    ///
    /// # Errors
    /// As [`Bases::of`].
    pub fn version(&self, encodings: &Encodings) -> Result<Version> {
        let mut projections = Projections::default();
        for (level, encoding) in encodings.iter() {
            if let Some(basis) = self.of(level, encoding)? {
                projections.insert(level, Projection::clone(&basis));
            }
        }
        Ok(Version { encodings: encodings.clone(), projections })
    }
}
