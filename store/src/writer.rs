//! Creating a store, resuming one, and handing out its units. Any number of writers, in any number of
//! processes, may do so at the same time.

use crate::bucket::{Bucket, Unit};
use crate::claim::{Claim, Poison};
use crate::encoded_row::{EncodedLevel, EncodedRow, Encoders};
use crate::finish::{Finish, finish, remove_leftovers};
use crate::layout::{self, Layout};
use crate::plan::{DEFAULT_SHARD_BYTES, Plan};
use crate::run::Run;
use crate::sink::{FeatureSink, RowOutcome};
use crate::spec::{DatasetSpec, FORMAT, Licence, MAX_DOCUMENT_BYTES, Spec, check_encodings};
use crate::staged::{Staged, TEMPORARY_PREFIX, write_file};
use crate::storage::{FsStorage, Storage, Wait};
use crate::table;
use crate::unit::UnitWriter;
use crate::{Block, Category, Encodings, Error, NewStore, Projection, Projections, Recipe, Result};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// How to create or resume a store.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Target bytes of a shard of the finest level. `None`: a store's own, or [`DEFAULT_SHARD_BYTES`].
    pub shard_bytes: Option<u64>,
    /// The dataset that the caller is about to list; a store of another is refused. Without splits, any
    /// splits of it will do; its limit goes into a new store's spec. `None`: not checked.
    pub dataset: Option<DatasetSpec>,
    /// Written into a new store.
    pub licence: Licence,
    /// Reads every shard back from the disk before its unit is committed.
    pub read_back: bool,
    /// The file system.
    pub storage: Arc<dyn Storage>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            shard_bytes: None,
            dataset: None,
            licence: Licence::default(),
            read_back: false,
            storage: Arc::new(FsStorage),
        }
    }
}

/// A store being written.
#[derive(Debug, Clone)]
pub struct StoreWriter {
    shared: Arc<Shared>,
}

/// What a writer and its units share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) layout: Layout,
    pub(crate) spec: Spec,
    pub(crate) plan: Plan,
    pub(crate) encoders: Encoders,
    pub(crate) read_back: bool,
    pub(crate) poison: Poison,
}

/// What a new store starts with.
pub(crate) struct Contents<'a> {
    /// Kind of the dataset.
    pub(crate) dataset: String,
    /// Names of the splits, sorted.
    pub(crate) splits: Vec<String>,
    pub(crate) plan: Plan,
    pub(crate) projections: Projections,
    pub(crate) categories: Vec<Category>,
    /// Writes the table of labels.
    pub(crate) annotations: WriteTable<'a>,
}

/// Writes a table to a staged file.
pub(crate) type WriteTable<'a> = Box<dyn FnOnce(&Arc<dyn Storage>, &Path) -> Result<Staged> + 'a>;

impl StoreWriter {
    /// Opens the store at `path` for writing, creating it if there is none. `contents` is asked only for a
    /// new store: a listing, or a [`NewStore`] where levels are held as coefficients. Whoever resumes takes
    /// the bases that are there.
    ///
    /// # Errors
    /// [`Error::RecipeMismatch`] if the store at `path` is of another recipe, encoding, dataset or shard
    /// size; [`Error::TooNew`] if it is of a later format; [`Error::Invalid`] if the folder holds
    /// something else, recipe and listing make no plan, or the bases are not those that the encodings need.
    pub fn create_or_resume<C: Into<NewStore>>(
        path: &Path,
        recipe: &Recipe,
        encodings: &Encodings,
        contents: impl FnOnce() -> Result<C>,
        options: WriterOptions,
    ) -> Result<Self> {
        let shard_bytes = options.shard_bytes.unwrap_or(DEFAULT_SHARD_BYTES);
        let new = || listed(recipe, contents()?.into(), shard_bytes);
        Self::create_or_resume_with(path, recipe, encodings, new, options)
    }

    /// As [`create_or_resume`](Self::create_or_resume), with whatever a new store is to start with.
    pub(crate) fn create_or_resume_with<'a>(
        path: &Path,
        recipe: &Recipe,
        encodings: &Encodings,
        new: impl FnOnce() -> Result<Contents<'a>>,
        options: WriterOptions,
    ) -> Result<Self> {
        recipe.check()?;
        check_encodings(recipe, encodings)?;
        let layout = Layout::new(path);
        let storage = &options.storage;
        let root = layout.path(layout::ROOT);
        if !storage.exists(&root)? {
            storage.create_dir_all(path)?;
            // Before anything is put there, the lock included.
            refuse_foreign_folder(storage, &layout)?;
            let lock_path = layout.path(layout::CREATE_LOCK);
            // One lists the dataset, the others wait and find the store.
            let lock = storage.lock(&lock_path, Wait::Block)?;
            let created = match storage.exists(&root)? {
                true => Ok(()),
                false => create(&layout, recipe, encodings, new, &options),
            };
            if let Err(error) = storage.remove(&lock_path) {
                // Finishing the store removes it.
                log::debug!("leaving a lock behind: {error}");
            }
            drop(lock);
            created?;
        }
        // Whoever created the store may have died before the root document was durable; what is committed
        // now must not hang on it.
        storage.sync_dir(path)?;

        let spec = Spec::parse(&storage.read(&root, MAX_DOCUMENT_BYTES)?, &root)?;
        spec.check_same(path, recipe, encodings, options.dataset.as_ref(), options.shard_bytes)?;
        let plan = spec.read_plan(&layout)?;
        spec.arrays(&layout, plan.buckets())?;
        let projections = spec.read_projections(&layout)?;
        let encoders = Encoders::new(&spec.recipe.levels, &spec.encodings, &projections)?;
        let poison = Poison::default();
        let WriterOptions { storage, read_back, .. } = options;
        let shared = Shared { storage, layout, spec, plan, encoders, read_back, poison };
        remove_leftovers(&shared, &|name| name.starts_with(TEMPORARY_PREFIX));
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the store holds.
    pub fn spec(&self) -> &Spec {
        &self.shared.spec
    }

    /// Writes the final tables and the manifest if all units are in. Any worker may, any number of times.
    pub fn finish(&self) -> Result<Finish> {
        finish(&self.shared)
    }

    /// The basis of level number `level`, if it has one.
    pub(crate) fn projection(&self, level: usize) -> Option<&Arc<Projection>> {
        self.shared.encoders.projection(level)
    }

    /// Encodes the block of level number `level` of a row of `bucket`; why the row can have no features, if so.
    pub(crate) fn encode_level(
        &self,
        level: usize,
        bucket: &Bucket,
        block: Block,
    ) -> Result<std::result::Result<EncodedLevel, String>> {
        self.shared.encoders.encode_level(level, bucket, block)
    }

    /// Writes a provenance file, `runs/<id>.json`. It is outside the content hash.
    pub fn record_run(&self, run: &Run) -> Result<()> {
        layout::check_name("run id", &run.id)?;
        let path = self.shared.layout.path(&layout::run(&run.id));
        write_file(&self.shared.storage, &path, &run.document()).map(|_| ())
    }
}

impl FeatureSink for StoreWriter {
    type Unit = UnitWriter;
    type Row = EncodedRow;

    fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    fn missing_units(&self) -> Result<Vec<Unit>> {
        missing_units(&self.shared)
    }

    fn claim(&self, unit: &Unit) -> Result<Option<Claim>> {
        let Shared { storage, layout, plan, .. } = &*self.shared;
        let Some(bucket) = plan.buckets().get(unit.bucket) else { return Ok(None) };
        let record = layout.path(&layout::record(bucket, unit.number));
        if storage.exists(&record)? {
            return Ok(None);
        }
        storage.create_dir_all(&layout.path(&layout::record_folder(bucket)))?;
        let claim = Claim::take(storage, &layout.path(&layout::claim(bucket, unit.number)))?;
        // The last holder may have committed between the look and the lock.
        Ok(if storage.exists(&record)? { None } else { claim })
    }

    fn encode(&self, bucket: usize, outcome: RowOutcome) -> Result<EncodedRow> {
        let bucket = self.shared.plan.buckets().get(bucket);
        let bucket = bucket.ok_or_else(|| Error::invalid("a row of a bucket that the plan has not"))?;
        self.shared.encoders.encode(bucket, outcome)
    }

    fn begin(&self, unit: &Unit) -> Result<UnitWriter> {
        UnitWriter::begin(&self.shared, unit)
    }

    fn poison(&self) -> &Poison {
        &self.shared.poison
    }
}

/// Units without a commit record, in plan order.
pub(crate) fn missing_units(shared: &Shared) -> Result<Vec<Unit>> {
    let mut committed: Vec<BTreeSet<u64>> = Vec::with_capacity(shared.plan.buckets().len());
    for bucket in shared.plan.buckets() {
        let names = shared.storage.list(&shared.layout.path(&layout::record_folder(bucket)))?;
        committed.push(names.iter().filter_map(|name| layout::record_number(name)).collect());
    }
    let is_missing = |unit: &Unit| !committed.get(unit.bucket).is_some_and(|c| c.contains(&unit.number));
    Ok(shared.plan.units().filter(is_missing).collect())
}

/// What a store of listed samples starts with.
fn listed(recipe: &Recipe, new: NewStore, shard_bytes: u64) -> Result<Contents<'static>> {
    let NewStore { listing, projections } = new;
    let plan = Plan::new(recipe, &listing, shard_bytes)?;
    let splits: BTreeSet<&str> = listing.samples.iter().map(|sample| sample.split.as_str()).collect();
    Ok(Contents {
        dataset: listing.dataset.clone(),
        splits: splits.into_iter().map(str::to_owned).collect(),
        plan,
        projections,
        categories: listing.categories.clone(),
        annotations: Box::new(move |storage, target| table::annotations::write(storage, target, &listing)),
    })
}

/// Writes everything of a new store but its features; the root document last.
fn create<'a>(
    layout: &Layout,
    recipe: &Recipe,
    encodings: &Encodings,
    new: impl FnOnce() -> Result<Contents<'a>>,
    options: &WriterOptions,
) -> Result<()> {
    let storage = &options.storage;
    refuse_foreign_folder(storage, layout)?;
    let Contents { dataset: kind, splits, plan, projections, categories, annotations } = new()?;
    projections.check(&recipe.levels, encodings)?;
    let dataset =
        DatasetSpec { kind, splits, limit: options.dataset.as_ref().and_then(|dataset| dataset.limit) };
    let differs = |expected: &DatasetSpec| {
        expected.kind != dataset.kind || (!expected.splits.is_empty() && expected.splits != dataset.splits)
    };
    if let Some(expected) = options.dataset.as_ref().filter(|expected| differs(expected)) {
        return Err(Error::invalid(format!(
            "listing: expected {} with splits {}, found {} with splits {}",
            expected.kind,
            expected.splits.join(", "),
            dataset.kind,
            dataset.splits.join(", ")
        )));
    }

    let publish = |staged: Staged| Ok::<_, Error>(staged.publish()?.blake3);
    let path = |name| layout.path(name);
    let annotations = annotations(storage, &path(layout::ANNOTATIONS))?;
    let spec = Spec {
        format: FORMAT,
        fingerprint: recipe.fingerprint(),
        recipe: recipe.clone(),
        encodings: encodings.clone(),
        shard_bytes: plan.shard_bytes(),
        dataset,
        licence: options.licence.clone(),
        annotations_blake3: publish(annotations)?,
        plan_blake3: publish(table::plan::write(storage, &path(layout::PLAN), plan.rows())?)?,
        categories_blake3: publish(table::categories::write(
            storage,
            &path(layout::CATEGORIES),
            &categories,
        )?)?,
        projections: projections.write(storage, layout)?,
    };
    spec.check()?;
    let mut documents = spec.documents(&plan)?;
    let root = documents.remove(layout::ROOT).unwrap_or_default();
    for (document, bytes) in &documents {
        write_file(storage, &layout.path(document), bytes)?;
    }
    // The folders of the records too, so that no commit hangs on a folder that another worker has made and
    // not synced. The same goes for folders that a creation before this one has left, so all are synced.
    let records: BTreeSet<String> = plan.buckets().iter().map(layout::record_folder).collect();
    for folder in &records {
        storage.create_dir_all(&layout.path(folder))?;
    }
    let folders = documents.keys().filter_map(|document| Some(document.rsplit_once('/')?.0));
    let parents: BTreeSet<&str> = folders
        .chain(records.iter().map(String::as_str))
        .flat_map(|folder| folder.match_indices('/').filter_map(|(end, _)| folder.get(..end)))
        .collect();
    for parent in parents {
        storage.sync_dir(&layout.path(parent))?;
    }
    storage.sync_dir(layout.root())?;
    write_file(storage, &layout.path(layout::ROOT), &root).map(|_| ())
}

/// A new store may lie in an empty folder, or in one where the creation of a store was cut off. What is
/// there of somebody else's is refused, and records of a store whose root document is gone, which may be of
/// another recipe.
fn refuse_foreign_folder(storage: &Arc<dyn Storage>, layout: &Layout) -> Result<()> {
    const TABLES: [&str; 3] = [layout::PLAN, layout::ANNOTATIONS, layout::CATEGORIES];
    let names = storage.list(layout.root())?;
    let mut foreign = None;
    for name in &names {
        foreign = match name.as_str() {
            layout::CREATE_LOCK => None,
            _ if name.starts_with(TEMPORARY_PREFIX) => None,
            table if TABLES.contains(&table) => {
                (!table::is_ours(&layout.path(table))).then(|| table.to_owned())
            }
            // Creation makes these when the tables are there.
            layout::FEATURES | layout::UNITS | layout::PROJECTIONS
                if TABLES.iter().all(|table| names.iter().any(|n| n == table)) =>
            {
                first_foreign(storage, layout, name, MAX_FOLDERS)?
            }
            _ => Some(name.clone()),
        };
        if foreign.is_some() {
            break;
        }
    }
    match foreign {
        // Unless another worker has created the store since we looked.
        Some(name) if !storage.exists(&layout.path(layout::ROOT))? => Err(Error::invalid(format!(
            "{}: expected a featcache store or an empty folder, found {name}",
            layout.root().display()
        ))),
        _ => Ok(()),
    }
}

/// Folders from `features` down to an array's.
const MAX_FOLDERS: usize = 4;

/// The first path below a folder that creation does not make: it makes folders and Zarr documents.
fn first_foreign(
    storage: &Arc<dyn Storage>,
    layout: &Layout,
    folder: &str,
    levels: usize,
) -> Result<Option<String>> {
    let names = match storage.list(&layout.path(folder)) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory => {
            return Ok(Some(folder.to_owned()));
        }
        names => names?,
    };
    for name in names {
        let path = format!("{folder}/{name}");
        let is_document = name == layout::ROOT && !folder.starts_with(layout::UNITS);
        let is_projection = folder.starts_with(layout::PROJECTIONS) && (name == "c.0" || name == "c.0.0");
        if is_document || is_projection || name.starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let foreign = match levels {
            0 => Some(path),
            _ => first_foreign(storage, layout, &path, levels - 1)?,
        };
        if foreign.is_some() {
            return Ok(foreign);
        }
    }
    Ok(None)
}
