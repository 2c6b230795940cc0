//! Mean intersection over union as mmsegmentation's `IoUMetric` defines it: areas are summed over the
//! whole data set before dividing. Must not know models or stores.

use crate::labels::IGNORE;
use serde::Serialize;

/// Areas of every class, accumulated over a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeanIou {
    intersect: Vec<u64>,
    predicted: Vec<u64>,
    labelled: Vec<u64>,
}

/// Scores of one class; `None` where mmsegmentation has NaN.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScore {
    /// Name of the class.
    pub name: String,
    /// Intersection over union; `None` for a class neither labelled nor predicted.
    pub iou: Option<f64>,
    /// Share of the labelled pixels found; `None` for a class never labelled.
    pub accuracy: Option<f64>,
    /// Labelled pixels.
    pub labelled: u64,
}

/// Scores over a data set, between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Mean of the classes' IoU over those that have one (`nanmean`).
    pub miou: Option<f64>,
    /// Mean of the classes' accuracy over those that have one.
    pub macc: Option<f64>,
    /// Correct pixels over labelled pixels.
    pub aacc: Option<f64>,
    /// One entry a class, in order.
    pub classes: Vec<ClassScore>,
}

impl MeanIou {
    /// Nothing seen yet of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { intersect: vec![0; classes], predicted: vec![0; classes], labelled: vec![0; classes] }
    }

    /// Adds a picture's predicted and true classes, pixel by pixel; pixels whose truth is [`IGNORE`]
    /// do not count, whatever was predicted there.
    ///
    /// # Errors
    /// Lengths that differ, or a class that does not exist: the picture then does not count at all.
    pub fn add(&mut self, predicted: &[u16], truth: &[i16]) -> Result<(), String> {
        if predicted.len() != truth.len() {
            return Err(format!("{} pixels predicted, {} labelled", predicted.len(), truth.len()));
        }
        let classes = self.intersect.len();
        if let Some(class) = predicted.iter().find(|&&class| usize::from(class) >= classes) {
            return Err(format!("predicted class {class} of {classes}"));
        }
        let known = |class: &&i16| **class == IGNORE || usize::try_from(**class).is_ok_and(|c| c < classes);
        if let Some(class) = truth.iter().find(|class| !known(class)) {
            return Err(format!("labelled class {class} of {classes}"));
        }
        for (&p, &t) in predicted.iter().zip(truth) {
            let Ok(t) = usize::try_from(t) else { continue };
            let p = usize::from(p);
            self.predicted[p] += 1;
            self.labelled[t] += 1;
            self.intersect[t] += u64::from(p == t);
        }
        Ok(())
    }

    /// Intersection, union and labelled area of a class.
    pub fn areas(&self, class: usize) -> [u64; 3] {
        let union = self.predicted[class] + self.labelled[class] - self.intersect[class];
        [self.intersect[class], union, self.labelled[class]]
    }

    /// The scores of what was added so far; `names` has one entry a class.
    pub fn scores(&self, names: &[String]) -> Scores {
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let classes: Vec<_> = (0..self.intersect.len())
            .map(|class| {
                let [intersect, union, labelled] = self.areas(class);
                let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
                let (iou, accuracy) = (ratio(intersect, union), ratio(intersect, labelled));
                ClassScore { name, iou, accuracy, labelled }
            })
            .collect();
        Scores {
            miou: mean(classes.iter().filter_map(|class| class.iou)),
            macc: mean(classes.iter().filter_map(|class| class.accuracy)),
            aacc: ratio(self.intersect.iter().sum(), self.labelled.iter().sum()),
            classes,
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}
