//! Levels of regions, and RoIAlign from them.

use super::{DEGENERATE, Goldens, INFINITY, NAN, close, gradients};
use featcache_heads::detection::level_map::LevelMap;
use featcache_heads::detection::pooling_bag::{BinRule, PoolingBag, Sampling};
use featcache_heads::detection::roi_align::{Roi, RoiAlign, rois};
use tch::{Device, Kind, Tensor};

#[test]
fn levels_are_the_references() {
    let golden = Goldens::read();
    for (name, map) in [("torchvision", LevelMap::TORCHVISION), ("mmdetection", LevelMap::MMDETECTION)] {
        let found = golden.boxes("level.boxes");
        let found: Vec<_> = found.into_iter().map(|bounds| map.level(bounds, 4)).collect();
        assert_eq!(found, golden.indices(&format!("level.{name}")), "{name}");
        assert!(DEGENERATE.into_iter().all(|bounds| map.level(bounds, 4) == 0));
        assert_eq!(map.level([0.0, 0.0, 1e30, 1e30], 4), 3);
        assert_eq!(map.level([0.0, 0.0, 1e3, 1e3], 1), 0);
    }
}

fn align(side: u16, sampling: Sampling, aligned: bool) -> RoiAlign {
    RoiAlign { rule: BinRule { side, sampling, aligned } }
}

fn channels_last(map: &Tensor) -> Tensor {
    map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

fn golden_rois(golden: &Goldens) -> Vec<Roi> {
    let pictures = golden.indices("roi.pictures").into_iter();
    golden
        .boxes("roi.bounds")
        .into_iter()
        .zip(pictures)
        .map(|(bounds, picture)| Roi { picture, bounds })
        .collect()
}

#[test]
fn pooling_is_torchvisions() {
    let golden = Goldens::read();
    let rois = golden_rois(&golden);
    for (ratio, sampling) in [(-1, Sampling::Adaptive), (2, Sampling::Fixed(2)), (3, Sampling::Fixed(3))] {
        for (name, aligned) in [("aligned", true), ("shifted", false)] {
            for channels_last_memory in [true, false] {
                let map = golden.tensor("roi.map");
                let map = if channels_last_memory { channels_last(&map) } else { map };
                let map = map.set_requires_grad(true);
                let name = format!("roi.{ratio}.{name}");
                let found = align(5, sampling, aligned).pool(&map, 1.0 / 8.0, &rois).unwrap();
                close(&found, &golden.tensor(&format!("{name}.value")), &name);
                let gradient = gradients(&found, &golden.tensor("roi.direction"), &[&map]);
                close(&gradient[0], &golden.tensor(&format!("{name}.gradient")), &name);
            }
        }
    }
}

#[test]
fn pooling_from_levels_is_torchvisions() {
    let golden = Goldens::read();
    let maps: Vec<_> = (2..6)
        .map(|level| channels_last(&golden.tensor(&format!("levels.p{level}"))).set_requires_grad(true))
        .collect();
    let scales = [1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0];
    let boxes = [golden.boxes("levels.boxes0"), golden.boxes("levels.boxes1")];
    let rois = rois(boxes.iter().map(Vec::as_slice));
    let levels = LevelMap::Canonical { side: 32.0, level: 4.0, first: 2.0 };
    let used: std::collections::BTreeSet<_> = rois.iter().map(|roi| levels.level(roi.bounds, 4)).collect();
    assert_eq!(used.len(), 4, "the golden's regions use every level");
    let roi_align = align(4, Sampling::Fixed(2), false);
    let found = roi_align.pool_levels(&maps, &scales, levels, &rois).unwrap();
    close(&found, &golden.tensor("levels.value"), "value");
    let inputs: Vec<_> = maps.iter().collect();
    let gradient = gradients(&found, &golden.tensor("levels.direction"), &inputs);
    let pooled = roi_align.pool_levels(&maps, &scales, levels, &rois).unwrap();
    let again = gradients(&pooled, &golden.tensor("levels.direction"), &inputs);
    assert!(gradient.iter().zip(&again).all(|(first, second)| first.equal(second)), "sums in one order");
    for (level, gradient) in (2..6).zip(gradient) {
        close(&gradient, &golden.tensor(&format!("levels.gradient.p{level}")), &format!("p{level}"));
    }

    // Regions of one level leave the others with a gradient of zeros; none at all does so with all.
    for rois in [&rois[..1], &[]] {
        let found = roi_align.pool_levels(&maps, &scales, levels, rois).unwrap();
        assert_eq!(found.size(), [rois.len() as i64, 2, 4, 4]);
        let gradient = gradients(&found, &found.ones_like(), &inputs);
        let touched = gradient.iter().filter(|gradient| gradient.abs().max().double_value(&[]) > 0.0).count();
        assert_eq!(touched, rois.len());
    }
    assert!(roi_align.pool_levels(&maps, &scales[1..], levels, &rois).is_err());
    assert!(roi_align.pool_levels(&[], &[], levels, &rois).is_err());
}

/// bf16 maps are summed in binary32 and rounded once, forward and backward.
#[test]
fn pooling_of_bf16_rounds_once() {
    let golden = Goldens::read();
    let rois = golden_rois(&golden);
    let roi_align = align(5, Sampling::Fixed(2), true);
    let map = golden.tensor("roi.map").to_kind(Kind::BFloat16);
    let wide = map.to_kind(Kind::Float).set_requires_grad(true);
    let map = channels_last(&map).set_requires_grad(true);
    let direction = golden.tensor("roi.direction").to_kind(Kind::BFloat16).to_kind(Kind::Float);
    let expected = roi_align.pool(&wide, 1.0 / 8.0, &rois).unwrap();
    let expected_gradient = gradients(&expected, &direction, &[&wide]);
    let found = roi_align.pool(&map, 1.0 / 8.0, &rois).unwrap();
    assert_eq!(found.kind(), Kind::BFloat16);
    let gradient = gradients(&found.to_kind(Kind::Float), &direction, &[&map]);
    assert_eq!(gradient[0].kind(), Kind::BFloat16);
    assert!(found.equal(&expected.to_kind(Kind::BFloat16)));
    assert!(gradient[0].equal(&expected_gradient[0].to_kind(Kind::BFloat16)));
}

#[test]
fn pooling_of_nothing_and_of_nonsense() {
    let options = (Kind::Float, Device::Cpu);
    let map = Tensor::ones([2, 3, 4, 6], options).set_requires_grad(true);
    let roi = |picture, bounds| Roi { picture, bounds };
    for sampling in [Sampling::Adaptive, Sampling::Fixed(2), Sampling::Fixed(0)] {
        let roi_align = align(2, sampling, true);
        let none = roi_align.pool(&map, 0.25, &[]).unwrap();
        assert_eq!(none.size(), [0, 3, 2, 2]);
        assert_eq!(gradients(&none, &none.ones_like(), &[&map])[0].abs().max().double_value(&[]), 0.0);
        // No cell at all in any bin.
        let outside = [roi(1, [900.0, 900.0, 950.0, 950.0]), roi(0, [NAN; 4]), roi(0, [INFINITY; 4])];
        let found = roi_align.pool(&map, 0.25, &outside).unwrap();
        assert_eq!(found.size(), [3, 3, 2, 2]);
        assert_eq!(found.abs().max().double_value(&[]), 0.0);
        for bounds in DEGENERATE {
            let found = roi_align.pool(&map, 0.25, &[roi(0, bounds)]).unwrap();
            assert!((0.0..=1.0).contains(&found.abs().max().double_value(&[])), "{bounds:?}");
        }
        assert!(roi_align.pool(&map, 0.25, &[roi(2, [0.0, 0.0, 9.0, 9.0])]).is_err());
        assert!(roi_align.pool(&map.get(0), 0.25, &[]).is_err());
        let empty = Tensor::ones([1, 3, 0, 6], options);
        let found = roi_align.pool(&empty, 0.25, &[roi(0, [0.0, 0.0, 9.0, 9.0])]).unwrap();
        assert_eq!((found.size(), found.abs().max().double_value(&[])), (vec![1, 3, 2, 2], 0.0));
    }
}

/// A region of a million times the map takes only the samples near the map, and misses none of them:
/// the map's share of the region's area is its share of the mean.
#[test]
fn huge_regions_cost_no_more_than_the_map() {
    let rule = BinRule { side: 2, sampling: Sampling::Adaptive, aligned: true };
    for (side, tolerance) in [(1e3_f32, 0.01), (1e5, 0.01), (1e6, 0.05)] {
        let mut bag = PoolingBag::default();
        bag.push(rule, [-side, -side, side, side], 1.0, [40, 40], 0);
        assert!(bag.cells.len() <= 4 * 1600, "{} entries for {side}", bag.cells.len());
        assert!(bag.cells.iter().all(|cell| (0..1600).contains(cell)));
        // The map lies in the lower right bin, of area side²; samples up to one cell off the map count.
        let bin: f64 = bag.weights[bag.offsets[3] as usize..].iter().map(|&weight| f64::from(weight)).sum();
        let share = bin * f64::from(side).powi(2) / 41.0_f64.powi(2);
        assert!((share - 1.0).abs() < tolerance, "{side}: {share}");
    }
    let mut bag = PoolingBag::default();
    for bounds in [[-3e6, -3e6, 3e6, 3e6], [-1e38, -1e38, 1e38, 1e38], [-3e38, 0.0, 3e38, 9.0]] {
        bag.push(rule, bounds, 1.0, [40, 40], 0);
    }
    assert_eq!((bag.offsets.len(), bag.cells.len()), (12, 0));
}
