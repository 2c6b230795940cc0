//! A unit being written: its shards in temporaries, then the one function that makes a unit visible.

use crate::array::{ArraySpec, bucket_arrays};
use crate::bucket::{Bucket, Unit};
use crate::claim::PoisonGuard;
use crate::encoder::Encoder;
use crate::layout;
use crate::plan::kept_reason;
use crate::shard::ShardWriter;
use crate::sink::{Appended, Commit, RowOutcome, UnitSink};
use crate::spec::FORMAT;
use crate::staged::Staged;
use crate::storage::{Locking, Wait};
use crate::table::record::{self, FileEntry, Record, RecordHeader, RecordRow};
use crate::writer::Shared;
use crate::{Block, Error, Result, RowId};
use std::path::Path;
use std::sync::Arc;

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

/// The shards of one level.
#[derive(Debug)]
struct LevelWriter {
    name: String,
    /// `[h, w, c]` of its blocks.
    shape: [usize; 3],
    encoder: Encoder,
    payload: StagedShard,
    affine: Option<StagedShard>,
}

/// A shard and its path in the store.
#[derive(Debug)]
struct StagedShard {
    path: String,
    writer: ShardWriter,
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
        let specs = &shared.spec.recipe.levels;
        for (spec, arrays) in specs.iter().zip(bucket_arrays(bucket, specs, &shared.spec.encodings)?) {
            let start = |array: &ArraySpec| -> Result<StagedShard> {
                let path = array.shard_path(unit.number);
                let staged = Staged::create(&shared.storage, &shared.layout.path(&path))?;
                Ok(StagedShard { path, writer: ShardWriter::new(staged, array, unit.number)? })
            };
            let projection = shared.projections.of(&spec.name).map(Arc::clone);
            levels.push(LevelWriter {
                name: spec.name.clone(),
                shape: spec.shape(bucket.size),
                encoder: Encoder::new(arrays.encoding, projection, spec.channels as usize)?,
                payload: start(&arrays.payload)?,
                affine: arrays.affine.as_ref().map(start).transpose()?,
            });
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

    /// Bytes written, or why the row has no features after all.
    fn append_features(&mut self, blocks: &[Block]) -> Result<std::result::Result<u64, String>> {
        if blocks.len() != self.levels.len() {
            return Err(Error::invalid(format!(
                "row of {} blocks: expected one for each of {} levels",
                blocks.len(),
                self.levels.len()
            )));
        }
        // A row is in all levels or in none, so every level is looked at before the first is written.
        for (level, block) in self.levels.iter_mut().zip(blocks) {
            if block.shape != level.shape {
                return Err(Error::invalid(format!(
                    "level {}: expected a block of shape {:?}, found {:?}",
                    level.name, level.shape, block.shape
                )));
            }
            if let Err(what) = level.encoder.encode(block)? {
                return Ok(Err(format!("features of {} {what}", level.name)));
            }
        }
        let mut bytes = 0;
        for (level, block) in self.levels.iter_mut().zip(blocks) {
            bytes += level.payload.append(level.encoder.payload(block))?;
            if let (Some(shard), Some(affine)) = (&mut level.affine, level.encoder.affine()) {
                bytes += shard.append(affine)?;
            }
        }
        Ok(Ok(bytes))
    }

    fn append_empty(&mut self) -> Result<()> {
        for shard in self.levels.iter_mut().flat_map(|l| std::iter::once(&mut l.payload).chain(&mut l.affine))
        {
            shard.writer.append_empty()?;
        }
        Ok(())
    }
}

impl StagedShard {
    /// Bytes that the row took.
    fn append(&mut self, payload: &[u8]) -> Result<u64> {
        let before = self.writer.bytes();
        self.writer.append_payload(payload)?;
        Ok(self.writer.bytes() - before)
    }
}

impl UnitSink for UnitWriter {
    fn append(&mut self, outcome: RowOutcome) -> Result<Appended> {
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
        let (appended, error, source_blake3) = match outcome {
            RowOutcome::Features { blocks, source_blake3 } => match self.append_features(&blocks)? {
                Ok(bytes) => (Appended::Features { bytes }, None, Some(source_blake3)),
                Err(reason) => (Appended::Failed, Some(reason), Some(source_blake3)),
            },
            RowOutcome::Failed { reason, source_blake3 } => {
                (Appended::Failed, Some(kept_reason(&reason)), source_blake3)
            }
        };
        if appended == Appended::Failed {
            self.append_empty()?;
        }
        self.broken = false;
        self.rows.push(RecordRow { row: id - self.bucket.rows.start.0, key, error, source_blake3 });
        Ok(appended)
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
        for StagedShard { path, writer } in
            levels.into_iter().flat_map(|level| std::iter::once(level.payload).chain(level.affine))
        {
            let mut shard = writer.finish()?;
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
