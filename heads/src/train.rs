//! The training loop: batches from a store, one or several heads that learn from them, checkpoints. It
//! holds no backbone and says so. A run is resumed by calling it again: on the CPU the resumed run equals
//! an undisturbed one to the last bit.

use crate::checkpoint::RECIPE_FILE;
use crate::detector::WeightReport;
use crate::identity::RunIdentity;
use crate::loader::{LoaderOptions, MAX_EMPTY_EPOCHS, Shared, Span};
use crate::losses::LossParts;
use crate::objects::{EmptyPictures, LeftOut};
use crate::order::{Order, OrderOptions};
use crate::read_levels::read_levels;
use crate::recipe::{HeadRecipe, TrainRecipe};
use crate::selection::{HoldOut, KeepApart, Selection, choose_split};
use crate::shared_maps::{MapReader, SharedMaps};
use crate::task::{TaskTarget, TaskTruth, TruthOptions};
use crate::trainee::{Attendance, Lesson, Trainee};
use crate::version::Version;
use crate::{Error, Result};
use featcache_store::{LevelSpec, Projected, RowId, Store};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tch::Device;

/// What a training run may be told besides its recipe: which rows, and what does not change its result.
pub struct TrainSettings<'a> {
    /// Split to train on; `None`: the only one, or the one whose name starts with `train`.
    pub split: Option<String>,
    /// Samples of the split that are not trained on.
    pub without: Option<&'a HoldOut>,
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
        Self { split: None, without: None, device: Device::Cpu, loader, stop: None, progress: None }
    }
}

/// A head to train: what, and into which folder.
#[derive(Debug, Clone, Copy)]
pub struct TrainJob<'a> {
    /// The recipe.
    pub recipe: &'a TrainRecipe,
    /// The run's folder, which is created or gone on with.
    pub folder: &'a Path,
    /// A safetensors file of a detector in torchvision's or mmdetection's names to start from; left out, the
    /// recipe's seed. A run that goes on asks for the same file and does not read its tensors again.
    pub weights: Option<&'a Path>,
    /// The encodings that the head's features went through: it becomes what it would from a store of the
    /// same rows that is transcoded to them. Left out, the store's own.
    pub version: Option<&'a Version>,
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
    /// Loss of this step: the sum of its parts.
    pub loss: f64,
    /// Its parts by name.
    pub losses: LossParts,
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
    /// Which of the heads that train together, from 0; every log is of one.
    #[serde(skip)]
    pub head: usize,
}

/// What a call of [`train`] did to one head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSummary {
    /// Steps done in all.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Step from which this call went on.
    pub resumed_at: u64,
    /// What came of the weights that this call started from.
    pub weights: Option<WeightReport>,
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
    /// Rows left out because they are corrupt on disk, once for every visit.
    pub skipped_rows: u64,
    /// Samples left out by `train.empty` and `train.min_side`.
    pub dropped_samples: u64,
    /// Rows visited by this call whose sample has no label: no label map, no object.
    pub unlabelled_rows: u64,
    /// Annotations left out of the rows that were read, once for every visit.
    pub left_out: LeftOut,
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
pub(crate) fn chosen_levels(store: &Store, head: &HeadRecipe) -> Result<Vec<LevelSpec>> {
    let (all, names) = (read_levels(store, head.projected), &head.levels);
    if let Some(name) = names.iter().find(|name| !all.iter().any(|level| level.name == **name)) {
        let known: Vec<_> = all.iter().map(|level| level.name.as_str()).collect();
        let known = known.join(", ");
        return Err(Error::invalid(format!("head.levels names {name:?}, the store has {known}")));
    }
    let chosen: Vec<LevelSpec> =
        all.into_iter().filter(|level| names.is_empty() || names.contains(&level.name)).collect();
    let are_projected = chosen.iter().any(|level| store.projections().of(&level.name).is_some());
    if head.projected == Projected::Coefficients && !are_projected {
        return Err(Error::invalid(
            "head.projected is coefficients, the store holds none of its levels as such",
        ));
    }
    Ok(chosen)
}

/// Trains the recipe's head on a store, in the run folder `folder`, which is created or gone on with.
///
/// # Errors
/// As [`train_together`].
pub fn train(
    store: &Store,
    recipe: &TrainRecipe,
    folder: &Path,
    settings: &TrainSettings<'_>,
) -> Result<TrainSummary> {
    let mut summaries =
        train_together(store, &[TrainJob { recipe, folder, weights: None, version: None }], settings)?;
    summaries.pop().ok_or_else(|| Error::invalid("nothing to train"))
}

/// Trains several heads on one pass over a store: each batch is read once and all learn from it. Every
/// head is what it would have become alone. Heads may read different versions of the same rows; each level
/// goes through each encoding once. Heads that stand at different steps go on together from the
/// earliest: the others wait until it is their turn.
///
/// # Errors
/// Recipes that differ in what decides the order of rows; a folder with a run of another store, category
/// list or recipe ([`Error::RunMismatch`] names the field); a loss or gradient that is not a number
/// ([`Error::NotFinite`]; the last checkpoints stay); unreadable features or labels.
pub fn train_together(
    store: &Store,
    jobs: &[TrainJob<'_>],
    settings: &TrainSettings<'_>,
) -> Result<Vec<TrainSummary>> {
    for job in jobs {
        job.recipe.check().map_err(|what| Error::Recipe { path: job.folder.join(RECIPE_FILE), what })?;
    }
    let TrainRecipe { train: options, head, .. } = one_order(jobs)?;
    let projected = head.projected;
    let truths = Truths::new(store, jobs)?;
    let split = choose_split(store, settings.split.as_deref(), "train")?;
    let mut selection = Selection::new(store, &split, &options.views)?;
    let listed = selection.samples.len();
    truths.check(&selection)?;
    selection.retain(store, |row| {
        if settings.without.is_some_and(|held| held.holds(&row.key)) {
            return Ok(false);
        }
        let side = row.source_size.map_or(0, |size| size.width.min(size.height));
        Ok(side >= options.min_side
            && (options.empty == EmptyPictures::Keep || truths.is_labelled(row.id)?))
    })?;
    let mut trainees = jobs
        .iter()
        .map(|job| {
            let levels = chosen_levels(store, &job.recipe.head)?;
            let run = RunIdentity {
                samples: selection.blake3.clone(),
                start: job.weights.map(blake3_of).transpose()?,
                ..RunIdentity::new(store, split.clone(), levels, job.recipe.clone())
            };
            Trainee::open(store, run, job, settings.device)
        })
        .collect::<Result<Vec<_>>>()?;

    let groups = selection.groups(store, options.keep_apart)?;
    let Selection { samples, failed, missing, .. } = selection;
    let attendance = Attendance { samples: samples.len(), failed_rows: failed, missing_rows: missing };
    let order = OrderOptions {
        seed: options.order_seed(),
        batch: options.batch,
        shuffle: true,
        drop_last: options.drop_last,
    };
    let order = match options.keep_apart {
        KeepApart::Nothing => Order::new(samples, order),
        _ => Order::apart(samples.into_iter().zip(groups).collect(), order)?,
    };
    let (batches, without) = order.batches_apart();
    if batches != without {
        ::log::warn!("train.keep_apart: an epoch has {batches} batches, without it {without}");
    }
    let steps = jobs.first().map_or(0, |job| job.recipe.steps(|epoch| order.epoch(epoch).len()));
    if steps == 0 || (0..MAX_EMPTY_EPOCHS).all(|epoch| order.epoch(epoch).is_empty()) {
        return Err(Error::invalid(
            "no bucket has train.batch rows, and train.drop_last leaves out the rest",
        ));
    }
    for trainee in &mut trainees {
        trainee.start(steps, attendance)?;
    }

    let earliest = trainees.iter().map(|trainee| (trainee.step, trainee.position)).min_by_key(|at| at.0);
    let (mut step, position) = earliest.unwrap_or_default();
    let readers = trainees.iter().zip(jobs);
    let readers = readers.map(|(trainee, job)| MapReader { model: &trainee.model, version: job.version });
    let shared_maps = SharedMaps::new(store, projected, readers)?;
    let read_target = |row| truths.targets(row);
    let span = Span { start: position, batches: steps.saturating_sub(step) };
    let mut loader = settings.loader.clone();
    loader.read.projected = projected;
    let shared = Shared::new(store, &order, span, shared_maps.levels(), &read_target, loader)?;
    let begin = Instant::now();
    let mut stopped = false;
    let (waited, read_bytes, skipped_rows) = std::thread::scope(|scope| -> Result<_> {
        let mut loader = shared.start(scope);
        while let Some(mut batch) = loader.next_batch()? {
            let (rows, next, ends_epoch) = (batch.rows.clone(), batch.next, batch.ends_epoch);
            let mut learners = trainees.iter_mut().enumerate().filter(|(_, trainee)| trainee.step == step);
            if rows.rows.is_empty() {
                // All of its rows are corrupt: a step that teaches nothing.
                learners.for_each(|(_, trainee)| trainee.pass_over(next));
                loader.recycle(batch);
            } else {
                let maps = shared_maps.maps(&batch, settings.device)?;
                let targets = std::mem::take(&mut batch.targets);
                // Copies let the threads read on into the batch's memory while the heads learn.
                let mut in_use = Some(batch);
                if let Some(batch) = in_use.take_if(|batch| !shared_maps.lent(batch, settings.device)) {
                    loader.recycle(batch);
                }
                let names = row_names(store, &rows.rows)?;
                learners.try_for_each(|(head, trainee)| -> Result<()> {
                    let targets: Vec<&TaskTarget> =
                        targets.iter().filter_map(|of_row| of_row.get(truths.of_job[head])).collect();
                    let maps = shared_maps.of(head, &maps);
                    let lesson =
                        Lesson { maps: &maps, targets: &targets, size: rows.size, rows: &names, next, steps };
                    let line = trainee.learn(&lesson, &loader)?;
                    if let (Some(line), Some(progress)) = (line, settings.progress) {
                        progress(&TrainProgress { head, ..line });
                    }
                    Ok(())
                })?;
                drop(maps);
                if let Some(batch) = in_use {
                    loader.recycle(batch);
                }
            }
            step += 1;
            stopped = settings.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) && step < steps;
            for trainee in trainees.iter().filter(|trainee| trainee.step == step) {
                if trainee.checkpoint_due(ends_epoch) || stopped || step == steps {
                    trainee.save()?;
                }
            }
            if stopped {
                break;
            }
        }
        Ok((loader.waited(), loader.bytes(), loader.skipped()))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let summary = |(head, trainee): (usize, &Trainee)| TrainSummary {
        step: trainee.step,
        steps,
        resumed_at: trainee.resumed_at,
        weights: trainee.weights.clone(),
        stopped: stopped && trainee.step < steps,
        loss: trainee.loss,
        samples: attendance.samples as u64,
        failed_rows: failed,
        missing_rows: missing,
        skipped_rows,
        dropped_samples: (listed - attendance.samples) as u64,
        unlabelled_rows: trainee.unlabelled_rows,
        left_out: truths.left_out(head),
        backbone_parameters: 0,
        tunable_parameters: trainee.model.parameters().tunable_count(),
        seconds,
        data_wait: if seconds > 0.0 { waited.as_secs_f64() / seconds } else { 0.0 },
        read_bytes,
    };
    Ok(trainees.iter().enumerate().map(summary).collect())
}

/// The recipe that decides the order of rows for all.
fn one_order<'a>(jobs: &[TrainJob<'a>]) -> Result<&'a TrainRecipe> {
    let [first, others @ ..] = jobs else { return Err(Error::invalid("nothing to train")) };
    for (i, job) in jobs.iter().enumerate() {
        if jobs[..i].iter().any(|earlier| earlier.folder == job.folder) {
            let folder = job.folder.display();
            return Err(Error::invalid(format!("{folder}: two heads cannot train into one folder")));
        }
    }
    for job in others {
        if let Some((key, ours, theirs)) = first.recipe.order_difference(job.recipe) {
            let text = format!(
                "one pass over the store cannot train {} and {}: {key} is {ours} and {theirs}",
                first.folder.display(),
                job.folder.display()
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(first.recipe)
}

/// The truths that the heads learn from, each opened once.
struct Truths<'a> {
    distinct: Vec<TaskTruth<'a>>,
    /// Which of them is whose.
    of_job: Vec<usize>,
}

impl<'a> Truths<'a> {
    fn new(store: &'a Store, jobs: &[TrainJob<'_>]) -> Result<Self> {
        let mut options: Vec<TruthOptions> = Vec::new();
        let mut of_job = Vec::new();
        for job in jobs {
            let wanted = TruthOptions::of(job.recipe);
            of_job.push(options.iter().position(|known| *known == wanted).unwrap_or(options.len()));
            if !options.contains(&wanted) {
                options.push(wanted);
            }
        }
        let distinct = options.iter().map(|options| options.open(store)).collect::<Result<_>>()?;
        Ok(Self { distinct, of_job })
    }

    fn check(&self, selection: &Selection) -> Result<()> {
        self.distinct.iter().try_for_each(|truth| truth.check(selection))
    }

    /// Whether any head learns from the row.
    fn is_labelled(&self, row: RowId) -> Result<bool> {
        for truth in &self.distinct {
            if truth.is_labelled(row)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A row's target of every truth.
    fn targets(&self, row: RowId) -> Result<Vec<TaskTarget>> {
        self.distinct.iter().map(|truth| truth.target(row)).collect()
    }

    fn left_out(&self, job: usize) -> LeftOut {
        match &self.distinct[self.of_job[job]] {
            TaskTruth::Objects(truth) => truth.left_out(),
            TaskTruth::Labels(_) => LeftOut::default(),
        }
    }
}

/// BLAKE3 of a file.
fn blake3_of(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io(path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Keys and views of rows, for errors.
fn row_names(store: &Store, rows: &[RowId]) -> Result<String> {
    let name = |&id: &RowId| store.row(id).map(|row| format!("{} {}", row.key, row.view));
    Ok(rows.iter().map(name).collect::<featcache_store::Result<Vec<_>>>()?.join(", "))
}
