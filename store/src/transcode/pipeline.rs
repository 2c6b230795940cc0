//! The stages of a transcoding: one function each, bounded channels between, wired in order by
//! [`Transcode::run`].
//!
//! ```text
//! read (claims units, checks every chunk) ─→ encode × N ─(in order)─→ write ─→ commit (reads back)
//! ```
//! A stage holds only the next sender.

use super::stored_row::{StoredLevel, StoredRows};
use super::{Transcode, TranscodeCounters, TranscodeOptions, check_same_source};
use crate::bucket::Unit;
use crate::claim::Claim;
use crate::encoded_row::{EncodedLevel, EncodedRow};
use crate::encoder::decode;
use crate::fill::{Halt, Units};
use crate::ordered::ordered;
use crate::projection::Strip;
use crate::sink::{Commit, FeatureSink, UnitSink};
use crate::table::samples::Outcome;
use crate::{Block, DType, Encoding, Error, Loss, NumberFormat, Result, RowId, Status, UnitWriter};
use crossbeam_channel::{Receiver, Sender, bounded};
use rayon::prelude::*;
use std::panic::resume_unwind;

/// Rows that wait at most, however small.
const MAX_WAITING_ROWS: usize = 256;

impl Transcode<'_> {
    /// Does the units that are missing until none is left or `stop` is set. Waits for those that other
    /// processes have claimed.
    ///
    /// # Errors
    /// The first error of a stage; what was committed before stays. [`Error::Corrupt`] with file, row and
    /// level for what the source does not hold as it was written; [`Error::RecipeMismatch`] if another process
    /// has begun to fill the target from other features since this transcoding began.
    pub fn run(&self, options: TranscodeOptions<'_>, counters: &TranscodeCounters) -> Result<()> {
        if let Some(manifest) = self.source.manifest() {
            check_same_source(&self.target, &manifest.content_blake3)?;
        }
        let waiting = self.waiting_rows(options.memory_bytes);
        let (to_encoder, stored) = bounded::<Step<SourceRow>>(waiting);
        let (to_writer, encoded) = bounded::<Step<EncodedRow>>(waiting);
        let (to_committer, filled) = bounded::<(UnitWriter, Claim)>(1);
        let halt = &Halt::new(options.stop);
        let working = || (halt.working(), self.writer.poison().guard());
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let _guards = working();
                self.read(halt, counters, &to_encoder)
            });
            let encoder = scope.spawn(move || {
                let _guards = working();
                let most = rayon::current_num_threads().min(waiting);
                ordered(&stored, &to_writer, most, |step| self.encode(step))
            });
            let writer = scope.spawn(move || {
                let _guards = working();
                self.write(counters, &encoded, &to_committer)
            });
            let committed = {
                let _guards = working();
                commit(counters, &filled)
            };
            drop(filled);
            // A later stage's error is the cause of an earlier stage's closed channel.
            let stages =
                [writer, encoder, reader].map(|stage| stage.join().unwrap_or_else(|p| resume_unwind(p)));
            stages.into_iter().fold(committed, Result::and)
        })
    }

    /// Rows that may wait for the encoder, and as many for the writer: a third of the memory each, as much as
    /// is left for those that are encoded at a time.
    fn waiting_rows(&self, memory_bytes: u64) -> usize {
        let plan = self.writer.plan();
        let row_bytes = |size| -> u64 {
            let levels = plan.levels().iter().zip(&self.levels);
            let bytes = levels.map(|(level, origin)| {
                let shape = level.shape(size);
                let values =
                    if origin.same { 0 } else { Encoding::of(NumberFormat::F32).sample_bytes(shape) };
                let target = self.writer.spec().encodings.of(&level.name);
                origin.encoding.sample_bytes(shape) + values + target.map_or(0, |to| to.sample_bytes(shape))
            });
            bytes.sum()
        };
        let largest = plan.buckets().iter().map(|bucket| row_bytes(bucket.size)).max().unwrap_or(1);
        usize::try_from(memory_bytes / 3 / largest.max(1)).unwrap_or(usize::MAX).clamp(1, MAX_WAITING_ROWS)
    }

    /// Claims units, and reads their rows from the source.
    fn read(
        &self,
        halt: &Halt<'_>,
        counters: &TranscodeCounters,
        encoder: &Sender<Step<SourceRow>>,
    ) -> Result<()> {
        let mut stored = StoredRows::new(self.source);
        let as_planned = |units| units;
        let mut units = Units::new(&self.writer, &as_planned, halt, counters.fill())?;
        while let Some((unit, claim)) = units.next_unit()? {
            if !self.read_unit(&unit, claim, &mut stored, halt, counters, encoder)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the rows of a unit; `false` if the run is to end.
    fn read_unit(
        &self,
        unit: &Unit,
        claim: Claim,
        stored: &mut StoredRows<'_>,
        halt: &Halt<'_>,
        counters: &TranscodeCounters,
        encoder: &Sender<Step<SourceRow>>,
    ) -> Result<bool> {
        let send = |step| counters.sending.time(|| encoder.send(step).is_ok());
        if !send(Step::Begin(Box::new((unit.clone(), claim)))) {
            return Ok(false);
        }
        for id in (unit.rows.start.0..unit.rows.end.0).map(RowId) {
            let row = counters.reading.time(|| self.read_row(id, unit.bucket, stored))?;
            counters.add_read(row.levels.iter().flatten().map(StoredLevel::bytes).sum());
            if halt.is_set() || !send(Step::Row(row)) {
                return Ok(false);
            }
        }
        Ok(send(Step::End))
    }

    /// Row `id` of the target, in bucket number `bucket`, as the source has it.
    fn read_row(&self, id: RowId, bucket: usize, stored: &mut StoredRows<'_>) -> Result<SourceRow> {
        let row = self.writer.plan().row(id).ok_or_else(|| Error::invalid(format!("no row {id}")))?;
        let row = self.source.find(Some(&row.split), &row.key.0, &row.view)?;
        let outcome = usize::try_from(row.id.0).ok().and_then(|id| self.outcomes.get(id));
        let outcome = outcome.cloned().unwrap_or_default();
        let levels = match &row.status {
            Status::Ok => {
                let read = self.levels.iter().map(|origin| stored.read(&row, origin.number));
                Ok(read.collect::<Result<_>>()?)
            }
            Status::Failed(reason) => Err(reason.clone()),
            Status::Missing => return Err(Error::invalid(format!("row {id}: no unit of the source has it"))),
        };
        Ok(SourceRow { bucket, levels, outcome })
    }

    /// Makes of a row of the source one of the target, its levels in parallel.
    fn encode(&self, step: Step<SourceRow>) -> Result<Step<EncodedRow>> {
        let row = match step {
            Step::Begin(unit) => return Ok(Step::Begin(unit)),
            Step::End => return Ok(Step::End),
            Step::Row(row) => row,
        };
        let Outcome { source_blake3, losses, .. } = row.outcome;
        let levels = match row.levels {
            Err(reason) => Err(reason),
            Ok(levels) => {
                let encode = |(number, level): (usize, StoredLevel)| {
                    let loss = self.levels.get(number).and_then(|origin| losses.get(origin.number));
                    self.encode_level(row.bucket, number, level, loss.copied().flatten())
                };
                let levels: Vec<_> = levels.into_par_iter().enumerate().map(encode).collect();
                // The first level's failure is the row's, whichever was found first.
                let levels: Result<std::result::Result<_, _>> = levels.into_iter().collect();
                levels?
            }
        };
        Ok(Step::Row(EncodedRow { levels, source_blake3 }))
    }

    /// Level number `number` of the target; `loss` is what the source has lost of it.
    fn encode_level(
        &self,
        bucket: usize,
        number: usize,
        level: StoredLevel,
        loss: Option<Loss>,
    ) -> Result<std::result::Result<EncodedLevel, String>> {
        let StoredLevel { payload, affine } = level;
        let plan = self.writer.plan();
        let found = (self.levels.get(number), plan.levels().get(number), plan.buckets().get(bucket));
        let (Some(origin), Some(spec), Some(in_bucket)) = found else {
            return Err(Error::invalid(format!("no level number {number} of bucket {bucket}")));
        };
        if origin.same {
            return Ok(Ok(EncodedLevel::copied(payload, affine.map(|affine| affine.bytes), loss)));
        }
        let shape = spec.shape(in_bucket.size);
        let block = match (&origin.projection, affine) {
            (None, None) => Block { shape, dtype: origin.encoding.value_dtype(), bytes: payload },
            (projection, affine) => {
                let (mut bytes, length) = (Vec::new(), shape.iter().product::<usize>() * DType::F32.bytes());
                if bytes.try_reserve_exact(length).is_err() {
                    return Err(Error::invalid(format!("a map of {length} bytes: no memory for it")));
                }
                bytes.resize(length, 0);
                let scales = affine.as_ref().map_or(&[][..], |affine| &affine.values);
                let (projection, format) = (projection.as_deref(), origin.encoding.format);
                decode(format, projection, &payload, scales, &mut bytes, DType::F32, &mut Strip::default());
                Block { shape, dtype: DType::F32, bytes }
            }
        };
        self.writer.encode_level(number, in_bucket, block)
    }

    /// Appends rows to the open unit and passes it on at its end.
    fn write(
        &self,
        counters: &TranscodeCounters,
        encoded: &Receiver<Step<EncodedRow>>,
        committer: &Sender<(UnitWriter, Claim)>,
    ) -> Result<()> {
        let mut open: Option<(UnitWriter, Claim)> = None;
        while let Ok(step) = counters.receiving.time(|| encoded.recv()) {
            let go_on = counters.writing.time(|| {
                match step {
                    Step::Begin(begun) => {
                        let (unit, claim) = *begun;
                        open = Some((self.writer.begin(&unit)?, claim));
                    }
                    Step::Row(row) => {
                        if let Some((unit, _)) = &mut open {
                            counters.fill().add_row(unit.append_encoded(row)?);
                        }
                    }
                    Step::End => return Ok(open.take().is_none_or(|filled| committer.send(filled).is_ok())),
                }
                Ok::<_, Error>(true)
            })?;
            if !go_on {
                break;
            }
        }
        // A unit left open by a stopped run is dropped here and was never there.
        Ok(())
    }
}

/// What the stages work through, in order.
enum Step<R> {
    Begin(Box<(Unit, Claim)>),
    Row(R),
    End,
}

/// A row as the source has it.
struct SourceRow {
    /// Number of its bucket in the target.
    bucket: usize,
    /// The target's levels; or why there are none.
    levels: std::result::Result<Vec<StoredLevel>, String>,
    outcome: Outcome,
}

/// Commits unit after unit. Syncing and reading back one of them, the next one is written.
fn commit(counters: &TranscodeCounters, filled: &Receiver<(UnitWriter, Claim)>) -> Result<()> {
    for (unit, claim) in filled {
        if unit.commit()? == Commit::Published {
            counters.fill().add_unit();
        }
        // Only now may another worker look at this unit again.
        drop(claim);
    }
    Ok(())
}
