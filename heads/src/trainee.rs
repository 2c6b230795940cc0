//! One head in training: its model, optimizer, log and checkpoint, and what it does with a batch. Must
//! not know where batches come from, nor that other heads may train on the same ones.

use crate::checkpoint::{
    CHECKPOINT_FORMAT, Checkpoint, CheckpointState, LOG_FILE, RECIPE_FILE, replace, write_checkpoint,
};
use crate::detector::WeightReport;
use crate::features::RunFeatures;
use crate::identity::RunIdentity;
use crate::loader::Loader;
use crate::log::Log;
use crate::losses::LossParts;
use crate::meter::Meter;
use crate::optimizer::AdamW;
use crate::order::Position;
use crate::schedule::Progress;
use crate::seed::Seed;
use crate::task::{TaskModel, TaskTarget};
use crate::train::{TrainJob, TrainProgress};
use crate::{Error, Phase, Result};
use featcache_store::{Size, Store};
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// A head, at some step of its run.
#[derive(Debug)]
pub(crate) struct Trainee {
    pub(crate) model: TaskModel,
    /// Steps done.
    pub(crate) step: u64,
    /// Steps done before this process.
    pub(crate) resumed_at: u64,
    /// Loss of the last step of this process.
    pub(crate) loss: Option<f64>,
    /// Rows visited by this process that teach nothing.
    pub(crate) unlabelled_rows: u64,
    /// Where training stands.
    pub(crate) position: Position,
    /// What came of the weights that this process started from.
    pub(crate) weights: Option<WeightReport>,
    run: RunIdentity,
    latest: PathBuf,
    folder: PathBuf,
    optimizer: AdamW,
    log: Option<Log>,
    meter: Meter,
    _lock: File,
}

/// A batch as a trainee sees it.
pub(crate) struct Lesson<'a> {
    /// Maps of the trainee's levels, `[n, c, h, w]` each.
    pub(crate) maps: &'a [Tensor],
    /// A target a row.
    pub(crate) targets: &'a [&'a TaskTarget],
    /// Padded size of the rows.
    pub(crate) size: Size,
    /// Names of the rows, for errors.
    pub(crate) rows: &'a str,
    /// Where training stands after it.
    pub(crate) next: Position,
    /// Steps of the whole run.
    pub(crate) steps: u64,
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

/// How many samples a run has, and what is not among them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attendance {
    pub(crate) samples: usize,
    pub(crate) failed_rows: u64,
    pub(crate) missing_rows: u64,
}

impl Trainee {
    /// Begins a run in `job`'s folder, or goes on with the one that is there.
    ///
    /// # Errors
    /// A folder in use, or with a run of something else; weights to start from that do not fit.
    pub(crate) fn open(store: &Store, run: RunIdentity, job: &TrainJob<'_>, device: Device) -> Result<Self> {
        let folder = job.folder;
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let lock = lock(folder)?;
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
            RunFeatures::of(store, job.version).write(folder)?;
        }
        let text = run.recipe.to_toml()?;
        replace(&folder.join(RECIPE_FILE), |path| std::fs::write(path, &text).map_err(Error::io(path)))?;

        let model = TaskModel::new(&run.recipe, run.levels.clone(), store.categories(), device)?;
        let mut optimizer = AdamW::new(model.parameters(), run.recipe.optimizer)?;
        let (mut step, mut position, mut weights) = (0, Position::default(), None);
        if let (None, Some(path)) = (&resumed, job.weights) {
            weights = Some(start_from(path, &model, store)?);
        }
        if let Some(Checkpoint { state, model: values, optimizer: moments }) = resumed {
            let corrupt = |e: Error| Error::corrupt(&latest, e.to_string());
            model.parameters().load(values).map_err(corrupt)?;
            optimizer.restore(moments, state.step).map_err(corrupt)?;
            (step, position) = (state.step, state.position);
        }
        Ok(Self {
            model,
            step,
            resumed_at: step,
            loss: None,
            unlabelled_rows: 0,
            position,
            weights,
            run,
            latest,
            folder: folder.to_owned(),
            optimizer,
            log: None,
            meter: Meter::new(step),
            _lock: lock,
        })
    }

    /// Opens the log with a line that says what is trained.
    pub(crate) fn start(&mut self, steps: u64, attendance: Attendance) -> Result<()> {
        let tunable_parameters = self.model.parameters().tunable_count();
        log::info!("0 backbone parameters, {tunable_parameters} tunable parameters");
        let mut log = Log::open(&self.folder.join(LOG_FILE), self.step)?;
        let Attendance { samples, failed_rows, missing_rows } = attendance;
        log.line(&StartLine {
            event: "start",
            step: self.step,
            steps,
            samples,
            failed_rows,
            missing_rows,
            backbone_parameters: 0,
            tunable_parameters,
        })?;
        self.log = Some(log);
        self.meter = Meter::new(self.step);
        Ok(())
    }

    /// Counts a step whose batch has no row that could be read.
    pub(crate) fn pass_over(&mut self, next: Position) {
        self.step += 1;
        self.position = next;
    }

    /// One step; the line of the log, if one is due.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the part of the loss, the step and the batch's rows; the last checkpoint
    /// stays. Torch.
    pub(crate) fn learn<T: Send>(
        &mut self,
        lesson: &Lesson<'_>,
        loader: &Loader<'_, T>,
    ) -> Result<Option<TrainProgress>> {
        let Lesson { maps, targets, size, next, steps, .. } = *lesson;
        let recipe = &self.run.recipe;
        let step = self.step;
        let finite = |what: &str, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite { what: what.to_owned(), step, rows: lesson.rows.to_owned() }),
        };
        // All that is random in a step derives from its number.
        let noise = Seed(recipe.train.seed).named("noise").derive(step);
        let losses = self.model.losses(maps, targets, size, recipe.loss.average, Phase::Train(noise))?;
        let total = losses.total()?;
        let mut values = losses.values(&total)?;
        let loss = values.pop().unwrap_or_default();
        let names = losses.parts.iter().map(|(name, _)| name.clone());
        let parts = LossParts(names.zip(values).collect());
        for (name, value) in &parts.0 {
            finite(&format!("loss {name}"), *value)?;
        }
        finite("loss", loss)?;
        let (gradients, gradient_norm) = self.optimizer.gradients(&total)?;
        finite("gradient norm", gradient_norm)?;
        let lr = recipe.schedule.rate(recipe.optimizer.lr, Progress { step, steps, epoch: next.epoch });
        self.optimizer.step(&gradients, gradient_norm, lr)?;
        self.step += 1;
        self.loss = Some(loss);
        self.position = next;
        self.unlabelled_rows += targets.iter().filter(|target| !target.is_labelled()).count() as u64;
        self.meter.add(targets.len());
        if !self.step.is_multiple_of(recipe.train.log_every) && self.step != steps {
            return Ok(None);
        }
        let rates = self.meter.lap(self.step, loader);
        let line = TrainProgress {
            step: self.step,
            steps,
            epoch: next.epoch,
            loss,
            losses: parts,
            gradient_norm,
            lr,
            steps_per_second: rates.steps,
            rows_per_second: rates.rows,
            data_wait: rates.waited,
            read_gb_per_second: rates.gigabytes,
            head: 0,
        };
        if let Some(log) = &mut self.log {
            log.line(&line)?;
        }
        Ok(Some(line))
    }

    /// Whether the recipe wants a checkpoint now.
    pub(crate) fn checkpoint_due(&self, ends_epoch: bool) -> bool {
        match self.run.recipe.train.checkpoint_every {
            0 => ends_epoch,
            every => self.step.is_multiple_of(every),
        }
    }

    /// Writes the checkpoint.
    pub(crate) fn save(&self) -> Result<()> {
        let Self { step, position, .. } = *self;
        let state = CheckpointState { format: CHECKPOINT_FORMAT, run: self.run.clone(), step, position };
        let entries = self.model.parameters().entries().iter();
        let values = entries.map(|entry| (entry.name.clone(), &entry.tensor));
        write_checkpoint(&self.latest, &state, values, self.optimizer.state().into_iter())
    }
}

/// Puts the weights of others into a detector.
fn start_from(path: &Path, model: &TaskModel, store: &Store) -> Result<WeightReport> {
    let TaskModel::Detection(detector) = model else {
        let path = path.display();
        return Err(Error::invalid(format!(
            "{path}: weights of others are for detectors, this head is semantic"
        )));
    };
    let ids: Vec<i64> = store.categories().iter().map(|category| category.id).collect();
    detector.load_weights_by_id(path, &ids)
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
