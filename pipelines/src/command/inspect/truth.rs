//! A sample's labels as the store holds them, over its picture or, without one, over the PCA picture of
//! its finest level: where they lie in a view is what training sees. Reads no predictions.

use crate::exit::{ExitCode, failure};
use crate::instance::{bitmap, canvas};
use crate::picture::instances::{Instance, instances};
use crate::picture::overlay::{self, BoxMark, LabelMap};
use crate::picture::{Canvas, Palette};
use crate::pyramid::{self, Pyramid};
use anyhow::{Context, Result};
use featcache_heads::labels::{LabelRule, Placement, ZeroLabel};
use featcache_heads::mask::Segmentation;
use featcache_store::listing::Label;
use featcache_store::{Annotation, SampleRow, Size, Status, Store, ViewSpec};
use std::path::Path;

/// What the labels are drawn on.
pub(super) struct Shown<'a> {
    pub(super) store: &'a Store,
    /// Root folder of the dataset's pictures.
    pub(super) root: Option<&'a Path>,
    /// Rows that the PCA basis is computed from.
    pub(super) pca_samples: usize,
}

impl Shown<'_> {
    /// `KEY-VIEW-truth.png` of every row of a sample, in `folder`; the paths.
    ///
    /// # Errors
    /// A picture or features cannot be read; a label does not fit its picture.
    pub(super) fn write(&self, rows: &[SampleRow], folder: &Path) -> Result<Vec<String>> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let pyramid = match self.root {
            Some(_) => None,
            None => {
                let rows = pyramid::spread(self.store, self.pca_samples);
                if rows.is_empty() {
                    let store = self.store.root().display();
                    let what = format!("{store}: no row has features to draw on: give --root DIR");
                    return Err(failure(ExitCode::BadInput, what));
                }
                Some(Pyramid::fit(self.store, &rows)?)
            }
        };
        let mut written = Vec::new();
        for row in rows {
            let background = match &pyramid {
                Some(_) if row.status != Status::Ok => continue,
                Some(pyramid) => pyramid.render(row.id)?.into_iter().next(),
                None => None,
            };
            let drawn = match background {
                Some(background) => self.draw(row, background)?,
                None => {
                    let valid = row.valid_size.with_context(|| format!("sample {} has no size", row.key))?;
                    let picture = canvas(self.store, row, self.root)?;
                    let picture = picture.scaled(valid.width as usize, valid.height as usize);
                    let view = self.view(row)?;
                    self.draw(row, if view.hflip { picture.mirrored() } else { picture })?
                }
            };
            let name = format!("{}-{}-truth.png", row.key.0.replace('/', "_"), row.view);
            let path = folder.join(name);
            drawn.write_png(&path)?;
            written.push(path.display().to_string());
        }
        Ok(written)
    }

    fn view(&self, row: &SampleRow) -> Result<&ViewSpec> {
        let view = self.store.recipe().views.iter().find(|view| view.name == *row.view);
        view.with_context(|| format!("view {} is not in the store", row.view))
    }

    /// The labels on a picture of the row's valid size.
    fn draw(&self, row: &SampleRow, picture: Canvas) -> Result<Canvas> {
        let (Some(source), Some(valid)) = (row.source_size, row.valid_size) else {
            return Err(failure(ExitCode::BadInput, format!("sample {} has no size in the store", row.key)));
        };
        let (mut picture, mut objects) = (picture, Vec::new());
        for annotation in self.store.annotations(row.id)? {
            match &annotation.label {
                Label::LabelMap { png } => picture = self.label_map(row, &picture, png, source, valid)?,
                Label::Object { .. } => objects.extend(self.object(row, &annotation, source, valid)?),
            }
        }
        Ok(instances(&picture, &objects, &Palette::new(self.store.categories().len())))
    }

    fn label_map(
        &self,
        row: &SampleRow,
        picture: &Canvas,
        png: &[u8],
        source: Size,
        valid: Size,
    ) -> Result<Canvas> {
        let objects = self.store.annotations(row.id)?.iter().any(|a| matches!(a.label, Label::Object { .. }));
        // Beside objects a map's values are not the categories': stuff maps have a list of their own.
        let (rule, names) = if objects {
            (LabelRule::raw(usize::from(u8::MAX)), Vec::new())
        } else {
            let categories = self.store.categories();
            let zero = match categories.iter().any(|category| category.id == 0) {
                true => ZeroLabel::Class,
                false => ZeroLabel::Ignore,
            };
            let rule = LabelRule::new(categories, zero).map_err(|what| failure(ExitCode::BadInput, what))?;
            let names = rule.names().to_vec();
            (rule, names)
        };
        let unfit = |what: String| failure(ExitCode::BadInput, format!("label map of {}: {what}", row.key));
        let target = rule.target(png, source).map_err(unfit)?;
        let target = target.place(Placement { valid, hflip: self.view(row)?.hflip, padded: valid });
        let classes: Vec<u16> =
            target.classes.iter().map(|&class| u16::try_from(class).unwrap_or(LabelMap::IGNORE)).collect();
        let map = LabelMap::new(valid.width as usize, valid.height as usize, &classes)?;
        let palette = Palette::new(rule.classes());
        let tinted = overlay::labels(picture, &map, &palette, overlay::DEFAULT_ALPHA);
        let present: Vec<(usize, String)> = names
            .into_iter()
            .enumerate()
            .filter(|(class, _)| classes.iter().any(|&c| usize::from(c) == *class))
            .collect();
        Ok(if present.is_empty() { tinted } else { overlay::with_legend(&tinted, &present, &palette) })
    }

    /// An object where the view has it; one whose segmentation cannot be read keeps its box.
    fn object(
        &self,
        row: &SampleRow,
        annotation: &Annotation,
        source: Size,
        valid: Size,
    ) -> Result<Option<Instance>> {
        let Label::Object { category_id, bbox, iscrowd, segmentation, .. } = &annotation.label else {
            return Ok(None);
        };
        let view = self.view(row)?;
        let bbox = view.geometry(source, valid)?.box_to_view(*bbox);
        let categories = self.store.categories().iter().enumerate();
        let (class, name) = categories
            .filter(|(_, category)| category.id == *category_id)
            .map(|(rank, category)| (rank, category.name.as_str()))
            .next()
            .unwrap_or((0, "?"));
        let caption = if *iscrowd { format!("{name} (crowd)") } else { name.to_owned() };
        let shape = segmentation.as_deref().and_then(|text| Segmentation::parse(text).ok());
        let mask = shape.and_then(|shape| shape.place(source, valid, view.hflip, valid).ok());
        let mask = mask.as_ref().map(bitmap).transpose()?;
        Ok(Some(Instance { mark: BoxMark { bbox, caption, class }, mask }))
    }
}
