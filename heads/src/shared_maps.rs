//! The maps that several heads want of one batch: each level once in every form, the encoding and element
//! type, that a head asks for. A head may ask for another [`Version`] of the features. Must not know what heads do
//! with their maps.

use crate::loader::LoadedBatch;
use crate::read_levels::read_levels;
use crate::task::TaskModel;
use crate::tensor::feature_map;
use crate::version::Version;
use crate::{Error, Result};
use featcache_store::{Block, Encoding, LevelBatch, LevelSpec, Projected, Projection, Store};
use rayon::prelude::*;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A head and the version of the features that it reads; `None`: as they are in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MapReader<'a> {
    pub(crate) model: &'a TaskModel,
    pub(crate) version: Option<&'a Version>,
}

/// The forms of all levels that any head reads, and which of them are whose.
#[derive(Debug)]
pub(crate) struct SharedMaps {
    /// Levels that are read, finest first.
    levels: Vec<LevelSpec>,
    /// Levels in encodings that the store does not have them in.
    versions: Vec<LevelVersion>,
    forms: Vec<Form>,
    /// Positions in `forms` of every head's maps, in the order in which it wants them.
    of_head: Vec<Vec<usize>>,
}

/// A level, by its position, in another encoding.
#[derive(Debug, Clone, PartialEq)]
struct LevelVersion {
    level: usize,
    encoding: Encoding,
    projection: Option<Arc<Projection>>,
}

/// One level as a head wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    level: usize,
    /// Position in `versions`; `None`: as read.
    version: Option<usize>,
    kind: Kind,
}

impl SharedMaps {
    /// What these heads want of a store, in the order in which they are given.
    ///
    /// # Errors
    /// A level that the store does not have; another version for heads on coefficients.
    pub(crate) fn new<'a>(
        store: &Store,
        projected: Projected,
        heads: impl Iterator<Item = MapReader<'a>> + Clone,
    ) -> Result<Self> {
        let read = |level: &&LevelSpec| heads.clone().any(|head| head.model.levels().contains(level));
        let levels: Vec<LevelSpec> =
            read_levels(store, projected).into_iter().filter(|level| read(&level)).collect();
        let mut shared = Self { levels, versions: Vec::new(), forms: Vec::new(), of_head: Vec::new() };
        for head in heads {
            if let Some(version) = head.version {
                version.projections.check(&store.recipe().levels, &version.encodings)?;
            }
            let of_head = head.model.levels().iter().map(|level| {
                let position = shared.levels.iter().position(|known| known == level);
                let position = position
                    .ok_or_else(|| Error::invalid(format!("level {} is not the store's", level.name)))?;
                let version = head.version.and_then(|version| {
                    let encoding = version.encodings.of(&level.name)?;
                    let projection = version.projections.of(&level.name).map(Arc::clone);
                    let as_read = store.encodings().of(&level.name) == Some(encoding);
                    (!as_read).then_some(LevelVersion { level: position, encoding, projection })
                });
                let version = version.map(|version| place(&mut shared.versions, version));
                let form = Form { level: position, version, kind: head.model.map_kind() };
                Ok(place(&mut shared.forms, form))
            });
            let of_head = of_head.collect::<Result<_>>()?;
            shared.of_head.push(of_head);
        }
        if projected == Projected::Coefficients && !shared.versions.is_empty() {
            return Err(Error::invalid("a head on coefficients cannot read another version of the features"));
        }
        Ok(shared)
    }

    /// Levels that are read, finest first: those of the batches that [`SharedMaps::maps`] takes.
    pub(crate) fn levels(&self) -> &[LevelSpec] {
        &self.levels
    }

    /// Whether some of the maps are lent by the batch, which must then be kept until they are done with: see
    /// [`LoadedBatch::maps`].
    pub(crate) fn lent<T>(&self, batch: &LoadedBatch<T>, device: Device) -> bool {
        self.forms.iter().any(|form| form.version.is_none() && batch.lends(form.kind, device))
    }

    /// All maps of a batch, `[n, c, h, w]` each.
    ///
    /// # Errors
    /// Values that a version's encoding cannot hold.
    pub(crate) fn maps<T: Send>(&self, batch: &LoadedBatch<T>, device: Device) -> Result<Vec<Tensor>> {
        let read: Vec<LevelBatch<'_>> = (0..self.levels.len()).map(|level| batch.level(level)).collect();
        let versions = self.versions.par_iter().map(|version| version.of(read[version.level]));
        let versions = versions.collect::<Result<Vec<_>>>()?;
        let map = |&Form { level, version, kind }: &Form| {
            let Some(at) = version else { return batch.map(level, kind, device) };
            feature_map(
                &versions[at],
                read[level].shape,
                self.versions[at].encoding.value_dtype(),
                kind,
                device,
            )
        };
        self.forms.iter().map(map).collect()
    }

    /// A head's own maps among those of [`SharedMaps::maps`].
    pub(crate) fn of(&self, head: usize, maps: &[Tensor]) -> Vec<Tensor> {
        let positions = self.of_head.get(head).map_or(&[][..], Vec::as_slice);
        positions.iter().filter_map(|&position| maps.get(position)).map(Tensor::shallow_clone).collect()
    }
}

/// The position of a value in a list, at whose end it is put if it is not there.
fn place<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter().position(|known| *known == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}

impl LevelVersion {
    /// The level `[n, h, w, c]` as a store of the encoding would hand it out, row by row.
    fn of(&self, level: LevelBatch<'_>) -> Result<Vec<u8>> {
        let [n, h, w, c] = level.shape;
        let rows = level.bytes.par_chunks_exact((level.bytes.len() / n.max(1)).max(1));
        let rows = rows.map(|bytes| {
            let block = Block { shape: [h, w, c], dtype: level.dtype, bytes: bytes.to_vec() };
            let (basis, dtype) = (self.projection.as_ref(), self.encoding.value_dtype());
            Ok(self.encoding.round_trip(&block, basis, Projected::Channels, dtype)?)
        });
        Ok(rows.collect::<Result<Vec<_>>>()?.concat())
    }
}
