//! The order in which rows are visited: a seeded bijection, so that a position is two numbers, any
//! batch can be named without the ones before it, and every row comes exactly once an epoch. Must not
//! read features.
//!
//! Rows of one split, view and size form a bucket of the store and a batch comes from one bucket. Within a bucket rows are
//! permuted and cut into batches; the batches of all buckets are permuted among each other.

use crate::seed::{Seed, mix};
use featcache_store::{RowId, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How rows are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderOptions {
    /// Everything random derives from it.
    pub seed: u64,
    /// Rows of a batch; the last one of a bucket may have fewer.
    pub batch: usize,
    /// `false`: buckets and rows by number, as evaluation reads them.
    pub shuffle: bool,
    /// Batches with fewer than `batch` rows are left out; which rows these are differs by epoch.
    pub drop_last: bool,
}

/// Where training stands: `cursor` batches of epoch `epoch` are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Batches of it that are done.
    pub cursor: u64,
}

/// A row with its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderRow {
    /// The row.
    pub row: RowId,
    /// Number of its bucket in the store.
    pub bucket: usize,
    /// Its padded size.
    pub size: Size,
}

/// The order of all epochs.
#[derive(Debug, Clone)]
pub struct Order {
    samples: Vec<Vec<OrderRow>>,
    options: OrderOptions,
}

/// One epoch of an [`Order`].
#[derive(Debug, Clone)]
pub struct Epoch {
    buckets: Vec<Bucket>,
    batches: Bijection,
    batch: usize,
}

/// Rows of one batch, all of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRows {
    /// Padded size of every row.
    pub size: Size,
    /// The rows, in order.
    pub rows: Vec<RowId>,
}

#[derive(Debug, Clone)]
struct Bucket {
    size: Size,
    rows: Vec<RowId>,
    permutation: Bijection,
    /// Batches of the buckets before this one.
    first: u64,
    count: u64,
}

impl Order {
    /// An order over samples, each given by the rows of its views. With several views an epoch visits
    /// one of them, chosen by seed, epoch and sample. Samples without rows are left out.
    pub fn new(samples: Vec<Vec<OrderRow>>, options: OrderOptions) -> Self {
        let samples = samples.into_iter().filter(|views| !views.is_empty()).collect();
        Self { samples, options: OrderOptions { batch: options.batch.max(1), ..options } }
    }

    /// Samples an epoch visits (before `drop_last`).
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// The epoch of this number. O(samples): the views are chosen here; batches are then O(1).
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let seed = Seed(self.options.seed).derive(epoch);
        let mut buckets = BTreeMap::<usize, (Size, Vec<RowId>)>::new();
        for (index, views) in self.samples.iter().enumerate() {
            let choice = match views.len() as u64 {
                1 => 0,
                count => (seed.named("view").derive(index as u64).0 % count) as usize,
            };
            let OrderRow { row, bucket, size } = views[choice];
            buckets.entry(bucket).or_insert_with(|| (size, Vec::new())).1.push(row);
        }
        let batch = self.options.batch as u64;
        let mut first = 0;
        let mut list = Vec::with_capacity(buckets.len());
        for (number, (size, rows)) in buckets {
            let n = rows.len() as u64;
            let count = if self.options.drop_last { n / batch } else { n.div_ceil(batch) };
            let permutation = self.permutation(n, seed.named("rows").derive(number as u64));
            list.push(Bucket { size, rows, permutation, first, count });
            first += count;
        }
        let batches = self.permutation(first, seed.named("batches"));
        Epoch { buckets: list, batches, batch: self.options.batch }
    }

    fn permutation(&self, n: u64, seed: Seed) -> Bijection {
        if self.options.shuffle { Bijection::new(n, seed) } else { Bijection::identity(n) }
    }
}

impl Epoch {
    /// Batches of the epoch.
    pub fn len(&self) -> u64 {
        self.batches.n
    }

    /// No batch at all.
    pub fn is_empty(&self) -> bool {
        self.batches.n == 0
    }

    /// The `cursor`-th batch of the epoch; `None` past its end. O(rows of the batch).
    pub fn batch(&self, cursor: u64) -> Option<BatchRows> {
        if cursor >= self.len() {
            return None;
        }
        let number = self.batches.get(cursor);
        // Buckets without batches share `first` with their successor, which is the one that counts.
        let index = self.buckets.partition_point(|bucket| bucket.first + bucket.count <= number);
        let bucket = &self.buckets[index];
        let start = (number - bucket.first) * self.batch as u64;
        let end = (start + self.batch as u64).min(bucket.rows.len() as u64);
        let rows = (start..end).map(|i| bucket.rows[bucket.permutation.get(i) as usize]).collect();
        Some(BatchRows { size: bucket.size, rows })
    }
}

/// A seeded bijection of `0..n`: a Feistel network on the next even power of two, walked along its
/// cycle until it falls below `n` (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Debug, Clone)]
pub struct Bijection {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
    shuffle: bool,
}

/// Rounds of the Feistel network; 4 suffice in theory, 6 leave a margin for tiny domains.
const ROUNDS: usize = 6;

impl Bijection {
    /// The bijection of `0..n` of this seed.
    pub fn new(n: u64, seed: Seed) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| seed.derive(round as u64).0);
        Self { n, half_bits: bits.div_ceil(2).max(1), keys, shuffle: true }
    }

    /// The bijection that changes nothing.
    pub fn identity(n: u64) -> Self {
        Self { n, half_bits: 1, keys: [0; ROUNDS], shuffle: false }
    }

    /// Image of `i`, which must be below `n`.
    pub fn get(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        if !self.shuffle {
            return i;
        }
        // The network permutes a domain less than four times larger than n, so the walk is short, and
        // it ends because a permutation's cycle through i < n returns below n.
        let mut x = self.network(i);
        while x >= self.n {
            x = self.network(x);
        }
        x
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}
