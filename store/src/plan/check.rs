//! Whether rows, one after the other, make a plan, and the buckets that they form. Keeps no row.

use super::Place;
use crate::bucket::{Bucket, unit_rows};
use crate::layout::{check_name, check_relative};
use crate::{Recipe, RowId, Size};
use std::sync::Arc;

/// One sample in one view, wherever it is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanRowRef<'a> {
    pub(crate) key: &'a str,
    pub(crate) source: &'a str,
    pub(crate) image_id: Option<i64>,
    pub(crate) split: &'a Arc<str>,
    pub(crate) view: &'a Arc<str>,
    /// Where its features lie, or why there will be none.
    pub(crate) place: Result<Place, &'a str>,
}

/// Checks rows in plan order.
#[derive(Debug)]
pub(crate) struct PlanCheck<'a> {
    recipe: &'a Recipe,
    rows: u64,
    buckets: Vec<Bucket>,
    last: Option<RowPlace>,
}

/// What rows are ordered by: those without a place last, then split, index of the view, and size. `None <
/// Some`.
type RowPlace = (bool, Arc<str>, usize, Option<Size>);

impl<'a> PlanCheck<'a> {
    pub(crate) fn new(recipe: &'a Recipe) -> Self {
        Self { recipe, rows: 0, buckets: Vec::new(), last: None }
    }

    /// The next row, or what is wrong with it.
    pub(crate) fn row(&mut self, row: &PlanRowRef<'_>) -> Result<(), String> {
        let id = self.rows;
        self.rows += 1;
        let wrong = |what: String| format!("row {id} ({}): {what}", row.key);
        check_relative(row.source).map_err(|e| wrong(e.to_string()))?;
        let size = match &row.place {
            Ok(place) => {
                place.check(self.recipe.preprocess.pad_divisor).map_err(wrong)?;
                Some(place.bucket)
            }
            Err(_) => None,
        };
        let view_name = |view: usize| self.recipe.views.get(view).map(|spec| spec.name.as_str());
        let goes_on = self.last.as_ref().is_some_and(|(without, split, view, last)| {
            (*without, *last) == (size.is_none(), size)
                && (Arc::ptr_eq(split, row.split) || split == row.split)
                && view_name(*view) == Some(row.view)
        });
        if !goes_on {
            self.start(row, size, id).map_err(wrong)?;
        }
        if let (Ok(place), Some(bucket)) = (&row.place, self.buckets.last_mut()) {
            bucket.rows.end = RowId(id + 1);
            let expected = id - bucket.rows.start.0;
            if place.row != expected {
                return Err(wrong(format!("expected row {expected} of its bucket, found {}", place.row)));
            }
        }
        Ok(())
    }

    /// The first row of a bucket, or of a view's rows without a place.
    fn start(&mut self, row: &PlanRowRef<'_>, size: Option<Size>, id: u64) -> Result<(), String> {
        check_name("split", row.split).map_err(|e| e.to_string())?;
        let view = self.recipe.views.iter().position(|spec| *spec.name == **row.view);
        let view = view.ok_or_else(|| format!("view {:?} is not in the recipe", row.view))?;
        let place = (size.is_none(), Arc::clone(row.split), view, size);
        if self.last.as_ref().is_some_and(|last| *last > place) {
            return Err("expected rows in the order of split, view and size".into());
        }
        self.last = Some(place);
        if let Some(size) = size {
            let (split, view) = (Arc::clone(row.split), Arc::clone(row.view));
            self.buckets.push(Bucket { split, view, size, rows: RowId(id)..RowId(id), unit_rows: 1 });
        }
        Ok(())
    }

    /// The buckets of all rows.
    pub(crate) fn buckets(mut self, shard_bytes: u64) -> Vec<Bucket> {
        for bucket in &mut self.buckets {
            bucket.unit_rows = unit_rows(&self.recipe.levels, bucket, shard_bytes);
        }
        self.buckets
    }
}

/// What is wrong with a row that an earlier one has the names of.
pub(crate) fn duplicate(id: usize, (split, view, key): (&str, &str, &str)) -> String {
    format!("row {id} ({key} in {split}, {view}): the key occurs twice")
}

/// What is wrong with a row of another split than these.
pub(crate) fn unknown_split(id: usize, row: &PlanRowRef<'_>, splits: &[String]) -> Option<String> {
    let known = splits.iter().any(|split| *split == **row.split);
    let expected = || format!("expected a split of {}, found {:?}", splits.join(", "), row.split);
    (!known).then(|| format!("row {id} ({}): {}", row.key, expected()))
}
