//! Boxes, deltas and anchors.

use super::{DEGENERATE, Goldens, INFINITY, NAN, close, close_slice, gradients};
use featcache_heads::detection::anchor::{AnchorGrid, inside};
use featcache_heads::detection::boxes;
use featcache_heads::detection::delta::{DeltaCoder, clip_tensor};
use featcache_store::Size;
use tch::{Device, Kind, Tensor};

#[test]
fn overlaps_are_torchvisions() {
    let golden = Goldens::read();
    let (a, b) = (golden.boxes("overlap.a"), golden.boxes("overlap.b"));
    assert_eq!(boxes::iou_matrix(&a, &b), golden.floats("overlap.iou"));
    close_slice(&boxes::giou_matrix(&a, &b), &golden.floats("overlap.giou"), "giou");

    let (a, b) =
        (golden.tensor("giou.a").set_requires_grad(true), golden.tensor("giou.b").set_requires_grad(true));
    let giou = boxes::giou_tensor(&a, &b, 1e-7).unwrap();
    close(&giou, &golden.tensor("giou.value"), "giou of tensors");
    let found = gradients(&giou, &golden.tensor("giou.weights"), &[&a, &b]);
    close(&found[0], &golden.tensor("giou.gradient_a"), "gradient to a");
    close(&found[1], &golden.tensor("giou.gradient_b"), "gradient to b");
}

#[test]
fn degenerate_boxes_overlap_nothing() {
    let whole = [0.0, 0.0, 100.0, 100.0];
    for bounds in DEGENERATE {
        assert_eq!(boxes::area(bounds), 0.0, "{bounds:?}");
        assert!(!boxes::has_sides(bounds, 0.0), "{bounds:?}");
        for other in DEGENERATE.into_iter().chain([whole]) {
            assert_eq!(boxes::iou(bounds, other), 0.0, "{bounds:?} {other:?}");
            assert_eq!(boxes::iou(other, bounds), 0.0, "{bounds:?} {other:?}");
            assert_eq!(boxes::intersection_over_first(bounds, other), 0.0, "{bounds:?} {other:?}");
            assert!((-1.0..=0.0).contains(&boxes::giou(bounds, other)), "{bounds:?} {other:?}");
        }
        let clipped = boxes::clip(bounds, Size::new(50, 60));
        assert!(clipped.iter().all(|value| (0.0..=60.0).contains(value)), "{clipped:?}");
    }
    assert_eq!(boxes::clip([-5.0, 10.0, 70.0, 80.0], Size::new(50, 60)), [0.0, 10.0, 60.0, 50.0]);
    assert!(boxes::has_sides([0.0, 0.0, 4.0, 5.0], 4.0) && !boxes::has_sides([0.0, 0.0, 4.0, 5.0], 4.5));
    assert!(boxes::iou_matrix(&[], &[whole]).is_empty());

    // A collapsed prediction has a finite generalised IoU and finite gradients.
    let flat = Tensor::from_slice(&[3f32, 3., 3., 3., 5., 5., 1., 1.]).view([2, 4]).set_requires_grad(true);
    let truth = Tensor::from_slice(&[3f32, 3., 3., 3., 0., 0., 9., 9.]).view([2, 4]);
    let giou = boxes::giou_tensor(&flat, &truth, 1e-7).unwrap();
    let found = gradients(&giou, &Tensor::ones([2], (Kind::Float, Device::Cpu)), &[&flat]);
    assert!(
        bool::try_from(giou.isfinite().all()).unwrap() && bool::try_from(found[0].isfinite().all()).unwrap()
    );
    assert!(boxes::giou_tensor(&flat, &truth.narrow(0, 0, 1), 1e-7).is_err());
    let none = boxes::to_tensor(&[], Device::Cpu).unwrap();
    assert_eq!(none.size(), [0, 4]);
    assert_eq!(boxes::giou_tensor(&none, &none, 1e-7).unwrap().size(), [0]);
    assert!(boxes::from_tensor(&none).unwrap().is_empty());
}

#[test]
fn deltas_are_the_references() {
    let golden = Goldens::read();
    let (bounds, truths) = (golden.boxes("delta.boxes"), golden.boxes("delta.truths"));
    let torchvision = DeltaCoder::torchvision([10.0, 10.0, 5.0, 5.0]);
    let mmdetection = DeltaCoder::mmdetection([0.1, 0.1, 0.2, 0.2]);
    let encoded = torchvision.encode(&bounds, &truths).unwrap();
    close_slice(encoded.as_flattened(), &golden.floats("delta.encoded"), "encoded");
    let (at, to) = (golden.tensor("delta.boxes"), golden.tensor("delta.truths"));
    close(&torchvision.encode_tensor(&at, &to).unwrap(), &golden.tensor("delta.encoded"), "encoded tensor");

    let at = at.set_requires_grad(true);
    let codes = golden.tensor("delta.codes").set_requires_grad(true);
    for (name, coder) in [("torchvision", torchvision), ("mmdetection", mmdetection)] {
        let expected = golden.tensor(&format!("delta.{name}.decoded"));
        close(&coder.decode_tensor(&at, &codes).unwrap(), &expected, name);
        for class in 0..3 {
            let codes = boxes::from_tensor(&codes.narrow(1, class * 4, 4)).unwrap();
            let found = coder.decode(&bounds, &codes).unwrap();
            let expected = boxes::from_tensor(&expected.narrow(1, class * 4, 4)).unwrap();
            close_slice(found.as_flattened(), expected.as_flattened(), name);
        }
    }
    let found = gradients(
        &torchvision.decode_tensor(&at, &codes).unwrap(),
        &golden.tensor("delta.direction"),
        &[&codes, &at],
    );
    close(&found[0], &golden.tensor("delta.torchvision.gradient"), "gradient to deltas");
    close(&found[1], &golden.tensor("delta.torchvision.gradient_boxes"), "gradient to boxes");
    let clipped = clip_tensor(&mmdetection.decode_tensor(&at, &codes).unwrap(), Size::new(180, 260)).unwrap();
    close(&clipped, &golden.tensor("delta.mmdetection.clipped"), "clipped");
}

#[test]
fn deltas_of_degenerate_boxes_are_zero() {
    let coder = DeltaCoder::mmdetection([0.1, 0.1, 0.2, 0.2]);
    let sound = [0.0, 0.0, 10.0, 10.0];
    let mut pairs: Vec<_> =
        DEGENERATE.into_iter().flat_map(|bounds| [(bounds, sound), (sound, bounds)]).collect();
    pairs.push((sound, [1.0, 0.0, 11.0, 10.0]));
    let (bounds, truths): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let encoded = coder.encode(&bounds, &truths).unwrap();
    assert!(encoded[..14].iter().flatten().all(|value| *value == 0.0), "{encoded:?}");
    assert_eq!(encoded[14], [1.0, 0.0, 0.0, 0.0]);
    let at = boxes::to_tensor(&bounds, Device::Cpu).unwrap().set_requires_grad(true);
    let to = boxes::to_tensor(&truths, Device::Cpu).unwrap();
    let found = coder.encode_tensor(&at, &to).unwrap();
    assert_eq!(boxes::from_tensor(&found).unwrap(), encoded);

    let wild = [[NAN; 4], [INFINITY; 4], [0.0, 0.0, 1e30, -1e30]];
    let found = coder.decode(&[sound; 3], &wild).unwrap();
    assert!(found.iter().all(|&bounds| boxes::clip(bounds, Size::new(9, 9)).iter().all(|v| v.is_finite())));
    assert!(boxes::has_sides(found[2], 0.0));
    assert!(
        coder.encode(&[sound], &[]).is_err() && coder.decode(&[], &[sound[..].try_into().unwrap()]).is_err()
    );
    assert!(coder.decode(&[], &[]).unwrap().is_empty());
    let none = boxes::to_tensor(&[], Device::Cpu).unwrap();
    assert_eq!(coder.encode_tensor(&none, &none).unwrap().size(), [0, 4]);
    let deltas = Tensor::zeros([0, 12], (Kind::Float, Device::Cpu));
    assert_eq!(coder.decode_tensor(&none, &deltas).unwrap().size(), [0, 12]);
    assert_eq!(clip_tensor(&deltas, Size::new(4, 4)).unwrap().size(), [0, 12]);
}

#[test]
fn anchors_are_the_references() {
    let golden = Goldens::read();
    let ratios = [0.5, 1.0, 2.0];
    let maps = [Size::new(6, 9), Size::new(3, 5)];
    // torchvision takes the strides from the padded input, here 26 × 38.
    let grids = [
        AnchorGrid::torchvision([26 / 6, 38 / 9], &[32.0], &ratios).unwrap(),
        AnchorGrid::torchvision([26 / 3, 38 / 5], &[64.0, 90.0], &ratios).unwrap(),
    ];
    let found: Vec<_> = grids.iter().zip(maps).flat_map(|(grid, map)| grid.anchors(map)).collect();
    assert_eq!(found, golden.boxes("anchor.torchvision"));
    assert_eq!(grids[1].per_cell(), 6);
    let grid = |stride| AnchorGrid::mmdetection(stride, &[8.0], &ratios).unwrap();
    let found: Vec<_> =
        [4, 8].into_iter().zip(maps).flat_map(|(stride, map)| grid(stride).anchors(map)).collect();
    assert_eq!(found, golden.boxes("anchor.mmdetection"));
    assert_eq!(grid(4).anchors(Size::new(0, 5)), Vec::<[f32; 4]>::new());
    for (stride, scales, ratios) in [(0, [8.0], [1.0]), (4, [0.0], [1.0]), (4, [8.0], [NAN])] {
        assert!(AnchorGrid::mmdetection(stride, &scales, &ratios).is_err());
    }
    let picture = Size::new(20, 30);
    assert!(inside([0.0, 0.0, 29.9, 19.9], picture, 0.0) && !inside([0.0, 0.0, 30.0, 19.0], picture, 0.0));
    assert!(!inside([-1.0, 0.0, 9.0, 9.0], picture, 0.0) && inside([-1.0, 0.0, 30.0, 9.0], picture, 1.0));
}
