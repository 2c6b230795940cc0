//! The rows of an open store, in columns: a million of them take less than a hundred megabytes, and a row
//! is put together when it is asked for. Reads no file.

use crate::plan::{PlanRowRef, duplicate, first_duplicate};
use crate::{RowId, SampleKey, Size};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// One row: a sample in one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRow {
    /// Its number in this store.
    pub id: RowId,
    /// The data set's name of the sample.
    pub key: SampleKey,
    /// File relative to the dataset's root.
    pub source: String,
    /// Numeric id that result files need, if the dataset has one.
    pub image_id: Option<i64>,
    /// Split.
    pub split: Arc<str>,
    /// View.
    pub view: Arc<str>,
    /// Padded input size; `None` if the file could not be read at listing.
    pub bucket: Option<Size>,
    /// Size of the original picture.
    pub source_size: Option<Size>,
    /// Size after resizing, before padding.
    pub valid_size: Option<Size>,
    /// Whether it has features.
    pub status: Status,
}

/// Whether a row has features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It has.
    Ok,
    /// It never will: why.
    Failed(String),
    /// Its unit is not committed yet.
    Missing,
}

/// All rows of a store; a row's index is its [`RowId`].
#[derive(Debug, Default)]
pub struct Rows {
    keys: Texts,
    sources: Texts,
    image_ids: Vec<Option<i64>>,
    /// Original and valid size; zeros where the file could not be read at listing.
    sizes: Vec<[Size; 2]>,
    /// Consecutive rows of one split, view and padded size.
    runs: Vec<Run>,
    failed: BTreeMap<usize, String>,
    /// Rows whose units are not committed, in order.
    missing: Vec<Range<usize>>,
}

/// Rows up to `end` that have these in common.
#[derive(Debug)]
struct Run {
    end: usize,
    split: Arc<str>,
    view: Arc<str>,
    size: Option<Size>,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// The row of this id.
    pub fn get(&self, id: RowId) -> Option<SampleRow> {
        let index = self.index(id)?;
        let Run { split, view, size, .. } = self.runs.get(self.run_of(index))?;
        let [source_size, valid_size] = *self.sizes.get(index)?;
        Some(SampleRow {
            id,
            key: SampleKey(self.keys.get(index).to_owned()),
            source: self.sources.get(index).to_owned(),
            image_id: self.image_ids.get(index).copied().flatten(),
            split: Arc::clone(split),
            view: Arc::clone(view),
            bucket: *size,
            source_size: size.map(|_| source_size),
            valid_size: size.map(|_| valid_size),
            status: self.status(id)?,
        })
    }

    /// Whether the row of this id has features.
    pub fn status(&self, id: RowId) -> Option<Status> {
        let index = self.index(id)?;
        if let Some(reason) = self.failed.get(&index) {
            return Some(Status::Failed(reason.clone()));
        }
        let range = self.missing.partition_point(|range| range.end <= index);
        let missing = self.missing.get(range).is_some_and(|range| range.contains(&index));
        Some(if missing { Status::Missing } else { Status::Ok })
    }

    /// The key of the row of this id.
    pub fn key(&self, id: RowId) -> Option<&str> {
        Some(self.keys.get(self.index(id)?))
    }

    /// All rows, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = SampleRow> + '_ {
        (0..self.len() as u64).filter_map(|id| self.get(RowId(id)))
    }

    /// Appends a row. Those without a place have failed; of the others that is to be said.
    pub(crate) fn push(&mut self, row: &PlanRowRef<'_>) {
        let index = self.len();
        self.keys.push(row.key);
        self.sources.push(row.source);
        self.image_ids.push(row.image_id);
        let (size, sizes) = match &row.place {
            Ok(place) => (Some(place.bucket), [place.source, place.valid]),
            Err(reason) => {
                self.fail(index, (*reason).to_owned());
                (None, [Size::new(0, 0); 2])
            }
        };
        self.sizes.push(sizes);
        match self.runs.last_mut() {
            Some(run) if run.size == size && run.split == *row.split && run.view == *row.view => {
                run.end = index + 1;
            }
            _ => {
                let (split, view) = (Arc::clone(row.split), Arc::clone(row.view));
                self.runs.push(Run { end: index + 1, split, view, size });
            }
        }
    }

    /// How many have failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// Says why a row has no features.
    pub(crate) fn fail(&mut self, index: usize, reason: String) {
        self.failed.insert(index, reason);
    }

    /// Says that rows behind all that were said so before are not there yet.
    pub(crate) fn miss(&mut self, rows: Range<usize>) {
        self.missing.push(rows);
    }

    /// Whether the row could not be read at listing.
    pub(crate) fn has_place(&self, index: usize) -> bool {
        self.runs.get(self.run_of(index)).is_some_and(|run| run.size.is_some())
    }

    /// What is wrong with the first row whose split, view and key an earlier one has.
    pub(crate) fn first_duplicate(&self) -> Option<String> {
        let names = |index: usize| {
            let run = self.runs.get(self.run_of(index));
            let (split, view) = run.map_or(("", ""), |run| (&*run.split, &*run.view));
            (split, view, self.keys.get(index))
        };
        first_duplicate((0..self.len()).map(names)).map(|id| duplicate(id, names(id)))
    }

    fn index(&self, id: RowId) -> Option<usize> {
        usize::try_from(id.0).ok().filter(|index| *index < self.len())
    }

    fn run_of(&self, index: usize) -> usize {
        self.runs.partition_point(|run| run.end <= index)
    }
}

impl<'a> IntoIterator for &'a Rows {
    type Item = SampleRow;
    type IntoIter = Box<dyn Iterator<Item = SampleRow> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// Texts one behind the other.
#[derive(Debug, Default)]
struct Texts {
    text: String,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// The text of this number; none is empty.
    fn get(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0);
        let start = index.checked_sub(1).map_or(0, end);
        self.text.get(start..end(index)).unwrap_or_default()
    }
}
