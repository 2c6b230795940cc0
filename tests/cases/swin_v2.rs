//! SwinV2 against transformers, timm and torchvision: all levels, square, non-square and non-divisible inputs,
//! maps smaller than the window, trained windows, extra norms.
//!
//! The goldens come from `tests/parity/swin_v2_goldens.py`, which says what is compared with whom. Errors are
//! relative L2 norms of a level, ‖ours − golden‖ / ‖golden‖, and, so that no cell can hide among the others,
//! largest differences over the largest value.

use featcache_extractor::Error;
use featcache_extractor::backbone::{self, Backbone, BackboneOptions, Portions, SwinV2, SwinV2Config};
use featcache_extractor::weights::WeightSource;
use featcache_store::{Compute, Size};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// binary32 against binary64: 1e-7 of rounding grows over some sixteen products a level.
const FP32_TOLERANCE: f64 = 1e-5;
/// bfloat16 rounds every product's result to 2⁻⁹; transformers itself is up to 1.6e-2 off
/// in bfloat16 here.
const BF16_TOLERANCE: f64 = 2e-2;

/// Uniform in [-1, 1) from a name: the same formula as in `swin_v2_goldens.py`.
fn draw(name: &str, count: usize) -> Vec<f32> {
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..count as u64)
        .map(|i| {
            let mut z = start.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            (z >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// As `weight` in `swin_v2_goldens.py`.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let last_block = name.contains("layers.3.blocks.1.") || name.contains("features.7.1.");
    let logit_scale = name.ends_with("logit_scale");
    let (offset, scale) = if logit_scale {
        (2.3, 0.7)
    } else if name.ends_with("bias") {
        (0.0, 0.25)
    } else if shape.len() == 1 {
        (0.3, 0.1)
    } else {
        let fan_in: usize = shape[1..].iter().product();
        (0.0, (3.0 / fan_in as f64).sqrt() as f32)
    };
    let value = |u: f32| if logit_scale && last_block && u > 0.5 { 6.0 } else { offset + scale * u };
    draw(name, shape.iter().product()).into_iter().map(value).collect()
}

/// One golden case with the weights file that its model would have saved.
struct Case {
    case: Value,
    weights: PathBuf,
    levels: Vec<Tensor>,
    _folder: tempfile::TempDir,
}

impl Case {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/swin_v2");
        let mut goldens: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        goldens.sort();
        assert!(goldens.len() >= 9, "{goldens:?}");
        goldens.iter().map(|golden| Self::read(golden)).collect()
    }

    fn read(golden: &Path) -> Self {
        let bytes = std::fs::read(golden).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let tensors: Vec<(String, Vec<usize>)> = serde_json::from_str(&metadata["tensors"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("weights.safetensors");
        let named: Vec<(String, Tensor)> = tensors
            .iter()
            .map(|(name, shape)| {
                let shape_i64: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                (name.clone(), Tensor::from_slice(&weight(name, shape)).view(&shape_i64[..]))
            })
            .collect();
        Tensor::write_safetensors(&named, &weights).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let level = |i: usize| {
            let view = file.tensor(&format!("p{}", i + 2)).unwrap();
            let shape: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
            Tensor::from_data_size(view.data(), &shape, Kind::Float)
        };
        let case = serde_json::from_str(&metadata["case"]).unwrap();
        Self { case, weights, levels: (0..4).map(level).collect(), _folder: folder }
    }

    fn numbers<const N: usize>(&self, key: &str) -> [usize; N] {
        let list = self.case[key].as_array().unwrap();
        std::array::from_fn(|i| list[i].as_u64().unwrap() as usize)
    }

    fn config(&self) -> SwinV2Config {
        SwinV2Config {
            name: "golden".into(),
            channels: 8,
            depths: self.numbers("depths"),
            heads: [1, 2, 4, 8],
            window: self.case["window"].as_u64().unwrap() as u32,
            pretrained_window: self.numbers::<4>("pretrained_window").map(|w| w as u32),
            extra_norm_every: self.case["extra_norm_every"].as_u64().unwrap() as usize,
        }
    }

    fn input(&self) -> Tensor {
        let [h, w] = self.numbers("input");
        let values = draw(&format!("input {h}x{w}"), 3 * h * w);
        Tensor::from_slice(&values).view([1, 3, h as i64, w as i64]) * 2.0
    }

    fn load(&self, compute: Compute) -> SwinV2 {
        let options = BackboneOptions { compute, ..BackboneOptions::default() };
        SwinV2::load(self.config(), &WeightSource::File(self.weights.clone()), &options).unwrap()
    }
}

/// Relative L2 error, and largest difference over largest value.
fn errors(ours: &Tensor, golden: &Tensor) -> (f64, f64) {
    assert_eq!(ours.size(), golden.size());
    let (ours, golden) = (ours.to_kind(Kind::Double), golden.to_kind(Kind::Double));
    let difference = &ours - &golden;
    let ratio = |a: Tensor, b: Tensor| a.double_value(&[]) / b.double_value(&[]);
    (ratio(difference.norm(), golden.norm()), ratio(difference.abs().max(), golden.abs().max()))
}

/// The worst relative L2 error of all cases and levels.
fn compare(compute: Compute, tolerance: f64, portions: Portions) -> f64 {
    let mut worst = 0f64;
    for case in Case::all() {
        let ours = case.load(compute).with_portions(portions).forward(&case.input()).unwrap();
        for (level, golden) in ours.iter().zip(&case.levels) {
            let (l2, largest) = errors(level, golden);
            let name = &case.case["name"];
            assert!(
                l2 <= tolerance && largest <= 4.0 * tolerance,
                "{name} {:?}: {l2:e} {largest:e} {portions:?}",
                level.size()
            );
            worst = worst.max(l2);
        }
    }
    worst
}

/// What a backbone on a CPU takes.
fn usual() -> Portions {
    Portions::of(tch::Device::Cpu)
}

#[test]
fn levels_are_the_references_in_fp32() {
    println!("worst relative L2 error: {:.2e}", compare(Compute::Fp32, FP32_TOLERANCE, usual()));
}

#[test]
fn levels_are_the_references_in_bf16() {
    println!("worst relative L2 error: {:.2e}", compare(Compute::Bf16, BF16_TOLERANCE, usual()));
}

/// Models and maps of real sizes go through the network in many slices, and attention in bites of some heads. The
/// goldens are small, so their portions are.
#[test]
fn levels_are_the_references_in_portions_of_every_size() {
    for (slice_cells, logit_bytes, kept_bias_bytes) in [
        // A window a slice, a head a bite, no bias kept.
        (1, 1, 0),
        // In windows of 4²: bites of three of eight heads and a last one of two, or of some windows of few heads,
        // slices of three windows, and room for the biases of some blocks.
        (3 * 16, 3 * 4 * 16 * 16, 50_000),
        (7 * 16, 5 * 4 * 16 * 16, usize::MAX),
        (usize::MAX, usize::MAX >> 1, usize::MAX),
    ] {
        let portions =
            Portions { together: false, slice_bytes: 0, slice_cells, logit_bytes, kept_bias_bytes };
        compare(Compute::Fp32, FP32_TOLERANCE, portions);
        compare(Compute::Bf16, BF16_TOLERANCE, portions);
    }
}

/// As on a GPU: the windows of all pictures in one layout.
#[test]
fn pictures_together_are_pictures_one_by_one() {
    for (compute, tolerance) in [(Compute::Fp32, 1e-6), (Compute::Bf16, 5e-3)] {
        for case in Case::all() {
            let input = case.input();
            let pictures = Tensor::cat(&[&input.flip([3]), &input, &(&input * 0.5)], 0);
            for slice_cells in [1, 1024] {
                let portions = Portions { together: true, slice_cells, slice_bytes: 0, ..usual() };
                let swin = case.load(compute).with_portions(portions);
                let together = swin.forward(&pictures).unwrap();
                for picture in 0..3 {
                    let alone = swin.forward(&pictures.narrow(0, picture, 1)).unwrap();
                    for (together, alone) in together.iter().zip(&alone) {
                        let (l2, largest) = errors(&together.narrow(0, picture, 1), alone);
                        let name = &case.case["name"];
                        assert!(
                            l2 <= tolerance && largest <= 4.0 * tolerance,
                            "{name} {picture} {:?}: {l2:e} {largest:e}",
                            alone.size()
                        );
                    }
                }
            }
        }
    }
}

fn named(name: &str) -> SwinV2Config {
    SwinV2Config::named(name).unwrap()
}

#[test]
fn sizes_are_the_published_ones() {
    // reference/paper.md §2.1, without heads; in millions.
    let published = [
        ("swinv2-t", 27.58),
        ("swinv2-s", 48.96),
        ("swinv2-b", 86.89),
        ("swinv2-l", 195.20),
        ("swinv2-h", 655.2),
        ("swinv2-giant", 1060.99),
        ("swinv2-g", 2997.8),
    ];
    for (name, millions) in published {
        let parameters = named(name).parameters();
        let count: usize = parameters.iter().map(|p| p.elements()).sum();
        let found = count as f64 / 1e6;
        assert!((found - millions).abs() / millions < 3e-4, "{name}: {found} million, published {millions}");
        let names: std::collections::HashSet<_> = parameters.iter().map(|p| &p.name).collect();
        assert_eq!(names.len(), parameters.len());
    }
    assert_eq!(named("swinv2-b").parameters().len(), 423);
    let norms = |name: &str| {
        let extra = |p: &&featcache_extractor::weights::Parameter| p.name.ends_with("norm3.weight");
        named(name).parameters().iter().filter(extra).map(|p| p.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(norms("swinv2-h").len(), 3);
    assert_eq!(norms("swinv2-g").len(), 7);
    assert!(norms("swinv2-g").iter().all(|name| name.starts_with("layers.2.")));
}

#[test]
fn cost_is_the_published_one() {
    // reference/paper.md §2.7: multiply-adds in G.
    for (name, size, window, published) in [
        ("swinv2-t", Size::new(640, 640), 20, 45.0),
        ("swinv2-b", Size::new(640, 640), 20, 144.0),
        ("swinv2-l", Size::new(1536, 1536), 32, 2094.0),
        ("swinv2-giant", Size::new(192, 192), 12, 138.0),
    ] {
        let options = BackboneOptions { window: Some(window), ..BackboneOptions::default() };
        let outline = backbone::outline(name, &WeightSource::Random(0), &options).unwrap();
        assert_eq!(outline.spec.options["window"], window.to_string());
        let config = SwinV2Config { window, ..named(name) };
        let found = config.flops(size) as f64 / 2e9;
        assert!((found - published).abs() <= 0.02 * published, "{name}: {found}, published {published}");
    }
}

#[test]
fn slices_and_layouts_do_not_change_features() {
    // A map of many slices, with every mask and with padding, against the same cells one picture up: what one
    // slice does must not reach another. Rows far from the change keep their features to the bit.
    let options = BackboneOptions { compute: Compute::Fp32, window: Some(4), ..BackboneOptions::default() };
    let config = SwinV2Config { depths: [2, 0, 0, 0], ..named("swinv2-demo") };
    let config = SwinV2Config { window: 4, ..config };
    let swin = SwinV2::load(config, &WeightSource::Random(5), &options).unwrap();
    let one = Tensor::from_slice(&draw("one", 3 * 608 * 488)).view([1, 3, 608, 488]);
    let other = one.copy();
    let _ = other.narrow(2, 0, 4).fill_(1.0);
    let levels = [swin.forward(&one).unwrap().remove(0), swin.forward(&other).unwrap().remove(0)];
    let difference = (&levels[0] - &levels[1]).abs().amax([0, 2, 3].as_slice(), false); // [152]
    assert!(difference.double_value(&[0]) > 1e-3);
    // Two blocks of window 4, one shifted by 2: the first row of cells reaches the windows it is in, and the
    // roll brings it to the last two rows, where the mask must stop it.
    assert!(difference.narrow(0, 8, 144).max().double_value(&[]) == 0.0, "{difference:?}");
}

#[test]
fn the_final_norm_is_the_backbones_own() {
    let options = BackboneOptions { compute: Compute::Fp32, ..BackboneOptions::default() };
    let normed = BackboneOptions { final_norm: true, ..options.clone() };
    let source = WeightSource::Random(5);
    let input = Tensor::from_slice(&draw("input", 3 * 64 * 64)).view([1, 3, 64, 64]);
    let build = |options| backbone::build("swinv2-demo", &source, options).unwrap();
    assert_eq!(build(&normed).levels()[3].norm, "norm");
    let plain = build(&options).forward(&input).unwrap();
    let normed = build(&normed).forward(&input).unwrap();
    assert!(plain[2].equal(&normed[2]));
    let mean = normed[3].mean_dim([3].as_slice(), false, Kind::Double).abs().max().double_value(&[]);
    assert!(mean < 0.05 && !plain[3].equal(&normed[3]), "{mean}");
}

#[test]
fn windows_that_cannot_be_are_refused() {
    for window in [0, 1, 100_000] {
        let options = BackboneOptions { window: Some(window), ..BackboneOptions::default() };
        let refused = backbone::build("swinv2-demo", &WeightSource::Random(0), &options).map(|_| ());
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
}

#[test]
fn inputs_of_any_size_have_levels() {
    let source = WeightSource::Random(1);
    let swin = backbone::build("swinv2-demo", &source, &BackboneOptions::default()).unwrap();
    for (h, w, cells) in [(1, 1, [1, 1, 1, 1]), (33, 5, [9, 5, 3, 2]), (4, 70, [1, 1, 1, 1])] {
        let levels = swin.forward(&Tensor::zeros([1, 3, h, w], (Kind::Float, tch::Device::Cpu))).unwrap();
        let down: Vec<i64> = levels.iter().map(|level| level.size()[1]).collect();
        assert_eq!(down, cells);
        assert!(levels.iter().all(|level| level.isfinite().all().int64_value(&[]) == 1));
    }
}

/// The demo's weights under Microsoft's names, and further tensors.
fn demo_file(folder: &Path, further: Vec<(String, Tensor)>) -> WeightSource {
    let parameters = named("swinv2-demo").parameters();
    let weights = WeightSource::Random(2).matched(&parameters).unwrap();
    let tensor = |p| weights.tensor(p, Kind::Float, tch::Device::Cpu).unwrap();
    let mut tensors: Vec<(String, Tensor)> = parameters.iter().map(|p| (p.name.clone(), tensor(p))).collect();
    tensors.extend(further);
    let path = folder.join("weights.safetensors");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    WeightSource::File(path)
}

/// Microsoft's and torchvision's table of a window for weights trained with another: the largest offset is
/// log2(8 · (window − 1) / (trained − 1) + 1) / 3.
fn table(window: i64, trained: i64) -> Tensor {
    let offsets = Tensor::arange_start(1 - window, window, (Kind::Float, tch::Device::Cpu));
    let axis = (offsets * 8.0) / (trained - 1) as f64;
    let axis = axis.sign() * (axis.abs() + 1.0).log2() / 3.0;
    Tensor::stack(&Tensor::meshgrid_indexing(&[&axis, &axis], "ij"), 2).unsqueeze(0)
}

fn trained(windows: [u32; 4]) -> BackboneOptions {
    BackboneOptions { pretrained_window: Some(windows), ..BackboneOptions::default() }
}

#[test]
fn a_wrong_trained_window_is_refused_where_the_file_tells() {
    let folder = tempfile::tempdir().unwrap();
    let name = "layers.1.blocks.0.attn.relative_coords_table";
    let source = demo_file(folder.path(), vec![(name.into(), table(16, 12))]);
    let outline = |windows| backbone::outline("swinv2-demo", &source, &trained(windows)).map(|_| ());
    outline([8, 12, 8, 8]).unwrap();
    let refused = outline([8, 16, 8, 8]).unwrap_err().to_string();
    assert!(
        refused.contains("window 12 in stage 1") && refused.contains("pretrained_window 16"),
        "{refused}"
    );
}

#[test]
fn a_file_decides_after_how_many_blocks_the_main_branch_is_normed() {
    let folder = tempfile::tempdir().unwrap();
    let options = BackboneOptions::default();
    let every = |source: &WeightSource| {
        let outline = backbone::outline("swinv2-demo", source, &options).unwrap();
        outline.spec.options.get("extra_norm_every").cloned()
    };
    assert_eq!(every(&WeightSource::Random(0)), None);
    assert_eq!(every(&demo_file(folder.path(), Vec::new())), None);
    let norm3 = |blocks: [i64; 2]| {
        let of = move |block| {
            let tensor = |kind: &str| {
                let name = format!("layers.2.blocks.{block}.norm3.{kind}");
                (name, Tensor::ones([128], (Kind::Float, tch::Device::Cpu)))
            };
            ["weight", "bias"].map(tensor)
        };
        blocks.into_iter().flat_map(of).collect::<Vec<_>>()
    };
    // Only stage 2 of the demo has more than two blocks, but every stage has a second one.
    let refused = backbone::outline("swinv2-demo", &demo_file(folder.path(), norm3([1, 3])), &options);
    assert!(refused.unwrap_err().to_string().contains("layers.0.blocks.1.norm3.weight is missing"));
    let third = demo_file(folder.path(), norm3([2, 2]).into_iter().take(2).collect());
    assert_eq!(every(&third), Some("3".into()));
    let built = backbone::build("swinv2-demo", &third, &options).unwrap();
    let again = BackboneOptions { extra_norm_every: Some(3), ..options.clone() };
    assert_eq!(built.spec(), backbone::build("swinv2-demo", &third, &again).unwrap().spec());
    // An option that is not the file's is told by the names that do not fit.
    let other = BackboneOptions { extra_norm_every: Some(0), ..options.clone() };
    let refused = backbone::outline("swinv2-demo", &third, &other).unwrap_err().to_string();
    assert!(refused.contains("norm3") && refused.contains("unexpected"), "{refused}");
}
