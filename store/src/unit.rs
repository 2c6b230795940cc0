//! A unit being written: its shards in temporaries, then the one function that makes a unit visible.

use crate::array::{ArraySpec, bucket_arrays};
use crate::bucket::{Bucket, Unit};
use crate::claim::PoisonGuard;
use crate::encoded_row::{EncodedLevel, EncodedRow};
use crate::layout;
use crate::shard::ShardWriter;
use crate::sink::{Appended, Commit, RowOutcome, UnitSink};
use crate::spec::FORMAT;
use crate::staged::Staged;
use crate::storage::{Locking, Wait};
use crate::table::record::{self, FileEntry, Record, RecordHeader, RecordRow};
use crate::writer::Shared;
use crate::{Error, Result, RowId};
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
        let start = |array: &ArraySpec| -> Result<StagedShard> {
            let path = array.shard_path(unit.number);
            let staged = Staged::create(&shared.storage, &shared.layout.path(&path))?;
            Ok(StagedShard { path, writer: ShardWriter::new(staged, array, unit.number)? })
        };
        let levels = bucket_arrays(bucket, &shared.spec.recipe.levels, &shared.spec.encodings)?
            .iter()
            .map(|arrays| {
                let payload = start(&arrays.payload)?;
                Ok(LevelWriter { payload, affine: arrays.affine.as_ref().map(start).transpose()? })
            })
            .collect::<Result<_>>()?;
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

    /// Appends a row to all levels; the bytes written.
    fn append_levels(&mut self, row: &[EncodedLevel]) -> Result<u64> {
        let mut bytes = 0;
        for (level, row) in self.levels.iter_mut().zip(row) {
            bytes += level.payload.append(row.payload())?;
            if let (Some(shard), Some(affine)) = (&mut level.affine, row.affine()) {
                bytes += shard.append(affine)?;
            }
        }
        Ok(bytes)
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
    type Row = EncodedRow;

    fn append(&mut self, outcome: RowOutcome) -> Result<Appended> {
        let row = self.shared.encoders.encode(&self.bucket, outcome);
        self.broken |= row.is_err();
        self.append_encoded(row?)
    }

    fn append_encoded(&mut self, row: EncodedRow) -> Result<Appended> {
        let number = self.rows.len() as u64;
        if self.broken || number >= self.unit.row_count() {
            return Err(Error::invalid(format!(
                "unit {}: no row can follow the {number} that it holds",
                layout::unit_name(&self.bucket, &self.unit)
            )));
        }
        let id = self.unit.rows.start.0 + number;
        let key = self.shared.plan.row(RowId(id)).map(|row| row.key.0.clone()).unwrap_or_default();
        let EncodedRow { levels, source_blake3 } = row;
        self.broken = true;
        let (appended, error, losses) = match levels {
            Ok(levels) => {
                let bytes = self.append_levels(&levels)?;
                let losses = levels.iter().map(|level| level.loss).collect();
                self.shared.encoders.give_back(levels);
                (Appended::Features { bytes }, None, losses)
            }
            Err(reason) => {
                self.append_empty()?;
                (Appended::Failed, Some(reason), Vec::new())
            }
        };
        self.broken = false;
        self.rows.push(RecordRow { row: id - self.bucket.rows.start.0, key, error, source_blake3, losses });
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
            let digest = if shared.read_back { shard.sync_and_read_back()? } else { shard.sync()? };
            files.push(FileEntry { path, bytes: digest.bytes, blake3: digest.blake3 });
            shards.push(shard);
        }
        let target = shared.layout.path(&layout::record(&bucket, unit.number));
        let header = RecordHeader { format: FORMAT, unit: name, files };
        let levels = &shared.spec.recipe.levels;
        let mut record = record::write(&shared.storage, &target, levels, &Record { header, rows })?;
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
