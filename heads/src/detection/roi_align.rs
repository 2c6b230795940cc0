//! RoIAlign (He et al. 2017, §3): regions of maps, pooled to a fixed number of bins, with gradients to
//! the maps on any device. Must not choose levels ([`LevelMap`] does) or hold parameters.

use super::level_map::LevelMap;
use super::pooling_bag::{BinRule, PoolingBag};
use crate::{Error, Result};
use tch::{Kind, Tensor};

/// A region of one picture of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roi {
    /// Index of the picture in the maps' batch.
    pub picture: usize,
    /// Box in pixels of the padded input.
    pub bounds: [f32; 4],
}

/// Regions of all pictures, picture by picture.
pub fn rois<'a>(boxes: impl IntoIterator<Item = &'a [[f32; 4]]>) -> Vec<Roi> {
    let of_picture =
        |(picture, boxes): (usize, &'a [[f32; 4]])| boxes.iter().map(move |&bounds| Roi { picture, bounds });
    boxes.into_iter().enumerate().flat_map(of_picture).collect()
}

/// Pools regions by mean: `torchvision.ops.roi_align` and `mmcv.ops.RoIAlign(pool_mode="avg")`.
///
/// Every bin is a weighted sum of cells, so this is torch's `embedding_bag` over the map as a table of
/// cells, which is a view of channels_last memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiAlign {
    /// Bins, samples and the convention for centres.
    pub rule: BinRule,
}

impl RoiAlign {
    /// Pools from one map `[n, c, h, w]` of `scale` cells a pixel (1 / stride) to `[rois, c, side, side]`
    /// in channels_last memory and the map's kind. Sums are binary32 (binary64 for a binary64 map).
    /// A narrower map is widened in every call: widen it once before pooling from it several times.
    ///
    /// # Errors
    /// A map of another rank; a region of a picture that the map does not have.
    pub fn pool(&self, map: &Tensor, scale: f32, rois: &[Roi]) -> Result<Tensor> {
        let chosen: Vec<usize> = (0..rois.len()).collect();
        let bins = self.pool_rows(map, scale, rois, &chosen)?; // [rois, side · side · c]
        self.as_maps(&bins, map)
    }

    /// Pools every region from the one of the maps that `levels` says, in the order of `rois`. Maps
    /// have equal channels, and `scales` are theirs. Every map has a gradient, zeros if no region is
    /// pooled from it.
    ///
    /// # Errors
    /// As [`pool`](Self::pool); no maps, or another number of scales.
    pub fn pool_levels(
        &self,
        maps: &[Tensor],
        scales: &[f32],
        levels: LevelMap,
        rois: &[Roi],
    ) -> Result<Tensor> {
        let (Some(first), true) = (maps.first(), maps.len() == scales.len()) else {
            let (maps, scales) = (maps.len(), scales.len());
            return Err(Error::invalid(format!("{maps} maps and {scales} scales, expected one each")));
        };
        let mut members = vec![Vec::new(); maps.len()];
        for (index, roi) in rois.iter().enumerate() {
            members[levels.level(roi.bounds, maps.len())].push(index);
        }
        let pool = |((map, &scale), members): ((&Tensor, &f32), &Vec<usize>)| {
            self.pool_rows(map, scale, rois, members)
        };
        let pooled = maps.iter().zip(scales).zip(&members).map(pool).collect::<Result<Vec<_>>>()?;
        let pooled = Tensor::f_cat(&pooled, 0)?; // [rois, side · side · c], level by level
        let mut place = vec![0; rois.len()];
        for (position, &index) in (0..).zip(members.iter().flatten()) {
            place[index] = position;
        }
        if place.is_sorted() {
            return self.as_maps(&pooled, first);
        }
        let place = Tensor::f_from_slice::<i64>(&place)?.f_to_device(pooled.device())?;
        self.as_maps(&pooled.f_index_select(0, &place)?, first)
    }

    /// The chosen regions, `[chosen, side · side · c]`.
    fn pool_rows(&self, map: &Tensor, scale: f32, rois: &[Roi], chosen: &[usize]) -> Result<Tensor> {
        let size = map.size();
        let &[n, c, h, w] = size.as_slice() else {
            return Err(Error::invalid(format!("map is {size:?}, expected [n, c, h, w]")));
        };
        let side = i64::from(self.rule.side);
        let kind = if map.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        // [n, h, w, c]: a view of channels_last memory, a copy of any other.
        let cells = map.f_permute([0, 2, 3, 1])?.f_to_kind(kind)?.f_contiguous()?;
        let table = cells.f_view([n * h * w, c])?;
        if chosen.is_empty() || table.numel() == 0 {
            // Cut from the map, so that it has a gradient.
            let rows = chosen.len() as i64;
            let nothing = table.f_reshape([-1])?.f_narrow(0, 0, 0)?.f_sum(kind)?;
            return Ok(nothing.f_expand([rows, side * side * c], false)?);
        }
        let mut bag = PoolingBag::default();
        for roi in chosen.iter().map(|&index| &rois[index]) {
            if roi.picture as i64 >= n {
                return Err(Error::invalid(format!("a region of picture {} in a batch of {n}", roi.picture)));
            }
            let first = roi.picture as i64 * h * w;
            bag.push(self.rule, roi.bounds, scale, [h as usize, w as usize], first);
        }
        let device = map.device();
        let cells = Tensor::f_from_slice(&bag.cells)?.f_to_device(device)?;
        let offsets = Tensor::f_from_slice(&bag.offsets)?.f_to_device(device)?;
        let weights = Tensor::f_from_slice(&bag.weights)?.f_to_device(device)?.f_to_kind(kind)?;
        const SUM: i64 = 0;
        let (bins, ..) =
            Tensor::f_embedding_bag(&table, &cells, &offsets, false, SUM, false, Some(&weights), false)?;
        Ok(bins.f_view([chosen.len() as i64, side * side * c])?) // [chosen, side · side · c]
    }

    /// `[rois, side · side · c]` as maps `[rois, c, side, side]` of the map's kind.
    fn as_maps(&self, bins: &Tensor, map: &Tensor) -> Result<Tensor> {
        let (side, channels) = (i64::from(self.rule.side), map.size()[1]);
        let bins = bins.f_view([bins.size()[0], side, side, channels])?.f_to_kind(map.kind())?;
        Ok(bins.f_permute([0, 3, 1, 2])?) // [rois, c, side, side]
    }
}
