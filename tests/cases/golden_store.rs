//! Stores that past versions wrote are read as they are. The values expected here were read by TensorStore, not by
//! us.

use featcache_store::listing::Label;
use featcache_store::{Batch, DType, OpenOptions, ReadOptions, RowId, Status, Store, VerifyOptions, verify};
use featcache_tests::workspace;

#[test]
fn the_store_of_format_1_reads_as_it_was_written() {
    let path = workspace().join("tests/golden/v1/fake");
    let found = verify(&path, VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!(found.problems, []);
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    assert_eq!(store.fingerprint().0, "07b5789692da7de09fbdc468fe26fd6d62f90d0e3e9cde24ee58f8427b31c8c9");
    assert_eq!(
        store.recipe().fingerprint(),
        *store.fingerprint(),
        "the fingerprint's definition has changed"
    );
    let names: Vec<_> =
        store.categories().iter().map(|category| (category.id, category.name.as_str())).collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], (1, "wall"));

    let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() }).unwrap();
    let mut batch = Batch::new();
    for (split, key, view, level, shape, first, sum_of_array, rows) in [
        (
            "training",
            "ADE_train_00000002",
            "base",
            "p4",
            [1, 2, 4, 32],
            0.015332002192735672,
            1137.2897356431931,
            2,
        ),
        (
            "training",
            "ADE_train_00000002",
            "base",
            "p3",
            [1, 4, 8, 16],
            0.0309906005859375,
            1140.0739353895187,
            2,
        ),
        ("validation", "ADE_val_00000001", "hflip", "p2", [1, 16, 8, 8], 0.203125, 440.24855041503906, 1),
    ] {
        let level = store.level(level).unwrap();
        let row = store.find(Some(split), key, view).unwrap();
        let bucket: Vec<_> = store
            .rows()
            .iter()
            .filter(|other| (&other.split, &other.view, other.bucket) == (&row.split, &row.view, row.bucket))
            .map(|row| row.id)
            .collect();
        assert_eq!(bucket.len(), rows);
        let values = |batch: &Batch| -> Vec<f64> {
            let bytes = batch.level(0).bytes.chunks_exact(4);
            bytes.map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        };
        reader.read(&[row.id], &[level], None, &mut batch).unwrap();
        assert_eq!(batch.level(0).shape, shape);
        assert_eq!(values(&batch)[0], first);
        reader.read(&bucket, &[level], None, &mut batch).unwrap();
        let sum: f64 = values(&batch).iter().sum();
        assert!((sum - sum_of_array).abs() < 1e-6, "{sum}");
    }

    let broken = store.find(Some("validation"), "ADE_val_00000002", "base").unwrap();
    assert_eq!(broken.status, Status::Failed("truncated: the file ends in its header".to_owned()));
    let labelled = store.find(Some("validation"), "ADE_val_00000001", "base").unwrap();
    let labels = store.annotations(labelled.id).unwrap();
    assert!(matches!(&labels[0].label, Label::LabelMap { png } if png.starts_with(b"\x89PNG")));
}

#[test]
fn the_quantised_store_of_format_1_reads_as_it_was_written() {
    let path = workspace().join("tests/golden/v1/quantised");
    let found = verify(&path, VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!(found.problems, []);
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    assert_eq!(store.encodings().to_string(), "p2=int8,p3=int4,p4=e4m3fn,p5=f32");
    let bucket = &store.buckets()[0];
    let rows: Vec<RowId> = (bucket.rows.start.0..bucket.rows.end.0).map(RowId).collect();
    let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() }).unwrap();
    let mut batch = Batch::new();
    // As the formula in each array's attributes has it.
    for (level, shape, first, last_of_row, sum) in [
        ("p2", [2, 8, 16, 8], -2.1179041862487793, -0.7166016101837158, -2535.6371386162937),
        ("p3", [2, 4, 8, 16], -0.29772448539733887, -1.7907943725585938, -2075.079321682453),
        ("p4", [2, 2, 4, 32], -0.44845497608184814, -0.12644290924072266, -1802.7085264027119),
    ] {
        reader.read(&rows, &[store.level(level).unwrap()], None, &mut batch).unwrap();
        assert_eq!(batch.level(0).shape, shape);
        let values = batch.level(0).bytes.as_chunks().0.iter().map(|v| f64::from(f32::from_le_bytes(*v)));
        let values: Vec<f64> = values.collect();
        assert_eq!((values[0], values[values.len() / 2 - 1]), (first, last_of_row), "{level}");
        assert!((values.iter().sum::<f64>() - sum).abs() < 1e-9, "{level}");
    }
}

#[test]
fn the_projected_and_compressed_store_of_format_1_reads_as_it_was_written() {
    let path = workspace().join("tests/golden/v1/projected");
    let found = verify(&path, VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!(found.problems, []);
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    assert_eq!(store.encodings().to_string(), "p2=pca4+int8+zstd,p3=pca6+bf16,p4=int4+zstd,p5=bf16+zstd");
    let bucket = &store.buckets()[0];
    let rows: Vec<RowId> = (bucket.rows.start.0..bucket.rows.end.0).map(RowId).collect();
    let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() }).unwrap();
    let mut batch = Batch::new();
    for (level, shape, first, last_of_row, sum) in [
        ("p2", [3, 8, 16, 8], -0.7462183237075806, -0.9421077966690063, -1642.1717163175344),
        ("p3", [3, 4, 8, 16], -0.7481923699378967, -3.5516538619995117, -1086.6794098094106),
        ("p4", [3, 2, 4, 32], 0.4536186456680298, -3.1778881549835205, -748.32925131917),
        ("p5", [3, 1, 2, 64], 0.052978515625, -15.0, -624.5393676757812),
    ] {
        reader.read(&rows, &[store.level(level).unwrap()], None, &mut batch).unwrap();
        assert_eq!(batch.level(0).shape, shape);
        let values = batch.level(0).bytes.as_chunks().0.iter().map(|v| f64::from(f32::from_le_bytes(*v)));
        let values: Vec<f64> = values.collect();
        // Sums in another order differ in the last bits.
        let tolerance = if store.projections().of(level).is_some() { 1e-6 } else { 0.0 };
        let close = |found: f64, expected: f64| (found - expected).abs() <= tolerance * expected.abs();
        assert!(close(values[0], first), "{level}: {}", values[0]);
        assert!(
            close(values[values.len() / 3 - 1], last_of_row),
            "{level}: {}",
            values[values.len() / 3 - 1]
        );
        assert!((values.iter().sum::<f64>() - sum).abs() < 1e-3, "{level}");
    }
}
