//! The columns of records and samples that tell what encodings lost: two for each level that has a loss in
//! one of the rows, and none in other tables.

use super::{column, schema};
use crate::{Error, LevelSpec, Loss, Result};
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use std::path::Path;
use std::sync::Arc;

/// Losses of a row: one a level in the recipe's order, or none at all.
pub(crate) type RowLosses = Vec<Option<Loss>>;

/// Which levels a table has columns for.
#[derive(Debug)]
pub(crate) struct LossColumns {
    /// Number of the level, names of its two columns.
    levels: Vec<(usize, [String; 2])>,
    /// Levels of the store.
    all: usize,
}

impl LossColumns {
    /// The columns of a table of these rows.
    pub(crate) fn of_rows<'a>(levels: &[LevelSpec], rows: impl Iterator<Item = &'a RowLosses>) -> Self {
        let mut present = vec![false; levels.len()];
        for losses in rows {
            for (present, loss) in present.iter_mut().zip(losses) {
                *present |= loss.is_some();
            }
        }
        Self::new(levels, |number, _| present.get(number) == Some(&true))
    }

    /// The columns among those of a table.
    pub(crate) fn of_table(levels: &[LevelSpec], columns: &[&str]) -> Self {
        Self::new(levels, |_, names| names.iter().any(|name| columns.contains(&name.as_str())))
    }

    fn new(levels: &[LevelSpec], has: impl Fn(usize, &[String; 2]) -> bool) -> Self {
        let named = levels.iter().enumerate().map(|(number, level)| {
            let name = &level.name;
            (number, [format!("relative_l2_{name}"), format!("cosine_{name}")])
        });
        Self { levels: named.filter(|(number, names)| has(*number, names)).collect(), all: levels.len() }
    }

    /// The schema of a table that has these columns behind others.
    pub(crate) fn schema(&self, before: &[(&str, DataType, bool)]) -> SchemaRef {
        let names = self.levels.iter().flat_map(|(_, names)| names);
        let columns: Vec<_> = names.map(|name| (name.as_str(), DataType::Float32, true)).collect();
        schema(&[before, &columns].concat())
    }

    /// The names of these columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().flat_map(|(_, names)| names).map(String::as_str)
    }

    /// The columns of some rows.
    pub(crate) fn arrays<'a>(&self, rows: impl Iterator<Item = &'a RowLosses> + Clone) -> Vec<ArrayRef> {
        let values = |level: usize, of: fn(Loss) -> f32| -> ArrayRef {
            let losses = rows.clone().map(|losses| losses.get(level).copied().flatten().map(of));
            Arc::new(Float32Array::from_iter(losses))
        };
        let of_level = |level| [values(level, |loss| loss.relative_l2), values(level, |loss| loss.cosine)];
        self.levels.iter().flat_map(|(level, _)| of_level(*level)).collect()
    }

    /// What a row of a batch has lost; `failed` rows must have lost nothing, as they hold nothing.
    pub(crate) fn row(
        &self,
        batch: &RecordBatch,
        row: usize,
        failed: bool,
        path: &Path,
    ) -> Result<RowLosses> {
        let mut losses = vec![None; if self.levels.is_empty() { 0 } else { self.all }];
        for (level, [relative_l2, cosine]) in &self.levels {
            let value = |name: &str| -> Result<Option<f32>> {
                let column = column::<Float32Array>(batch, name, path)?;
                Ok(column.is_valid(row).then(|| column.value(row)))
            };
            let loss = match (value(relative_l2)?, value(cosine)?) {
                (None, None) => Ok(None),
                (Some(relative_l2), Some(cosine)) if !failed => Loss::checked(relative_l2, cosine).map(Some),
                _ => Err("expected both or, of a failed row, none".to_owned()),
            };
            let loss =
                loss.map_err(|what| Error::corrupt(path, format!("{relative_l2}, {cosine}: {what}")))?;
            if let Some(target) = losses.get_mut(*level) {
                *target = loss;
            }
        }
        Ok(losses)
    }
}
