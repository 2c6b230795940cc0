//! One detection in the coordinates of its original picture. Knows neither files nor truth.

use crate::mask::Rle;

/// Something found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// The data set's id of the picture.
    pub image_id: i64,
    /// The data set's id of the category (COCO: 1..90 with gaps).
    pub category_id: i64,
    /// Confidence; only its order counts.
    pub score: f64,
    /// x, y, width, height in pixels of the original picture. Without one, that of the mask counts.
    pub bbox: Option<[f64; 4]>,
    /// Mask at the size of the original picture. Without one, the rectangle of the box counts.
    pub mask: Option<Rle>,
}

impl Detection {
    /// What keeps the detection itself from being counted, whatever the truth: no box and no mask, or numbers that
    /// are not finite.
    pub(super) fn fault(&self) -> Option<String> {
        if !self.score.is_finite() {
            return Some(format!("score is {}, expected a finite number", self.score));
        }
        match &self.bbox {
            Some(bbox) if !bbox.iter().all(|v| v.is_finite()) => {
                Some(format!("bbox is {bbox:?}, expected finite numbers"))
            }
            None if self.mask.is_none() => Some("neither bbox nor segmentation".into()),
            _ => None,
        }
    }
}
