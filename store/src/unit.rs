//! A unit being written: its shards in temporaries, then the one function that makes a unit visible.

use crate::bucket::{Bucket, Unit};
use crate::claim::PoisonGuard;
use crate::layout;
use crate::shard::ShardWriter;
use crate::sink::{Commit, RowOutcome, UnitSink};
use crate::spec::{FORMAT, bucket_arrays};
use crate::staged::Staged;
use crate::storage::{Locking, Wait};
use crate::table::record::{self, FileEntry, Record, RecordHeader, RecordRow};
use crate::writer::Shared;
use crate::{Block, Encoding, Error, Result, RowId};
use std::path::Path;
use std::sync::Arc;

/// Longest reason of a failure that is kept, in characters.
const MAX_REASON_CHARS: usize = 500;

/// A unit being written. Dropped without [`commit`](UnitSink::commit) it was never there.
#[derive(Debug)]
pub struct UnitWriter {
    shared: Arc<Shared>,
    unit: Unit,
    bucket: Bucket,
    levels: Vec<LevelWriter>,
    rows: Vec<RecordRow>,
    /// An append has failed halfway: levels may disagree on how many rows they hold.
    broken: bool,
    _guard: PoisonGuard,
}

/// The shards of one level, its payload's first.
#[derive(Debug)]
struct LevelWriter {
    encoding: Encoding,
    shards: Vec<(String, ShardWriter)>,
}

impl UnitWriter {
    pub(crate) fn begin(shared: &Arc<Shared>, unit: &Unit) -> Result<Self> {
        shared.poison.check()?;
        let bucket = shared
            .plan
            .buckets()
            .get(unit.bucket)
            .filter(|bucket| bucket.rows.contains(&unit.rows.start) && unit.rows.end <= bucket.rows.end)
            .ok_or_else(|| {
                Error::invalid(format!("unit {} of bucket {}: not of this plan", unit.number, unit.bucket))
            })?;
        let mut levels = Vec::new();
        for (encoding, arrays) in bucket_arrays(bucket, &shared.spec.recipe.levels, &shared.spec.encodings)? {
            let start = |array: &crate::array::ArraySpec| {
                let path = array.shard_path(unit.number);
                let staged = Staged::create(&shared.storage, &shared.layout.path(&path))?;
                Ok((path, ShardWriter::new(staged, array, unit.number)?))
            };
            levels.push(LevelWriter { encoding, shards: arrays.iter().map(start).collect::<Result<_>>()? });
        }
        Ok(Self {
            shared: Arc::clone(shared),
            unit: unit.clone(),
            bucket: bucket.clone(),
            levels,
            rows: Vec::new(),
            broken: false,
            _guard: shared.poison.guard(),
        })
    }

    fn append_features(&mut self, blocks: &[Block]) -> Result<()> {
        if blocks.len() != self.levels.len() {
            return Err(Error::invalid(format!(
                "row of {} blocks: expected one for each of {} levels",
                blocks.len(),
                self.levels.len()
            )));
        }
        for (level, block) in self.levels.iter_mut().zip(blocks) {
            for (_, shard) in &mut level.shards {
                shard.append(level.encoding, block)?;
            }
        }
        Ok(())
    }
}

impl UnitSink for UnitWriter {
    fn append(&mut self, outcome: RowOutcome) -> Result<()> {
        let number = self.rows.len() as u64;
        if self.broken || number >= self.unit.row_count() {
            return Err(Error::invalid(format!(
                "unit {}: no row can follow the {number} that it holds",
                layout::unit_name(&self.bucket, &self.unit)
            )));
        }
        let id = self.unit.rows.start.0 + number;
        let key = self.shared.plan.row(RowId(id)).map(|row| row.key.0.clone()).unwrap_or_default();
        self.broken = true;
        let (error, source_blake3) = match outcome {
            RowOutcome::Features { blocks, source_blake3 } => {
                self.append_features(&blocks)?;
                (None, Some(source_blake3))
            }
            RowOutcome::Failed { reason, source_blake3 } => {
                for (_, shard) in self.levels.iter_mut().flat_map(|level| &mut level.shards) {
                    shard.append_empty()?;
                }
                (Some(reason.chars().take(MAX_REASON_CHARS).collect()), source_blake3)
            }
        };
        self.broken = false;
        self.rows.push(RecordRow { row: id - self.bucket.rows.start.0, key, error, source_blake3 });
        Ok(())
    }

    /// The only place where features become visible. Everything is durable under its temporary name
    /// first; then the shards get their names, then the record. A reader believes the record alone.
    fn commit(self) -> Result<Commit> {
        let Self { shared, unit, bucket, levels, rows, broken, _guard } = self;
        let name = layout::unit_name(&bucket, &unit);
        shared.poison.check()?;
        if broken || rows.len() as u64 != unit.row_count() {
            return Err(Error::invalid(format!(
                "unit {name}: commit with {} of {} rows",
                rows.len(),
                unit.row_count()
            )));
        }
        let (mut shards, mut files) = (Vec::new(), Vec::new());
        for (path, shard) in levels.into_iter().flat_map(|level| level.shards) {
            let mut shard = shard.finish()?;
            let digest = shard.sync()?;
            files.push(FileEntry { path, bytes: digest.bytes, blake3: digest.blake3 });
            shards.push(shard);
        }
        let target = shared.layout.path(&layout::record(&bucket, unit.number));
        let header = RecordHeader { format: FORMAT, unit: name, files };
        let mut record = record::write(&shared.storage, &target, &Record { header, rows })?;
        record.sync()?;

        // Two workers that computed the same unit on different machines may differ in the last bit: their
        // shards must not be mixed under one record. Whoever has no locks takes that chance.
        let folder = target.parent().unwrap_or(Path::new(""));
        let lock = shared.storage.lock(&folder.join(layout::PUBLISH_LOCK), Wait::Block)?;
        if shared.storage.exists(&target)? {
            return Ok(Commit::Superseded);
        }
        for shard in shards {
            let folder = shard.target().parent().unwrap_or(Path::new("")).to_owned();
            shard.publish()?;
            shared.storage.sync_dir(&folder)?;
        }
        record.publish()?;
        shared.storage.sync_dir(folder)?;
        if let Locking::Unsupported = lock {
            log::debug!("{}: no file locks here", folder.display());
        }
        Ok(Commit::Published)
    }
}
