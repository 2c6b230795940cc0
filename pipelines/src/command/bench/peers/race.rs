//! The passes of all contestants, in turns. Decides what is measured when; draws nothing.

use super::contestant::{Pass, PassKind};
use super::lane::{Lane, Stage};
use super::pages::warm;
use super::samples::{SPARSE, Samples};
use crate::cli::{BenchPeersArgs, PagesArg};
use crate::exit::{ExitCode, failure};
use crate::interrupt;
use anyhow::Result;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Epochs that a number of workers is tried for; its best counts.
const TRIALS: usize = 2;

/// All lanes on the same samples.
pub(super) struct Race<'a> {
    /// How often, with how many threads, in what state.
    pub(super) args: &'a BenchPeersArgs,
    /// What is read.
    pub(super) samples: &'a Samples,
    /// Who reads.
    pub(super) lanes: Vec<Lane<'a>>,
    /// Passes so far: each has an order of its own.
    pub(super) passes: u64,
}

impl Race<'_> {
    /// Bare reads in every state with every number of threads: all that is warm before anything cold, because how
    /// a file came into the page cache decides how fast it is copied from there.
    ///
    /// # Errors
    /// One of ours failed; interruption.
    pub(super) fn bare(&mut self) -> Result<()> {
        for state in [PagesArg::Warm, PagesArg::Cold] {
            if !self.args.pages.contains(&state) {
                continue;
            }
            let cold = state == PagesArg::Cold;
            if !cold {
                self.warm_all()?;
            }
            for &threads in &self.args.threads {
                log::info!("bare reads, {}, {threads} threads", if cold { "cold" } else { "warm" });
                let stage = Stage::Bare { threads, cold };
                // The first round is checked byte by byte; it starts threads and touches memory, and is not counted.
                for repeat in 0..=self.args.repeats {
                    self.round(repeat, |race, lane| {
                        let all = repeat == 0;
                        let pass = race.pass(PassKind::Bare, threads, 1, all);
                        if cold {
                            race.rest_beside(lane);
                        }
                        let seconds = race.lanes[lane].pass(&pass, race.samples, cold);
                        if let (Some(seconds), false) = (seconds, all) {
                            race.lanes[lane].keep(stage, seconds);
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Every lane's loader with each number of workers once, then with its best in turns with all others.
    ///
    /// # Errors
    /// One of ours failed; interruption.
    pub(super) fn loaders(&mut self) -> Result<()> {
        self.warm_all()?;
        log::info!("loaders, trying workers");
        self.round(0, |race, lane| {
            let counts = if race.lanes[lane].peer { &race.args.workers } else { &race.args.threads };
            for &workers in counts {
                let whole = race.pass(PassKind::Loader, workers, 1, true);
                let tried = race.pass(PassKind::Loader, workers, 1, false);
                let (lane, samples) = (&mut race.lanes[lane], race.samples);
                let _checked = lane.pass(&whole, samples, false);
                let seconds = [(); TRIALS].map(|()| lane.pass(&tried, samples, false));
                let best = seconds.into_iter().flatten().reduce(f64::min);
                lane.tried.extend(best.map(|seconds| (workers, seconds)));
            }
        })?;
        log::info!("loaders");
        for repeat in 0..=self.args.repeats {
            self.round(repeat, |race, lane| {
                let Some(workers) = race.lanes[lane].best_workers() else { return };
                let pass = race.pass(PassKind::Loader, workers, race.args.epochs, false);
                let seconds = race.lanes[lane].pass(&pass, race.samples, false);
                // The first round starts the best number of workers again.
                if let (Some(seconds), true) = (seconds, repeat > 0) {
                    race.lanes[lane].keep(Stage::Loader, seconds);
                }
            })?;
        }
        Ok(())
    }

    /// Every lane once, another one first each time.
    fn round(&mut self, repeat: usize, mut turn: impl FnMut(&mut Self, usize)) -> Result<()> {
        let count = self.lanes.len();
        for place in 0..count {
            if interrupt::flag()?.load(Ordering::Relaxed) {
                return Err(failure(ExitCode::Incomplete, "interrupted"));
            }
            let lane = (place + repeat) % count;
            let went = self.lanes[lane].contestant.is_ok();
            turn(self, lane);
            if let (true, Lane { contestant: Err(reason), hello, required, .. }) = (went, &self.lanes[lane]) {
                if *required {
                    return Err(failure(ExitCode::BadInput, format!("{}: {reason}", hello.title)));
                }
                log::warn!("{}: {reason}", hello.title);
            }
        }
        Ok(())
    }

    /// Others who have the lane's files mapped would keep their pages where they are.
    fn rest_beside(&mut self, lane: usize) {
        let folder = self.lanes[lane].folder.clone();
        for (_, other) in self.lanes.iter_mut().enumerate().filter(|(number, _)| *number != lane) {
            if other.folder == folder {
                other.rest();
            }
        }
    }

    fn warm_all(&self) -> Result<()> {
        let folders: BTreeSet<_> = self.lanes.iter().map(|lane| &lane.folder).collect();
        folders.into_iter().filter(|folder| folder.is_dir()).try_for_each(|folder| warm(folder))
    }

    fn pass(&mut self, kind: PassKind, threads: usize, epochs: usize, all: bool) -> Pass {
        self.passes += 1;
        let order = self.samples.order(self.passes);
        let stride = if all { 1 } else { SPARSE };
        Pass { kind, order, batch: self.args.batch, threads, epochs, stride, all }
    }
}
