//! The dataset that the flags name.

use crate::cli::{DatasetArgs, DatasetKind};
use crate::exit::{ExitCode, failure};
use anyhow::Result;
use featcache_extractor::dataset::{self, Dataset, Wanted};
use featcache_store::{DatasetSpec, Listing, Preprocess};

/// A dataset and how much of it is wanted.
pub struct Pictures {
    dataset: Box<dyn Dataset>,
    limit: Option<usize>,
    /// `coco`, `ade20k` or `folder`.
    pub kind: &'static str,
    /// Splits in the order given; empty for all that are found.
    pub splits: Vec<String>,
}

impl Pictures {
    /// The dataset that the flags name; nothing is listed yet.
    ///
    /// # Errors
    /// The root is not a folder; stuff maps for another dataset than COCO.
    pub fn from_args(args: &DatasetArgs) -> Result<Self> {
        let kind = match args.dataset {
            DatasetKind::Coco => "coco",
            DatasetKind::Ade20k => "ade20k",
            DatasetKind::Folder => "folder",
        };
        if args.stuff.is_some() && args.dataset != DatasetKind::Coco {
            return Err(failure(ExitCode::Usage, format!("--stuff: expected dataset coco, found {kind}")));
        }
        let wanted = Wanted { splits: args.split.clone(), stuff: args.stuff.clone() };
        let dataset = dataset::open(kind, &args.root, &wanted)?;
        Ok(Self { dataset, limit: args.limit, kind, splits: args.split.clone() })
    }

    /// What a store of these pictures says of them; without splits if all that are found are wanted.
    pub fn spec(&self) -> DatasetSpec {
        let mut splits = self.splits.clone();
        splits.sort();
        DatasetSpec { kind: self.kind.to_owned(), splits, limit: self.limit.map(|limit| limit as u64) }
    }

    /// Lists samples and labels; of each split at most the first `limit` by key.
    ///
    /// # Errors
    /// The layout is not what it should be, or not readable.
    pub fn list(&self, preprocess: &Preprocess) -> featcache_extractor::Result<Listing> {
        let mut listing = self.dataset.list(preprocess)?;
        let Some(limit) = self.limit else { return Ok(listing) };
        listing.samples.sort_by(|a, b| (&a.split, &a.key).cmp(&(&b.split, &b.key)));
        let mut taken = std::collections::HashMap::<String, usize>::new();
        listing.samples.retain(|sample| {
            let taken = taken.entry(sample.split.clone()).or_default();
            *taken += 1;
            *taken <= limit
        });
        let kept: std::collections::HashSet<_> =
            listing.samples.iter().map(|sample| (sample.split.clone(), sample.key.clone())).collect();
        listing.annotations.retain(|label| kept.contains(&(label.split.clone(), label.key.clone())));
        Ok(listing)
    }
}
