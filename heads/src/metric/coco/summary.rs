//! COCO's twelve numbers, and the same by category. What is absent is `None` here, and -1 in pycocotools' list.

use super::evaluation::{ABSENT, Evaluation};
use super::selection::Selection;
use serde::Serialize;

/// The twelve numbers (`COCOeval.summarize`), between 0 and 1; `None` where no object counts, or where the options
/// did not ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Mean precision over all thresholds.
    pub ap: Option<f64>,
    /// At IoU .5.
    pub ap50: Option<f64>,
    /// At IoU .75.
    pub ap75: Option<f64>,
    /// Of objects up to 32² pixels.
    pub ap_small: Option<f64>,
    /// Of objects from 32² to 96².
    pub ap_medium: Option<f64>,
    /// Of objects from 96².
    pub ap_large: Option<f64>,
    /// Mean of the greatest recall with one detection a picture and category.
    pub ar1: Option<f64>,
    /// With ten.
    pub ar10: Option<f64>,
    /// With a hundred.
    pub ar100: Option<f64>,
    /// With a hundred, of objects up to 32² pixels.
    pub ar_small: Option<f64>,
    /// Of objects from 32² to 96².
    pub ar_medium: Option<f64>,
    /// Of objects from 96².
    pub ar_large: Option<f64>,
}

impl Summary {
    /// Names of the numbers in the official order.
    pub const NAMES: [&'static str; 12] =
        ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];

    /// The numbers in the official order (`COCOeval.stats`); -1 for what is absent.
    pub fn stats(&self) -> [f64; 12] {
        [
            self.ap,
            self.ap50,
            self.ap75,
            self.ap_small,
            self.ap_medium,
            self.ap_large,
            self.ar1,
            self.ar10,
            self.ar100,
            self.ar_small,
            self.ar_medium,
            self.ar_large,
        ]
        .map(|value| value.unwrap_or(ABSENT))
    }
}

/// Scores of one category, with a hundred detections a picture (or the greatest limit of the options).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryScore {
    /// The data set's id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Objects that count, of any size.
    pub objects: usize,
    /// Mean precision over all thresholds; `None` without objects.
    pub ap: Option<f64>,
    /// At IoU .5.
    pub ap50: Option<f64>,
    /// At IoU .75.
    pub ap75: Option<f64>,
    /// Of objects up to 32² pixels.
    pub ap_small: Option<f64>,
    /// Of objects from 32² to 96².
    pub ap_medium: Option<f64>,
    /// Of objects from 96².
    pub ap_large: Option<f64>,
    /// Mean of the greatest recall over all thresholds.
    pub ar: Option<f64>,
}

impl Evaluation {
    /// The twelve numbers.
    pub fn summary(&self) -> Summary {
        let limits = &self.options().max_detections;
        // Officially the first is always taken with a hundred detections, the others with the limits asked for.
        let limit = |position: usize| limits.get(position).copied().unwrap_or_default();
        let pick = |threshold, area: &str, max_detections| Selection {
            threshold,
            area: area.into(),
            max_detections,
            ..Selection::default()
        };
        let ap = |threshold, area| self.mean_precision(&pick(threshold, area, limit(2)));
        let ar = |area, max_detections| self.mean_recall(&pick(None, area, max_detections));
        Summary {
            ap: self.mean_precision(&Selection::default()),
            ap50: ap(Some(0.5), "all"),
            ap75: ap(Some(0.75), "all"),
            ap_small: ap(None, "small"),
            ap_medium: ap(None, "medium"),
            ap_large: ap(None, "large"),
            ar1: ar("all", limit(0)),
            ar10: ar("all", limit(1)),
            ar100: ar("all", limit(2)),
            ar_small: ar("small", limit(2)),
            ar_medium: ar("medium", limit(2)),
            ar_large: ar("large", limit(2)),
        }
    }

    /// Scores of every category, by ascending id.
    pub fn category_scores(&self) -> Vec<CategoryScore> {
        let areas = self.counts().areas;
        let all = self.options().areas.iter().position(|area| area.name == "all");
        let score = |(position, category): (usize, &featcache_store::Category)| {
            let pick = |threshold, area: &str| Selection {
                threshold,
                category: Some(category.id),
                area: area.into(),
                max_detections: self.options().limit(),
            };
            CategoryScore {
                id: category.id,
                name: category.name.clone(),
                objects: all.map_or(0, |all| self.objects()[position * areas + all]),
                ap: self.mean_precision(&pick(None, "all")),
                ap50: self.mean_precision(&pick(Some(0.5), "all")),
                ap75: self.mean_precision(&pick(Some(0.75), "all")),
                ap_small: self.mean_precision(&pick(None, "small")),
                ap_medium: self.mean_precision(&pick(None, "medium")),
                ap_large: self.mean_precision(&pick(None, "large")),
                ar: self.mean_recall(&pick(None, "all")),
            }
        };
        self.categories().iter().enumerate().map(score).collect()
    }
}
