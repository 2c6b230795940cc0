//! Buckets and units: how the rows of a plan are grouped into arrays and into pieces of work. Pure
//! arithmetic.

use crate::{LevelSpec, RowId, Size};
use std::ops::Range;
use std::sync::Arc;

/// All rows of one split and view with equal padded size: one array a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Split.
    pub split: Arc<str>,
    /// View.
    pub view: Arc<str>,
    /// Padded input size.
    pub size: Size,
    /// Its rows; row `r` of its arrays is row id `rows.start + r`.
    pub rows: Range<RowId>,
    /// Rows in a unit (the last one of a bucket may have fewer).
    pub unit_rows: u64,
}

/// Consecutive rows of one bucket, all levels: what is computed, committed and lost together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unit {
    /// Index in [`Plan::buckets`](crate::Plan::buckets).
    pub bucket: usize,
    /// Number of the unit in its bucket, and of its shards.
    pub number: u64,
    /// Its rows.
    pub rows: Range<RowId>,
}

impl Bucket {
    /// Number of rows.
    pub fn row_count(&self) -> u64 {
        self.rows.end.0.saturating_sub(self.rows.start.0)
    }

    /// Number of units.
    pub fn unit_count(&self) -> u64 {
        self.row_count().div_ceil(self.unit_rows.max(1))
    }

    /// Unit `number` of this bucket, which is number `bucket` of its plan.
    pub(crate) fn unit(&self, bucket: usize, number: u64) -> Unit {
        let start = self.rows.start.0 + number * self.unit_rows;
        let end = (start + self.unit_rows).min(self.rows.end.0);
        Unit { bucket, number, rows: RowId(start)..RowId(end) }
    }
}

impl Unit {
    /// Number of rows.
    pub fn row_count(&self) -> u64 {
        self.rows.end.0.saturating_sub(self.rows.start.0)
    }
}

/// Index of the bucket that holds the row. Buckets lie in row order.
pub(crate) fn bucket_of(buckets: &[Bucket], id: RowId) -> Option<usize> {
    let index = buckets.partition_point(|bucket| bucket.rows.end <= id);
    buckets.get(index).filter(|bucket| bucket.rows.contains(&id)).map(|_| index)
}

/// `clamp(shard_bytes / (2 · h · w · c of the finest level), 1, rows of the bucket)`. Independent of
/// encodings, so that a transcoded store has the same units.
pub(crate) fn unit_rows(levels: &[LevelSpec], bucket: &Bucket, shard_bytes: u64) -> u64 {
    let finest = levels.iter().min_by_key(|level| level.stride);
    let row_bytes = finest.map_or(1, |level| 2 * level.cells(bucket.size).area() * u64::from(level.channels));
    (shard_bytes / row_bytes.max(1)).clamp(1, bucket.row_count().max(1))
}
