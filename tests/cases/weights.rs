//! Weights: four namings of the same values, every name of the official checkpoints, and files that are wrong.

use featcache_extractor::Error;
use featcache_extractor::backbone::SwinV2Config;
use featcache_extractor::weights::{Init, Naming, Parameter, WeightSource};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

type Named = Vec<(String, Tensor)>;

fn demo() -> Vec<Parameter> {
    let config = SwinV2Config::named("swinv2-demo").unwrap();
    SwinV2Config { depths: [2, 2, 2, 2], ..config }.parameters()
}

fn shape_of(parameter: &Parameter) -> Vec<i64> {
    parameter.shape.iter().map(|&d| d as i64).collect()
}

/// The demo's weights under Microsoft's names.
fn microsoft(kind: Kind) -> Named {
    let weights = WeightSource::Random(11).matched(&demo()).unwrap();
    let tensor = |p: &Parameter| weights.tensor(p, Kind::BFloat16, Device::Cpu).unwrap().to_kind(kind);
    demo().iter().map(|p| (p.name.clone(), tensor(p))).collect()
}

fn write(folder: &Path, name: &str, tensors: &Named) -> WeightSource {
    let path = folder.join(name);
    Tensor::write_safetensors(tensors, &path).unwrap();
    WeightSource::File(path)
}

/// The stage number shifted in `layers.N.downsample`, as timm has it.
fn timm(tensors: &Named) -> Named {
    let rename = |name: &str| match name.split_once(".downsample.") {
        Some((stage, rest)) => {
            let stage: usize = stage.strip_prefix("layers.").unwrap().parse().unwrap();
            format!("layers.{}.downsample.{rest}", stage + 1)
        }
        None => name.to_owned(),
    };
    let mut renamed: Named = tensors.iter().map(|(name, t)| (rename(name), t.shallow_clone())).collect();
    renamed.push(("head.fc.weight".into(), Tensor::zeros([5, 256], (Kind::Float, Device::Cpu))));
    renamed
}

fn hugging_face(tensors: &Named) -> Named {
    let mut renamed = Vec::new();
    for (name, tensor) in tensors {
        if let Some(block) = name.strip_suffix("attn.qkv.weight") {
            for (part, rows) in ["query", "key", "value"].iter().zip(tensor.chunk(3, 0)) {
                renamed
                    .push((format!("swinv2.encoder.{block}attention.self.{part}.weight"), rows.contiguous()));
            }
            continue;
        }
        let name = [
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("patch_embed.norm", "embeddings.norm"),
            ("attn.q_bias", "attention.self.query.bias"),
            ("attn.v_bias", "attention.self.value.bias"),
            ("attn.logit_scale", "attention.self.logit_scale"),
            ("attn.cpb_mlp", "attention.self.continuous_position_bias_mlp"),
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
        ]
        .iter()
        .fold(name.clone(), |name, (from, to)| name.replace(from, to));
        let name = match name.strip_prefix("norm.") {
            Some(kind) => format!("layernorm.{kind}"),
            None if name.starts_with("layers.") => format!("encoder.{name}"),
            None => name,
        };
        renamed.push((format!("swinv2.{name}"), tensor.shallow_clone()));
    }
    renamed.push(("classifier.bias".into(), Tensor::zeros([5], (Kind::Float, Device::Cpu))));
    renamed
}

fn torchvision(tensors: &Named) -> Named {
    let mut renamed = Vec::new();
    for (name, tensor) in tensors {
        if let Some(block) = name.strip_suffix("q_bias") {
            let v = &tensors.iter().find(|(other, _)| *other == format!("{block}v_bias")).unwrap().1;
            // torchvision zeroes the key third before use, whatever it holds.
            let joined = Tensor::cat(&[tensor, &tensor.ones_like(), v], 0);
            renamed.push((torchvision_name(&format!("{block}qkv.bias")), joined));
        } else if !name.ends_with("v_bias") {
            renamed.push((torchvision_name(name), tensor.shallow_clone()));
        }
    }
    let index = Tensor::zeros([4096], (Kind::Int64, Device::Cpu));
    renamed.push(("features.1.0.attn.relative_position_index".into(), index));
    renamed
}

fn torchvision_name(name: &str) -> String {
    let name = name.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2");
    let Some(rest) = name.strip_prefix("layers.") else { return name };
    let (stage, rest) = rest.split_once('.').unwrap();
    let stage: usize = stage.parse().unwrap();
    match rest.strip_prefix("blocks.") {
        Some(rest) => format!("features.{}.{rest}", 2 * stage + 1)
            .replace("mlp.fc1", "mlp.0")
            .replace("mlp.fc2", "mlp.3"),
        None => format!("features.{}.{}", 2 * stage + 2, rest.strip_prefix("downsample.").unwrap()),
    }
}

/// SimMIM: everything of the backbone behind `encoder.`, with a mask token, a decoder and buffers.
fn simmim(tensors: &Named) -> Named {
    let mut renamed: Named =
        tensors.iter().map(|(name, t)| (format!("encoder.{name}"), t.shallow_clone())).collect();
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    renamed.push(("encoder.mask_token".into(), zeros(&[1, 1, 32])));
    renamed.push(("decoder.0.weight".into(), zeros(&[3072, 256, 1, 1])));
    renamed.push(("encoder.layers.0.blocks.1.attn_mask".into(), zeros(&[4, 64, 64])));
    renamed.push(("encoder.layers.0.blocks.1.attn.relative_coords_table".into(), zeros(&[1, 15, 15, 2])));
    renamed
}

#[test]
fn the_same_weights_under_every_naming_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = demo();
    let tensors = microsoft(Kind::Float);
    let files = [
        (Naming::Microsoft, write(folder.path(), "microsoft", &tensors)),
        (Naming::Timm, write(folder.path(), "timm", &timm(&tensors))),
        (Naming::HuggingFace, write(folder.path(), "hf", &hugging_face(&tensors))),
        (Naming::Torchvision, write(folder.path(), "torchvision", &torchvision(&tensors))),
        (Naming::Microsoft, write(folder.path(), "simmim", &simmim(&tensors))),
        // The values are exact in bfloat16, so another element type is another way of writing them down.
        (Naming::Microsoft, write(folder.path(), "bf16", &microsoft(Kind::BFloat16))),
    ];
    let expected = files[0].1.matched(&parameters).unwrap().blake3(&parameters).unwrap();
    for (naming, source) in &files {
        let weights = source.matched(&parameters).unwrap();
        let report = weights.report().unwrap();
        assert_eq!((report.naming, report.matched), (*naming, parameters.len()), "{report}");
        for (parameter, (_, tensor)) in parameters.iter().zip(&tensors) {
            let found = weights.tensor(parameter, Kind::Float, Device::Cpu).unwrap();
            assert_eq!(found.size(), shape_of(parameter));
            assert!(found.equal(tensor), "{naming}: {}", parameter.name);
        }
        assert_eq!(weights.blake3(&parameters).unwrap(), expected, "{naming}");
    }
    let changed = microsoft(Kind::Float);
    let _ = changed[7].1.view(-1).narrow(0, 3, 1).fill_(0.125);
    let changed = write(folder.path(), "changed", &changed).matched(&parameters).unwrap();
    assert_ne!(changed.blake3(&parameters).unwrap(), expected);
}

/// Names and shapes of a checkpoint as listed in the samples.
fn listed(path: &Path) -> Vec<(String, Vec<i64>)> {
    let text = std::fs::read_to_string(path).unwrap();
    let dimensions = |text: &str, separator: char| {
        text.split(separator).filter_map(|d| d.trim().parse().ok()).collect::<Vec<i64>>()
    };
    if path.extension().is_some_and(|e| e == "tsv") {
        text.lines()
            .skip(1)
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .map(|columns| (columns[0].to_owned(), dimensions(columns[1], 'x')))
            .collect()
    } else {
        text.lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" | ("))
            .map(|(name, rest)| (name.to_owned(), dimensions(rest.split(')').next().unwrap(), ',')))
            .collect()
    }
}

/// A bfloat16 file of these names and shapes that holds zeros and takes no room on disk.
fn sparse(folder: &Path, names: &[(String, Vec<i64>)]) -> WeightSource {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in names {
        let start = end;
        end += 2 * shape.iter().product::<i64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let path = folder.join("checkpoint");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(8 + header.len() as u64 + end as u64).unwrap();
    WeightSource::File(path)
}

#[test]
fn every_tensor_of_the_official_checkpoints_is_accounted_for() {
    let Some(samples) = featcache_tests::samples() else { return };
    let checkpoints = samples.join("checkpoints_meta");
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (list, config) in [
        ("official_names_derived/swinv2_tiny_patch4_window8_256.tsv", "swinv2-t"),
        ("official_names_derived/swinv2_tiny_patch4_window16_256.tsv", "swinv2-t"),
        ("official_names_derived/swinv2_base_patch4_window8_256.tsv", "swinv2-b"),
        ("official_names_derived/swinv2_base_patch4_window12_192_22k.tsv", "swinv2-b"),
        ("official_names_derived/swinv2_base_patch4_window12to16_192to256_22kto1k_ft.tsv", "swinv2-b"),
        ("torchvision_names/swin_v2_t.md", "swinv2-t"),
        ("torchvision_names/swin_v2_s.md", "swinv2-s"),
        ("torchvision_names/swin_v2_b.md", "swinv2-b"),
    ] {
        let names = listed(&checkpoints.join(list));
        assert!(names.len() > 200, "{list}: {}", names.len());
        let source = sparse(folder.path(), &names);
        let parameters = SwinV2Config::named(config).unwrap().parameters();
        let weights = source.matched(&parameters).unwrap_or_else(|e| panic!("{list}: {e}"));
        let report = weights.report().unwrap();
        assert_eq!(report.matched, parameters.len());
        let torchvision = report.naming == Naming::Torchvision;
        // Each q_bias and v_bias pair of ours is one tensor of torchvision's.
        let blocks = parameters.iter().filter(|p| p.name.ends_with("q_bias")).count();
        let of_file = parameters.len() - if torchvision { blocks } else { 0 };
        assert_eq!(of_file + report.ignored.len(), names.len(), "{list}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

fn message(source: &WeightSource, parameters: &[Parameter]) -> String {
    let error = source.matched(parameters).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn missing_extra_and_misshaped_tensors_end_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = demo();
    let mut tensors = microsoft(Kind::Float);
    let (name, _) = tensors.remove(5);
    let missing = message(&write(folder.path(), "a", &tensors), &parameters);
    assert!(
        missing.contains(&format!("{name} is missing")) && missing.contains("1 missing, 0 unexpected"),
        "{missing}"
    );
    assert!(!missing.contains('\n'));

    let mut tensors = microsoft(Kind::Float);
    tensors
        .push(("layers.0.blocks.9.attn.proj.bias".into(), Tensor::zeros([32], (Kind::Float, Device::Cpu))));
    let extra = message(&write(folder.path(), "b", &tensors), &parameters);
    assert!(extra.contains("layers.0.blocks.9.attn.proj.bias is unexpected"), "{extra}");

    let mut tensors = microsoft(Kind::Float);
    tensors[10].1 = Tensor::zeros([7, 9], (Kind::Float, Device::Cpu));
    let misshaped = message(&write(folder.path(), "c", &tensors), &parameters);
    assert!(misshaped.contains("[7, 9]") && misshaped.contains("expected [96, 32]"), "{misshaped}");

    let mut tensors = microsoft(Kind::Float);
    tensors[0].1 = tensors[0].1.to_kind(Kind::Int64);
    let integers = message(&write(folder.path(), "d", &tensors), &parameters);
    assert!(integers.contains("elements of type i64"), "{integers}");

    let mut tensors = hugging_face(&microsoft(Kind::Float));
    tensors.retain(|(name, _)| !name.ends_with("layers.1.blocks.0.attention.self.key.weight"));
    let third = message(&write(folder.path(), "e", &tensors), &parameters);
    assert!(third.contains("layers.1.blocks.0.attn.qkv.weight is missing"), "{third}");
}

#[test]
fn hostile_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, header: &str, length: u64, data: &[u8]| {
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes(), data].concat()).unwrap();
        WeightSource::File(path)
    };
    let with = |name: &str, header: &str, data: &[u8]| file(name, header, header.len() as u64, data);
    // Eight valid tensors whose sizes add up to the end of the address space.
    let side = (1_u64 << 61) - 1;
    let entry = |i: u64| {
        format!(r#""{i}":{{"dtype":"U8","shape":[{side}],"data_offsets":[{},{}]}}"#, i * side, (i + 1) * side)
    };
    let huge = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
    let overflow = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
    let overlap = concat!(
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"#,
        r#""b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#
    );
    let sources = [
        with("empty", "", b""),
        file("no header", "", u64::MAX, b""),
        file("short", "{}", 100, b""),
        with("not json", "]]]]", b""),
        with("huge", &huge, b"1234"),
        with("overflow", overflow, b"1234"),
        with("overlap", overlap, b"123456"),
        with("backwards", r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#, b"1234"),
        with("trailing", r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, b"12345678"),
        with("shape", r#"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}"#, b"1234"),
    ];
    for source in sources {
        let refused = message(&source, &demo());
        assert!(refused.contains("safetensors"), "{refused}");
    }
    let pickled = folder.path().join("model.pth");
    std::fs::write(&pickled, b"PK\x03\x04 and so on").unwrap();
    assert!(message(&WeightSource::File(pickled), &demo()).contains("pickled"));
    let nowhere = WeightSource::File(folder.path().join("nowhere"));
    assert!(matches!(nowhere.matched(&demo()).map(|_| ()), Err(Error::Io { .. })));
}

#[test]
fn random_weights_are_the_same_everywhere() {
    let parameter = Parameter::new("layers.0.blocks.0.attn.proj.weight", &[64, 1024], Init::Bell(0.5));
    let list = [parameter.clone()];
    let weights = WeightSource::Random(42).matched(&list).unwrap();
    let drawn = weights.tensor(&parameter, Kind::Float, Device::Cpu).unwrap();
    // Written down from the first run; a change of the generator is a change of every random recipe.
    let first: Vec<f32> = (0..3).map(|i| drawn.double_value(&[0, i]) as f32).collect();
    assert_eq!(first, PINNED);
    let (mean, std) = (drawn.mean(Kind::Double).double_value(&[]), drawn.std(true).double_value(&[]));
    assert!(mean.abs() < 0.01 && (std - 0.5).abs() < 0.01, "{mean} {std}");
    let rounded = weights.tensor(&parameter, Kind::BFloat16, Device::Cpu).unwrap();
    assert!(rounded.equal(&drawn.to_kind(Kind::BFloat16)));
    let other = WeightSource::Random(43).matched(&list).unwrap();
    assert!(!other.tensor(&parameter, Kind::Float, Device::Cpu).unwrap().equal(&drawn));
    assert_ne!(other.blake3(&list).unwrap(), weights.blake3(&list).unwrap());
}

/// `plan` with weights, which matches them and computes nothing: its exit code and what it says.
fn plan(root: &Path, source: &WeightSource, more: &str) -> (Option<i32>, String) {
    let WeightSource::File(path) = source else { panic!("{source:?}") };
    let output = featcache_tests::run(&format!(
        "plan folder --root {} --backbone swinv2-demo --weights {} {more}",
        root.display(),
        path.display()
    ));
    (output.status.code(), featcache_tests::text(&output.stderr))
}

/// A folder with a picture, and weights of the demo.
fn planned() -> (tempfile::TempDir, PathBuf, Named) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pictures");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("a.jpg"), featcache_tests::jpeg(64, 64, 1)).unwrap();
    let parameters = SwinV2Config::named("swinv2-demo").unwrap().parameters();
    let weights = WeightSource::Random(11).matched(&parameters).unwrap();
    let tensor = |p: &Parameter| weights.tensor(p, Kind::Float, Device::Cpu).unwrap();
    let tensors = parameters.iter().map(|p| (p.name.clone(), tensor(p))).collect();
    (folder, root, tensors)
}

#[test]
fn what_matched_is_told() {
    let (folder, root, tensors) = planned();
    let (code, said) = plan(&root, &write(folder.path(), "tv", &torchvision(&tensors)), "");
    assert_eq!(code, Some(0), "{said}");
    let count = tensors.len();
    assert!(
        said.contains(&format!(
            "tv: torchvision naming, all {count} tensors match, ignored: relative_position_index\n"
        )),
        "{said}"
    );
    let mut wrong = tensors;
    let missing: Vec<String> = wrong.drain(5..8).map(|(name, _)| name).collect();
    wrong[10].1 = Tensor::zeros([7, 9], (Kind::Float, Device::Cpu));
    wrong.push(("layers.9.blocks.0.norm1.bias".into(), Tensor::zeros([7], (Kind::Float, Device::Cpu))));
    let (code, said) = plan(&root, &write(folder.path(), "wrong", &wrong), "");
    assert_eq!(code, Some(3), "{said}");
    for name in missing.iter().chain([&wrong[10].0, &"layers.9.blocks.0.norm1.bias".into()]) {
        assert!(said.contains(name), "{name}: {said}");
    }
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("3 missing, 1 unexpected, 1 misshaped"), "{said}");
}

/// torchvision's tables: of the window that the stage was trained with.
#[test]
fn trained_windows_that_nobody_tells_are_assumed_aloud() {
    let (folder, root, tensors) = planned();
    let silent = write(folder.path(), "silent", &torchvision(&tensors));
    let (code, said) = plan(&root, &silent, "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warn: ") && said.contains("in stages 0, 1, 2, 3: assuming 8,8,8,8"), "{said}");
    let (code, said) = plan(&root, &silent, "--pretrained-window 8,8,8,8");
    assert!(code == Some(0) && !said.contains("assuming"), "{said}");
    let with_tables = |window: i64| {
        let axis = Tensor::arange_start(1 - window, window, (Kind::Float, Device::Cpu)) * 8.0;
        let axis: Tensor = axis / (window - 1) as f64;
        let axis = axis.sign() * (axis.abs() + 1.0).log2() / 3.0;
        let table = Tensor::stack(&Tensor::meshgrid_indexing(&[&axis, &axis], "ij"), 2).unsqueeze(0);
        let mut named = torchvision(&tensors);
        for stage in 0..4 {
            let name = format!("features.{}.0.attn.relative_coords_table", 2 * stage + 1);
            named.push((name, table.shallow_clone()));
        }
        write(folder.path(), &format!("window{window}"), &named)
    };
    let (code, said) = plan(&root, &with_tables(8), "");
    assert!(code == Some(0) && !said.contains("assuming"), "{said}");
    let (code, said) = plan(&root, &with_tables(16), "");
    assert!(code == Some(3) && said.contains("trained with window 16 in stage 0 (features.1.0."), "{said}");
}

/// The huge model as Microsoft's code makes it: without the norms that the paper speaks of.
#[test]
fn a_huge_model_without_extra_norms_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = SwinV2Config::named("swinv2-h").unwrap();
    let dimensions = |p: &Parameter| p.shape.iter().map(|&d| d as i64).collect();
    for (prefix, extra_norm_every) in [("", 0), ("encoder.", 0), ("", 6)] {
        let of_file = SwinV2Config { extra_norm_every, ..config.clone() };
        let names: Vec<(String, Vec<i64>)> =
            of_file.parameters().iter().map(|p| (format!("{prefix}{}", p.name), dimensions(p))).collect();
        let source = sparse(folder.path(), &names);
        let found = config.clone().of_weights(&source).unwrap();
        assert_eq!(found.extra_norm_every, extra_norm_every);
        source.matched(&found.parameters()).unwrap();
    }
}

/// The first values of the parameter above with seed 42.
const PINNED: [f32; 3] = [-0.43927634, 0.3186544, 0.3622226];
