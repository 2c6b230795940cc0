//! `featcache eval` of a detector: COCO's numbers as text and JSON, results files, a report in pictures.

mod page;

use crate::cli::EvalArgs;
use crate::machine::peak_rss_bytes;
use crate::progress::{bytes, duration};
use crate::report::{self, Report};
use anyhow::{Context, Result};
use featcache_heads::checkpoint::replace;
use featcache_heads::evaluate::EvaluateSettings;
use featcache_heads::evaluate::detection::{DetectionReport, evaluate_detector};
use featcache_heads::metric::coco::results::{self, Parts};
use featcache_heads::metric::coco::summary::Summary;
use featcache_heads::run::Run;
use featcache_store::Store;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The numbers with what the command adds to them.
#[derive(Debug, Serialize)]
struct Scored {
    scores: DetectionReport,
    /// Files written.
    written: Vec<String>,
    /// Bytes of the results files.
    results_bytes: u64,
    /// Most memory that the process has had.
    peak_rss_bytes: u64,
}

pub(super) fn run(
    args: &EvalArgs,
    run: &Run,
    store: &Store,
    settings: &EvaluateSettings<'_>,
) -> Result<Report> {
    let scores = evaluate_detector(run, store, settings)?;
    let mut written = Vec::new();
    let mut results_bytes = 0;
    if let Some(file) = &args.results {
        for (path, parts) in results_files(file) {
            replace(&path, |temporary| results::write(temporary, &scores.found, parts))?;
            results_bytes += std::fs::metadata(&path).map_or(0, |meta| meta.len());
            written.push(path.display().to_string());
        }
    }
    if let Some(folder) = &args.report {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for path in page::write(folder, &scores, store, args.root.as_deref())? {
            written.push(path.display().to_string());
        }
    }
    let scored = Scored { scores: scores.report, written, results_bytes, peak_rss_bytes: peak_rss_bytes() };
    Report::new(&scored, text(&scored))
}

/// `FILE.bbox.json` and `FILE.segm.json`: pycocotools would take the areas of masks from the boxes of
/// entries that have both, so each kind has its own file, as mmdetection writes them.
fn results_files(file: &Path) -> Vec<(PathBuf, Parts)> {
    let named = |kind: &str| {
        let stem = file.file_name().unwrap_or_default().to_string_lossy();
        let stem = stem.strip_suffix(".json").unwrap_or(&stem);
        file.with_file_name(format!("{stem}.{kind}.json"))
    };
    // What was found has masks even where the truth has none to score them with.
    vec![(named("bbox"), Parts::Boxes), (named("segm"), Parts::Masks)]
}

fn text(scored: &Scored) -> String {
    let DetectionReport { boxes, masks, box_categories, mask_categories, .. } = &scored.scores;
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.3}"));
    let mut rows: Vec<Vec<String>> = box_categories
        .iter()
        .enumerate()
        .filter(|(_, category)| category.ap.is_some())
        .map(|(at, category)| {
            let mask = mask_categories.get(at);
            vec![
                category.name.clone(),
                category.objects.to_string(),
                number(category.ap),
                number(category.ap50),
                number(mask.and_then(|mask| mask.ap)),
                number(mask.and_then(|mask| mask.ap50)),
            ]
        })
        .collect();
    rows.sort_by(|a, b| b[2].cmp(&a[2]));
    let mut text = report::table(&["category", "objects", "box AP", "AP50", "mask AP", "AP50"], &rows);
    text.push('\n');
    let mut columns = vec![("boxes", boxes.stats())];
    columns.extend(masks.as_ref().map(|masks| ("masks", masks.stats())));
    let rows: Vec<Vec<String>> = columns
        .iter()
        .map(|(name, stats)| {
            let cells = stats.iter().map(|&value| number((value >= 0.0).then_some(value)));
            std::iter::once((*name).to_owned()).chain(cells).collect()
        })
        .collect();
    let header: Vec<&str> = std::iter::once("").chain(Summary::NAMES).collect();
    text += &report::table(&header, &rows);
    let scores = &scored.scores;
    text += &format!(
        "\n{} detections and {} objects in {} samples of {}, step {}\n",
        scores.detections, scores.objects, scores.samples, scores.split, scores.step
    );
    text += &format!(
        "{} of detection ({:.2} s a sample, data wait {:.2} %), {:.2} s of metric, peak memory {}\n",
        duration(scores.seconds),
        scores.seconds / scores.samples.max(1) as f64,
        100.0 * scores.data_wait,
        scores.metric_seconds,
        bytes(scored.peak_rss_bytes)
    );
    if scored.results_bytes > 0 {
        text += &format!("{} of results\n", bytes(scored.results_bytes));
    }
    if let Some(what) = &scores.masks_left_out {
        text += &format!("masks are not scored: {what}\n");
    }
    if scores.skipped > 0 {
        text += &format!("left out: {} corrupt on disk\n", scores.skipped);
    }
    if scores.failed + scores.missing > 0 {
        let (failed, missing) = (scores.failed, scores.missing);
        text += &format!("left out: {failed} failed at extraction, {missing} not extracted yet\n");
    }
    for path in &scored.written {
        text += &format!("wrote {path}\n");
    }
    text
}
