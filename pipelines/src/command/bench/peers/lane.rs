//! A contestant with what is known of it: its results, or why there are none.

use super::child::Hello;
use super::contestant::{Contestant, Pass};
use super::pages::{drop_pages, paged_in};
use super::samples::Samples;
use crate::exit::one_line;
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Least share of a cold pass's bytes that must have come from the disk.
const COLD_SHARE: f64 = 0.9;

/// A row of the tables.
pub(super) struct Lane<'a> {
    /// Who it is.
    pub(super) hello: Hello,
    /// Who reads; why it does not, or not any more.
    pub(super) contestant: Result<Box<dyn Contestant + 'a>, String>,
    /// Holds what it reads.
    pub(super) folder: PathBuf,
    /// A script, whose loader has workers; ours have threads.
    pub(super) peer: bool,
    /// Its failure costs the command, not a row: not a peer, nor what a file system may lack.
    pub(super) required: bool,
    /// Whether it hands bytes out, which are then checked.
    pub(super) hands_out: bool,
    /// Seconds of its passes.
    pub(super) times: Vec<(Stage, Vec<f64>)>,
    /// Seconds of an epoch by workers, as tried.
    pub(super) tried: Vec<(usize, f64)>,
}

/// A column of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Bare reads.
    Bare {
        /// Threads that read.
        threads: usize,
        /// Whether pages are dropped before each pass.
        cold: bool,
    },
    /// The loader with its best number of workers.
    Loader,
}

impl Lane<'_> {
    /// Seconds of a pass; `None` if it failed, now or before.
    pub(super) fn pass(&mut self, pass: &Pass, samples: &Samples, cold: bool) -> Option<f64> {
        let result = self.checked(pass, samples, cold)?;
        result.map_err(|error| self.contestant = Err(one_line(&error))).ok()
    }

    fn checked(&mut self, pass: &Pass, samples: &Samples, cold: bool) -> Option<Result<f64>> {
        let Ok(contestant) = &mut self.contestant else { return None };
        let (folder, hands_out) = (&self.folder, self.hands_out);
        let mut run = || {
            let mut before = 0;
            if cold {
                contestant.rest()?;
                drop_pages(folder)?;
                before = paged_in()?;
            }
            let answer = contestant.pass(pass)?;
            if cold {
                let (came, bytes) = (paged_in()? - before, (samples.rows.len() * samples.bytes) as f64);
                ensure!(
                    came as f64 >= COLD_SHARE * bytes,
                    "not cold: {came} of {bytes} bytes came from the disk"
                );
            }
            let expected = samples.rows.len() * pass.epochs;
            ensure!(answer.samples == expected, "gave {} samples, expected {expected}", answer.samples);
            ensure!(answer.seconds > 0.0, "took {} s", answer.seconds);
            let right = match (hands_out, pass.all) {
                (false, _) => true,
                (true, true) => samples.are_all(answer.checks, pass.epochs),
                (true, false) => samples.are_some(&answer.checks),
            };
            ensure!(right, "wrong bytes: the sums of what it gave are not those of the samples");
            Ok(answer.seconds)
        };
        Some(run())
    }

    /// Lets go of its files.
    pub(super) fn rest(&mut self) {
        if let Ok(contestant) = &mut self.contestant
            && let Err(error) = contestant.rest()
        {
            self.contestant = Err(one_line(&error));
        }
    }

    /// Keeps a measured time.
    pub(super) fn keep(&mut self, stage: Stage, seconds: f64) {
        match self.times.iter_mut().find(|(kept, _)| *kept == stage) {
            Some((_, times)) => times.push(seconds),
            None => self.times.push((stage, vec![seconds])),
        }
    }

    /// Times of a stage, pass by pass.
    pub(super) fn of(&self, stage: Stage) -> &[f64] {
        self.times.iter().find(|(kept, _)| *kept == stage).map_or(&[], |(_, times)| times)
    }

    /// The workers that were fastest.
    pub(super) fn best_workers(&self) -> Option<usize> {
        self.tried.iter().min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(workers, _)| *workers)
    }
}
