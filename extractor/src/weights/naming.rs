//! Four namings of one network, translated into the canonical one (Microsoft's).
//!
//! Sources: microsoft/Swin-Transformer `swin_transformer_v2.py`, timm `swin_transformer_v2.py`, transformers
//! `models/swinv2/modeling_swinv2.py`, torchvision `models/swin_transformer.py`. The differences are names, the
//! place of the downsampling (timm holds it at the start of the next stage), query, key and value in three
//! tensors (Hugging Face), and one bias of three thirds whose key third is zeroed before use (torchvision).
//! All of them are rows of the first axis, so every canonical tensor is a run of byte ranges of the file.

use super::tensor_file::{Entry, StoredType, TensorFile};
use super::{MatchReport, Misshaped, Parameter};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// A naming scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `layers.0.blocks.0.attn.qkv.weight`, downsampling at the end of a stage. The canonical one.
    Microsoft,
    /// Microsoft's, with the downsampling at the start of the next stage and the head in `head.fc`.
    Timm,
    /// `encoder.layers.0.blocks.0.attention.self.query.weight`.
    HuggingFace,
    /// `features.1.0.attn.qkv.weight`.
    Torchvision,
}

impl std::fmt::Display for Naming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Microsoft => "Microsoft",
            Self::Timm => "timm",
            Self::HuggingFace => "Hugging Face",
            Self::Torchvision => "torchvision",
        })
    }
}

/// A contiguous part of a canonical tensor, in the file.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) dtype: StoredType,
    pub(crate) range: Range<usize>,
}

/// Which rows of the first axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    /// This one of three equal parts.
    Third(usize),
}

/// What a name of the file means.
enum Meaning {
    /// Rows of the file's tensor that are rows of canonical parameters.
    Parameters(Vec<(String, Rows, Rows)>),
    /// Buffers that are computed here, heads, mask tokens.
    Ignored,
    Unknown,
}

/// Finds every parameter in the file.
pub(crate) fn matched(
    file: &TensorFile,
    parameters: &[Parameter],
) -> (MatchReport, HashMap<String, Vec<Piece>>) {
    let (naming, prefix) = recognised(file);
    let mut report = MatchReport {
        naming,
        prefix: prefix.clone(),
        expected: parameters.len(),
        matched: 0,
        missing: Vec::new(),
        unexpected: Vec::new(),
        misshaped: Vec::new(),
        ignored: Vec::new(),
    };
    let by_name: HashMap<&str, &Parameter> = parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut found: HashMap<String, BTreeMap<usize, Option<Piece>>> = HashMap::new();
    for entry in file.entries() {
        let meaning = match entry.name.strip_prefix(prefix.as_str()) {
            Some(name) => meaning(naming, name),
            None => outside_prefix(&entry.name),
        };
        let targets = match meaning {
            Meaning::Parameters(targets) => targets,
            Meaning::Ignored => {
                report.ignored.push(entry.name.clone());
                continue;
            }
            Meaning::Unknown => Vec::new(),
        };
        if targets.is_empty() || targets.iter().any(|(name, _, _)| !by_name.contains_key(name.as_str())) {
            report.unexpected.push(entry.name.clone());
            continue;
        }
        for (name, of_entry, of_parameter) in targets {
            let Some(parameter) = by_name.get(name.as_str()) else { continue };
            let piece = match piece(entry, parameter, of_entry, of_parameter) {
                Ok(piece) => Some(piece),
                Err(misshaped) => {
                    report.misshaped.push(misshaped);
                    None
                }
            };
            let part = if let Rows::Third(third) = of_parameter { third } else { 0 };
            found.entry(name).or_default().insert(part, piece);
        }
    }
    let mut pieces = HashMap::with_capacity(parameters.len());
    for parameter in parameters {
        let Some(parts) = found.remove(&parameter.name) else {
            report.missing.push(parameter.name.clone());
            continue;
        };
        let thirds = naming == Naming::HuggingFace && parameter.name.ends_with(".attn.qkv.weight");
        if thirds && parts.len() < 3 {
            report.missing.push(parameter.name.clone());
        } else if let Some(whole) = parts.into_values().collect::<Option<Vec<_>>>() {
            report.matched += 1;
            pieces.insert(parameter.name.clone(), whole);
        }
    }
    (report, pieces)
}

/// The canonical names of all tensors of the file that have one.
pub(crate) fn canonical_names(file: &TensorFile) -> Vec<String> {
    let (naming, prefix) = recognised(file);
    let names = file.entries().iter().filter_map(|entry| entry.name.strip_prefix(prefix.as_str()));
    let targets = names.flat_map(|name| match meaning(naming, name) {
        Meaning::Parameters(targets) => targets,
        Meaning::Ignored | Meaning::Unknown => Vec::new(),
    });
    targets.map(|(name, _, _)| name).collect()
}

/// The part of `entry` that is a part of `parameter`, if shape and type allow.
fn piece(
    entry: &Entry,
    parameter: &Parameter,
    of_entry: Rows,
    of_parameter: Rows,
) -> Result<Piece, Misshaped> {
    let mut expected = parameter.shape.clone();
    if let Some(first) = expected.first_mut() {
        if of_parameter != Rows::All {
            *first /= 3;
        }
        if of_entry != Rows::All {
            *first *= 3;
        }
    }
    let misshaped = |found: String| Misshaped {
        name: parameter.name.clone(),
        source: entry.name.clone(),
        expected: expected.clone(),
        found,
    };
    let dtype = entry.stored.ok_or_else(|| misshaped(format!("elements of type {}", entry.dtype)))?;
    if entry.shape != expected {
        return Err(misshaped(format!("{:?}", entry.shape)));
    }
    let range = match of_entry {
        Rows::All => entry.range.clone(),
        Rows::Third(third) => {
            let third_bytes = entry.range.len() / 3;
            entry.range.start + third * third_bytes..entry.range.start + (third + 1) * third_bytes
        }
    };
    Ok(Piece { dtype, range })
}

/// The naming of a file and what precedes every name, told by the patch embedding and the downsampling.
fn recognised(file: &TensorFile) -> (Naming, String) {
    let before =
        |suffix: &str| file.entries().iter().find_map(|e| e.name.strip_suffix(suffix)).map(str::to_owned);
    if let Some(prefix) = before("embeddings.patch_embeddings.projection.weight") {
        return (Naming::HuggingFace, prefix);
    }
    if let Some(prefix) = before("features.0.0.weight") {
        return (Naming::Torchvision, prefix);
    }
    let prefix = before("patch_embed.proj.weight").unwrap_or_default();
    let has = |name: &str| file.entries().iter().any(|e| e.name.strip_prefix(prefix.as_str()) == Some(name));
    let timm = has("layers.3.downsample.reduction.weight")
        || has("layers.1.downsample.reduction.weight") && !has("layers.0.downsample.reduction.weight");
    (if timm { Naming::Timm } else { Naming::Microsoft }, prefix)
}

/// What a name (without its prefix) means in a naming.
fn meaning(naming: Naming, name: &str) -> Meaning {
    if is_buffer(name) || is_head(name) {
        return Meaning::Ignored;
    }
    match naming {
        Naming::Microsoft => whole(name.to_owned()),
        Naming::Timm => timm(name),
        Naming::HuggingFace => hugging_face(name),
        Naming::Torchvision => torchvision(name),
    }
}

fn whole(name: String) -> Meaning {
    Meaning::Parameters(vec![(name, Rows::All, Rows::All)])
}

/// Computed here for whatever map and window is met; [S: paper.md 2.5].
fn is_buffer(name: &str) -> bool {
    ["relative_coords_table", "relative_position_index", "attn_mask"]
        .iter()
        .any(|buffer| name == *buffer || name.ends_with(&format!(".{buffer}")))
}

fn is_head(name: &str) -> bool {
    ["head.", "classifier.", "decoder.0."].iter().any(|head| name.starts_with(head))
        || name == "mask_token"
        || name == "embeddings.mask_token"
}

/// With a prefix on the backbone (SimMIM, a classifier around it), heads stand outside it.
fn outside_prefix(name: &str) -> Meaning {
    if is_head(name) { Meaning::Ignored } else { Meaning::Unknown }
}

fn timm(name: &str) -> Meaning {
    let shifted = name.strip_prefix("layers.").and_then(|rest| rest.split_once(".downsample."));
    match shifted.and_then(|(stage, rest)| Some((stage.parse::<usize>().ok()?.checked_sub(1)?, rest))) {
        Some((stage, rest)) => whole(format!("layers.{stage}.downsample.{rest}")),
        None if shifted.is_some() => Meaning::Unknown,
        None => whole(name.to_owned()),
    }
}

fn hugging_face(name: &str) -> Meaning {
    if let Some(rest) = name.strip_prefix("embeddings.") {
        return match rest.split_once('.') {
            Some(("patch_embeddings", rest)) => match rest.strip_prefix("projection.") {
                Some(kind) => whole(format!("patch_embed.proj.{kind}")),
                None => Meaning::Unknown,
            },
            Some(("norm", kind)) => whole(format!("patch_embed.norm.{kind}")),
            _ => Meaning::Unknown,
        };
    }
    if let Some(kind) = name.strip_prefix("layernorm.") {
        return whole(format!("norm.{kind}"));
    }
    let Some(name) = name.strip_prefix("encoder.") else { return Meaning::Unknown };
    let Some((block, rest)) = split_block(name) else { return whole(name.to_owned()) };
    if let Some(rest) = rest.strip_prefix("attention.self.") {
        let weight = |third| {
            Meaning::Parameters(vec![(format!("{block}.attn.qkv.weight"), Rows::All, Rows::Third(third))])
        };
        return match rest {
            "query.weight" => weight(0),
            "key.weight" => weight(1),
            "value.weight" => weight(2),
            "query.bias" => whole(format!("{block}.attn.q_bias")),
            "value.bias" => whole(format!("{block}.attn.v_bias")),
            "logit_scale" => whole(format!("{block}.attn.logit_scale")),
            _ => match rest.strip_prefix("continuous_position_bias_mlp.") {
                Some(rest) => whole(format!("{block}.attn.cpb_mlp.{rest}")),
                None => Meaning::Unknown,
            },
        };
    }
    let renamed = [
        ("attention.output.dense.", "attn.proj."),
        ("intermediate.dense.", "mlp.fc1."),
        ("output.dense.", "mlp.fc2."),
        ("layernorm_before.", "norm1."),
        ("layernorm_after.", "norm2."),
    ];
    match renamed.iter().find_map(|(from, to)| Some((to, rest.strip_prefix(from)?))) {
        Some((to, kind)) => whole(format!("{block}.{to}{kind}")),
        None => Meaning::Unknown,
    }
}

/// `layers.0.blocks.1.rest` as (`layers.0.blocks.1`, `rest`).
fn split_block(name: &str) -> Option<(&str, &str)> {
    let start = name.find(".blocks.")? + ".blocks.".len();
    let end = start + name.get(start..)?.find('.')?;
    Some((name.get(..end)?, name.get(end + 1..)?))
}

fn torchvision(name: &str) -> Meaning {
    let Some(rest) = name.strip_prefix("features.") else { return whole(name.to_owned()) };
    let Some((module, rest)) = rest.split_once('.') else { return Meaning::Unknown };
    let Ok(module) = module.parse::<usize>() else { return Meaning::Unknown };
    if module == 0 {
        return match rest.split_once('.') {
            Some(("0", kind)) => whole(format!("patch_embed.proj.{kind}")),
            Some(("2", kind)) => whole(format!("patch_embed.norm.{kind}")),
            _ => Meaning::Unknown,
        };
    }
    let stage = (module - 1) / 2;
    if module % 2 == 0 {
        return whole(format!("layers.{stage}.downsample.{rest}"));
    }
    let Some((block, rest)) = rest.split_once('.') else { return Meaning::Unknown };
    let block = format!("layers.{stage}.blocks.{block}");
    if rest == "attn.qkv.bias" {
        return Meaning::Parameters(vec![
            (format!("{block}.attn.q_bias"), Rows::Third(0), Rows::All),
            (format!("{block}.attn.v_bias"), Rows::Third(2), Rows::All),
        ]);
    }
    let renamed =
        [("mlp.0.", "mlp.fc1."), ("mlp.3.", "mlp.fc2."), ("attn.v2_logit_scale", "attn.logit_scale")];
    match renamed.iter().find_map(|(from, to)| Some((to, rest.strip_prefix(from)?))) {
        Some((to, kind)) => whole(format!("{block}.{to}{kind}")),
        None => whole(format!("{block}.{rest}")),
    }
}
