//! The order in which rows are visited: a seeded bijection, so that a position is two numbers, any
//! batch can be named without the ones before it, and every row comes exactly once an epoch. Must not
//! read features.
//!
//! Rows of one split, view and size form a bucket of the store and a batch comes from one bucket. Within a bucket rows are
//! permuted and cut into batches; the batches of all buckets are permuted among each other. Rows that are to be kept
//! apart ([`Order::apart`]) are dealt to the batches like cards instead.

use crate::seed::{Seed, mix};
use crate::{Error, Result};
use featcache_store::{RowId, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

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
    rows: Arc<Rows>,
    options: OrderOptions,
    samples: usize,
}

/// One epoch of an [`Order`].
#[derive(Debug, Clone)]
pub struct Epoch {
    rows: Arc<Rows>,
    buckets: Vec<EpochBucket>,
    batches: Bijection,
    options: OrderOptions,
    seed: Seed,
}

/// Rows of one batch, all of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRows {
    /// Padded size of every row.
    pub size: Size,
    /// The rows, in order.
    pub rows: Vec<RowId>,
}

/// What no epoch changes.
#[derive(Debug)]
struct Rows {
    classes: Vec<Class>,
    buckets: Vec<Bucket>,
    /// Whether groups are kept apart.
    apart: bool,
}

/// Samples whose views lie in the same buckets.
#[derive(Debug, Default)]
struct Class {
    views: usize,
    /// Sample by sample, in the order of the views.
    rows: Vec<RowId>,
    /// Of each sample.
    groups: Vec<u32>,
}

#[derive(Debug)]
struct Bucket {
    number: usize,
    size: Size,
    /// Classes with rows in it, and which of their views.
    strata: Vec<(usize, usize)>,
    /// Most rows that a group may have in it.
    largest: u64,
}

/// A bucket of one epoch.
#[derive(Debug, Clone)]
struct EpochBucket {
    index: usize,
    strata: Vec<Stratum>,
    rows: u64,
    permutation: Bijection,
    /// Batches of the buckets before this one.
    first: u64,
    count: u64,
    /// Its rows where groups are kept apart, found when first asked for: batch `b` has every `count`-th of them
    /// from the `b`-th on.
    dealt: OnceLock<Vec<RowId>>,
}

/// The samples of a class that show one view in an epoch: every `views`-th of their permutation.
#[derive(Debug, Clone)]
struct Stratum {
    class: usize,
    view: usize,
    /// Rows of the bucket before these.
    before: u64,
    /// The first position in the permutation.
    start: u64,
    samples: Bijection,
}

impl Order {
    /// An order over samples, each given by the rows of its views. With several views an epoch visits
    /// one of them: as many samples show each view as can be, and which, seed and epoch decide. Samples without
    /// rows are left out.
    pub fn new(samples: Vec<Vec<OrderRow>>, options: OrderOptions) -> Self {
        Self::of(samples.into_iter().map(|views| (views, 0)), false, options)
    }

    /// As [`new`](Self::new), with no two rows of one group in a batch; every sample comes with the number of
    /// its group. The rows of a bucket are dealt to its batches, group by group, the groups in an order of
    /// the epoch's, so batches of a bucket differ by at most one row. Where a group has more rows in a bucket
    /// than that has batches, the bucket gets as many batches as the group has rows, and they are smaller;
    /// with `drop_last` its rows are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] where that would double or halve the batches of an epoch.
    pub fn apart(samples: Vec<(Vec<OrderRow>, u32)>, options: OrderOptions) -> Result<Self> {
        let order = Self::of(samples.into_iter(), options.shuffle, options);
        let (now, without) = order.batches_apart();
        if now > 2 * without || 2 * now < without {
            return Err(Error::invalid(format!(
                "keeping rows apart makes {now} batches of {without}: groups have too many rows of one size"
            )));
        }
        Ok(order)
    }

    fn of(samples: impl Iterator<Item = (Vec<OrderRow>, u32)>, apart: bool, options: OrderOptions) -> Self {
        let mut classes = BTreeMap::<Vec<usize>, Class>::new();
        let mut sizes = BTreeMap::<usize, Size>::new();
        let (mut key, mut count) = (Vec::new(), 0);
        for (views, group) in samples.filter(|(views, _)| !views.is_empty()) {
            count += 1;
            key.clear();
            key.extend(views.iter().map(|row| row.bucket));
            if !classes.contains_key(&key) {
                classes.insert(key.clone(), Class { views: views.len(), ..Class::default() });
                sizes.extend(views.iter().map(|row| (row.bucket, row.size)));
            }
            if let Some(class) = classes.get_mut(&key) {
                class.rows.extend(views.iter().map(|row| row.row));
                class.groups.extend(apart.then_some(group));
            }
        }
        let mut strata = BTreeMap::<usize, Vec<(usize, usize)>>::new();
        for (class, buckets) in classes.keys().enumerate() {
            for (view, &bucket) in buckets.iter().enumerate() {
                strata.entry(bucket).or_default().push((class, view));
            }
        }
        let classes: Vec<Class> = classes.into_values().collect();
        let bucket = |((number, strata), size): ((usize, Vec<(usize, usize)>), Size)| {
            let largest = largest_group(&classes, &strata);
            Bucket { number, size, strata, largest }
        };
        let buckets = strata.into_iter().zip(sizes.into_values()).map(bucket).collect();
        let options = OrderOptions { batch: options.batch.max(1), ..options };
        Self { rows: Arc::new(Rows { classes, buckets, apart }), options, samples: count }
    }

    /// Samples an epoch visits (before `drop_last`).
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Batches of the first epoch, and how many it would have if no rows were kept apart.
    pub fn batches_apart(&self) -> (u64, u64) {
        let epoch = self.epoch(0);
        let without = epoch.buckets.iter().map(|bucket| self.plain_count(bucket.rows)).sum();
        (epoch.len(), without)
    }

    /// The epoch of this number. It takes no longer the later it is or the more samples there are; what it
    /// looks at are the buckets.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let seed = Seed(self.options.seed).derive(epoch);
        let mut first = 0;
        let mut buckets = Vec::with_capacity(self.rows.buckets.len());
        for (index, bucket) in self.rows.buckets.iter().enumerate() {
            let mut rows = 0;
            let strata = bucket.strata.iter().map(|&(class, view)| {
                let (stratum, count) =
                    self.stratum(class, view, rows, seed.named("view").derive(class as u64));
                rows += count;
                stratum
            });
            let strata: Vec<Stratum> = strata.collect();
            let plain = self.plain_count(rows);
            let count = match (self.rows.apart && bucket.largest > plain, self.options.drop_last) {
                (false, _) => plain,
                (true, false) => bucket.largest.min(rows),
                (true, true) => 0,
            };
            let permutation = self.permutation(rows, seed.named("rows").derive(bucket.number as u64));
            let dealt = OnceLock::new();
            buckets.push(EpochBucket { index, strata, rows, permutation, first, count, dealt });
            first += count;
        }
        let batches = self.permutation(first, seed.named("batches"));
        Epoch { rows: Arc::clone(&self.rows), buckets, batches, options: self.options, seed }
    }

    /// The samples of a class that show this view, and how many.
    fn stratum(&self, class: usize, view: usize, before: u64, seed: Seed) -> (Stratum, u64) {
        let (samples, views) = self.rows.classes[class].counts();
        if views == 1 {
            let samples_in_order = Bijection::identity(samples);
            return (Stratum { class, view, before, start: 0, samples: samples_in_order }, samples);
        }
        // Which view has one sample more than the others differs by epoch too.
        let start = (view as u64 + seed.0 % views) % views;
        let count = (samples + views - 1 - start) / views;
        let samples = self.permutation(samples, seed.named("samples"));
        (Stratum { class, view, before, start, samples }, count)
    }

    /// Batches of so many rows.
    fn plain_count(&self, rows: u64) -> u64 {
        let batch = self.options.batch as u64;
        if self.options.drop_last { rows / batch } else { rows.div_ceil(batch) }
    }

    fn permutation(&self, n: u64, seed: Seed) -> Bijection {
        if self.options.shuffle { Bijection::new(n, seed) } else { Bijection::identity(n) }
    }
}

impl Class {
    /// Samples and views.
    fn counts(&self) -> (u64, u64) {
        ((self.rows.len() / self.views.max(1)) as u64, self.views as u64)
    }
}

/// Rows of the group that has most in a bucket, whichever views an epoch shows.
fn largest_group(classes: &[Class], strata: &[(usize, usize)]) -> u64 {
    let mut counts = BTreeMap::<u32, u64>::new();
    for group in strata.iter().flat_map(|&(class, _)| &classes[class].groups) {
        *counts.entry(*group).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
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

    /// The `cursor`-th batch of the epoch; `None` past its end. O(rows of the batch); where rows are kept apart,
    /// the first batch of a bucket takes as long as sorting the bucket's rows.
    pub fn batch(&self, cursor: u64) -> Option<BatchRows> {
        if cursor >= self.len() {
            return None;
        }
        let number = self.batches.get(cursor);
        // Buckets without batches share `first` with their successor, which is the one that counts.
        let index = self.buckets.partition_point(|bucket| bucket.first + bucket.count <= number);
        let bucket = &self.buckets[index];
        let (number, size) = (number - bucket.first, self.rows.buckets[bucket.index].size);
        let rows = if self.rows.apart {
            let dealt = bucket.dealt.get_or_init(|| self.deal(bucket));
            dealt.iter().skip(number as usize).step_by(bucket.count as usize).copied().collect()
        } else {
            let start = number * self.options.batch as u64;
            let end = (start + self.options.batch as u64).min(bucket.rows);
            (start..end).map(|i| self.row(bucket, bucket.permutation.get(i)).0).collect()
        };
        Some(BatchRows { size, rows })
    }

    /// Row `i` of a bucket, not permuted, and its group.
    fn row(&self, bucket: &EpochBucket, i: u64) -> (RowId, u32) {
        let stratum = &bucket.strata[bucket.strata.partition_point(|stratum| stratum.before <= i) - 1];
        let class = &self.rows.classes[stratum.class];
        let sample = stratum.samples.get(stratum.start + (i - stratum.before) * class.views as u64) as usize;
        let group = class.groups.get(sample).copied().unwrap_or_default();
        (class.rows[sample * class.views + stratum.view], group)
    }

    /// The rows of a bucket so that those of a group lie side by side: one in `count` of them, wherever one
    /// starts, has at most one of a group that has `count` at most.
    fn deal(&self, bucket: &EpochBucket) -> Vec<RowId> {
        let groups = self.seed.named("groups");
        let mut rows: Vec<(u64, u32, u64, RowId)> = (0..bucket.rows)
            .map(|place| {
                let (row, group) = self.row(bucket, bucket.permutation.get(place));
                (groups.derive(group.into()).0, group, place, row)
            })
            .collect();
        rows.sort_unstable();
        if self.options.drop_last {
            rows.truncate(bucket.count as usize * self.options.batch);
        }
        rows.into_iter().map(|(_, _, _, row)| row).collect()
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
