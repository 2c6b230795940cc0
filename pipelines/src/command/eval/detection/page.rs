//! The report in pictures: curves of precision over recall, and a page of the best and worst detections.
//! Scores nothing itself.

use crate::instance::{canvas, of_detection, of_object};
use crate::picture::instances::{Instance, instances};
use crate::picture::{Axis, Canvas, Line, Palette, Plot, Sheet, SheetRow};
use anyhow::{Context, Result};
use featcache_heads::evaluate::detection::DetectionScores;
use featcache_heads::metric::coco::{CocoOptions, Evaluation, Fate, IouType, Matches, Selection, matches};
use featcache_store::Store;
use std::path::{Path, PathBuf};

/// IoU from which on a detection counts as right on the page.
const THRESHOLD: f64 = 0.5;
/// Pictures of each kind on the page.
const COLUMNS: usize = 5;
/// Width and height that each is fitted into, in pixels.
const CELL: (usize, usize) = (320, 320);
/// Categories with a curve of their own; more would hide each other.
const CATEGORY_LINES: usize = 12;

/// Writes the pictures into `folder`, which exists; their paths.
///
/// # Errors
/// A picture cannot be read or written.
pub(super) fn write(
    folder: &Path,
    scores: &DetectionScores,
    store: &Store,
    root: Option<&Path>,
) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (name, evaluation) in [("boxes", Some(&scores.boxes)), ("masks", scores.masks.as_ref())] {
        let Some(evaluation) = evaluation else { continue };
        let path = folder.join(format!("precision-recall-{name}.png"));
        curves(name, evaluation)?.draw().write_png(&path)?;
        written.push(path);
    }
    let path = folder.join("best-and-worst.png");
    page(scores, store, root)?.write_png(&path)?;
    written.push(path);
    Ok(written)
}

/// Means over all categories at three thresholds and over all; then single categories, best first.
fn curves(name: &str, evaluation: &Evaluation) -> Result<Plot> {
    let mut lines = Vec::new();
    let mut add = |name: String, strong: bool, selection: &Selection| -> Result<()> {
        if let Some(curve) = evaluation.curve(selection)? {
            let points = curve.recall.iter().zip(&curve.precision).map(|(&x, &y)| [x, y]).collect();
            lines.push(Line { name, points, strong, ..Line::default() });
        }
        Ok(())
    };
    add("all, IoU .50-.95".to_owned(), true, &Selection::default())?;
    for threshold in evaluation.options().thresholds.iter().copied().filter(|t| [0.5, 0.75].contains(t)) {
        let selection = Selection { threshold: Some(threshold), ..Selection::default() };
        add(format!("all, IoU {threshold:.2}"), true, &selection)?;
    }
    let mut categories = evaluation.category_scores();
    categories.sort_by(|a, b| b.ap.unwrap_or(-1.0).total_cmp(&a.ap.unwrap_or(-1.0)));
    for category in categories.iter().take(CATEGORY_LINES) {
        let selection = Selection { category: Some(category.id), ..Selection::default() };
        add(category.name.clone(), false, &selection)?;
    }
    Ok(Plot {
        title: format!("Precision over recall, {name}"),
        x: Axis::unit("recall"),
        y: Axis::unit("precision"),
        lines,
        side: Plot::DEFAULT_SIDE,
    })
}

/// Rows of pictures: what was found with most confidence, what was found wrongly, what was missed.
fn page(scores: &DetectionScores, store: &Store, root: Option<&Path>) -> Result<Canvas> {
    let fates = matches(&scores.truth, &scores.found, IouType::Bbox, THRESHOLD, &CocoOptions::default())?;
    let gallery = Gallery { scores, store, root, palette: Palette::new(scores.truth.categories().len()) };
    let best = gallery.of_fate(&fates, Fate::TruePositive)?;
    let wrong = gallery.of_fate(&fates, Fate::FalsePositive)?;
    let missed = gallery.missed(&fates)?;
    let row = |cells: Vec<Canvas>, caption: &str| {
        let none = if cells.is_empty() { ": none" } else { "" };
        SheetRow { caption: format!("{caption}{none}"), cells }
    };
    let ap = scores.report.boxes.ap.unwrap_or(f64::NAN);
    let sheet = Sheet {
        title: "Best and worst detections".to_owned(),
        subtitle: format!("split {}, step {}, box AP {ap:.3}", scores.report.split, scores.report.step),
        columns: Vec::new(),
        rows: vec![
            row(best, "best: right at IoU 0.5, by score times IoU; one a picture"),
            row(wrong, "worst: wrong at IoU 0.5, by score; one a picture"),
            row(missed, "missed: the largest objects that nothing found at IoU 0.5; one a picture"),
        ],
        legend: Vec::new(),
        footnotes: Vec::new(),
        cell: CELL,
    };
    Ok(sheet.draw(&gallery.palette))
}

/// Where single detections and objects are drawn.
struct Gallery<'a> {
    scores: &'a DetectionScores,
    store: &'a Store,
    root: Option<&'a Path>,
    palette: Palette,
}

impl Gallery<'_> {
    /// The foremost detections of this fate, at most one a picture.
    fn of_fate(&self, fates: &Matches, fate: Fate) -> Result<Vec<Canvas>> {
        let weight = |at: usize| {
            let status = &fates.detections[at];
            let overlap = if fate == Fate::TruePositive { status.iou } else { 1.0 };
            self.scores.found[at].score * overlap
        };
        let of_fate = |at: &usize| fates.detections[*at].fate == fate;
        let mut chosen: Vec<usize> = (0..self.scores.found.len()).filter(of_fate).collect();
        chosen.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
        let image = |at: usize| self.scores.found[at].image_id;
        let draw = |at: usize| {
            let categories = self.scores.truth.categories();
            self.draw(image(at), of_detection(&self.scores.found[at], categories)?)
        };
        one_a_picture(&chosen, image).into_iter().map(draw).collect()
    }

    /// The largest objects that were not found, at most one a picture.
    fn missed(&self, fates: &Matches) -> Result<Vec<Canvas>> {
        let objects = self.scores.truth.objects();
        let mut chosen = fates.missed.clone();
        chosen.sort_by(|&a, &b| objects[b].area.total_cmp(&objects[a].area));
        let draw = |at: usize| {
            let object = &objects[at];
            let size = self.row(object.image_id)?.source_size;
            self.draw(object.image_id, of_object(object, size, self.scores.truth.categories())?)
        };
        one_a_picture(&chosen, |at| objects[at].image_id).into_iter().map(draw).collect()
    }

    fn draw(&self, image_id: i64, instance: Instance) -> Result<Canvas> {
        let picture = canvas(self.store, &self.row(image_id)?, self.root)?;
        // Drawn at the size that is shown: strokes and captions stay readable.
        let fitted = picture.fitted(CELL.0, CELL.1);
        let [from, to] = [&picture, &fitted].map(|canvas| (canvas.width(), canvas.height()));
        Ok(instances(&fitted, &[instance.scaled(from, to)], &self.palette))
    }

    fn row(&self, image_id: i64) -> Result<featcache_store::SampleRow> {
        let id = self.scores.rows.get(&image_id).with_context(|| format!("image {image_id} has no row"))?;
        Ok(self.store.row(*id)?)
    }
}

/// The first of `chosen` in every picture, [`COLUMNS`] of them at most.
fn one_a_picture(chosen: &[usize], image: impl Fn(usize) -> i64) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for &at in chosen {
        if kept.len() < COLUMNS && !seen.contains(&image(at)) {
            seen.push(image(at));
            kept.push(at);
        }
    }
    kept
}
