//! From a store's label maps to targets: finds a row's label map, reads it by the rule of the store's
//! categories, puts it where the row's view has it. Must not read features.

use crate::labels::{LabelRule, Placement, Target, ZeroLabel};
use crate::selection::Selection;
use crate::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{RowId, SampleRow, Store};

/// Dense truth of a store's rows.
#[derive(Debug)]
pub struct Truth<'a> {
    store: &'a Store,
    rule: LabelRule,
}

impl<'a> Truth<'a> {
    /// The truth of a store's rows.
    ///
    /// # Errors
    /// Categories that are no values of label maps.
    pub fn new(store: &'a Store, zero: ZeroLabel) -> Result<Self> {
        let rule = LabelRule::new(store.categories(), zero).map_err(Error::invalid)?;
        Ok(Self { store, rule })
    }

    /// Which value is which class.
    pub fn rule(&self) -> &LabelRule {
        &self.rule
    }

    /// Refuses a selection in which the first labelled sample has objects instead of a label map, and
    /// one without labels.
    pub fn check(&self, selection: &Selection) -> Result<()> {
        for views in &selection.samples {
            for view in views.iter().take(1) {
                if self.is_labelled(view.row)? {
                    return Ok(());
                }
                match self.store.annotations(view.row)?.first() {
                    None => {}
                    Some(_) => {
                        let split = &selection.split;
                        let text =
                            format!("split {split:?} is labelled with objects; this head needs label maps");
                        return Err(Error::invalid(text));
                    }
                }
            }
        }
        Err(Error::invalid(format!("no sample of split {:?} has a label map", selection.split)))
    }

    /// Whether the row's sample has a label map.
    pub fn is_labelled(&self, row: RowId) -> Result<bool> {
        let annotations = self.store.annotations(row)?;
        Ok(annotations.iter().any(|annotation| matches!(annotation.label, Label::LabelMap { .. })))
    }

    /// A row's truth in original coordinates; `None` where the sample has no label map.
    pub fn original(&self, row: RowId) -> Result<Option<Target>> {
        let row = self.row(row)?;
        let png = self.store.annotations(row.id)?.into_iter().find_map(|annotation| match annotation.label {
            Label::LabelMap { png } => Some(png),
            _ => None,
        });
        let Some(png) = png else { return Ok(None) };
        let source = row.source_size.ok_or_else(|| no_size(row))?;
        let refuse = |what| Error::Label { key: row.key.clone(), what };
        Ok(Some(self.rule.target(&png, source).map_err(refuse)?))
    }

    /// A row's truth in the coordinates of its padded input; `None` where the sample has no label map.
    pub fn placed(&self, id: RowId) -> Result<Option<Target>> {
        let row = self.row(id)?;
        let (valid, padded) =
            (row.valid_size.ok_or_else(|| no_size(row))?, row.bucket.ok_or_else(|| no_size(row))?);
        let Some(target) = self.original(id)? else { return Ok(None) };
        let view = self.store.recipe().views.iter().find(|view| view.name == *row.view);
        let hflip = view.is_some_and(|view| view.hflip);
        Ok(Some(target.place(Placement { valid, hflip, padded })))
    }

    fn row(&self, id: RowId) -> Result<&'a SampleRow> {
        Ok(self.store.row(id)?)
    }
}

fn no_size(row: &SampleRow) -> Error {
    Error::invalid(format!("sample {} has no size in the store", row.key))
}
