//! `annotations.parquet`: labels by sample, so that training needs neither pictures nor the dataset's own
//! files. Written in row groups of bounded bytes, read for one sample at a time.

use super::{Allowance, Table, TableFile, TableWriter, batch, bounded, column, properties, schema};
use crate::listing::Label;
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Annotation, Error, Listing, Result, SampleKey};
use arrow_array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray,
};
use arrow_schema::{DataType, SchemaRef};
use parquet::basic::Compression;
use parquet::file::properties::WriterPropertiesBuilder;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Bytes of labels in a row group, at least one label: what reading one sample's labels decodes at most.
const GROUP_BYTES: usize = 1 << 20;

/// Longest label map or segmentation, in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 256 << 20;

const COLUMNS: [(&str, DataType, bool); 13] = [
    ("split", DataType::Utf8View, false),
    ("key", DataType::Utf8View, false),
    ("id", DataType::Int64, true),
    ("kind", DataType::Utf8View, false),
    ("category_id", DataType::Int64, true),
    ("bbox_x", DataType::Float64, true),
    ("bbox_y", DataType::Float64, true),
    ("bbox_width", DataType::Float64, true),
    ("bbox_height", DataType::Float64, true),
    ("area", DataType::Float64, true),
    ("iscrowd", DataType::Boolean, true),
    ("segmentation", DataType::Utf8View, true),
    ("png", DataType::BinaryView, true),
];

const OBJECT: &str = "object";
const LABEL_MAP: &str = "label_map";

fn annotation_properties() -> WriterPropertiesBuilder {
    properties()
        .set_data_page_size_limit(64 << 10)
        .set_write_batch_size(16)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .set_column_dictionary_enabled("segmentation".into(), false)
        .set_column_dictionary_enabled("png".into(), false)
        // PNG is compressed already.
        .set_column_compression("png".into(), Compression::UNCOMPRESSED)
}

/// Writes the labels to a staged file, by split and key, within a sample in the listing's order.
///
/// [`Error::Invalid`] for a label of a sample that is not listed, or one of more than
/// [`MAX_LABEL_BYTES`].
pub(crate) fn write(storage: &Arc<dyn Storage>, target: &Path, listing: &Listing) -> Result<Staged> {
    let mut samples: Vec<(&str, &SampleKey)> =
        listing.samples.iter().map(|sample| (sample.split.as_str(), &sample.key)).collect();
    samples.sort_unstable();
    let mut sorted: Vec<&Annotation> = listing.annotations.iter().collect();
    // Stable: several labels of one sample keep the dataset's order.
    sorted.sort_by_key(|annotation| (annotation.split.as_str(), &annotation.key));

    for annotation in &sorted {
        if samples.binary_search(&(annotation.split.as_str(), &annotation.key)).is_err() {
            return Err(Error::invalid(format!(
                "label {} of sample {:?} in split {}: no such sample is listed",
                annotation.id.map_or("without id".into(), |id| id.to_string()),
                annotation.key.0,
                annotation.split
            )));
        }
    }
    write_sorted(storage, target, sorted.into_iter().map(Ok))
}

/// Writes labels that come by split and key to a staged file.
///
/// [`Error::Invalid`] for one of more than [`MAX_LABEL_BYTES`], and the first error that comes.
pub(crate) fn write_sorted<A: Borrow<Annotation>>(
    storage: &Arc<dyn Storage>,
    target: &Path,
    annotations: impl Iterator<Item = Result<A>>,
) -> Result<Staged> {
    let schema = schema(&COLUMNS);
    let mut writer = TableWriter::create(storage, target, Arc::clone(&schema), annotation_properties())?;
    let (mut group, mut bytes) = (Vec::<A>::new(), 0);
    for annotation in annotations {
        let annotation = annotation?;
        let size = label_bytes(annotation.borrow());
        if size > MAX_LABEL_BYTES {
            return Err(Error::invalid(format!(
                "label of sample {:?}: {size} bytes, expected at most {MAX_LABEL_BYTES}",
                annotation.borrow().key.0
            )));
        }
        if !group.is_empty() && bytes + size > GROUP_BYTES {
            write_group(&mut writer, &schema, &group)?;
            group.clear();
            bytes = 0;
        }
        bytes += size;
        group.push(annotation);
    }
    write_group(&mut writer, &schema, &group)?;
    writer.finish()
}

/// All labels of a table, by split and key, one row group in memory at a time.
pub(crate) fn read_all(file: TableFile) -> Result<impl Iterator<Item = Result<Annotation>>> {
    let table = Table::open(file, &schema(&COLUMNS))?;
    let groups: Vec<u64> = table.group_rows().collect();
    let read = move |(group, rows): (usize, u64)| {
        let read = || {
            let (mut annotations, mut allowance) = (Vec::new(), table.allowance());
            let rows = 0..usize::try_from(rows).unwrap_or(usize::MAX);
            for batch in table.group_batches(group, rows)? {
                read_labels(&batch?, table.path(), &mut allowance, &mut annotations)?;
            }
            Ok(annotations)
        };
        let (labels, error) = match read() {
            Ok(annotations) => (annotations, None),
            Err(error) => (Vec::new(), Some(Err(error))),
        };
        labels.into_iter().map(Ok).chain(error)
    };
    Ok(groups.into_iter().enumerate().flat_map(read))
}

fn label_bytes(annotation: &Annotation) -> usize {
    const FIXED: usize = 80;
    FIXED
        + match &annotation.label {
            Label::Object { segmentation, .. } => segmentation.as_ref().map_or(0, String::len),
            Label::LabelMap { png } => png.len(),
        }
}

fn write_group<A: Borrow<Annotation>>(
    writer: &mut TableWriter,
    schema: &SchemaRef,
    group: &[A],
) -> Result<()> {
    let group: Vec<&Annotation> = group.iter().map(Borrow::borrow).collect();
    writer.write(&batch(schema, columns(&group))?)?;
    writer.flush()
}

fn columns(group: &[&Annotation]) -> Vec<ArrayRef> {
    let bbox = |side: usize| -> ArrayRef {
        let of = |annotation: &&Annotation| match &annotation.label {
            Label::Object { bbox, .. } => bbox.get(side).copied(),
            Label::LabelMap { .. } => None,
        };
        Arc::new(Float64Array::from_iter(group.iter().map(of)))
    };
    let kind = |annotation: &&Annotation| match annotation.label {
        Label::Object { .. } => OBJECT,
        Label::LabelMap { .. } => LABEL_MAP,
    };
    let category = |annotation: &&Annotation| match annotation.label {
        Label::Object { category_id, .. } => Some(category_id),
        Label::LabelMap { .. } => None,
    };
    let area = |annotation: &&Annotation| match annotation.label {
        Label::Object { area, .. } => Some(area),
        Label::LabelMap { .. } => None,
    };
    let crowd = |annotation: &&Annotation| match annotation.label {
        Label::Object { iscrowd, .. } => Some(iscrowd),
        Label::LabelMap { .. } => None,
    };
    let segmentations = group.iter().map(|annotation| match &annotation.label {
        Label::Object { segmentation, .. } => segmentation.as_deref(),
        Label::LabelMap { .. } => None,
    });
    let maps = group.iter().map(|annotation| match &annotation.label {
        Label::Object { .. } => None,
        Label::LabelMap { png } => Some(png.as_slice()),
    });
    vec![
        Arc::new(StringViewArray::from_iter_values(group.iter().map(|a| &a.split))),
        Arc::new(StringViewArray::from_iter_values(group.iter().map(|a| &a.key.0))),
        Arc::new(Int64Array::from_iter(group.iter().map(|a| a.id))),
        Arc::new(StringViewArray::from_iter_values(group.iter().map(kind))),
        Arc::new(Int64Array::from_iter(group.iter().map(category))),
        bbox(0),
        bbox(1),
        bbox(2),
        bbox(3),
        Arc::new(Float64Array::from_iter(group.iter().map(area))),
        Arc::new(BooleanArray::from_iter(group.iter().map(crowd))),
        Arc::new(StringViewArray::from_iter(segmentations)),
        Arc::new(BinaryViewArray::from_iter(maps)),
    ]
}

/// The labels of a store, indexed by sample and read on demand.
#[derive(Debug)]
pub(crate) struct Annotations {
    table: Table,
    /// Split → key → where its labels lie, in order.
    runs: HashMap<String, HashMap<String, Vec<Run>>>,
}

/// Consecutive labels of one sample in one row group.
#[derive(Debug, Clone, Copy)]
struct Run {
    group: u32,
    start: u32,
    end: u32,
}

impl Annotations {
    /// Reads the names in the table, not the labels.
    pub(crate) fn open(file: TableFile) -> Result<Self> {
        let table = Table::open(file, &schema(&COLUMNS))?;
        let (path, mut allowance) = (table.path(), table.allowance());
        let ends: Vec<u64> = table
            .group_rows()
            .scan(0u64, |end, rows| {
                *end = end.saturating_add(rows);
                Some(*end)
            })
            .collect();
        let mut runs: HashMap<String, HashMap<String, Vec<Run>>> = HashMap::new();
        let (mut row, mut group) = (0u64, 0usize);
        for batch in table.batches(Some(&["split", "key"]))? {
            let batch = batch?;
            let splits = column::<StringViewArray>(&batch, "split", path)?;
            let keys = column::<StringViewArray>(&batch, "key", path)?;
            for i in 0..batch.num_rows() {
                while ends.get(group).is_some_and(|end| row >= *end) {
                    group += 1;
                }
                let first = group.checked_sub(1).and_then(|g| ends.get(g)).copied().unwrap_or(0);
                let narrow = |v: u64| {
                    u32::try_from(v).map_err(|_| Error::corrupt(path, format!("row {row} is out of range")))
                };
                let run = Run {
                    group: narrow(group as u64)?,
                    start: narrow(row - first)?,
                    end: narrow(row - first + 1)?,
                };
                let at = usize::try_from(row).unwrap_or(usize::MAX);
                let split = bounded(splits.value(i), "split", at, path)?;
                let key = bounded(keys.value(i), "key", at, path)?;
                append_run(&mut runs, &mut allowance, split, key, run)?;
                row += 1;
            }
        }
        Ok(Self { table, runs })
    }

    /// All labels of a sample, in the dataset's order; empty if it has none.
    pub(crate) fn of(&self, split: &str, key: &SampleKey) -> Result<Vec<Annotation>> {
        let mut annotations = Vec::new();
        let mut allowance = self.table.allowance();
        let runs = self.runs.get(split).and_then(|keys| keys.get(&key.0));
        for run in runs.into_iter().flatten() {
            let rows = run.start as usize..run.end as usize;
            for batch in self.table.group_batches(run.group as usize, rows)? {
                read_labels(&batch?, self.table.path(), &mut allowance, &mut annotations)?;
            }
        }
        Ok(annotations)
    }
}

fn append_run(
    runs: &mut HashMap<String, HashMap<String, Vec<Run>>>,
    allowance: &mut Allowance,
    split: &str,
    key: &str,
    run: Run,
) -> Result<()> {
    // Entries of a map want owned keys; most rows need none.
    if !runs.contains_key(split) {
        allowance.take::<(String, HashMap<String, Vec<Run>>)>(&[Some(split)])?;
        runs.insert(split.to_owned(), HashMap::new());
    }
    let Some(keys) = runs.get_mut(split) else { return Ok(()) };
    match keys.get_mut(key) {
        Some(of_key) => match of_key.last_mut() {
            Some(last) if last.group == run.group && last.end == run.start => last.end = run.end,
            _ => {
                allowance.take::<Run>(&[])?;
                of_key.push(run);
            }
        },
        None => {
            allowance.take::<(String, Vec<Run>, Run)>(&[Some(key)])?;
            keys.insert(key.to_owned(), vec![run]);
        }
    }
    Ok(())
}

fn read_labels(
    batch: &RecordBatch,
    path: &Path,
    allowance: &mut Allowance,
    annotations: &mut Vec<Annotation>,
) -> Result<()> {
    let text = |name| column::<StringViewArray>(batch, name, path);
    let number = |name| column::<Float64Array>(batch, name, path);
    let (splits, keys, kinds) = (text("split")?, text("key")?, text("kind")?);
    let ids = column::<Int64Array>(batch, "id", path)?;
    let categories = column::<Int64Array>(batch, "category_id", path)?;
    let sides = [number("bbox_x")?, number("bbox_y")?, number("bbox_width")?, number("bbox_height")?];
    let areas = number("area")?;
    let crowds = column::<BooleanArray>(batch, "iscrowd", path)?;
    let segmentations = text("segmentation")?;
    let maps = column::<BinaryViewArray>(batch, "png", path)?;
    for i in 0..batch.num_rows() {
        let segmentation = segmentations.is_valid(i).then(|| segmentations.value(i));
        let map = if maps.is_valid(i) { maps.value(i) } else { &[] };
        for bytes in [segmentation.map_or(0, str::len), map.len()] {
            if bytes > MAX_LABEL_BYTES {
                let what = format!("{bytes} bytes, expected at most {MAX_LABEL_BYTES}");
                return Err(Error::corrupt(path, format!("label of sample {:?}: {what}", keys.value(i))));
            }
            allowance.take_bytes(bytes)?;
        }
        allowance.take::<Annotation>(&[Some(splits.value(i)), Some(keys.value(i))])?;
        let object = categories.is_valid(i)
            && areas.is_valid(i)
            && crowds.is_valid(i)
            && sides.iter().all(|side| side.is_valid(i));
        let label = match bounded(kinds.value(i), "kind", i, path)? {
            OBJECT if object && maps.is_null(i) => Label::Object {
                category_id: categories.value(i),
                bbox: sides.map(|side| side.value(i)),
                area: areas.value(i),
                iscrowd: crowds.value(i),
                segmentation: segmentation.map(str::to_owned),
            },
            LABEL_MAP if maps.is_valid(i) => Label::LabelMap { png: map.to_owned() },
            kind => {
                return Err(Error::corrupt(
                    path,
                    format!("label of sample {:?}: kind {kind:?} does not fit its columns", keys.value(i)),
                ));
            }
        };
        annotations.push(Annotation {
            split: splits.value(i).to_owned(),
            key: SampleKey(keys.value(i).to_owned()),
            id: ids.is_valid(i).then(|| ids.value(i)),
            label,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FsStorage;
    use crate::fixture::listing;

    fn written(listing: &Listing) -> Result<(tempfile::TempDir, Annotations)> {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let path = folder.path().join("annotations.parquet");
        write(&storage, &path, listing)?.publish()?;
        let annotations = Annotations::open(TableFile::open(&path)?)?;
        Ok((folder, annotations))
    }

    #[test]
    fn every_samples_labels_come_back_in_order() {
        let mut listing = listing(60);
        for annotation in &mut listing.annotations {
            // Several row groups, and one label that is larger than a group.
            if let Label::LabelMap { png } = &mut annotation.label {
                let bytes = if annotation.key.0 == "s0008" { GROUP_BYTES + 7 } else { GROUP_BYTES / 3 };
                png.resize(bytes, 3);
            }
        }
        listing.annotations.reverse();
        let (_folder, annotations) = written(&listing).unwrap();
        assert!(annotations.table.group_rows().count() > 3);
        for sample in &listing.samples {
            let expected: Vec<_> = listing
                .annotations
                .iter()
                .filter(|a| (&a.split, &a.key) == (&sample.split, &sample.key))
                .cloned()
                .collect();
            assert_eq!(annotations.of(&sample.split, &sample.key).unwrap(), expected, "{}", sample.key);
        }
        assert_eq!(annotations.of("val", &SampleKey("nobody".into())).unwrap(), []);
    }

    #[test]
    fn labels_of_nobody_are_refused() {
        let mut listing = listing(5);
        listing.annotations[3].key.0 = "s9999".into();
        let error = written(&listing).unwrap_err().to_string();
        assert!(error.contains("s9999") && error.contains("no such sample"), "{error}");
    }

    #[test]
    fn no_labels_at_all_is_fine() {
        let mut listing = listing(5);
        listing.annotations.clear();
        let (_folder, annotations) = written(&listing).unwrap();
        assert_eq!(annotations.of("train", &SampleKey("s0000".into())).unwrap(), []);
    }
}
