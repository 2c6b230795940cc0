//! Which levels, views and splits of a store another one is to have. Reads no features.

use crate::plan::{Place, Plan, PlanRow};
use crate::{Error, Recipe, Result, SampleRow, Status, Store};

/// Names of what is kept; of an empty list, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Levels.
    pub levels: Vec<String>,
    /// Views.
    pub views: Vec<String>,
    /// Splits.
    pub splits: Vec<String>,
}

impl Selection {
    /// The recipe of what is kept of `source`: with all levels and views kept, the source's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name, of a split too, that the source has not, or one that is given twice.
    pub fn recipe(&self, source: &Store) -> Result<Recipe> {
        self.splits(source)?;
        let mut recipe = source.recipe().clone();
        recipe.levels = kept("level", &self.levels, recipe.levels, |level| &level.name)?;
        recipe.views = kept("view", &self.views, recipe.views, |view| &view.name)?;
        Ok(recipe)
    }

    /// The splits of `source` that are kept. Errors as [`recipe`](Self::recipe)'s.
    pub(crate) fn splits(&self, source: &Store) -> Result<Vec<String>> {
        kept("split", &self.splits, source.splits().to_vec(), |split| split)
    }

    /// The plan of the rows of `source` that are kept: that of an extraction of them.
    pub(crate) fn plan(&self, source: &Store, recipe: &Recipe) -> Result<Plan> {
        let splits = self.splits(source)?;
        let is_kept = |row: &SampleRow| {
            splits.iter().any(|split| **split == *row.split)
                && recipe.views.iter().any(|view| *view.name == *row.view)
        };
        let rows = source.rows().iter().filter(is_kept).map(planned).collect();
        Plan::arranged(recipe, rows, source.spec().shard_bytes)
    }
}

/// The row as its plan had it.
fn planned(row: SampleRow) -> PlanRow {
    let place = match (row.bucket, row.source_size, row.valid_size, row.status) {
        (Some(bucket), Some(source), Some(valid), _) => Ok(Place { bucket, row: 0, source, valid }),
        (.., Status::Failed(reason)) => Err(reason),
        // Opening a store has refused such a row.
        _ => Err("no size is known".to_owned()),
    };
    PlanRow {
        key: row.key,
        source: row.source,
        image_id: row.image_id,
        split: row.split,
        view: row.view,
        place,
    }
}

/// Those of `all` whose names are wanted, in their own order.
fn kept<T>(what: &str, wanted: &[String], all: Vec<T>, name: impl Fn(&T) -> &String) -> Result<Vec<T>> {
    for (i, wanted_name) in wanted.iter().enumerate() {
        if !all.iter().any(|item| name(item) == wanted_name) {
            let known: Vec<&str> = all.iter().map(|item| name(item).as_str()).collect();
            let known = known.join(", ");
            return Err(Error::invalid(format!("{what} {wanted_name:?}: expected one of {known}")));
        }
        if wanted.iter().take(i).any(|before| before == wanted_name) {
            return Err(Error::invalid(format!("{what} {wanted_name:?} is given twice")));
        }
    }
    Ok(match wanted {
        [] => all,
        _ => all.into_iter().filter(|item| wanted.contains(name(item))).collect(),
    })
}
