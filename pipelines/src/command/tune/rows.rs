//! Which rows heads are trained and scored on, and encodings measured on. Reads no features.

use crate::cli::TuneArgs;
use anyhow::Result;
use featcache_heads::evaluate::check_view;
use featcache_heads::recipe::{HeadKind, TrainRecipe};
use featcache_heads::seed::Seed;
use featcache_heads::selection::{HoldOut, Selection, choose_split};
use featcache_store::{RowId, Store};

/// Splits, and what is held out where they are one.
pub(super) struct Rows {
    pub(super) train_split: String,
    pub(super) eval_split: String,
    pub(super) held: Option<HoldOut>,
    /// Rows of the training samples.
    train: Vec<RowId>,
}

impl Rows {
    /// The rows that the flags and the recipe name.
    ///
    /// # Errors
    /// A split or view that the store does not have, or a split of one sample.
    pub(super) fn choose(args: &TuneArgs, store: &Store, recipe: &TrainRecipe) -> Result<Self> {
        let train_split = choose_split(store, args.split.as_deref(), "train")?;
        // Who names the split to train on means it for both, unless another is there to score on.
        let eval_split = choose_split(store, args.eval_split.as_deref(), "val")?;
        let held = match train_split == eval_split && args.hold_out > 0.0 {
            true => Some(HoldOut::new(store, &train_split, args.hold_out, Seed(recipe.train.seed))?),
            false => None,
        };
        // Before any head is trained: what it is scored on.
        Selection::new(store, &eval_split, std::slice::from_ref(&args.view))?;
        if recipe.head.kind != HeadKind::Detector {
            check_view(store, &args.view)?;
        }
        let mut selection = Selection::new(store, &train_split, &recipe.train.views)?;
        if let Some(held) = &held {
            selection.retain(store, |row| Ok(!held.holds(&row.key)))?;
        }
        let train = selection.samples.iter().flatten().map(|row| row.row).collect();
        Ok(Self { train_split, eval_split, held, train })
    }

    /// Up to `count` training rows, spread evenly.
    pub(super) fn measured(&self, count: usize) -> Vec<RowId> {
        let count = count.clamp(1, self.train.len().max(1));
        (0..count).filter_map(|place| self.train.get(place * self.train.len() / count)).copied().collect()
    }
}
