//! Heads trained by others: torchvision's and mmdetection's tensors put into a detector by name, with a
//! report of what matched. Must not read pickles.
//!
//! A detector's tensors have mmdetection's names and layout: the background is the last class of a box
//! head and has neither deltas nor a mask. torchvision has it first, in all three; its rows are moved or
//! left out here. `fc6`, as `shared_fcs.0`, reads its region channel by channel in both.

use crate::detector::Detector;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use tch::{Kind, Tensor};

/// Whose names a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Naming {
    /// `roi_heads.box_head.fc6.weight`, classes behind the background.
    Torchvision,
    /// `roi_head.bbox_head.shared_fcs.0.weight`, the background behind the classes.
    Mmdet,
}

/// A tensor whose shape differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misshaped {
    /// Name in the file.
    pub name: String,
    /// Shape that the detector wants.
    pub expected: Vec<i64>,
    /// Shape in the file, of the chosen classes.
    pub found: Vec<i64>,
}

/// What came of a file's tensors. Every tensor of the detector and of the file is in one list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightReport {
    /// Whose names the file has.
    pub naming: Naming,
    /// Tensors of the detector that were set, with the names that they have in the file.
    pub matched: Vec<(String, String)>,
    /// Tensors of the detector that the file lacks: they keep their values.
    pub missing: Vec<String>,
    /// Tensors that both have, in different shapes: the detector's keep their values.
    pub misshaped: Vec<Misshaped>,
    /// Tensors of the file that the detector lacks.
    pub extra: Vec<String>,
    /// Tensors of the file that belong to its backbone, or only count batches.
    pub ignored: Vec<String>,
}

impl WeightReport {
    /// Were all of the detector's tensors set?
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty()
    }
}

impl fmt::Display for WeightReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let naming = match self.naming {
            Naming::Torchvision => "torchvision",
            Naming::Mmdet => "mmdetection",
        };
        let Self { matched, missing, misshaped, extra, ignored, .. } = self;
        let counts = [missing.len(), misshaped.len(), extra.len(), ignored.len()];
        let [missing_count, misshaped_count, extra_count, ignored_count] = counts;
        write!(f, "{naming}: {} tensors matched, {missing_count} missing, ", matched.len())?;
        write!(f, "{misshaped_count} of other shape, {extra_count} extra, {ignored_count} ignored")?;
        for name in missing {
            write!(f, "\nmissing: {name}")?;
        }
        for Misshaped { name, expected, found } in misshaped {
            write!(f, "\nother shape: {name} is {found:?}, expected {expected:?}")?;
        }
        for name in extra {
            write!(f, "\nextra: {name}")?;
        }
        Ok(())
    }
}

/// What a tensor's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Nothing of classes.
    Plain,
    /// A logit for each class and the background.
    Logits,
    /// So many rows for each class.
    Classes(usize),
}

impl Detector {
    /// Sets every tensor that the safetensors file at `path` has under its name in torchvision or
    /// mmdetection, in the same shape; all others stay. `classes` says for each of the detector's
    /// classes which of the file's it is, counted from 0 without the background: the category id less 1
    /// for torchvision's COCO weights, which have 90. Left out, both lists are the same.
    ///
    /// # Errors
    /// A file that cannot be read, whose names are neither's, or whose tensors are not finite;
    /// `classes` of another number than the detector's. Nothing is changed then.
    pub fn load_weights(&self, path: &Path, classes: Option<&[usize]>) -> Result<WeightReport> {
        if let Some(classes) = classes
            && classes.len() != self.classes()
        {
            let (path, found, expected) = (path.display(), classes.len(), self.classes());
            let what = format!("{path}: {found} classes were chosen, expected {expected}");
            return Err(Error::invalid(what));
        }
        self.load(path, |_, _| classes.map(<[usize]>::to_vec))
    }

    /// As [`load_weights`](Self::load_weights), with the classes chosen by the ids of the detector's
    /// categories, in their order: a file of as many classes has them in this order; one of torchvision that
    /// has more numbers them by id. Of other files' class layers nothing is taken.
    ///
    /// # Errors
    /// As [`load_weights`](Self::load_weights); no tensor fits.
    pub fn load_weights_by_id(&self, path: &Path, ids: &[i64]) -> Result<WeightReport> {
        let report = self.load(path, |values, naming| {
            let known = known_classes(values, naming)?;
            let of_id = |id: &i64| {
                let class = usize::try_from(id.checked_sub(1)?).ok()?;
                (class < known).then_some(class)
            };
            match naming {
                Naming::Torchvision if known != ids.len() => ids.iter().map(of_id).collect(),
                _ => None,
            }
        })?;
        match report.matched.is_empty() {
            true => Err(Error::invalid(format!("{}: {report}", path.display()))),
            false => Ok(report),
        }
    }

    fn load(
        &self,
        path: &Path,
        choose: impl Fn(&BTreeMap<String, Tensor>, Naming) -> Option<Vec<usize>>,
    ) -> Result<WeightReport> {
        let refuse = |what: String| Error::invalid(format!("{}: {what}", path.display()));
        std::fs::metadata(path).map_err(Error::io(path))?;
        let tensors = Tensor::read_safetensors(path).map_err(|e| refuse(Error::from(e).to_string()))?;
        let values: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let has = |prefix: &str| values.keys().any(|name| name.starts_with(prefix));
        let naming = if has("roi_heads.") || has("backbone.fpn.") || has("rpn.head.") {
            Naming::Torchvision
        } else if has("roi_head.") || has("rpn_head.") || has("neck.") {
            Naming::Mmdet
        } else {
            return Err(refuse("has neither torchvision's nor mmdetection's names of a detector".into()));
        };
        let mut report = WeightReport {
            naming,
            matched: Vec::new(),
            missing: Vec::new(),
            misshaped: Vec::new(),
            extra: Vec::new(),
            ignored: Vec::new(),
        };
        let classes = choose(&values, naming);
        let (mut changes, mut used) = (Vec::new(), BTreeSet::new());
        for entry in self.parameters().entries() {
            let names = match naming {
                Naming::Torchvision => torchvision_names(&entry.name),
                Naming::Mmdet => self.mmdet_names(&entry.name),
            };
            let Some((name, value)) = names.iter().find_map(|name| values.get_key_value(name)) else {
                report.missing.push(entry.name.clone());
                continue;
            };
            used.insert(name.as_str());
            let value = chosen_rows(value, rows(&entry.name), naming, classes.as_deref())?;
            let (expected, found) = (entry.tensor.size(), value.size());
            if expected != found {
                report.misshaped.push(Misshaped { name: name.clone(), expected, found });
                continue;
            }
            let value = value.f_to_kind(Kind::Float)?;
            if value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                return Err(refuse(format!("tensor {name} is not finite")));
            }
            changes.push((entry.tensor.shallow_clone(), value));
            report.matched.push((entry.name.clone(), name.clone()));
        }
        for name in values.keys().filter(|name| !used.contains(name.as_str())) {
            let backbone = name.starts_with("backbone.") && !name.starts_with("backbone.fpn.");
            match backbone || name.ends_with("num_batches_tracked") {
                true => report.ignored.push(name.clone()),
                false => report.extra.push(name.clone()),
            }
        }
        let _guard = tch::no_grad_guard();
        for (mut tensor, value) in changes {
            tensor.f_copy_(&value)?;
        }
        Ok(report)
    }

    /// Names in mmdetection of the tensor `name`. Its Swin keeps the norms of the levels in the
    /// backbone, by number.
    fn mmdet_names(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        if let Some((level, part)) = name.strip_prefix("neck.norms.").and_then(|rest| rest.rsplit_once('.'))
            && let Some(index) = self.levels().iter().position(|spec| spec.name == level)
        {
            names.push(format!("backbone.norm{index}.{part}"));
        }
        names
    }
}

/// Names in torchvision of the tensor `name`: the newest and those of earlier releases.
fn torchvision_names(name: &str) -> Vec<String> {
    // `….{i}.conv.weight`, `….{i}.bn.weight`: index in torch's `Sequential` of convolution and norm.
    let module = |rest: &str| -> Option<(String, u32, String)> {
        let (index, rest) = rest.split_once('.')?;
        let (layer, part) = rest.split_once('.')?;
        let place = match layer {
            "conv" => 0,
            "bn" => 1,
            _ => return None,
        };
        Some((index.to_owned(), place, part.to_owned()))
    };
    let pyramid = [("neck.lateral_convs.", "inner_blocks"), ("neck.fpn_convs.", "layer_blocks")];
    for (ours, theirs) in pyramid {
        if let Some((index, place, part)) = name.strip_prefix(ours).and_then(module) {
            let theirs = format!("backbone.fpn.{theirs}.{index}");
            return vec![format!("{theirs}.{place}.{part}"), format!("{theirs}.{part}")];
        }
    }
    if let Some((index, place, part)) = name.strip_prefix("rpn_head.rpn_conv.").and_then(module) {
        return vec![format!("rpn.head.conv.{index}.{place}.{part}")];
    }
    if let Some(part) = name.strip_prefix("rpn_head.rpn_conv.") {
        return vec![format!("rpn.head.conv.0.0.{part}"), format!("rpn.head.conv.{part}")];
    }
    if let Some((index, place, part)) = name.strip_prefix("roi_head.bbox_head.shared_convs.").and_then(module)
    {
        return vec![format!("roi_heads.box_head.{index}.{place}.{part}")];
    }
    if let Some((index, place, part)) = name.strip_prefix("roi_head.mask_head.convs.").and_then(module) {
        let early = index.parse::<u32>().map_or(index.clone(), |index| (index + 1).to_string());
        let head = "roi_heads.mask_head";
        return vec![format!("{head}.{index}.{place}.{part}"), format!("{head}.mask_fcn{early}.{part}")];
    }
    if let Some(part) = name.strip_prefix("roi_head.bbox_head.shared_fcs.0.") {
        // Behind four convolutions and a flattening it is the sixth module of a `Sequential`.
        return vec![format!("roi_heads.box_head.fc6.{part}"), format!("roi_heads.box_head.5.{part}")];
    }
    for (ours, theirs) in [
        ("rpn_head.rpn_cls.", "rpn.head.cls_logits."),
        ("rpn_head.rpn_reg.", "rpn.head.bbox_pred."),
        ("roi_head.bbox_head.shared_fcs.1.", "roi_heads.box_head.fc7."),
        ("roi_head.bbox_head.fc_cls.", "roi_heads.box_predictor.cls_score."),
        ("roi_head.bbox_head.fc_reg.", "roi_heads.box_predictor.bbox_pred."),
        ("roi_head.mask_head.upsample.", "roi_heads.mask_predictor.conv5_mask."),
        ("roi_head.mask_head.conv_logits.", "roi_heads.mask_predictor.mask_fcn_logits."),
    ] {
        if let Some(part) = name.strip_prefix(ours) {
            return vec![format!("{theirs}{part}")];
        }
    }
    Vec::new()
}

/// Classes of a file, the background not counted: rows of its first logits but one.
fn known_classes(values: &BTreeMap<String, Tensor>, naming: Naming) -> Option<usize> {
    let (start, end) = match naming {
        Naming::Torchvision => ("roi_heads.box_predictor.", "cls_score.bias"),
        Naming::Mmdet => ("roi_head.bbox_head.", ".fc_cls.bias"),
    };
    let logits = values.iter().find(|(name, _)| name.starts_with(start) && name.ends_with(end));
    let rows = logits.and_then(|(_, value)| value.size().first().copied());
    usize::try_from(rows?.checked_sub(1)?).ok()
}

/// What the rows of the tensor `name` are.
fn rows(name: &str) -> Rows {
    let stage = |part: &str| name.starts_with("roi_head.") && name.contains(part);
    if stage(".fc_cls.") {
        Rows::Logits
    } else if stage(".fc_reg.") {
        Rows::Classes(4)
    } else if name.starts_with("roi_head.mask_head.") && stage(".conv_logits.") {
        Rows::Classes(1)
    } else {
        Rows::Plain
    }
}

/// The rows of the chosen classes in mmdetection's order; a tensor that has not the rows for them as it is.
fn chosen_rows(value: &Tensor, rows: Rows, naming: Naming, classes: Option<&[usize]>) -> Result<Tensor> {
    let count = value.size().first().copied().unwrap_or(0) as usize;
    let (each, first) = match (rows, naming) {
        (Rows::Plain, _) => return Ok(value.shallow_clone()),
        (Rows::Logits, Naming::Mmdet) => (1, 0),
        (Rows::Logits, Naming::Torchvision) => (1, 1),
        (Rows::Classes(each), Naming::Mmdet) => (each, 0),
        (Rows::Classes(each), Naming::Torchvision) => (each, each),
    };
    let background = usize::from(rows == Rows::Logits && naming == Naming::Mmdet);
    if value.dim() == 0 || count < first + background {
        return Ok(value.shallow_clone());
    }
    let known = (count - first - background) / each;
    let one_box = rows == Rows::Classes(4) && naming == Naming::Mmdet && known == 1;
    let all: Vec<usize> = (0..known).collect();
    let chosen = match classes {
        // One box for all classes has no rows to choose from.
        Some(_) if one_box => &all,
        Some(classes) if classes.iter().all(|&class| class < known) => classes,
        Some(_) => return Ok(value.shallow_clone()),
        None => &all,
    };
    let row = |class: usize| (0..each).map(move |part| (first + class * each + part) as i64);
    let mut taken: Vec<i64> = chosen.iter().copied().flat_map(row).collect();
    match (rows, naming) {
        (Rows::Logits, Naming::Mmdet) => taken.push(count as i64 - 1),
        (Rows::Logits, Naming::Torchvision) => taken.push(0),
        _ => {}
    }
    Ok(value.f_index_select(0, &Tensor::f_from_slice(&taken)?.f_to_device(value.device())?)?)
}
