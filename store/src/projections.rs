//! The projections of a store: which level has which basis, their arrays on disk, and the hashes by which the
//! root document names them. One pair a level for all rows, so that every worker uses the same.

use crate::checksum::{CHECKSUM, crc32c, differs};
use crate::layout::{self, Layout};
use crate::open_shard::{check_document_of, open};
use crate::projection::MAX_ELEMENTS;
use crate::staged::write_file;
use crate::storage::Storage;
use crate::zarr::{add_array, plain_array_document};
use crate::{Digest, Encodings, Error, LevelSpec, Listing, Projection, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

/// What a new store is made from.
#[derive(Debug, Clone, Default)]
pub struct NewStore {
    /// Its samples and their labels.
    pub listing: Listing,
    /// The bases of its projected levels.
    pub projections: Projections,
}

impl From<Listing> for NewStore {
    fn from(listing: Listing) -> Self {
        Self { listing, projections: Projections::default() }
    }
}

/// The projections of a store: level name → basis and mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Projections {
    levels: BTreeMap<String, Arc<Projection>>,
}

/// The files of a level's basis and mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionHashes {
    /// BLAKE3 of the basis's only chunk.
    pub basis_blake3: String,
    /// BLAKE3 of the mean's only chunk.
    pub mean_blake3: String,
}

impl Projections {
    /// Gives a level its projection, in place of one that it may have.
    pub fn insert(&mut self, level: &str, projection: Projection) {
        self.levels.insert(level.to_owned(), Arc::new(projection));
    }

    /// The projection of a level; `None` if it has none.
    pub fn of(&self, level: &str) -> Option<&Arc<Projection>> {
        self.levels.get(level)
    }

    /// Level names and projections, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Projection>)> {
        self.levels.iter().map(|(level, projection)| (level.as_str(), projection))
    }

    /// Refuses projections that are not of exactly the levels, channels and coefficients that the encodings
    /// ask for.
    pub fn check(&self, levels: &[LevelSpec], encodings: &Encodings) -> Result<()> {
        let expected: BTreeMap<&str, [usize; 2]> = projected(levels, encodings)
            .map(|(level, k)| (level.name.as_str(), [k, level.channels as usize]))
            .collect();
        let found: BTreeMap<&str, [usize; 2]> =
            self.iter().map(|(level, p)| (level, [p.coefficients(), p.channels()])).collect();
        if expected == found {
            return Ok(());
        }
        let shown = |shapes: &BTreeMap<&str, [usize; 2]>| {
            let all: Vec<_> = shapes.iter().map(|(level, [k, c])| format!("{level} {k}x{c}")).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        };
        Err(Error::invalid(format!("projections: expected {}, found {}", shown(&expected), shown(&found))))
    }

    /// Writes the chunks of all arrays; their documents are [`documents`].
    pub(crate) fn write(
        &self,
        storage: &Arc<dyn Storage>,
        layout: &Layout,
    ) -> Result<BTreeMap<String, ProjectionHashes>> {
        let write = |path: String, values: &[f32]| -> Result<String> {
            let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            bytes.extend(crc32c(&bytes));
            Ok(write_file(storage, &layout.path(&path), &bytes)?.blake3)
        };
        let write = |(level, projection): (&str, &Arc<Projection>)| {
            let [basis, mean] = chunks(level);
            let basis_blake3 = write(basis, projection.basis())?;
            let mean_blake3 = write(mean, projection.mean())?;
            Ok((level.to_owned(), ProjectionHashes { basis_blake3, mean_blake3 }))
        };
        self.iter().map(write).collect()
    }

    /// Reads the projections of a store whose root document has these hashes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a document or chunk that is not what spec and hashes say, or whose numbers are no
    /// projection; nothing is read before the file is as long as it must be.
    pub(crate) fn read(
        layout: &Layout,
        levels: &[LevelSpec],
        encodings: &Encodings,
        hashes: &BTreeMap<String, ProjectionHashes>,
    ) -> Result<Self> {
        for (folder, document) in documents(levels, encodings) {
            check_document_of(layout, &format!("{folder}/{}", layout::ROOT), &document)?;
        }
        let mut read = Self::default();
        for (level, k) in projected(levels, encodings) {
            let root = layout.path(layout::ROOT);
            let hashes = hashes.get(&level.name).ok_or_else(|| {
                Error::corrupt(
                    &root,
                    format!("level {}: expected hashes of its basis, found none", level.name),
                )
            })?;
            let c = level.channels as usize;
            let elements =
                k.checked_mul(c).filter(|elements| *elements <= MAX_ELEMENTS).ok_or_else(|| {
                    let what =
                        format!("level {}: a basis of {k}x{c}: at most {MAX_ELEMENTS} elements", level.name);
                    Error::corrupt(&root, what)
                })?;
            let [basis, mean] = chunks(&level.name);
            let mean = read_chunk(layout, &mean, c, &hashes.mean_blake3)?;
            let values = read_chunk(layout, &basis, elements, &hashes.basis_blake3)?;
            let projection = Projection::new(values, mean)
                .map_err(|error| Error::corrupt(layout.path(&basis), error.to_string()))?;
            read.insert(&level.name, projection);
        }
        Ok(read)
    }
}

/// Levels that are held as coefficients, and how many a cell has.
pub(crate) fn projected<'a>(
    levels: &'a [LevelSpec],
    encodings: &Encodings,
) -> impl Iterator<Item = (&'a LevelSpec, usize)> {
    levels.iter().filter_map(|level| Some((level, encodings.of(&level.name)?.projection?.get() as usize)))
}

/// The Zarr documents of the arrays and of the groups on the way to them: folder relative to the store →
/// document.
pub fn documents(levels: &[LevelSpec], encodings: &Encodings) -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for (level, k) in projected(levels, encodings) {
        let (k, c) = (k as u64, u64::from(level.channels));
        let basis = plain_array_document(&[(k, "coefficient"), (c, "channel")]);
        add_array(&mut documents, &layout::basis(&level.name), basis);
        add_array(&mut documents, &layout::mean(&level.name), plain_array_document(&[(c, "channel")]));
    }
    documents
}

/// The only chunks of a level's basis and mean, relative to the store.
pub fn chunks(level: &str) -> [String; 2] {
    [format!("{}/c.0.0", layout::basis(level)), format!("{}/c.0", layout::mean(level))]
}

/// The numbers of a chunk that is the whole array.
fn read_chunk(layout: &Layout, relative: &str, elements: usize, blake3: &str) -> Result<Vec<f32>> {
    let path = layout.resolve(&layout.path(layout::ROOT), relative)?;
    let (file, expected) = (open(&path)?, elements * size_of::<f32>() + CHECKSUM);
    let found = file.metadata().map_err(Error::io(&path))?.len();
    if found != expected as u64 {
        return Err(Error::corrupt(path, format!("expected {expected} bytes, found {found}")));
    }
    let mut bytes = Vec::with_capacity(expected);
    file.take(found).read_to_end(&mut bytes).map_err(Error::io(&path))?;
    Digest::of(&bytes).check(&path, blake3)?;
    let (values, stored) = bytes.split_last_chunk().ok_or_else(|| Error::corrupt(&path, "no checksum"))?;
    let computed = crc32c(values);
    if *stored != computed {
        return Err(Error::corrupt(path, differs(*stored, computed)));
    }
    Ok(values.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

#[cfg(test)]
mod tests;
