//! Which candidate to take for a budget. Pure: knows nothing but the points of the curve.

use super::curve::Point;
use serde::Serialize;

/// What a policy may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Budget {
    /// Bytes of an image, at most.
    pub bytes_per_image: Option<f64>,
    /// The metric's loss relative to the reference, at most: 0.005 is half a hundredth.
    pub max_loss: Option<f64>,
}

/// The candidate to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// Number of the point.
    pub point: usize,
    /// Whether it meets the budget; if not, it is the nearest.
    pub meets: bool,
    /// The encodings, as `--store` takes them.
    pub store: String,
    /// Its loss is the reference's own: nothing cheaper was found.
    pub is_reference: bool,
}

impl Budget {
    /// The point to take; `None` without points. With bytes alone it is the least loss that fits into them;
    /// with a loss it is the fewest bytes of those that lose no more, and fit if bytes are given too. A loss is
    /// the median over the seeds. Where nothing meets the budget it is the nearest: what fits into the bytes with
    /// the least loss, or where nothing fits, the fewest bytes.
    pub fn choose(&self, points: &[Point]) -> Option<Choice> {
        let loss = |point: &Point| match (&point.loss, point.origin) {
            (_, super::candidate::Origin::Reference) => 0.0,
            (Some(loss), _) => loss.median,
            // Unknown is not small.
            (None, _) => f64::INFINITY,
        };
        let fits = |point: &Point| self.bytes_per_image.is_none_or(|most| point.bytes_per_image <= most);
        let holds =
            |point: &Point| loss(point).is_finite() && self.max_loss.is_none_or(|most| loss(point) <= most);
        let numbered = || points.iter().enumerate();
        let fewest = |a: &Point, b: &Point| {
            a.bytes_per_image.total_cmp(&b.bytes_per_image).then(loss(a).total_cmp(&loss(b)))
        };
        let least = |a: &Point, b: &Point| {
            loss(a).total_cmp(&loss(b)).then(a.bytes_per_image.total_cmp(&b.bytes_per_image))
        };
        let good = numbered().filter(|(_, point)| fits(point) && holds(point));
        let met = match self.max_loss {
            Some(_) => good.min_by(|a, b| fewest(a.1, b.1)),
            None => good.min_by(|a, b| least(a.1, b.1)),
        };
        let nearest = || numbered().filter(|(_, point)| fits(point)).min_by(|a, b| least(a.1, b.1));
        let cheapest = || numbered().min_by(|a, b| fewest(a.1, b.1));
        let (number, point) = met.or_else(nearest).or_else(cheapest)?;
        Some(Choice {
            point: number,
            meets: met.is_some(),
            store: point.store.clone(),
            is_reference: point.origin == super::candidate::Origin::Reference,
        })
    }
}
