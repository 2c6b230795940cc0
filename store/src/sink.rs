//! Where extraction puts features: the trait that it is generic over, and a sink that keeps nothing, for
//! measuring extraction without writing.

use crate::bucket::Unit;
use crate::claim::{Claim, Poison};
use crate::plan::Plan;
use crate::{Block, Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a row at extraction.
#[derive(Debug, Clone, PartialEq)]
pub enum RowOutcome {
    /// Its features.
    Features {
        /// One block a level, in the recipe's order.
        blocks: Vec<Block>,
        /// BLAKE3 of the source file, lowercase hex.
        source_blake3: String,
    },
    /// There are none.
    Failed {
        /// Why, in one line and without the names of this machine's folders: equal inputs give equal
        /// stores.
        reason: String,
        /// BLAKE3 of the source file, lowercase hex, if it could be read.
        source_blake3: Option<String>,
    },
}

/// What a sink holds of an appended row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Its features.
    Features {
        /// Bytes that they take, encoded.
        bytes: u64,
    },
    /// That it has failed: the row was appended as such, or its features cannot be held.
    Failed,
}

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The unit is part of the store now.
    Published,
    /// Another worker had committed the unit before; ours was discarded.
    Superseded,
}

/// Takes the units of a plan.
pub trait FeatureSink: Sync {
    /// A unit being filled.
    type Unit: UnitSink<Row = Self::Row>;
    /// A row as its unit takes it.
    type Row: Send;

    /// The plan whose units are wanted.
    fn plan(&self) -> &Plan;
    /// Units that are not committed yet, in plan order.
    fn missing_units(&self) -> Result<Vec<Unit>>;
    /// Claims a unit for this worker. `None`: it is committed, or a live worker has it.
    fn claim(&self, unit: &Unit) -> Result<Option<Claim>>;
    /// Makes of a row of bucket number `bucket` what its unit takes: the work that wants neither order nor the
    /// disk, on any thread.
    fn encode(&self, bucket: usize, outcome: RowOutcome) -> Result<Self::Row>;
    /// Starts a unit.
    fn begin(&self, unit: &Unit) -> Result<Self::Unit>;
    /// Of whose guards every thread that works for this sink holds one: if one panics, nothing more is
    /// committed.
    fn poison(&self) -> &Poison;
}

/// A unit being filled. Dropped without commit it was never there.
pub trait UnitSink: Send {
    /// A row as this unit takes it.
    type Row: Send;

    /// Appends the next row, in row order, as [`FeatureSink::encode`] made it.
    fn append_encoded(&mut self, row: Self::Row) -> Result<Appended>;
    /// Encodes the next row here and appends it.
    fn append(&mut self, outcome: RowOutcome) -> Result<Appended>;
    /// Makes the unit part of the store, once all rows are in.
    fn commit(self) -> Result<Commit>;
}

/// Keeps nothing but counts.
#[derive(Debug)]
pub struct NullSink {
    plan: Plan,
    bytes: Arc<AtomicU64>,
    poison: Poison,
}

/// A unit of the [`NullSink`].
#[derive(Debug)]
pub struct NullUnit {
    missing: u64,
    bytes: Arc<AtomicU64>,
}

impl NullSink {
    /// A sink that wants every unit of the plan.
    pub fn new(plan: Plan) -> Self {
        Self { plan, bytes: Arc::default(), poison: Poison::default() }
    }

    /// Bytes of the blocks that went nowhere.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl FeatureSink for NullSink {
    type Unit = NullUnit;
    type Row = RowOutcome;

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn missing_units(&self) -> Result<Vec<Unit>> {
        Ok(self.plan.units().collect())
    }

    fn claim(&self, _: &Unit) -> Result<Option<Claim>> {
        Ok(Some(Claim::unlocked()))
    }

    fn encode(&self, _: usize, outcome: RowOutcome) -> Result<RowOutcome> {
        Ok(outcome)
    }

    fn begin(&self, unit: &Unit) -> Result<NullUnit> {
        Ok(NullUnit { missing: unit.row_count(), bytes: Arc::clone(&self.bytes) })
    }

    fn poison(&self) -> &Poison {
        &self.poison
    }
}

impl UnitSink for NullUnit {
    type Row = RowOutcome;

    fn append(&mut self, outcome: RowOutcome) -> Result<Appended> {
        self.append_encoded(outcome)
    }

    fn append_encoded(&mut self, outcome: RowOutcome) -> Result<Appended> {
        self.missing =
            self.missing.checked_sub(1).ok_or_else(|| Error::invalid("more rows than the unit has"))?;
        let RowOutcome::Features { blocks, .. } = outcome else { return Ok(Appended::Failed) };
        let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Appended::Features { bytes })
    }

    fn commit(self) -> Result<Commit> {
        match self.missing {
            0 => Ok(Commit::Published),
            missing => Err(Error::invalid(format!("commit of a unit that lacks {missing} rows"))),
        }
    }
}
