//! What every backbone owes, as a function of any backbone, and run on each.

use featcache_extractor::Error;
use featcache_extractor::backbone::{self, Backbone, BackboneOptions, Portions, SwinV2, SwinV2Config};
use featcache_extractor::device::{self, DeviceChoice};
use featcache_extractor::weights::WeightSource;
use featcache_store::{Compute, Size};
use tch::{Device, Kind, Tensor};

/// Pictures that are not alike, `[n, 3, h, w]`.
fn pictures(n: i64, size: Size) -> Tensor {
    let (h, w) = (i64::from(size.height), i64::from(size.width));
    let count = n * 3 * h * w;
    (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin().view([n, 3, h, w]) * 2.0
}

/// Levels, shapes, strides, independence of the batch, determinism. `batch_tolerance` is the relative error
/// that rounding of another batch size may make (extractors.md §4d: 1e-6 in fp32, 5e-4 in bf16).
fn contract(backbone: &dyn Backbone, size: Size, batch_tolerance: f64) {
    let levels = backbone.levels();
    assert!(!levels.is_empty());
    assert!(levels.windows(2).all(|pair| pair[0].stride < pair[1].stride), "finest first: {levels:?}");
    assert!(levels.iter().all(|level| backbone.divisor().is_multiple_of(level.stride)));
    assert_eq!(backbone.spec().weights_blake3.len(), 64);
    let input = pictures(8, size.padded(backbone.divisor())).to_device(backbone.device());
    let padded = size.padded(backbone.divisor());
    let batch = backbone.forward(&input).unwrap();
    assert_eq!(batch.len(), levels.len());
    for (level, map) in levels.iter().zip(&batch) {
        let cells = |side: u32| i64::from(side / level.stride);
        let shape = [8, cells(padded.height), cells(padded.width), i64::from(level.channels)];
        assert_eq!(map.size(), shape, "{}", level.name);
        assert!(map.is_contiguous() && !map.requires_grad() && map.device() == backbone.device());
        let kind = if backbone.spec().compute == Compute::Bf16 { Kind::BFloat16 } else { Kind::Float };
        assert_eq!(map.kind(), kind);
        let float = map.to_kind(Kind::Double);
        assert!(float.isfinite().all().int64_value(&[]) == 1, "{}", level.name);
        // Not degenerate: pictures differ, cells differ, channels differ.
        for axis in [0, 1, 2, 3] {
            let std = float.std_dim(axis, false, false);
            let (least, most) = (std.min().double_value(&[]), std.max().double_value(&[]));
            assert!(least > 0.0 && most > 1e-3, "{} {axis}: {least} {most}", level.name);
        }
    }
    for picture in [0, 5] {
        let alone = backbone.forward(&input.narrow(0, picture, 1)).unwrap();
        for (level, (map, alone)) in levels.iter().zip(batch.iter().zip(&alone)) {
            let of_batch = map.narrow(0, picture, 1).to_kind(Kind::Double);
            let difference = (&of_batch - alone.to_kind(Kind::Double)).norm() / of_batch.norm();
            assert!(difference.double_value(&[]) <= batch_tolerance, "{}: {difference:?}", level.name);
        }
    }
    for (first, second) in batch.iter().zip(backbone.forward(&input).unwrap()) {
        assert!(first.equal(&second), "two runs differ");
    }
    let wrong = backbone.forward(&Tensor::zeros([3, 32, 32], (Kind::Float, Device::Cpu)));
    assert!(matches!(wrong, Err(Error::Invalid { .. })), "{wrong:?}");
}

fn options(compute: Compute) -> BackboneOptions {
    BackboneOptions { compute, ..BackboneOptions::default() }
}

#[test]
fn the_fake_backbone_keeps_the_contract() {
    for compute in [Compute::Fp32, Compute::Bf16] {
        let fake = backbone::build("fake", &WeightSource::Random(0), &options(compute)).unwrap();
        contract(fake.as_ref(), Size::new(70, 96), 0.0);
    }
}

#[test]
fn swin_v2_keeps_the_contract_and_ignores_its_batch_to_the_bit() {
    for compute in [Compute::Fp32, Compute::Bf16] {
        let swin = backbone::build("swinv2-demo", &WeightSource::Random(3), &options(compute)).unwrap();
        contract(swin.as_ref(), Size::new(100, 128), 0.0);
    }
}

/// As on a GPU, on whatever there is: the pictures of a batch run together.
#[test]
fn swin_v2_keeps_the_contract_with_pictures_together() {
    let devices = [Some(Device::Cpu), device::cuda().is_ok().then_some(Device::Cuda(0))];
    for device in devices.into_iter().flatten() {
        for (compute, tolerance) in [(Compute::Fp32, 1e-5), (Compute::Bf16, 1e-2)] {
            let options = BackboneOptions { device, ..options(compute) };
            let config = SwinV2Config::named("swinv2-demo").unwrap();
            let swin = SwinV2::load(config, &WeightSource::Random(3), &options).unwrap();
            let swin = swin.with_portions(Portions { together: true, ..Portions::of(device) });
            contract(&swin, Size::new(100, 128), tolerance);
        }
    }
}

#[test]
fn the_fake_backbone_is_the_mean_of_its_pixels() {
    let fake = backbone::build("fake", &WeightSource::Random(0), &options(Compute::Fp32)).unwrap();
    let input = pictures(2, Size::new(64, 96));
    let levels = fake.forward(&input).unwrap();
    for (level, map) in fake.levels().iter().zip(&levels) {
        let side = i64::from(level.stride);
        for (n, y, x, channel) in [(0, 0, 0, 0), (1, 1, 2, 4), (1, 0, 1, 7)] {
            let cell = input.get(n).get(channel % 3).narrow(0, y * side, side).narrow(1, x * side, side);
            let mean = cell.mean(Kind::Double).double_value(&[]);
            let expected = mean * (1 + channel / 3) as f64 + channel as f64 / 16.0;
            let found = map.double_value(&[n, y, x, channel]);
            assert!((found - expected).abs() < 1e-5, "{}: {found} {expected}", level.name);
        }
    }
}

#[test]
fn an_unknown_backbone_names_the_known_ones() {
    let error = backbone::build("resnet", &WeightSource::Random(0), &options(Compute::Fp32)).map(|_| ());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("resnet") && message.contains("swinv2-g") && message.contains("fake"),
        "{message}"
    );
}

#[test]
fn an_outline_is_what_the_backbone_says() {
    for name in ["fake", "swinv2-demo"] {
        let (source, options) = (WeightSource::Random(7), options(Compute::Bf16));
        let outline = backbone::outline(name, &source, &options).unwrap();
        let built = backbone::build(name, &source, &options).unwrap();
        assert_eq!(&outline.spec, built.spec());
        assert_eq!(outline.levels, built.levels());
        assert_eq!((outline.divisor, outline.parameters), (built.divisor(), built.parameters()));
    }
}

#[test]
fn a_machine_without_a_gpu_says_why() {
    assert_eq!("cpu".parse::<DeviceChoice>().unwrap().open().unwrap(), Device::Cpu);
    assert!("gpu".parse::<DeviceChoice>().is_err());
    match device::cuda() {
        Ok(count) => assert!(*count > 0),
        Err(reason) => {
            assert!(reason.contains("libtorch_cuda.so"), "{reason}");
            let refused = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
            assert!(refused.contains("cuda:0") && refused.contains(reason.as_str()), "{refused}");
            assert_eq!(DeviceChoice::Auto.open().unwrap(), Device::Cpu);
        }
    }
}
