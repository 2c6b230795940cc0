//! The code between boxes and regression deltas (dx, dy, dw, dh): shift of the centre as a share of the
//! sides, logarithm of the sides' ratios, each divided by its standard deviation (R-CNN, Girshick et al.
//! 2014, appendix C; mmdetection's `DeltaXYWHBBoxCoder` with means 0, torchvision's `BoxCoder` with
//! weights 1/σ). Must not clip: that is [`boxes::clip`](super::boxes::clip) and [`clip_tensor`].

use crate::{Error, Result};
use featcache_store::Size;
use tch::{Kind, Tensor};

/// Largest |ln| by which a side is scaled: ln(1000/16) = 4.135, of both references.
pub const MAX_LOG_RATIO: f64 = 4.135_166_556_742_356;

/// Which log ratios of sides are limited to [`MAX_LOG_RATIO`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatioLimit {
    /// Growing and shrinking: mmdetection.
    Both,
    /// Growing alone: torchvision.
    Growth,
}

/// Encodes and decodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaCoder {
    /// σ of dx, dy, dw, dh: deltas are divided by it.
    pub stds: [f32; 4],
    /// The limit when decoding.
    pub limit: RatioLimit,
}

impl DeltaCoder {
    /// mmdetection's coder.
    pub fn mmdetection(stds: [f32; 4]) -> Self {
        Self { stds, limit: RatioLimit::Both }
    }

    /// torchvision's coder, whose weights are 1/σ.
    pub fn torchvision(weights: [f32; 4]) -> Self {
        Self { stds: weights.map(|weight| 1.0 / weight), limit: RatioLimit::Growth }
    }

    /// The deltas that lead from box i to truth i. Where one of the two is degenerate they are 0: there
    /// is nothing to learn from it.
    ///
    /// # Errors
    /// Slices of different lengths.
    pub fn encode(&self, boxes: &[[f32; 4]], truths: &[[f32; 4]]) -> Result<Vec<[f32; 4]>> {
        if boxes.len() != truths.len() {
            return Err(unequal(boxes.len(), truths.len()));
        }
        Ok(boxes.iter().zip(truths).map(|(&bounds, &truth)| self.encode_one(bounds, truth)).collect())
    }

    fn encode_one(&self, bounds: [f32; 4], truth: [f32; 4]) -> [f32; 4] {
        let ([px, py, pw, ph], [gx, gy, gw, gh]) = (centred(bounds), centred(truth));
        let deltas = [(gx - px) / pw, (gy - py) / ph, (gw / pw).ln(), (gh / ph).ln()];
        let sound = [pw, ph, gw, gh].iter().all(|&side| side > 0.0) && deltas.iter().all(|d| d.is_finite());
        if !sound {
            return [0.0; 4];
        }
        std::array::from_fn(|i| deltas[i] / self.stds[i])
    }

    /// The boxes that deltas lead to, not clipped. Deltas that are not numbers give boxes that are none.
    ///
    /// # Errors
    /// Slices of different lengths.
    pub fn decode(&self, boxes: &[[f32; 4]], deltas: &[[f32; 4]]) -> Result<Vec<[f32; 4]>> {
        if boxes.len() != deltas.len() {
            return Err(unequal(boxes.len(), deltas.len()));
        }
        Ok(boxes.iter().zip(deltas).map(|(&bounds, &deltas)| self.decode_one(bounds, deltas)).collect())
    }

    fn decode_one(&self, bounds: [f32; 4], deltas: [f32; 4]) -> [f32; 4] {
        let [px, py, pw, ph] = centred(bounds);
        let [dx, dy, dw, dh]: [f32; 4] = std::array::from_fn(|i| deltas[i] * self.stds[i]);
        let (low, high) = self.bounds_of_log();
        let (x, y) = (px + pw * dx, py + ph * dy);
        let half = |side: f32, log: f32| 0.5 * side * log.clamp(low as f32, high as f32).exp();
        let (w, h) = (half(pw, dw), half(ph, dh));
        [x - w, y - h, x + w, y + h]
    }

    fn bounds_of_log(&self) -> (f64, f64) {
        match self.limit {
            RatioLimit::Both => (-MAX_LOG_RATIO, MAX_LOG_RATIO),
            RatioLimit::Growth => (f64::NEG_INFINITY, MAX_LOG_RATIO),
        }
    }

    /// [`encode`](Self::encode) of tensors, `[n, 4]` and `[n, 4]` to `[n, 4]`, with gradients to both.
    pub fn encode_tensor(&self, boxes: &Tensor, truths: &Tensor) -> Result<Tensor> {
        let ([centre, sides], [truth_centre, truth_sides]) =
            (centred_tensor(boxes)?, centred_tensor(truths)?);
        let sound = sides.f_minimum(&truth_sides)?.f_amin([-1], true)?.f_gt(0.0)?; // [n, 1]
        // Sides of degenerate boxes become 1 before the division: a zero gradient times an infinite one
        // would be NaN.
        let one = Tensor::from(1f32).f_to_device(sides.device())?.f_to_kind(sides.kind())?;
        let (sides, truth_sides) =
            (sides.f_where_self(&sound, &one)?, truth_sides.f_where_self(&sound, &one)?);
        let shift = truth_centre.f_sub(&centre)?.f_div(&sides)?; // [n, 2]
        let log = truth_sides.f_div(&sides)?.f_log()?; // [n, 2]
        let deltas = Tensor::f_cat(&[shift, log], 1)?.f_div(&self.stds_like(&sides, 1)?)?; // [n, 4]
        let zero = one.f_zeros_like()?;
        let sound = sound.f_logical_and(&deltas.f_isfinite()?.f_all_dim(-1, true)?)?;
        Ok(deltas.f_where_self(&sound, &zero)?)
    }

    /// [`decode`](Self::decode) of tensors: boxes `[n, 4]` and deltas `[n, 4k]` (k classes) to boxes
    /// `[n, 4k]`, with gradients to both.
    pub fn decode_tensor(&self, boxes: &Tensor, deltas: &Tensor) -> Result<Tensor> {
        let &[n, columns] = deltas.size().as_slice() else {
            return Err(Error::invalid(format!("deltas are {:?}, expected [n, 4k]", deltas.size())));
        };
        if boxes.size() != [n, 4] || columns % 4 != 0 {
            let found = (boxes.size(), deltas.size());
            return Err(Error::invalid(format!(
                "boxes and deltas are {found:?}, expected [n, 4] and [n, 4k]"
            )));
        }
        let [centre, sides] = centred_tensor(boxes)?;
        let (centre, sides) = (centre.f_unsqueeze(1)?, sides.f_unsqueeze(1)?); // [n, 1, 2]
        let deltas = deltas.f_view([n, columns / 4, 4])?.f_mul(&self.stds_like(deltas, 2)?)?; // [n, k, 4]
        let (low, high) = self.bounds_of_log();
        let centre = deltas.f_narrow(2, 0, 2)?.f_mul(&sides)?.f_add(&centre)?; // [n, k, 2]
        let half = deltas.f_narrow(2, 2, 2)?.f_clamp(low, high)?.f_exp()?.f_mul(&sides)?.f_mul_scalar(0.5)?;
        let corners = Tensor::f_cat(&[centre.f_sub(&half)?, centre.f_add(&half)?], 2)?; // [n, k, 4]
        Ok(corners.f_view([n, columns])?)
    }

    /// σ as a tensor of `like`'s kind and place with `rank` leading axes of 1.
    fn stds_like(&self, like: &Tensor, rank: usize) -> Result<Tensor> {
        let mut shape = vec![1; rank];
        shape.push(4);
        let stds = Tensor::f_from_slice(&self.stds)?.f_to_device(like.device())?.f_to_kind(like.kind())?;
        Ok(stds.f_view(shape.as_slice())?)
    }
}

/// Boxes `[n, 4k]` limited to a picture of `size`, with gradients inside it.
pub fn clip_tensor(boxes: &Tensor, size: Size) -> Result<Tensor> {
    let limits = [size.width as f32, size.height as f32];
    let limits = Tensor::f_from_slice(&limits)?.f_to_device(boxes.device())?.f_to_kind(boxes.kind())?;
    let pairs = boxes.f_reshape([-1, 2])?.f_clamp_min(0.0)?.f_minimum(&limits)?; // [n·2k, 2]
    Ok(pairs.f_reshape(boxes.size().as_slice())?)
}

/// Centre x, centre y, width, height.
fn centred([x1, y1, x2, y2]: [f32; 4]) -> [f32; 4] {
    [(x1 + x2) * 0.5, (y1 + y2) * 0.5, x2 - x1, y2 - y1]
}

/// Centre `[n, 2]` and sides `[n, 2]` of boxes `[n, 4]`.
fn centred_tensor(boxes: &Tensor) -> Result<[Tensor; 2]> {
    let size = boxes.size();
    let &[_, 4] = size.as_slice() else {
        return Err(Error::invalid(format!("boxes are {size:?}, expected [n, 4]")));
    };
    let boxes =
        if boxes.kind() == Kind::Double { boxes.shallow_clone() } else { boxes.f_to_kind(Kind::Float)? };
    let (first, last) = (boxes.f_narrow(1, 0, 2)?, boxes.f_narrow(1, 2, 2)?);
    Ok([first.f_add(&last)?.f_mul_scalar(0.5)?, last.f_sub(&first)?])
}

fn unequal(boxes: usize, others: usize) -> Error {
    Error::invalid(format!("{boxes} boxes with {others} partners, expected one each"))
}
