//! What a run trains, as the loop sees it: a truth that the loader's threads ask for a row's target, and
//! a model that turns maps and targets into losses. A new task is a variant of each. Must not know
//! batches, steps or files.

use crate::detector::Detector;
use crate::labels::{LabelRule, Target, ZeroLabel};
use crate::loss::{Average, cross_entropy};
use crate::losses::Losses;
use crate::model::SemanticModel;
use crate::objects::{ObjectOptions, ObjectTruth, Objects};
use crate::parameter::Parameters;
use crate::recipe::{HeadKind, TrainRecipe};
use crate::selection::Selection;
use crate::tensor::label_tensor;
use crate::truth::Truth;
use crate::{Error, Phase, Result};
use featcache_store::{Category, LevelSpec, RowId, Size, Store};
use tch::{Device, Kind, Tensor};

/// Which truth a recipe asks for: heads of equal ones share it.
#[derive(Debug, Clone, PartialEq)]
pub enum TruthOptions {
    /// Label maps.
    Labels(ZeroLabel),
    /// Objects.
    Objects(ObjectOptions),
}

/// The truth of a store's rows.
#[derive(Debug)]
pub enum TaskTruth<'a> {
    /// Label maps.
    Labels(Truth<'a>),
    /// Objects.
    Objects(ObjectTruth<'a>),
}

/// What one row teaches; no tensor, for it crosses threads.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskTarget {
    /// A class a pixel of the padded input; `None` where the sample has no label map.
    Labels(Option<Target>),
    /// The objects of a picture.
    Objects(Box<Objects>),
}

/// A head with the levels that it reads.
#[derive(Debug)]
pub enum TaskModel {
    /// A class for every pixel.
    Segmentation(Box<SemanticModel>),
    /// Boxes with classes and masks.
    Detection(Box<Detector>),
}

impl TruthOptions {
    /// What a recipe's head learns from.
    pub fn of(recipe: &TrainRecipe) -> Self {
        match recipe.head.kind {
            HeadKind::Linear | HeadKind::UperNet => Self::Labels(recipe.labels.zero),
            HeadKind::Detector => {
                Self::Objects(ObjectOptions { semantic_classes: recipe.detector().semantic_classes() })
            }
        }
    }

    /// The truth of a store.
    ///
    /// # Errors
    /// Categories that do not fit.
    pub fn open<'a>(&self, store: &'a Store) -> Result<TaskTruth<'a>> {
        Ok(match self {
            Self::Labels(zero) => TaskTruth::Labels(Truth::new(store, *zero)?),
            Self::Objects(options) => TaskTruth::Objects(ObjectTruth::new(store, options)?),
        })
    }
}

impl TaskTruth<'_> {
    /// Refuses a selection that has nothing to learn from.
    pub fn check(&self, selection: &Selection) -> Result<()> {
        match self {
            Self::Labels(truth) => truth.check(selection),
            Self::Objects(truth) => truth.check(selection),
        }
    }

    /// Whether the row's sample is labelled: has a label map, or an object or a crowd.
    pub fn is_labelled(&self, row: RowId) -> Result<bool> {
        match self {
            Self::Labels(truth) => truth.is_labelled(row),
            Self::Objects(truth) => truth.has_objects(row),
        }
    }

    /// The target of a row, in the coordinates of its padded input.
    pub fn target(&self, row: RowId) -> Result<TaskTarget> {
        Ok(match self {
            Self::Labels(truth) => TaskTarget::Labels(truth.placed(row)?),
            Self::Objects(truth) => TaskTarget::Objects(Box::new(truth.placed(row)?)),
        })
    }
}

impl TaskTarget {
    /// Whether there is a label in it at all.
    pub fn is_labelled(&self) -> bool {
        match self {
            Self::Labels(target) => target.is_some(),
            Self::Objects(objects) => !objects.boxes.is_empty() || !objects.crowd.is_empty(),
        }
    }
}

impl TaskModel {
    /// The recipe's head at its seeded start, over these levels (finest first) and categories.
    ///
    /// # Errors
    /// Categories that are no values of label maps; levels that the head cannot use.
    pub fn new(
        recipe: &TrainRecipe,
        levels: Vec<LevelSpec>,
        categories: &[Category],
        device: Device,
    ) -> Result<Self> {
        let (precision, seed) = (recipe.train.precision, recipe.train.seed);
        Ok(match recipe.head.kind {
            HeadKind::Linear | HeadKind::UperNet => {
                let rule = LabelRule::new(categories, recipe.labels.zero).map_err(Error::invalid)?;
                let classes = rule.names().to_vec();
                let model = SemanticModel::new(&recipe.head, precision, levels, classes, seed, device)?;
                Self::Segmentation(Box::new(model))
            }
            HeadKind::Detector => {
                let classes = categories.len();
                let model = Detector::new(&recipe.detector(), precision, levels, classes, seed, device)?;
                Self::Detection(Box::new(model))
            }
        })
    }

    /// Its tensors.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Segmentation(model) => model.parameters(),
            Self::Detection(model) => model.parameters(),
        }
    }

    /// Levels it reads, in the order in which it wants their maps.
    pub fn levels(&self) -> &[LevelSpec] {
        match self {
            Self::Segmentation(model) => model.levels(),
            Self::Detection(model) => model.levels(),
        }
    }

    /// Element type in which it wants its maps.
    pub fn map_kind(&self) -> Kind {
        match self {
            Self::Segmentation(model) => model.map_kind(),
            Self::Detection(model) => model.map_kind(),
        }
    }

    /// The losses of a batch: maps `[n, c, h, w]`, one a level, and a target a row; `size` is the padded
    /// input's. `average` is that of dense losses.
    ///
    /// # Errors
    /// Targets of another task or size; torch.
    pub fn losses(
        &self,
        maps: &[Tensor],
        targets: &[&TaskTarget],
        size: Size,
        average: Average,
        phase: Phase,
    ) -> Result<Losses> {
        let another = || Error::invalid("targets are of another task than the head");
        match self {
            Self::Segmentation(model) => {
                let labels = targets.iter().map(|target| match target {
                    TaskTarget::Labels(target) => Ok(target.as_ref()),
                    TaskTarget::Objects(_) => Err(another()),
                });
                let labels =
                    label_tensor(&labels.collect::<Result<Vec<_>>>()?, size, model.parameters().device())?;
                let logits = model.forward(maps, phase)?;
                let mut parts = vec![("main".to_owned(), cross_entropy(&logits.main, &labels, average)?)];
                if let Some((logits, weight)) = &logits.auxiliary {
                    let auxiliary = cross_entropy(logits, &labels, average)?;
                    parts.push(("auxiliary".to_owned(), auxiliary.f_mul_scalar(*weight)?));
                }
                Ok(Losses { parts })
            }
            Self::Detection(model) => {
                let objects = targets.iter().map(|target| match target {
                    TaskTarget::Objects(objects) => Ok(&**objects),
                    TaskTarget::Labels(_) => Err(another()),
                });
                model.losses(maps, &objects.collect::<Result<Vec<_>>>()?, phase)
            }
        }
    }
}
