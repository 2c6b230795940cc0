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

    /// Refuses a selection with objects, and one without label maps. Maps beside objects are of COCO-stuff:
    /// their values are not the categories of the store, which are the objects'.
    pub fn check(&self, selection: &Selection) -> Result<()> {
        let split = &selection.split;
        let mut maps = false;
        for view in selection.samples.iter().filter_map(|views| views.first()) {
            for annotation in self.store.annotations(view.row)? {
                match annotation.label {
                    Label::LabelMap { .. } => maps = true,
                    Label::Object { .. } => {
                        let text =
                            format!("split {split:?} is labelled with objects; this head needs label maps");
                        return Err(Error::invalid(text));
                    }
                }
            }
            // Without image ids there are no objects to be found further down.
            if maps && self.store.row(view.row)?.image_id.is_none() {
                return Ok(());
            }
        }
        match maps {
            true => Ok(()),
            false => Err(Error::invalid(format!("no sample of split {split:?} has a label map"))),
        }
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
        let source = row.source_size.ok_or_else(|| no_size(&row))?;
        let refuse = |what| Error::Label { key: row.key.clone(), what };
        Ok(Some(self.rule.target(&png, source).map_err(refuse)?))
    }

    /// A row's truth in the coordinates of its padded input; `None` where the sample has no label map.
    pub fn placed(&self, id: RowId) -> Result<Option<Target>> {
        let row = self.row(id)?;
        let (valid, padded) =
            (row.valid_size.ok_or_else(|| no_size(&row))?, row.bucket.ok_or_else(|| no_size(&row))?);
        let Some(target) = self.original(id)? else { return Ok(None) };
        let view = self.store.recipe().views.iter().find(|view| view.name == *row.view);
        let hflip = view.is_some_and(|view| view.hflip);
        Ok(Some(target.place(Placement { valid, hflip, padded })))
    }

    fn row(&self, id: RowId) -> Result<SampleRow> {
        Ok(self.store.row(id)?)
    }
}

fn no_size(row: &SampleRow) -> Error {
    Error::invalid(format!("sample {} has no size in the store", row.key))
}
