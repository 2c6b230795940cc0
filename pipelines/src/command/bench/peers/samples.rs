//! The rows that every contestant reads: their bytes in a form of no format, and the sums by which what comes
//! back is known to be right.

use crate::exit::{ExitCode, failure};
use anyhow::{Context, Result};
use featcache_heads::order::{Bijection, OrderRow};
use featcache_heads::seed::Seed;
use featcache_store::{Batch, DType, LevelId, ReadOptions, RowId, Status, Store, layout};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Words of a sample that are summed after each timed pass: every 4093rd.
pub(super) const SPARSE: usize = 4093;

/// Bytes of a pass unless the number of samples is given.
const PASS_BYTES: u64 = 256_000_000;

/// Rows of one bucket, in an order of no meaning.
pub(super) struct Samples {
    /// Where `samples.bin` and `samples.json` lie.
    pub(super) folder: PathBuf,
    /// Where the store keeps them.
    pub(super) features: PathBuf,
    /// The rows; a sample's number is its place here.
    pub(super) rows: Vec<OrderRow>,
    /// All levels.
    pub(super) levels: Vec<LevelId>,
    /// Bytes of a sample: its levels, finest first.
    pub(super) bytes: usize,
    /// Of each sample, sorted: over all words, and over every [`SPARSE`]th.
    checks: [Vec<u64>; 2],
}

/// `samples.json`
#[derive(Serialize)]
struct Index<'a> {
    count: usize,
    bytes: usize,
    store: &'a Path,
    /// Row of each sample in the level's array.
    rows: Vec<u64>,
    levels: Vec<IndexLevel<'a>>,
}

#[derive(Serialize)]
struct IndexLevel<'a> {
    name: &'a str,
    /// Its Zarr array, relative to the store.
    array: String,
    /// Height, width, channels.
    shape: [usize; 3],
    bytes: usize,
}

impl Samples {
    /// Chooses up to `count` rows of the bucket that has most and writes their bytes into `folder`.
    ///
    /// # Errors
    /// A store without features or with levels that are not bf16; what reading and writing fail with.
    pub(super) fn export(store: &Store, count: Option<usize>, folder: PathBuf) -> Result<Self> {
        let recipe = &store.recipe().levels;
        for level in recipe {
            let dtype = store.encodings().of(&level.name).map(|encoding| encoding.to_string());
            if dtype.as_deref() != Some(DType::Bf16.to_string().as_str()) {
                let found = dtype.unwrap_or_default();
                let what = format!(
                    "level {}: expected bf16, which peers can hold as it is, found {found}",
                    level.name
                );
                return Err(failure(ExitCode::BadInput, what));
            }
        }
        let mut buckets = BTreeMap::<usize, Vec<OrderRow>>::new();
        for row in store.rows().iter().filter(|row| row.status == Status::Ok) {
            if let (Some(bucket), Some(size)) = (store.bucket_of(row.id), row.bucket) {
                buckets.entry(bucket).or_default().push(OrderRow { row: row.id, bucket, size });
            }
        }
        let most = buckets.into_iter().max_by_key(|(_, rows)| rows.len());
        let Some((number, rows)) = most else {
            return Err(failure(
                ExitCode::BadInput,
                "nothing to measure: the store has no rows with features",
            ));
        };
        let bucket = &store.buckets()[number];
        let levels: Vec<LevelId> = (0..recipe.len()).map(LevelId).collect();
        let (reader, mut batch) = (store.reader(ReadOptions::default())?, Batch::new());
        reader.read(&[rows[0].row], &levels, None, &mut batch)?;
        let shapes: Vec<_> = (0..levels.len()).map(|i| batch.level(i).shape).collect();
        let index_levels =
            recipe.iter().zip(shapes).map(|(level, [_, height, width, channels])| IndexLevel {
                name: &level.name,
                array: layout::array_folder(bucket, &level.name),
                shape: [height, width, channels],
                bytes: height * width * channels * DType::Bf16.bytes(),
            });
        let index_levels: Vec<_> = index_levels.collect();
        let bytes = index_levels.iter().map(|level| level.bytes).sum::<usize>();
        let fitting = usize::try_from(PASS_BYTES / bytes.max(1) as u64).unwrap_or(usize::MAX).clamp(4, 2048);
        let count = count.unwrap_or(fitting).min(rows.len());
        let drawn = Bijection::new(rows.len() as u64, Seed(0));
        let rows: Vec<_> = (0..count as u64).map(|i| rows[drawn.get(i) as usize]).collect();

        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("samples.bin");
        let context = || path.display().to_string();
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).with_context(context)?);
        let (mut checks, mut sample) = ([Vec::new(), Vec::new()], Vec::with_capacity(bytes));
        for row in &rows {
            reader.read(&[row.row], &levels, None, &mut batch)?;
            sample.clear();
            (0..levels.len()).for_each(|i| sample.extend_from_slice(batch.level(i).bytes));
            file.write_all(&sample).with_context(context)?;
            checks[0].push(check(&sample, 1));
            checks[1].push(check(&sample, SPARSE));
        }
        file.flush().with_context(context)?;
        checks.iter_mut().for_each(|checks| checks.sort_unstable());
        let root = std::fs::canonicalize(store.root()).with_context(|| store.root().display().to_string())?;
        let in_array = |row: &OrderRow| row.row.0 - bucket.rows.start.0;
        let index_rows = rows.iter().map(in_array).collect();
        let index = Index { count, bytes, store: &root, rows: index_rows, levels: index_levels };
        let path = folder.join("samples.json");
        std::fs::write(&path, serde_json::to_vec(&index)?).with_context(|| path.display().to_string())?;
        let features = store.root().join(layout::features_folder(bucket));
        Ok(Self { folder, features, rows, levels, bytes, checks })
    }

    /// Ids of these samples.
    pub(super) fn ids(&self, numbers: &[usize]) -> Vec<RowId> {
        numbers.iter().filter_map(|&number| Some(self.rows.get(number)?.row)).collect()
    }

    /// The `pass`th shuffled order of the samples.
    pub(super) fn order(&self, pass: u64) -> Vec<usize> {
        let n = self.rows.len() as u64;
        let shuffled = Bijection::new(n, Seed(0).named("pass").derive(pass));
        (0..n).map(|i| shuffled.get(i) as usize).collect()
    }

    /// Whether these are the sums of every sample, `epochs` times each.
    pub(super) fn are_all(&self, mut found: Vec<u64>, epochs: usize) -> bool {
        found.sort_unstable();
        let expected = self.checks[0].iter().flat_map(|check| std::iter::repeat_n(check, epochs));
        found.iter().eq(expected)
    }

    /// Whether these are sparse sums of samples, one at least.
    pub(super) fn are_some(&self, found: &[u64]) -> bool {
        !found.is_empty() && found.iter().all(|check| self.checks[1].binary_search(check).is_ok())
    }
}

/// Sum of (2i + 1) · word[i · stride] modulo 2⁶⁴ over the little-endian 64-bit words of a sample, zeros behind it:
/// one word that is wrong always changes it, for an odd weight takes nothing away.
pub(super) fn check(sample: &[u8], stride: usize) -> u64 {
    let words = sample.chunks(8).map(|octets| {
        let mut word = [0; 8];
        word[..octets.len()].copy_from_slice(octets);
        u64::from_le_bytes(word)
    });
    let weights = (1u64..).step_by(2);
    let weighted = words.step_by(stride.max(1)).zip(weights).map(|(word, weight)| word.wrapping_mul(weight));
    weighted.fold(0, u64::wrapping_add)
}
