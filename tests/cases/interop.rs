//! A store's arrays as others read them: by `zarrs` in this process and by TensorStore in Python, compared
//! byte by byte with what our reader hands out. Quantised levels are decoded there by the formula that their
//! arrays carry.

use featcache_store::layout::{affine_name, array_folder, basis, mean};
use featcache_store::sink::{FeatureSink, RowOutcome, UnitSink};
use featcache_store::{
    BackboneSpec, Batch, Block, Compute, DType, Encodings, LevelId, LevelSpec, ListedSample, Listing,
    NewStore, OpenOptions, Preprocess, Projection, Projections, ReadOptions, Recipe, ResizeRule, RowId,
    SampleKey, Size, Status, Store, StoreWriter, ViewSpec, WriterOptions,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use zarrs::array::{Array, ArrayBytes, ArraySubset};
use zarrs::filesystem::FilesystemStore;
use zarrs::group::Group;

const SIZES: [Size; 2] = [Size { height: 256, width: 352 }, Size { height: 96, width: 32 }];

fn recipe() -> Recipe {
    let level = |name: &str, stride, channels| LevelSpec {
        name: name.into(),
        stride,
        channels,
        tap: "t".into(),
        norm: "none".into(),
    };
    Recipe {
        backbone: BackboneSpec {
            name: "fake".into(),
            weights_blake3: "00".repeat(32),
            compute: Compute::Fp32,
            options: [].into(),
        },
        preprocess: Preprocess {
            decoder: "none".into(),
            exif_transpose: false,
            resize: ResizeRule::None,
            resampler: "none".into(),
            mean: [0.5; 3],
            std: [0.5; 3],
            pad_divisor: 32,
        },
        views: vec![ViewSpec::named("base").unwrap()],
        // p2 of the larger size has several bands, which start at multiples of 4 KiB.
        levels: vec![level("p2", 4, 512), level("p3", 8, 96), level("p4", 16, 5), level("p5", 32, 1)],
    }
}

/// Values of all kinds that features have, in binary32: normal, tiny, zero, the largest of binary16.
fn block(shape: [usize; 3], seed: u64) -> Block {
    let elements: usize = shape.iter().product();
    let mut state = seed;
    let value = |i: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match i % 97 {
            13 => f32::MIN_POSITIVE / 8.0,
            29 => -65_504.0,
            31 => -0.0,
            // Without the highest bit of the exponent: anything below 2.
            _ => f32::from_bits((state >> 32) as u32 & 0xbfff_ffff),
        }
    };
    let bytes = (0..elements).map(value).flat_map(f32::to_le_bytes).collect();
    Block { shape, dtype: DType::F32, bytes }
}

/// Values as they are, and compressed.
const PLAIN: [&str; 2] = ["bf16,p3=f16,p4=f32", "bf16+zstd,p3=f16+zstd,p4=f32+zstd"];
/// Codes: of many channels, of an odd number of them, of one; and compressed.
const QUANTISED: [&str; 2] =
    ["p2=int8,p3=e4m3fn,p4=int4,p5=int8", "p2=int8+zstd,p3=e4m3fn+zstd,p4=int4+zstd,p5=int8+zstd"];

/// Coefficients, as numbers, as codes and compressed.
const PROJECTED: &str = "p2=pca40+int8+zstd,p3=pca96+bf16,p4=pca3+f32+zstd,p5=int4";

/// A basis of which each row names one channel, so that sums are exact in any order.
fn projection(k: usize, c: usize) -> Projection {
    let element = |row: usize, channel: usize| match channel == (row * 7 + 1) % c {
        true if row.is_multiple_of(2) => -1.0,
        true => 1.0,
        false => 0.0,
    };
    let basis = (0..k * c).map(|i| element(i / c, i % c)).collect();
    Projection::new(basis, (0..c).map(|channel| 0.5 + channel as f32).collect()).unwrap()
}

/// Two buckets, several shards each, every fourth row without features.
fn written(path: &Path, encodings: &str) -> Store {
    let recipe = recipe();
    let encodings = Encodings::parse(encodings, &recipe.levels).unwrap();
    let sample = |i: usize| ListedSample {
        split: "val".into(),
        key: SampleKey(format!("s{i}")),
        source: format!("{i}.png"),
        image_id: None,
        size: Ok(SIZES[i % 2]),
    };
    let listing =
        Listing { dataset: "folder".into(), samples: (0..11).map(sample).collect(), ..Listing::default() };
    let options = WriterOptions { shard_bytes: Some(12 << 20), ..WriterOptions::default() };
    let mut projections = Projections::default();
    for level in &recipe.levels {
        if let Some(k) = encodings.of(&level.name).unwrap().projection {
            projections.insert(&level.name, projection(k.get() as usize, level.channels as usize));
        }
    }
    let contents = || Ok(NewStore { listing, projections });
    let writer = StoreWriter::create_or_resume(path, &recipe, &encodings, contents, options).unwrap();
    for unit in writer.missing_units().unwrap() {
        let size = writer.plan().buckets()[unit.bucket].size;
        let mut rows = writer.begin(&unit).unwrap();
        for row in unit.rows.start.0..unit.rows.end.0 {
            let blocks = recipe.levels.iter().map(|level| block(level.shape(size), row + 1)).collect();
            rows.append(match row % 4 {
                3 => RowOutcome::Failed { reason: "no picture".into(), source_blake3: None },
                _ => RowOutcome::Features { blocks, source_blake3: "11".repeat(32) },
            })
            .unwrap();
        }
        rows.commit().unwrap();
    }
    writer.finish().unwrap();
    Store::open(path, OpenOptions::default()).unwrap()
}

/// One level as our reader gives it.
struct Dumped {
    path: String,
    /// Of its array of scales and offsets, if it has one.
    affine: Option<String>,
    /// Of its basis and mean, if it has them.
    bases: Vec<String>,
    dtype: DType,
    /// Rows with features, and their bytes, one after the other.
    rows: Vec<u64>,
    bytes: Vec<u8>,
}

fn dump(store: &Store) -> Vec<Dumped> {
    let own = store.reader(ReadOptions::default()).unwrap();
    let wide = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() }).unwrap();
    let mut batch = Batch::new();
    let mut arrays = Vec::new();
    for bucket in store.buckets() {
        let ids = (bucket.rows.start.0..bucket.rows.end.0).map(RowId);
        let ids: Vec<RowId> = ids.filter(|id| store.row(*id).unwrap().status == Status::Ok).collect();
        for (number, level) in store.recipe().levels.iter().enumerate() {
            let encoding = store.encodings().of(&level.name).unwrap();
            let (quantised, projected) = (encoding.is_quantised(), encoding.projection.is_some());
            // The formula's values, before they are rounded to bf16.
            let reader = if quantised || projected { &wide } else { &own };
            reader.read(&ids, &[LevelId(number)], None, &mut batch).unwrap();
            arrays.push(Dumped {
                path: array_folder(bucket, &level.name),
                affine: quantised.then(|| array_folder(bucket, &affine_name(&level.name))),
                bases: if projected { vec![basis(&level.name), mean(&level.name)] } else { vec![] },
                dtype: batch.level(0).dtype,
                rows: ids.iter().map(|id| id.0 - bucket.rows.start.0).collect(),
                bytes: batch.level(0).bytes.to_vec(),
            });
        }
    }
    arrays
}

#[test]
fn zarrs_reads_the_same_bytes() {
    PLAIN.into_iter().for_each(check_plain);
}

fn check_plain(encodings: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = written(folder.path(), encodings);
    let files = Arc::new(FilesystemStore::new(folder.path()).unwrap());
    let root = Group::open(files.clone(), "/").unwrap();
    assert!(root.consolidated_metadata().is_some());
    let arrays = dump(&store);
    assert_eq!(arrays.len(), 8);
    for ours in arrays {
        let array = Array::open(files.clone(), &format!("/{}", ours.path)).unwrap();
        // Of compressed floats the bytes are an axis of their own.
        let [rows, h, w, c, ..] = *array.shape() else { panic!("{}: {:?}", ours.path, array.shape()) };
        assert_eq!(array.shape().len(), if encodings.contains("zstd") { 5 } else { 4 });
        assert_eq!(array.dimension_names().as_ref().unwrap()[3].as_deref(), Some("channel"));
        let row_bytes = (h * w * c) as usize * ours.dtype.bytes();
        let mut expected = ours.bytes.chunks_exact(row_bytes);
        for row in 0..rows {
            let mut ranges: Vec<_> = array.shape().iter().map(|side| 0..*side).collect();
            ranges[0] = row..row + 1;
            let subset = ArraySubset::new_with_ranges(&ranges);
            let read: ArrayBytes = array.retrieve_array_subset(&subset).unwrap();
            let found = read.into_fixed().unwrap();
            if ours.rows.contains(&row) {
                assert!(found == expected.next().unwrap(), "{} row {row}", ours.path);
            } else {
                let is_nan = |element: &[u8]| match ours.dtype {
                    DType::F32 => f32::from_le_bytes(element.try_into().unwrap()).is_nan(),
                    DType::F16 => element[1] & 0x7c == 0x7c && (element[1] & 3 != 0 || element[0] != 0),
                    DType::Bf16 => element[1] & 0x7f == 0x7f && element[0] > 0x80,
                };
                assert!(found.chunks_exact(ours.dtype.bytes()).all(is_nan), "{} row {row}", ours.path);
            }
        }
        assert!(expected.next().is_none());
    }
}

/// The formula of the arrays' attributes, in our words.
#[test]
fn zarrs_decodes_quantised_levels_to_the_same_values() {
    QUANTISED.into_iter().for_each(check_quantised);
}

fn check_quantised(encodings: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = written(folder.path(), encodings);
    let files = Arc::new(FilesystemStore::new(folder.path()).unwrap());
    for ours in dump(&store) {
        let payload = Array::open(files.clone(), &format!("/{}", ours.path)).unwrap();
        let affine = ours.affine.as_ref().unwrap();
        let attribute = |name: &str| payload.attributes()[name].as_str().unwrap().to_owned();
        let (_, affine_name) = affine.rsplit_once('/').unwrap();
        assert_eq!(attribute("affine"), affine_name);
        assert!(attribute("formula").ends_with(".astype('float32') * affine[:, 0:1] + affine[:, 1:2]"));
        let affine = Array::open(files.clone(), &format!("/{affine}")).unwrap();
        let [rows, h, w, stored] = *payload.shape() else { panic!("{:?}", payload.shape()) };
        let [_, 2, 1, c] = *affine.shape() else { panic!("{:?}", affine.shape()) };
        let read = |array: &Array<FilesystemStore>, row: u64| -> Vec<u8> {
            let mut ranges: Vec<_> = array.shape().iter().map(|side| 0..*side).collect();
            ranges[0] = row..row + 1;
            let read: ArrayBytes =
                array.retrieve_array_subset(&ArraySubset::new_with_ranges(&ranges)).unwrap();
            read.into_fixed().unwrap().to_vec()
        };
        let mut expected = ours.bytes.chunks_exact((h * w * c) as usize * 4);
        for row in 0..rows {
            let codes = read(&payload, row);
            let affine = read(&affine, row);
            let affine = affine.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect::<Vec<_>>();
            if !ours.rows.contains(&row) {
                assert!(affine.iter().all(|value| value.is_nan()), "{} row {row}", ours.path);
                continue;
            }
            let expected = expected.next().unwrap().as_chunks().0;
            for (i, expected) in expected.iter().enumerate() {
                let (cell, channel) = (i / c as usize, i % c as usize);
                let byte = |at: usize| codes[cell * stored as usize + at];
                let number = match attribute("encoding").trim_end_matches("+zstd") {
                    "int8" => f32::from(byte(channel).cast_signed()),
                    "int4" => f32::from(byte(channel / 2) >> (channel % 2 * 4) & 15),
                    "e4m3fn" => e4m3fn(byte(channel)),
                    other => panic!("{other}"),
                };
                let value = number * affine[channel] + affine[c as usize + channel];
                assert_eq!(value.to_bits(), u32::from_le_bytes(*expected), "{} row {row} {i}", ours.path);
            }
        }
        assert!(expected.next().is_none());
    }
}

fn e4m3fn(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code < 0x80 { magnitude } else { -magnitude }
}

/// A Python that has TensorStore: the one named, else the system's if it has.
fn python() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("FEATCACHE_PYTHON") {
        return Some(named.into());
    }
    let probe = Command::new("python3").args(["-c", "import tensorstore"]).output();
    probe.is_ok_and(|output| output.status.success()).then(|| "python3".into())
}

#[test]
fn tensorstore_reads_the_same_bytes() {
    let Some(python) = python() else {
        // There the set-up must bring it: a test that never runs proves nothing.
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no Python with tensorstore under CI");
        featcache_tests::skipped("no Python with tensorstore: cargo xtask test fetches it where it can");
        return;
    };
    for encodings in PLAIN.into_iter().chain(QUANTISED).chain([PROJECTED]) {
        println!("{}", compare(&python, encodings));
    }
}

/// What the script says when all is equal.
fn compare(python: &Path, encodings: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (path, dumped) = (folder.path().join("store"), folder.path().join("dump"));
    let store = written(&path, encodings);
    std::fs::create_dir(&dumped).unwrap();
    let mut index = Vec::new();
    for (number, array) in dump(&store).into_iter().enumerate() {
        let file = format!("{number}.bin");
        std::fs::write(dumped.join(&file), &array.bytes).unwrap();
        let dtype = array.dtype.zarr_name();
        index.push(serde_json::json!({
            "path": array.path, "affine": array.affine, "bases": array.bases, "dtype": dtype,
            "rows": array.rows, "file": file,
        }));
    }
    std::fs::write(dumped.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    let script = featcache_tests::workspace().join("tests/parity/interop_tensorstore.py");
    let output = Command::new(python).arg(script).arg(&path).arg(&dumped).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}\n{err}", python.display());
    out.into_owned()
}
