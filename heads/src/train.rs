//! The training loop: batches from a store, gradients of a head, checkpoints. It holds no backbone and
//! says so. A run is resumed by calling it again: on the CPU the resumed run equals an undisturbed one
//! to the last bit.

use crate::checkpoint::{
    CHECKPOINT_FORMAT, Checkpoint, CheckpointState, LOG_FILE, RECIPE_FILE, replace, write_checkpoint,
};
use crate::features::RunFeatures;
use crate::identity::RunIdentity;
use crate::loader::{Loader, LoaderOptions, Shared, Span};
use crate::log::Log;
use crate::loss::cross_entropy;
use crate::model::SemanticModel;
use crate::optimizer::AdamW;
use crate::order::{Order, OrderOptions, Position};
use crate::recipe::TrainRecipe;
use crate::seed::Seed;
use crate::selection::{Selection, choose_split};
use crate::truth::Truth;
use crate::{Error, Phase, Result};
use featcache_store::{LevelSpec, Store};
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tch::Device;

/// What a training run may be told besides its recipe: nothing that changes its result.
pub struct TrainSettings<'a> {
    /// Split to train on; `None`: the only one, or the one whose name starts with `train`.
    pub split: Option<String>,
    /// Where tensors live.
    pub device: Device,
    /// How the store is read ahead.
    pub loader: LoaderOptions,
    /// Set from elsewhere to end the run after the current step, with a checkpoint.
    pub stop: Option<&'a AtomicBool>,
    /// Called with every line of the log.
    pub progress: Option<&'a dyn Fn(&TrainProgress)>,
}

impl Default for TrainSettings<'_> {
    fn default() -> Self {
        let loader = LoaderOptions::default();
        Self { split: None, device: Device::Cpu, loader, stop: None, progress: None }
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainProgress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Loss of this step, auxiliary loss included.
    pub loss: f64,
    /// Loss of this step's main head.
    pub main_loss: f64,
    /// Global norm of this step's gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Steps a second since the last line.
    pub steps_per_second: f64,
    /// Rows a second since the last line.
    pub rows_per_second: f64,
    /// Share of that time spent waiting for data.
    pub data_wait: f64,
    /// Features read in that time, in GB/s.
    pub read_gb_per_second: f64,
}

/// The first line of every start of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StartLine<'a> {
    event: &'a str,
    step: u64,
    steps: u64,
    samples: usize,
    failed_rows: u64,
    missing_rows: u64,
    backbone_parameters: u64,
    tunable_parameters: u64,
}

/// What a call of [`train`] did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSummary {
    /// Steps done in all.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Step from which this call went on.
    pub resumed_at: u64,
    /// Stopped before its end.
    pub stopped: bool,
    /// Loss of the last step of this call.
    pub loss: Option<f64>,
    /// Samples of an epoch.
    pub samples: u64,
    /// Rows left out because their sample failed at extraction.
    pub failed_rows: u64,
    /// Rows left out because the store is not complete.
    pub missing_rows: u64,
    /// Rows visited by this call whose sample has no label map: they teach nothing.
    pub unlabelled_rows: u64,
    /// Parameters of a backbone in this process's model: none.
    pub backbone_parameters: u64,
    /// Parameters trained.
    pub tunable_parameters: u64,
    /// Seconds in the loop.
    pub seconds: f64,
    /// Share of them spent waiting for data.
    pub data_wait: f64,
    /// Bytes of features read.
    pub read_bytes: u64,
}

/// Levels of a store that a recipe reads, finest first.
pub(crate) fn chosen_levels(store: &Store, names: &[String]) -> Result<Vec<LevelSpec>> {
    let all = &store.recipe().levels;
    if let Some(name) = names.iter().find(|name| !all.iter().any(|level| level.name == **name)) {
        let known: Vec<_> = all.iter().map(|level| level.name.as_str()).collect();
        let known = known.join(", ");
        return Err(Error::invalid(format!("head.levels names {name:?}, the store has {known}")));
    }
    Ok(all.iter().filter(|level| names.is_empty() || names.contains(&level.name)).cloned().collect())
}

/// Trains the recipe's head on a store, in the run folder `folder`, which is created or gone on with.
///
/// # Errors
/// A folder with a run of another store, category list or recipe ([`Error::RunMismatch`] names the
/// field); a loss or gradient that is not a number ([`Error::NotFinite`]; the last checkpoint stays);
/// unreadable features or labels.
pub fn train(
    store: &Store,
    recipe: &TrainRecipe,
    folder: &Path,
    settings: &TrainSettings<'_>,
) -> Result<TrainSummary> {
    recipe.check().map_err(|what| Error::Recipe { path: folder.join(RECIPE_FILE), what })?;
    let split = choose_split(store, settings.split.as_deref(), "train")?;
    let selection = Selection::new(store, &split, &recipe.train.views)?;
    let truth = Truth::new(store, recipe.labels.zero)?;
    let levels = chosen_levels(store, &recipe.head.levels)?;
    let samples = selection.blake3.clone();
    let run = RunIdentity { samples, ..RunIdentity::new(store, split, levels.clone(), recipe.clone()) };
    truth.check(&selection)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let _lock = lock(folder)?;
    let latest = Checkpoint::latest(folder);
    let resumed = match Checkpoint::read(&latest) {
        Ok(checkpoint) => Some(checkpoint),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(checkpoint) = &resumed {
        checkpoint.state.run.check_resume(&run, folder)?;
    }
    // Without a checkpoint whatever lies there is of an attempt that came to nothing.
    if resumed.is_none() || RunFeatures::read(folder, &run.fingerprint).is_err() {
        RunFeatures::of(store).write(folder)?;
    }
    let text = recipe.to_toml()?;
    replace(&folder.join(RECIPE_FILE), |path| std::fs::write(path, &text).map_err(Error::io(path)))?;

    let options = &recipe.train;
    let classes = truth.rule().names().to_vec();
    let (precision, seed, device) = (options.precision, options.seed, settings.device);
    let model = SemanticModel::new(&recipe.head, precision, levels, classes, seed, device)?;
    let mut optimizer = AdamW::new(model.parameters(), recipe.optimizer)?;
    let (mut step, mut position) = (0, Position::default());
    if let Some(Checkpoint { state, model: values, optimizer: moments }) = resumed {
        let corrupt = |e: Error| Error::corrupt(&latest, e.to_string());
        model.parameters().load(values).map_err(corrupt)?;
        optimizer.restore(moments, state.step).map_err(corrupt)?;
        (step, position) = (state.step, state.position);
    }
    let resumed_at = step;

    let (samples, failed_rows, missing_rows) = (selection.samples.len(), selection.failed, selection.missing);
    let order = OrderOptions { seed, batch: options.batch, shuffle: true, drop_last: options.drop_last };
    let order = Order::new(selection.samples, order);
    let steps = recipe.steps(|epoch| order.epoch(epoch).len());
    if order.epoch(0).is_empty() {
        return Err(Error::invalid(
            "no bucket has train.batch rows, and train.drop_last leaves out the rest",
        ));
    }
    let tunable_parameters = model.parameters().tunable_count();
    log::info!("0 backbone parameters, {tunable_parameters} tunable parameters");
    let mut log = Log::open(&folder.join(LOG_FILE), step)?;
    log.line(&StartLine {
        event: "start",
        step,
        steps,
        samples,
        failed_rows,
        missing_rows,
        backbone_parameters: 0,
        tunable_parameters,
    })?;
    let save = |step, position, optimizer: &AdamW| {
        let state = CheckpointState { format: CHECKPOINT_FORMAT, run: run.clone(), step, position };
        let entries = model.parameters().entries().iter();
        let values = entries.map(|entry| (entry.name.clone(), &entry.tensor));
        write_checkpoint(&latest, &state, values, optimizer.state().into_iter())
    };

    let read_target = |row| truth.placed(row);
    let span = Span { start: position, batches: steps.saturating_sub(step) };
    let loader = settings.loader.clone();
    let shared = Shared::new(store, &order, span, model.levels(), &read_target, loader)?;
    let begin = Instant::now();
    let mut loss = None;
    let mut stopped = false;
    let mut unlabelled_rows = 0;
    let (waited, read_bytes) = std::thread::scope(|scope| -> Result<_> {
        let mut loader = shared.start(scope);
        let mut meter = Meter::new(step);
        while let Some(batch) = loader.next_batch()? {
            let maps = batch.maps(model.map_kind(), device)?;
            let target = batch.target(device)?;
            let rows = batch.rows.clone();
            unlabelled_rows += batch.targets.iter().filter(|target| target.is_none()).count() as u64;
            let (next, ends_epoch) = (batch.next, batch.ends_epoch);
            loader.recycle(batch);

            // All that is random in a step derives from its number.
            let noise = Seed(seed).named("noise").derive(step);
            let logits = model.forward(&maps, Phase::Train(noise))?;
            let main = cross_entropy(&logits.main, &target, recipe.loss.average)?;
            let total = match &logits.auxiliary {
                Some((logits, weight)) => {
                    let auxiliary = cross_entropy(logits, &target, recipe.loss.average)?;
                    main.f_add(&auxiliary.f_mul_scalar(*weight)?)?
                }
                None => main.shallow_clone(),
            };
            let (value, main_loss) = (total.f_double_value(&[])?, main.f_double_value(&[])?);
            finite("loss", value, step, &rows.rows)?;
            let (gradients, gradient_norm) = optimizer.gradients(&total)?;
            finite("gradient norm", gradient_norm, step, &rows.rows)?;
            let lr = recipe.schedule.rate(recipe.optimizer.lr, step, steps);
            optimizer.step(&gradients, gradient_norm, lr)?;
            step += 1;
            loss = Some(value);
            meter.rows += rows.rows.len() as u64;

            if step % options.log_every == 0 || step == steps {
                let rates = meter.lap(step, &loader);
                let line = TrainProgress {
                    step,
                    steps,
                    epoch: next.epoch,
                    loss: value,
                    main_loss,
                    gradient_norm,
                    lr,
                    steps_per_second: rates.steps,
                    rows_per_second: rates.rows,
                    data_wait: rates.waited,
                    read_gb_per_second: rates.gigabytes,
                };
                log.line(&line)?;
                if let Some(progress) = settings.progress {
                    progress(&line);
                }
            }
            position = next;
            stopped = settings.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) && step < steps;
            let due = match options.checkpoint_every {
                0 => ends_epoch,
                every => step % every == 0,
            };
            if due || stopped || step == steps {
                save(step, position, &optimizer)?;
            }
            if stopped {
                break;
            }
        }
        Ok((loader.waited(), loader.bytes()))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(TrainSummary {
        step,
        steps,
        resumed_at,
        stopped,
        loss,
        samples: samples as u64,
        failed_rows,
        missing_rows,
        unlabelled_rows,
        backbone_parameters: 0,
        tunable_parameters,
        seconds,
        data_wait: if seconds > 0.0 { waited.as_secs_f64() / seconds } else { 0.0 },
        read_bytes,
    })
}

/// Holds the run folder until the handle is dropped, so that two processes never train into one.
/// File systems without locks let both through.
fn lock(folder: &Path) -> Result<File> {
    let handle = File::open(folder).map_err(Error::io(folder))?;
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("{}: another process trains in this folder", folder.display())))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(handle),
    }
}

/// Refuses a value that is not a number, naming the step and its rows.
fn finite(what: &str, value: f64, step: u64, rows: &[featcache_store::RowId]) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let rows: Vec<_> = rows.iter().map(ToString::to_string).collect();
    Err(Error::NotFinite { what: what.to_owned(), step, rows: rows.join(", ") })
}

/// Rates between two lines of the log.
struct Meter {
    at: Instant,
    step: u64,
    rows: u64,
    waited: Duration,
    bytes: u64,
}

struct Rates {
    steps: f64,
    rows: f64,
    waited: f64,
    gigabytes: f64,
}

impl Meter {
    fn new(step: u64) -> Self {
        Self { at: Instant::now(), step, rows: 0, waited: Duration::ZERO, bytes: 0 }
    }

    fn lap(&mut self, step: u64, loader: &Loader<'_>) -> Rates {
        let seconds = self.at.elapsed().as_secs_f64().max(1e-9);
        let rates = Rates {
            steps: (step - self.step) as f64 / seconds,
            rows: self.rows as f64 / seconds,
            waited: (loader.waited() - self.waited).as_secs_f64() / seconds,
            gigabytes: (loader.bytes() - self.bytes) as f64 / 1e9 / seconds,
        };
        let (waited, bytes) = (loader.waited(), loader.bytes());
        *self = Self { at: Instant::now(), step, rows: 0, waited, bytes };
        rates
    }
}
