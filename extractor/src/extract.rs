//! The extraction pipeline: one function a stage, bounded channels between, wired in order by [`run`].
//!
//! ```text
//! feed ─→ decode × N ─(in order)─→ compute (owns the device) ─→ encode × N ─(in order)─→ write
//! ```
//! A stage holds only the next sender. What a unit contains depends on the plan alone: rows are decoded and
//! encoded in parallel but arrive in plan order, and a batch never crosses a unit.

use crate::backbone::Backbone;
use crate::counters::Counters;
use crate::preprocess::{self, Input};
use crate::source::Prepared;
use crate::worker::Worker;
use crate::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use featcache_store::fill::{Halt, Units};
use featcache_store::{
    Block, Claim, Commit, DType, FeatureSink, PlanRow, Recipe, RowOutcome, Size, Unit, UnitSink, ordered,
};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Features waiting to be encoded hold at most about this many bytes.
const ENCODER_QUEUE_BYTES: usize = 512 << 20;

/// Encoded rows that wait for the writer: few, as more would only be in memory for longer.
const WRITER_QUEUE_ROWS: usize = 2;

/// What one extraction runs with.
pub struct Extraction<'a> {
    /// Who this is among the workers that fill the same store.
    pub worker: Worker,
    /// Reads and prepares a row's picture, on any thread: [`crate::source::Source::prepare`]. What is wrong
    /// with the picture is its outcome; an error ends the run.
    pub prepare: &'a (dyn Fn(&PlanRow) -> Result<Prepared> + Sync),
    /// What the features are.
    pub recipe: &'a Recipe,
    /// Positions, in the backbone's levels, of the levels that are kept.
    pub kept: &'a [usize],
    /// Pictures a forward pass.
    pub batch: usize,
    /// Threads that decode and resize.
    pub decoders: usize,
    /// Set from outside to stop soon; the unit under way is then left uncommitted.
    pub stop: &'a AtomicBool,
    /// What the stages count.
    pub counters: &'a Counters,
}

/// How an extraction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every unit that `work` handed out is committed.
    Done,
    /// `stop` was set before that.
    Stopped,
}

/// Takes units that `sink` misses until none is left, and commits them. The calling thread owns the
/// backbone and its device.
///
/// # Errors
/// A stage's panic, else the first error of a stage; what was committed before stays. A picture that is
/// broken is an outcome of its row and not an error.
pub fn run<S: FeatureSink>(extraction: &Extraction<'_>, backbone: &dyn Backbone, sink: &S) -> Result<Ended> {
    let decoders = extraction.decoders.max(1);
    // Each decoder holds one picture; the queue in front of the device as many again, and one batch.
    let (to_decoders, jobs) = bounded::<Job>(decoders);
    let (to_device, prepared) = bounded::<Step>(2 * decoders + extraction.batch);
    let waiting_rows = encoder_queue_rows(extraction, sink);
    let (to_encoder, computed_rows) = bounded::<Outcome<Computed>>(waiting_rows);
    let (to_writer, encoded) = bounded::<Outcome<S::Row>>(WRITER_QUEUE_ROWS);
    let halt = Halt::new(extraction.stop);
    let halt = &halt;
    let blamed = &Mutex::new(None);
    std::thread::scope(|scope| {
        let feeder = scope.spawn(move || {
            let _guards = (halt.working(), sink.poison().guard());
            feed(extraction, sink, halt, &to_decoders, &to_device)
        });
        let decoders: Vec<_> = (0..decoders)
            .map(|_| {
                let jobs = jobs.clone();
                scope.spawn(move || {
                    let _guard = sink.poison().guard();
                    decode(extraction, &jobs, blamed);
                })
            })
            .collect();
        drop(jobs);
        let encoder = scope.spawn(move || {
            let _guards = (halt.working(), sink.poison().guard());
            let most = rayon::current_num_threads().min(waiting_rows);
            ordered(&computed_rows, &to_writer, most, |outcome| encode(sink, outcome))
        });
        let writer = scope.spawn(move || {
            let _guards = (halt.working(), sink.poison().guard());
            write(extraction, sink, &encoded)
        });
        let computed = {
            let _guards = (halt.working(), sink.poison().guard());
            compute(extraction, backbone, halt, &prepared, &to_encoder)
        };
        // Closing both ends lets the other stages run out of work and return.
        drop((prepared, to_encoder));
        let panicked = |stage| move |_| Err(Error::StagePanicked { stage, source_file: None });
        let fed = feeder.join().unwrap_or_else(panicked("feed"));
        let decoded = decoders
            .into_iter()
            .map(|decoder| {
                decoder.join().map_err(|_| {
                    let source_file = blamed.lock().unwrap_or_else(PoisonError::into_inner).take();
                    Error::StagePanicked { stage: "decode", source_file }
                })
            })
            .fold(Ok(()), Result::and);
        let encoded = encoder.join().unwrap_or_else(panicked("encode"));
        let written = writer.join().unwrap_or_else(panicked("write"));
        // A panic is the cause of whatever else went wrong. Otherwise a later stage's error is the cause of
        // an earlier stage's closed channel.
        let mut errors: Vec<Error> =
            [written, encoded, computed, fed, decoded].into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| !matches!(error, Error::StagePanicked { .. }));
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None if halt.is_stopped() => Ok(Ended::Stopped),
            None => Ok(Ended::Done),
        }
    })
}

/// A picture to decode and where its result goes.
struct Job {
    row: PlanRow,
    reply: Sender<Result<Prepared>>,
}

/// What the device thread works through, in order.
enum Step {
    Begin(Box<Begin>),
    Row {
        /// The file, for messages.
        source: String,
        prepared: Receiver<Result<Prepared>>,
    },
    End,
}

/// What the encoder and the writer work through, in order.
enum Outcome<R> {
    Begin(Box<Begin>),
    Row(R),
    End,
}

/// A row that the backbone is done with.
struct Computed {
    /// Number of its bucket.
    bucket: usize,
    outcome: RowOutcome,
}

/// A unit to do, with the claim that keeps other workers off it.
struct Begin {
    unit: Unit,
    bucket: Size,
    claim: Claim,
}

/// Hands out rows in plan order: the job to any decoder, its place in the queue to the device thread.
fn feed<S: FeatureSink>(
    extraction: &Extraction<'_>,
    sink: &S,
    halt: &Halt<'_>,
    decoders: &Sender<Job>,
    device: &Sender<Step>,
) -> Result<()> {
    let plan = sink.plan();
    let own_first = |units| extraction.worker.order(units);
    let mut units = Units::new(sink, &own_first, halt, extraction.counters.fill())?;
    while let Some((unit, claim)) = units.next_unit()? {
        let Some(bucket) = plan.buckets().get(unit.bucket).map(|bucket| bucket.size) else { continue };
        let rows = unit.rows.clone();
        if device.send(Step::Begin(Box::new(Begin { unit, bucket, claim }))).is_err() {
            return Ok(());
        }
        for row in (rows.start.0..rows.end.0).filter_map(|id| plan.row(featcache_store::RowId(id))) {
            if halt.is_set() {
                return Ok(());
            }
            let (reply, prepared) = bounded(1);
            let sent = device.send(Step::Row { source: row.source.clone(), prepared }).is_ok()
                && decoders.send(Job { row: row.clone(), reply }).is_ok();
            if !sent {
                return Ok(());
            }
        }
        if device.send(Step::End).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The picture that a decoder has in hand. The device thread may be gone by the time it would learn of a
/// panic, so the decoder leaves the name itself.
struct InHand<'a> {
    source: &'a str,
    blamed: &'a Mutex<Option<String>>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.blamed.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.source.to_owned());
        }
    }
}

/// Reads, decodes and resizes until no more jobs come.
fn decode(extraction: &Extraction<'_>, jobs: &Receiver<Job>, blamed: &Mutex<Option<String>>) {
    for Job { row, reply } in jobs {
        let _in_hand = InHand { source: &row.source, blamed };
        // Nobody listens when the run has stopped.
        drop(reply.send((extraction.prepare)(&row)));
    }
}

/// Runs the backbone on batches of consecutive rows of a unit. The only stage that holds tensors.
fn compute(
    extraction: &Extraction<'_>,
    backbone: &dyn Backbone,
    halt: &Halt<'_>,
    steps: &Receiver<Step>,
    encoder: &Sender<Outcome<Computed>>,
) -> Result<()> {
    let mut batch =
        Batch { bucket: 0, size: Size::new(0, 0), rows: Vec::new(), inputs: Vec::new(), pictures: 0 };
    loop {
        if halt.is_stopped() {
            return Ok(());
        }
        let waited = Instant::now();
        let Ok(step) = steps.recv() else { return Ok(()) };
        let open = match step {
            Step::Begin(begin) => {
                (batch.bucket, batch.size) = (begin.unit.bucket, begin.bucket);
                send(extraction, encoder, Outcome::Begin(begin))
            }
            Step::Row { source, prepared } => {
                // A decoder that panics drops the reply. One that comes at its thread's end has lost its job.
                let panicked = |_| Error::StagePanicked { stage: "decode", source_file: Some(source) };
                let prepared = prepared.recv().map_err(panicked)??;
                extraction.counters.add_decode_wait(waited.elapsed());
                batch.push(prepared);
                batch.pictures < extraction.batch.max(1) || batch.flush(extraction, backbone, encoder)?
            }
            Step::End => {
                batch.flush(extraction, backbone, encoder)? && send(extraction, encoder, Outcome::End)
            }
        };
        if !open {
            return Ok(());
        }
    }
}

/// Consecutive rows of a unit; failed ones keep their place.
struct Batch {
    /// Number and size of the unit's bucket.
    bucket: usize,
    size: Size,
    rows: Vec<(Option<String>, std::result::Result<usize, String>)>,
    inputs: Vec<Input>,
    pictures: usize,
}

impl Batch {
    fn push(&mut self, prepared: Prepared) {
        let outcome = prepared.input.map(|input| {
            self.inputs.push(input);
            self.pictures += 1;
            self.inputs.len() - 1
        });
        self.rows.push((prepared.source_blake3, outcome));
    }

    /// Sends all rows on, with features; `false` when the encoder has gone.
    fn flush(
        &mut self,
        extraction: &Extraction<'_>,
        backbone: &dyn Backbone,
        encoder: &Sender<Outcome<Computed>>,
    ) -> Result<bool> {
        let started = Instant::now();
        let maps = match self.inputs.is_empty() {
            true => Vec::new(),
            false => forward(extraction, backbone, &self.inputs, self.size)?,
        };
        extraction.counters.add_computing(started.elapsed());
        for (source_blake3, outcome) in self.rows.drain(..) {
            let outcome = match outcome {
                Ok(index) => {
                    let started = Instant::now();
                    let blocks = maps.iter().map(|map| block(map, index)).collect::<Result<Vec<_>>>()?;
                    extraction.counters.add_computing(started.elapsed());
                    RowOutcome::Features { blocks, source_blake3: source_blake3.unwrap_or_default() }
                }
                Err(reason) => RowOutcome::Failed { reason, source_blake3 },
            };
            if !send(extraction, encoder, Outcome::Row(Computed { bucket: self.bucket, outcome })) {
                return Ok(false);
            }
        }
        self.inputs.clear();
        self.pictures = 0;
        Ok(true)
    }
}

/// The kept levels `[n, h, w, c]` of pictures of one bucket, in this machine's memory.
fn forward(
    extraction: &Extraction<'_>,
    backbone: &dyn Backbone,
    inputs: &[Input],
    bucket: Size,
) -> Result<Vec<Tensor>> {
    let pixels = preprocess::collate(inputs, bucket, &extraction.recipe.preprocess, backbone.device())?;
    let levels = backbone.forward(&pixels)?;
    let fetch = Error::torch("fetch features from the device");
    let kept: std::result::Result<Vec<_>, _> = extraction
        .kept
        .iter()
        .filter_map(|&level| levels.get(level))
        .map(|map| map.f_to_device(Device::Cpu)?.f_contiguous())
        .collect();
    let kept = kept.map_err(fetch)?;
    extraction.counters.add_computed(inputs.len() as u64);
    Ok(kept)
}

/// Sample `index` of `map` `[n, h, w, c]`, in this machine's memory, as bytes.
///
/// # Errors
/// The map is not of a floating-point type that a store holds, or on another device.
pub fn block(map: &Tensor, index: usize) -> Result<Block> {
    if map.device() != Device::Cpu {
        return Err(Error::invalid(format!("features on {:?}: expected them on the CPU", map.device())));
    }
    let dtype = match map.kind() {
        Kind::Float => DType::F32,
        Kind::BFloat16 => DType::Bf16,
        Kind::Half => DType::F16,
        kind => return Err(Error::invalid(format!("features of kind {kind:?}: expected f32, f16 or bf16"))),
    };
    let copy = || {
        let sample = map.f_select(0, index as i64)?.f_contiguous()?; // [h, w, c]
        let (h, w, c) = sample.size3()?;
        let shape = [h as usize, w as usize, c as usize];
        Ok(Block { shape, dtype, bytes: bytes_of(&sample, shape.iter().product::<usize>() * dtype.bytes()) })
    };
    copy().map_err(Error::torch("copy features"))
}

/// The memory of a contiguous CPU tensor of `bytes` bytes. libtorch's own copy wants a buffer that is written
/// before: one more pass over gigabytes a second.
fn bytes_of(tensor: &Tensor, bytes: usize) -> Vec<u8> {
    let whole = tensor.numel() * tensor.kind().elt_size_in_bytes();
    assert!(
        tensor.device() == Device::Cpu && tensor.is_contiguous() && whole == bytes,
        "features were fetched to the CPU, made contiguous and measured by their shape"
    );
    if bytes == 0 {
        return Vec::new();
    }
    #[expect(unsafe_code, reason = "copying a tensor's memory once")]
    // SAFETY: a contiguous CPU tensor's data are `whole` readable and initialised bytes from its pointer,
    // and the borrow keeps it, and so its storage, alive and this thread from changing it.
    let memory = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), whole) };
    memory.to_vec()
}

fn send(
    extraction: &Extraction<'_>,
    encoder: &Sender<Outcome<Computed>>,
    outcome: Outcome<Computed>,
) -> bool {
    let started = Instant::now();
    let open = encoder.send(outcome).is_ok();
    extraction.counters.add_writer_wait(started.elapsed());
    open
}

/// Makes of a row what its unit takes.
fn encode<S: FeatureSink>(sink: &S, outcome: Outcome<Computed>) -> Result<Outcome<S::Row>> {
    Ok(match outcome {
        Outcome::Begin(begin) => Outcome::Begin(begin),
        Outcome::Row(Computed { bucket, outcome }) => Outcome::Row(sink.encode(bucket, outcome)?),
        Outcome::End => Outcome::End,
    })
}

/// Appends rows to the open unit and commits it at its end.
fn write<S: FeatureSink>(
    extraction: &Extraction<'_>,
    sink: &S,
    outcomes: &Receiver<Outcome<S::Row>>,
) -> Result<()> {
    let mut open: Option<(S::Unit, Claim)> = None;
    for outcome in outcomes {
        match outcome {
            Outcome::Begin(begin) => open = Some((sink.begin(&begin.unit)?, begin.claim)),
            Outcome::Row(row) => {
                let Some((unit, _)) = &mut open else { continue };
                extraction.counters.fill().add_row(unit.append_encoded(row)?);
            }
            Outcome::End => {
                let Some((unit, claim)) = open.take() else { continue };
                if unit.commit()? == Commit::Published {
                    extraction.counters.fill().add_unit();
                }
                // Only now may another worker look at this unit again.
                drop(claim);
            }
        }
    }
    // A unit left open by a stopped run is dropped here and was never there.
    Ok(())
}

/// Rows that may wait to be encoded: bounded by bytes, at least two so that encoding overlaps computing.
fn encoder_queue_rows<S: FeatureSink>(extraction: &Extraction<'_>, sink: &S) -> usize {
    let element = extraction.recipe.backbone.compute.dtype().bytes();
    let row_bytes = |size: Size| {
        let elements =
            extraction.recipe.levels.iter().map(|level| level.shape(size).iter().product::<usize>());
        elements.sum::<usize>() * element
    };
    let largest = sink.plan().buckets().iter().map(|bucket| row_bytes(bucket.size)).max();
    (ENCODER_QUEUE_BYTES / largest.unwrap_or(1).max(1)).clamp(2, 256)
}
