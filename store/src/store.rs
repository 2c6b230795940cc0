//! A store opened for reading: what is in it, which rows have features, and labels on demand. Feature
//! bytes are the read plane's.

use crate::array::StoreArrays;
use crate::bucket::{Bucket, Unit, bucket_of};
use crate::layout::{self, Layout};
use crate::manifest::Manifest;
use crate::rows::{Rows, SampleRow};
use crate::spec::{MAX_DOCUMENT_BYTES, Spec};
use crate::staged::Digest;
use crate::storage::{FsStorage, Storage};
use crate::table::annotations::Annotations;
use crate::table::{self, TableFile, record, samples};
use crate::{
    Annotation, Category, Encodings, Error, Fingerprint, LevelId, LevelSpec, Projections, Recipe, Result,
    RowId,
};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How to open a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Open a store that is not finished; rows without features yet are [`Status::Missing`](crate::Status::Missing).
    pub incomplete: bool,
}

/// A store opened for reading.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    spec: Spec,
    manifest: Option<Manifest>,
    /// Shared with readers, which outlive this value.
    rows: Arc<Rows>,
    buckets: Arc<[Bucket]>,
    arrays: Arc<StoreArrays>,
    projections: Projections,
    missing: Vec<Unit>,
    categories: Vec<Category>,
    annotations: OnceLock<Annotations>,
    /// Row numbers by key, split and view.
    by_key: OnceLock<Vec<u32>>,
}

impl Store {
    /// Opens the store at `path`. All tables that are read are checked against their hashes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooNew`], [`Error::Corrupt`]; [`Error::Incomplete`] if the store is
    /// not finished and `options` do not ask for that.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let (layout, storage) = (Layout::new(path), FsStorage);
        let root = layout.path(layout::ROOT);
        if !storage.exists(&root)? {
            return Err(Error::NotFound { path: path.to_owned(), what: "a featcache store".into() });
        }
        layout.resolve(&root, layout::ROOT)?;
        let root_bytes = storage.read(&root, MAX_DOCUMENT_BYTES)?;
        let spec = Spec::parse(&root_bytes, &root)?;
        let manifest = read_manifest(&layout, &storage, &spec, &root, &root_bytes)?;
        let (rows, buckets, missing) = match &manifest {
            Some(manifest) => finished(&layout, &spec, manifest)?,
            None => unfinished(&layout, &storage, &spec)?,
        };
        let arrays = spec.arrays(&layout, &buckets)?;
        let projections = spec.read_projections(&layout)?;
        let arrays = arrays.with_projections(&spec.recipe.levels, &projections);
        let categories = TableFile::checked(&layout, layout::CATEGORIES, &spec.categories_blake3)?;
        let categories = table::categories::read(categories)?;
        if manifest.is_none() && !options.incomplete {
            let first = missing
                .first()
                .and_then(|unit| buckets.get(unit.bucket).map(|bucket| layout::unit_name(bucket, unit)));
            let total: u64 = buckets.iter().map(Bucket::unit_count).sum();
            return Err(Error::Incomplete {
                path: path.to_owned(),
                missing: missing.len(),
                total: usize::try_from(total).unwrap_or(usize::MAX),
                first: first.unwrap_or_else(|| layout::MANIFEST.to_owned()),
            });
        }
        Ok(Self {
            layout,
            spec,
            manifest,
            rows: Arc::new(rows),
            buckets: buckets.into(),
            arrays: Arc::new(arrays),
            projections,
            missing,
            categories,
            annotations: OnceLock::new(),
            by_key: OnceLock::new(),
        })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// Paths in the store.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the store holds.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What the features are.
    pub fn recipe(&self) -> &Recipe {
        &self.spec.recipe
    }

    /// Fingerprint of the recipe.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.spec.fingerprint
    }

    /// How each level is held on disk.
    pub fn encodings(&self) -> &Encodings {
        &self.spec.encodings
    }

    /// The bases of the levels that are held as coefficients.
    pub fn projections(&self) -> &Projections {
        &self.projections
    }

    /// The manifest; `None` if the store is not finished.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Units without a commit record; empty for a finished store.
    pub fn missing_units(&self) -> &[Unit] {
        &self.missing
    }

    /// All rows; a row's index is its [`RowId`].
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The row of this id; [`Error::NotFound`] if there is none.
    pub fn row(&self, id: RowId) -> Result<SampleRow> {
        self.rows.get(id).ok_or_else(|| self.not_found(format!("row {id} of {}", self.rows.len())))
    }

    /// All buckets, in the order of their rows.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Index of the bucket that holds the row; `None` for a row whose file could not be read at listing.
    /// The row's number in the bucket's arrays is its id less the id of the bucket's first row.
    pub fn bucket_of(&self, id: RowId) -> Option<usize> {
        bucket_of(&self.buckets, id)
    }

    /// The row of a sample in a view. Without a split, the key must be unique among all splits.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] if the key occurs in several splits and none is given.
    pub fn find(&self, split: Option<&str>, key: &str, view: &str) -> Result<SampleRow> {
        let order = self.by_key.get_or_init(|| {
            // More rows than u32 holds cannot be in memory.
            let mut order: Vec<u32> = (0..u32::try_from(self.rows.len()).unwrap_or(u32::MAX)).collect();
            order.sort_unstable_by_key(|&id| self.rows.key(RowId(id.into())));
            order
        });
        let key_of = |id: &u32| self.rows.key(RowId((*id).into()));
        let start = order.partition_point(|id| key_of(id).is_some_and(|found| found < key));
        let mut found = order
            .iter()
            .skip(start)
            .take_while(|id| key_of(id) == Some(key))
            .filter_map(|id| self.rows.get(RowId((*id).into())))
            .filter(|row| *row.view == *view && split.is_none_or(|split| *row.split == *split));
        let what = || match split {
            Some(split) => format!("sample {key:?} of split {split} in view {view}"),
            None => format!("sample {key:?} in view {view}"),
        };
        let first = found.next().ok_or_else(|| self.not_found(what()))?;
        match found.next() {
            Some(second) => Err(Error::invalid(format!(
                "{}: expected one, found it in the splits {} and {}",
                what(),
                first.split,
                second.split
            ))),
            None => Ok(first),
        }
    }

    /// Names of the splits, sorted.
    pub fn splits(&self) -> &[String] {
        &self.spec.dataset.splits
    }

    /// Categories, in the dataset's order.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// Labels of a row's sample, in original picture coordinates and the dataset's order. The first call
    /// opens the table and checks it against its hash; later ones read that same file, whatever has its name
    /// by then.
    pub fn annotations(&self, id: RowId) -> Result<Vec<Annotation>> {
        let row = self.row(id)?;
        let annotations = match self.annotations.get() {
            Some(annotations) => annotations,
            None => {
                let (name, blake3) = (layout::ANNOTATIONS, &self.spec.annotations_blake3);
                let opened = Annotations::open(TableFile::checked(&self.layout, name, blake3)?)?;
                self.annotations.get_or_init(|| opened)
            }
        };
        annotations.of(&row.split, &row.key)
    }

    /// The level of this name; [`Error::NotFound`] if the store has none.
    pub fn level(&self, name: &str) -> Result<LevelId> {
        let index = self.recipe().levels.iter().position(|level| level.name == name);
        index.map(LevelId).ok_or_else(|| {
            let known: Vec<&str> = self.recipe().levels.iter().map(|level| level.name.as_str()).collect();
            self.not_found(format!("level {name:?} (there are {})", known.join(", ")))
        })
    }

    /// What a level is; [`Error::NotFound`] if the id is of another store.
    pub fn level_spec(&self, id: LevelId) -> Result<&LevelSpec> {
        self.recipe().levels.get(id.0).ok_or_else(|| self.not_found(format!("level number {}", id.0)))
    }

    /// Rows and buckets, shared.
    pub(crate) fn shared(&self) -> (Arc<Rows>, Arc<[Bucket]>) {
        (Arc::clone(&self.rows), Arc::clone(&self.buckets))
    }

    /// The payload arrays, shared.
    pub(crate) fn arrays(&self) -> &Arc<StoreArrays> {
        &self.arrays
    }

    fn not_found(&self, what: String) -> Error {
        Error::NotFound { path: self.root().to_owned(), what }
    }
}

fn read_manifest(
    layout: &Layout,
    storage: &FsStorage,
    spec: &Spec,
    root: &Path,
    root_bytes: &[u8],
) -> Result<Option<Manifest>> {
    let path = layout.path(layout::MANIFEST);
    if !storage.exists(&path)? {
        return Ok(None);
    }
    layout.resolve(root, layout::MANIFEST)?;
    let manifest = Manifest::parse(&storage.read(&path, MAX_DOCUMENT_BYTES)?, &path)?;
    let entry = manifest
        .file(layout::ROOT)
        .ok_or_else(|| Error::corrupt(&path, format!("{} is not in it", layout::ROOT)))?;
    Digest::of(root_bytes).check(root, &entry.blake3)?;
    if manifest.fingerprint != spec.fingerprint {
        let (expected, found) = (&spec.fingerprint, &manifest.fingerprint);
        return Err(Error::corrupt(path, format!("fingerprint: expected {expected}, found {found}")));
    }
    Ok(Some(manifest))
}

/// What a store consists of: its rows, their buckets, and the units without a record.
type Parts = (Rows, Vec<Bucket>, Vec<Unit>);

/// The rows of a complete store, never held other than in their columns.
fn finished(layout: &Layout, spec: &Spec, manifest: &Manifest) -> Result<Parts> {
    let (mut rows, buckets) = spec.read_rows(layout)?;
    let entry = manifest.file(layout::SAMPLES).ok_or_else(|| {
        Error::corrupt(layout.path(layout::MANIFEST), format!("{} is not in it", layout::SAMPLES))
    })?;
    let read = || {
        let file = TableFile::checked(layout, layout::SAMPLES, &entry.blake3)?;
        samples::read_failures(file, rows.len(), &spec.recipe.levels)
    };
    let (duplicate, failures) = std::thread::scope(|scope| {
        let duplicate = scope.spawn(|| rows.first_duplicate());
        let failures = read();
        (duplicate.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), failures)
    });
    if let Some(what) = duplicate {
        return Err(Error::corrupt(layout.path(layout::PLAN), what));
    }
    let mut without_place = rows.failed();
    for (index, reason) in failures? {
        without_place -= usize::from(!rows.has_place(index));
        rows.fail(index, reason);
    }
    if without_place > 0 {
        let what = format!("{without_place} samples have features and no place");
        return Err(Error::corrupt(layout.path(layout::SAMPLES), what));
    }
    Ok((rows, buckets, Vec::new()))
}

/// The rows of a store of which units are missing, or only the manifest.
fn unfinished(layout: &Layout, storage: &FsStorage, spec: &Spec) -> Result<Parts> {
    let plan = spec.read_plan(layout)?;
    let mut rows = Rows::default();
    plan.rows().iter().for_each(|row| rows.push(&row.borrowed()));
    let mut missing = Vec::new();
    for unit in plan.units() {
        let Some(bucket) = plan.buckets().get(unit.bucket) else { continue };
        let name = layout::record(bucket, unit.number);
        let path = layout.path(&name);
        // Rows that are in memory have numbers that fit.
        let index = |id: RowId| usize::try_from(id.0).unwrap_or(usize::MAX);
        if !storage.exists(&path)? {
            rows.miss(index(unit.rows.start)..index(unit.rows.end));
            missing.push(unit);
            continue;
        }
        layout.resolve(&layout.path(layout::ROOT), &name)?;
        let record = record::read(&path, unit.row_count(), &spec.recipe.levels)?;
        record::check(&record, &plan, &spec.encodings, &unit).map_err(|what| Error::corrupt(&path, what))?;
        for (number, row) in (index(unit.rows.start)..).zip(record.rows) {
            row.error.into_iter().for_each(|reason| rows.fail(number, reason));
        }
    }
    Ok((rows, plan.buckets().to_vec(), missing))
}
