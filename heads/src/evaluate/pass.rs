//! One pass over a selection, front to back and without learning: reads, hands over to every head, measures.
//! Must not know what is scored.

use super::{EvaluateJob, EvaluateSettings};
use crate::loader::{LoadedBatch, ReadTarget, Shared, Span};
use crate::order::{Order, OrderOptions, Position};
use crate::selection::{Selection, choose_split};
use crate::shared_maps::{MapReader, SharedMaps};
use crate::{Error, Result};
use featcache_store::{Projected, Store};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tch::Tensor;

/// What a pass over a store took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    /// Seconds it took.
    pub(super) seconds: f64,
    /// Share of them spent waiting for data.
    pub(super) data_wait: f64,
    /// Bytes of features read.
    pub(super) read_bytes: u64,
    /// Rows left out because they are corrupt on disk.
    pub(super) skipped: u64,
}

/// What is passed over, and for whom.
pub(super) struct What<'a> {
    pub(super) store: &'a Store,
    pub(super) selection: Selection,
    pub(super) jobs: &'a [EvaluateJob<'a>],
}

/// The rows that the settings name.
pub(super) fn selection(store: &Store, settings: &EvaluateSettings<'_>) -> Result<Selection> {
    let split = choose_split(store, settings.split.as_deref(), "val")?;
    let mut selection = Selection::new(store, &split, std::slice::from_ref(&settings.view))?;
    if let Some(held) = settings.only {
        selection.retain(store, |row| Ok(held.holds(&row.key)))?;
    }
    Ok(selection)
}

/// Gives every batch of the selection to `score`, once for each head: its number, the batch and its maps,
/// `[n, c, h, w]` a level.
pub(super) fn pass<T: Send>(
    what: What<'_>,
    read_target: &ReadTarget<'_, T>,
    settings: &EvaluateSettings<'_>,
    mut score: impl FnMut(usize, &LoadedBatch<T>, &[Tensor]) -> Result<()>,
) -> Result<Costs> {
    let What { store, selection, jobs } = what;
    let readers = jobs.iter().map(|job| MapReader { model: &job.run.model, version: job.version });
    let projected =
        jobs.first().map_or_else(Projected::default, |job| job.run.identity.recipe.head.projected);
    if jobs.iter().any(|job| job.run.identity.recipe.head.projected != projected) {
        return Err(Error::invalid("runs of different head.projected cannot be scored together"));
    }
    let shared_maps = SharedMaps::new(store, projected, readers)?;
    let options = OrderOptions { seed: 0, batch: settings.batch, shuffle: false, drop_last: false };
    let order = Order::new(selection.samples, options);
    let total = order.samples() as u64;
    let span = Span { start: Position::default(), batches: order.epoch(0).len() };
    let mut loader = settings.loader.clone();
    loader.read.projected = projected;
    let shared = Shared::new(store, &order, span, shared_maps.levels(), read_target, loader)?;
    let begin = Instant::now();
    let (waited, read_bytes, skipped) = std::thread::scope(|scope| -> Result<_> {
        let _guard = tch::no_grad_guard();
        let mut loader = shared.start(scope);
        let mut done = 0;
        while let Some(batch) = loader.next_batch()? {
            if batch.rows.rows.is_empty() {
                loader.recycle(batch);
                continue;
            }
            let maps = shared_maps.maps(&batch, settings.device)?;
            for head in 0..jobs.len() {
                score(head, &batch, &shared_maps.of(head, &maps))?;
            }
            done += batch.rows.rows.len() as u64;
            drop(maps);
            loader.recycle(batch);
            if let Some(progress) = settings.progress {
                progress(done, total);
            }
            if settings.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                let what = format!("evaluation stopped after {done} of {total} samples");
                return Err(Error::Stopped { what });
            }
        }
        Ok((loader.waited(), loader.bytes(), loader.skipped()))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let data_wait = if seconds > 0.0 { waited.as_secs_f64() / seconds } else { 0.0 };
    Ok(Costs { seconds, data_wait, read_bytes, skipped })
}
