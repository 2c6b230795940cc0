//! One pass over a selection, front to back and without learning: reads, hands over, measures. Must not
//! know what is scored.

use super::EvaluateSettings;
use crate::loader::{LoadedBatch, ReadTarget, Shared, Span};
use crate::order::{Order, OrderOptions, Position};
use crate::selection::Selection;
use crate::{Error, Result};
use featcache_store::{LevelSpec, Projected, Store};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tch::{Kind, Tensor};

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

/// What is passed over.
pub(super) struct What<'a> {
    pub(super) store: &'a Store,
    pub(super) selection: Selection,
    pub(super) levels: &'a [LevelSpec],
    /// Element type of the maps.
    pub(super) kind: Kind,
    /// As what levels of coefficients are read.
    pub(super) projected: Projected,
}

/// Gives every batch of the selection with its maps, `[n, c, h, w]` a level, to `score`.
pub(super) fn pass<T: Send>(
    what: What<'_>,
    read_target: &ReadTarget<'_, T>,
    settings: &EvaluateSettings<'_>,
    mut score: impl FnMut(&LoadedBatch<T>, &[Tensor]) -> Result<()>,
) -> Result<Costs> {
    let What { store, selection, levels, kind, projected } = what;
    let options = OrderOptions { seed: 0, batch: settings.batch, shuffle: false, drop_last: false };
    let order = Order::new(selection.samples, options);
    let total = order.samples() as u64;
    let span = Span { start: Position::default(), batches: order.epoch(0).len() };
    let mut loader = settings.loader.clone();
    loader.read.projected = projected;
    let shared = Shared::new(store, &order, span, levels, read_target, loader)?;
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
            let maps = batch.maps(kind, settings.device)?;
            score(&batch, &maps)?;
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
