//! Rows of a store as its arrays hold them: codes and not values, with every checksum checked. Decodes
//! scales, to refuse what are none, and nothing else.

use crate::array::ArraySpec;
use crate::batch::AlignedBytes;
use crate::checksum::{CHECKSUM, crc32c, differs};
use crate::compression::Unpacker;
use crate::open_shard::{ArrayPlace, OpenShard, ShardCache};
use crate::payload_file::{ReadFailure, Way};
use crate::quantised::Affine;
use crate::{Compression, Error, PagePolicy, Result, SampleRow, Store};

/// Shard files that are open at a time, and memory for their indexes.
const OPEN_FILES: usize = 64;
const MAX_INDEX_BYTES: usize = 64 << 20;

/// What the arrays of a level hold of a row.
#[derive(Debug)]
pub(super) struct StoredLevel {
    pub(super) payload: Vec<u8>,
    pub(super) affine: Option<StoredAffine>,
}

/// Scales and offsets of a quantised level: as they are held, and as numbers.
#[derive(Debug)]
pub(super) struct StoredAffine {
    pub(super) bytes: Vec<u8>,
    pub(super) values: Vec<f32>,
}

impl StoredLevel {
    pub(super) fn bytes(&self) -> u64 {
        (self.payload.len() + self.affine.as_ref().map_or(0, |affine| affine.bytes.len())) as u64
    }
}

/// Reads the rows of a store, one after the other.
pub(super) struct StoredRows<'a> {
    store: &'a Store,
    shards: ShardCache,
    chunks: Chunks,
}

impl<'a> StoredRows<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        let shards =
            ShardCache::new(store.layout().clone(), OPEN_FILES, MAX_INDEX_BYTES, PagePolicy::Buffered);
        Self { store, shards, chunks: Chunks::default() }
    }

    /// What level number `level` holds of a row with features.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with file, row and level for what does not have its checksum, or is missing.
    pub(super) fn read(&mut self, row: &SampleRow, level: usize) -> Result<StoredLevel> {
        let arrays = self.store.arrays();
        let found = self.store.bucket_of(row.id).and_then(|number| {
            Some((number, self.store.buckets().get(number)?, arrays.level(number, level)?))
        });
        let Some((bucket_number, bucket, arrays)) = found else {
            return Err(Error::invalid(format!("row {}: no level number {level}", row.id)));
        };
        let number = row.id.0 - bucket.rows.start.0;
        let mut read = |array: &ArraySpec, affine: bool| {
            let place = ArrayPlace { bucket: bucket_number, level, affine };
            let shard = self.shards.get(place, array, number / array.unit_rows)?;
            let name = |what: String| {
                let name = format!("level {}, row {} ({}/{})", arrays.name, row.id, row.split, row.key);
                Error::corrupt(&shard.path, format!("{name}: {what}"))
            };
            let bytes =
                self.chunks.read_row(&shard, array, number % array.unit_rows).map_err(
                    |error| match error {
                        Failure::Corrupt(what) => name(what),
                        Failure::Io(source) => Error::io(&shard.path)(source),
                    },
                )?;
            let mut values = vec![0.0; if affine { bytes.len() / size_of::<f32>() } else { 0 }];
            if affine {
                Affine::read(&bytes, &mut values).map_err(name)?;
            }
            Ok::<_, Error>((bytes, values))
        };
        let (payload, _) = read(&arrays.payload, false)?;
        let affine = arrays.affine.as_ref().map(|array| read(array, true)).transpose()?;
        Ok(StoredLevel { payload, affine: affine.map(|(bytes, values)| StoredAffine { bytes, values }) })
    }
}

enum Failure {
    Corrupt(String),
    Io(std::io::Error),
}

/// Reads chunks, in memory that is used again.
#[derive(Default)]
struct Chunks {
    chunk: AlignedBytes,
    unpacker: Unpacker,
}

impl Chunks {
    /// All chunks of a row of a shard as they were before compression, without their checksums.
    fn read_row(&mut self, shard: &OpenShard, array: &ArraySpec, row: u64) -> Result<Vec<u8>, Failure> {
        let geometry = array.geometry;
        // The index has checked that these lie in the file, one behind the other: memory is asked for afterwards.
        let chunks: Option<Vec<_>> = (0..geometry.bands).map(|band| shard.index.chunk(row, band)).collect();
        let chunks =
            chunks.ok_or_else(|| Failure::Corrupt("expected features, found no chunks".to_owned()))?;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // What a compressed row claims to hold nobody has seen yet.
        let (mut row, bytes) = (Vec::new(), size(geometry.sample_bytes()));
        if row.try_reserve_exact(bytes).is_err() {
            return Err(Failure::Corrupt(format!("a row of {bytes} bytes: no memory for it")));
        }
        row.resize(bytes, 0);
        let bands = row.chunks_mut(size(geometry.payload_bytes()).max(1));
        for ((number, place), band) in chunks.into_iter().enumerate().zip(bands) {
            let corrupt = |what: String| Failure::Corrupt(format!("band {number}: {what}"));
            let chunk =
                shard.file.read(place, &mut self.chunk, Way::Read).map_err(|failure| match failure {
                    ReadFailure::Ends(at) => corrupt(format!("the file ends at byte {at}")),
                    ReadFailure::Io(error, _) => Failure::Io(error),
                })?;
            let Some((payload, stored)) = chunk.split_last_chunk::<CHECKSUM>() else {
                return Err(corrupt("shorter than its checksum".to_owned()));
            };
            let computed = crc32c(payload);
            if *stored != computed {
                return Err(corrupt(differs(*stored, computed)));
            }
            match geometry.compression {
                // The index has checked that its length is the band's.
                Compression::None => band.copy_from_slice(payload),
                Compression::Zstd => {
                    self.unpacker.unpack(payload, band, array.byte_axis()).map_err(corrupt)?
                }
            }
        }
        Ok(row)
    }
}
