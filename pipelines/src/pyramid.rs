//! PCA pictures of a store's samples: one basis a level, shared by all pictures that are shown together.

use crate::level;
use crate::picture::{Canvas, LevelMap, PcaBasis};
use anyhow::{Context, Result};
use featcache_store::{Batch, DType, LevelId, ReadOptions, Reader, RowId, SampleRow, Size, Status, Store};

/// The bases of some levels of one store.
pub struct Pyramid<'a> {
    store: &'a Store,
    reader: Reader,
    levels: Vec<LevelId>,
    bases: Vec<PcaBasis>,
}

/// One level of one row, in binary32.
struct Map {
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<f32>,
    /// The part that is not padding, in cells.
    valid: (usize, usize),
}

impl Map {
    fn view(&self) -> Result<LevelMap<'_>> {
        let map = LevelMap::new(self.height, self.width, self.channels, &self.values)?;
        Ok(map.cropped(self.valid.0, self.valid.1))
    }
}

impl<'a> Pyramid<'a> {
    /// Fits the bases on `rows`, one level at a time.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn fit(store: &'a Store, rows: &[RowId]) -> Result<Self> {
        let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() })?;
        let names = store.recipe().levels.iter().map(|level| store.level(&level.name));
        let levels = names.collect::<featcache_store::Result<Vec<_>>>()?;
        let mut pyramid = Self { store, reader, levels, bases: Vec::new() };
        for position in 0..pyramid.levels.len() {
            let maps = rows.iter().map(|&row| pyramid.map(row, position)).collect::<Result<Vec<_>>>()?;
            let views = maps.iter().map(Map::view).collect::<Result<Vec<_>>>()?;
            pyramid.bases.push(PcaBasis::fit(&views)?);
        }
        Ok(pyramid)
    }

    /// One picture a level, finest first, each the size of the row's valid region in network pixels.
    ///
    /// # Errors
    /// The row cannot be read.
    pub fn render(&self, row: RowId) -> Result<Vec<Canvas>> {
        let valid = self.store.row(row)?.valid_size.context("row without size")?;
        (0..self.levels.len())
            .map(|position| {
                let map = self.map(row, position)?;
                let cells = self.bases[position].render(map.view()?)?;
                Ok(cells.scaled(valid.width as usize, valid.height as usize))
            })
            .collect()
    }

    fn map(&self, row: RowId, position: usize) -> Result<Map> {
        let mut batch = Batch::default();
        self.reader.read(&[row], &[self.levels[position]], None, &mut batch)?;
        let map = batch.level(0);
        let [_, height, width, channels] = map.shape;
        let values = level::values(map.bytes).collect();
        let valid = self.store.row(row)?.valid_size.unwrap_or(Size::new(0, 0));
        let stride = self.store.recipe().levels[position].stride;
        let valid = (valid.height.div_ceil(stride) as usize, valid.width.div_ceil(stride) as usize);
        Ok(Map { height, width, channels, values, valid })
    }
}

/// Up to `count` rows with features, spread evenly over the store: the same ones whatever is shown with
/// the basis fitted on them.
pub fn spread(store: &Store, count: usize) -> Vec<RowId> {
    let ok: Vec<SampleRow> = store.rows().iter().filter(|row| row.status == Status::Ok).collect();
    let step = (ok.len() / count.max(1)).max(1);
    ok.into_iter().step_by(step).take(count.max(1)).map(|row| row.id).collect()
}
