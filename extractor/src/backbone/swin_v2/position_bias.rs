//! The log-spaced continuous position bias, folded: one table a window, spread into `[heads, W², W²]`.
//!
//! SwinV2 paper §3.3 and Microsoft's code: offsets Δ ∈ [−(W−1), W−1]² of query minus key, (row, column), are
//! scaled `t = 8Δ / (Wp − 1)` with the pretrained window Wp, `t ← sign(t) · log2(|t| + 1) / log2(8)`, and
//! `bias = 16 · sigmoid(MLP(t))`. The network runs once a window and block; what stays is a table of
//! `(2W−1)²` rows. The spread bias is large (134 MB a block for G at window 32), so it is kept only under a
//! budget of bytes for the whole backbone and spread anew otherwise.

use super::window_layout::Mask;
use std::cell::RefCell;
use std::collections::HashMap;
use tch::{Device, Kind, TchError, Tensor};

/// What a masked pair's logit is lowered by (Microsoft; Hugging Face lowers twice, with the same result).
const MASKED: f32 = -100.0;

/// The position-bias network of one block.
#[derive(Debug)]
pub(crate) struct PositionBias {
    /// Trained window, 0 for the window in use.
    pub(crate) pretrained_window: u32,
    /// `[512, 2]`, `[512]`, `[heads, 512]`, binary32.
    pub(crate) hidden_weight: Tensor,
    pub(crate) hidden_bias: Tensor,
    pub(crate) head_weight: Tensor,
    /// `[heads, 1, 1]`: τ/2 of each head, binary32.
    pub(crate) half_scale: Tensor,
    /// By window, as [`Self::table`] gives it.
    pub(crate) tables: RefCell<HashMap<u32, Tensor>>,
}

impl PositionBias {
    /// `[heads, 2W−1, 2W−1]` in `kind`, both axes backwards: from the largest offset to the smallest.
    fn table(&self, window: u32, kind: Kind) -> Result<Tensor, TchError> {
        if let Some(table) = self.tables.borrow().get(&window) {
            return Ok(table.shallow_clone());
        }
        let device = self.hidden_weight.device();
        let coordinates = coordinates(window, self.pretrained_window);
        let side = 2 * i64::from(window) - 1;
        let hidden = Tensor::from_slice(&coordinates)
            .f_view([-1, 2])?
            .f_to_device(device)?
            .f_linear(&self.hidden_weight, Some(&self.hidden_bias))?
            .f_relu()?; // [(2W−1)², 512]
        let table = hidden
            .f_linear(&self.head_weight, None::<Tensor>)? // [(2W−1)², heads]
            .f_sigmoid()?
            .f_mul_scalar(16.0)?
            .f_transpose(0, 1)?
            .f_reshape([-1, side, side])?; // [heads, 2W−1, 2W−1]
        // A softmax does not see what is added to a whole row. With a head's largest bias at 0 and its products
        // in [−3τ/2, τ/2], the logits that matter are small, and small numbers lose least in bfloat16.
        let largest = table.f_amax([1i64, 2].as_slice(), true)?;
        let table = table.f_sub(&largest)?.f_sub(&self.half_scale)?.f_flip([1i64, 2])?.f_to_kind(kind)?;
        self.tables.borrow_mut().insert(window, table.shallow_clone());
        Ok(table)
    }
}

/// `(2W−1)²` pairs (row, column) of scaled, log-spaced offsets.
fn coordinates(window: u32, pretrained: u32) -> Vec<f32> {
    let reach = if pretrained > 0 { pretrained } else { window };
    // A window of one cell has the one offset 0 and nothing to scale by.
    let divisor = reach.saturating_sub(1).max(1) as f32;
    let axis: Vec<f32> = (-(i64::from(window) - 1)..i64::from(window))
        .map(|offset| {
            let t = offset as f32 / divisor * 8.0;
            if t == 0.0 { 0.0 } else { t.signum() * (t.abs() + 1.0).log2() / 3.0 }
        })
        .collect();
    axis.iter().flat_map(|&row| axis.iter().flat_map(move |&column| [row, column])).collect()
}

/// The biases of one block at work. Windows of one mask are neighbours in every order, so the last one met is
/// held: each mask's bias is asked for once, however many slices have it.
#[derive(Debug)]
pub(crate) struct BlockBias<'a> {
    block: usize,
    bias: &'a PositionBias,
    window: u32,
    kept_bytes: usize,
    cache: &'a RefCell<BiasCache>,
    held: Option<(Mask, Tensor)>,
}

impl<'a> BlockBias<'a> {
    /// Of block number `block`, to be kept in the cache if that then holds no more than `kept_bytes`.
    pub(crate) fn new(
        block: usize,
        bias: &'a PositionBias,
        window: u32,
        kept_bytes: usize,
        cache: &'a RefCell<BiasCache>,
    ) -> Self {
        Self { block, bias, window, kept_bytes, cache, held: None }
    }

    /// `[1, heads, W², W²]`, mask included.
    pub(crate) fn of(&mut self, mask: Mask) -> Result<Tensor, TchError> {
        if let Some((of, held)) = &self.held
            && *of == mask
        {
            return Ok(held.shallow_clone());
        }
        // Given back before the next one is made: they are large.
        self.held = None;
        let mut cache = self.cache.borrow_mut();
        let spread = cache.bias(self.block, self.bias, self.window, mask, self.kept_bytes)?;
        self.held = Some((mask, spread.shallow_clone()));
        Ok(spread)
    }
}

/// Spread biases of one backbone, kept while they fit.
#[derive(Debug)]
pub(crate) struct BiasCache {
    device: Device,
    /// Element type that attention takes its bias in.
    kind: Kind,
    kept_bytes: usize,
    /// By block number, window and mask: `[1, heads, W², W²]`.
    kept: HashMap<(usize, u32, Mask), Tensor>,
    /// By window and mask: `[W², W²]`, of the last window met.
    masks: HashMap<(u32, Mask), Tensor>,
}

impl BiasCache {
    pub(crate) fn new(device: Device, kind: Kind) -> Self {
        Self { device, kind, kept_bytes: 0, kept: HashMap::new(), masks: HashMap::new() }
    }

    /// `[1, heads, W², W²]` of block number `block`, mask included.
    fn bias(
        &mut self,
        block: usize,
        bias: &PositionBias,
        window: u32,
        mask: Mask,
        kept_bytes: usize,
    ) -> Result<Tensor, TchError> {
        if let Some(kept) = self.kept.get(&(block, window, mask)) {
            return Ok(kept.shallow_clone());
        }
        let side = i64::from(window);
        // Offset (query − key) on a backward axis is a window of length W that starts at W−1−query, so the table
        // spreads by two overlapping views and one copy: no index of W⁴ entries.
        let mut spread = bias
            .table(window, self.kind)?
            .f_unfold(1, side, 1)?
            .f_unfold(2, side, 1)? // [heads, W−1−query (2), key (2)]
            .f_flip([1i64, 2])?
            .f_reshape([1, -1, side * side, side * side])?;
        if mask != Mask::None {
            let _ = spread.f_add_(&self.mask(window, mask)?)?;
        }
        let bytes = spread.numel() * self.kind.elt_size_in_bytes();
        if self.kept_bytes + bytes <= kept_bytes {
            self.kept_bytes += bytes;
            self.kept.insert((block, window, mask), spread.shallow_clone());
        }
        Ok(spread)
    }

    fn mask(&mut self, window: u32, mask: Mask) -> Result<Tensor, TchError> {
        if let Some(kept) = self.masks.get(&(window, mask)) {
            return Ok(kept.shallow_clone());
        }
        let cells = i64::from(window * window);
        let made = Tensor::from_slice(&masked(window, mask))
            .f_view([cells, cells])?
            .f_to_device(self.device)?
            .f_to_kind(self.kind)?;
        self.masks.retain(|(of_window, _), _| *of_window == window);
        self.masks.insert((window, mask), made.shallow_clone());
        Ok(made)
    }
}

/// `W² · W²` values: 0 where query and key were neighbours before rolling by W/2, −100 where not.
fn masked(window: u32, mask: Mask) -> Vec<f32> {
    let seam = window - window / 2;
    let side = |place: u32| {
        let (y, x) = (place / window >= seam, place % window >= seam);
        match mask {
            Mask::None => (false, false),
            Mask::Columns => (false, x),
            Mask::Rows => (y, false),
            Mask::Both => (y, x),
        }
    };
    let cells = window * window;
    (0..cells)
        .flat_map(|query| (0..cells).map(move |key| (query, key)))
        .map(|(query, key)| if side(query) == side(key) { 0.0 } else { MASKED })
        .collect()
}
