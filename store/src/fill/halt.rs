//! When the stages that fill a store are to end early: on the user's word, or because one of them has ended.
//! Says nothing of why: the stage that ended does.

use std::sync::atomic::{AtomicBool, Ordering};

/// Looked at by stages wherever they would go on or wait.
#[derive(Debug)]
pub struct Halt<'a> {
    /// Set from outside.
    stop: &'a AtomicBool,
    /// A stage has ended: nothing that the others do reaches the sink any more, or nothing is left to do.
    ended: AtomicBool,
}

/// Held by a stage while it works: dropping it, also by a panic, tells the others.
#[derive(Debug)]
pub struct Working<'a>(&'a Halt<'a>);

impl<'a> Halt<'a> {
    /// One that `stop` sets from outside.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, ended: AtomicBool::new(false) }
    }

    /// A guard for a stage that works.
    pub fn working(&'a self) -> Working<'a> {
        Working(self)
    }

    /// Whether to go on no more.
    pub fn is_set(&self) -> bool {
        self.is_stopped() || self.ended.load(Ordering::Relaxed)
    }

    /// Whether the user has asked for it.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}
