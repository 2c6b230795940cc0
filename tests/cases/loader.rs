//! The order of rows and the loader that follows it.

use crate::drawn_store::DrawnStore;
use featcache_heads::Error;
use featcache_heads::loader::{LoaderOptions, Shared, Span};
use featcache_heads::order::{Bijection, Order, OrderOptions, OrderRow, Position};
use featcache_heads::seed::Seed;
use featcache_heads::selection::Selection;
use featcache_store::{DType, ReadOptions, RowId, Size, Store};
use std::collections::BTreeSet;
use tch::{Device, Kind};

fn options(seed: u64, batch: usize) -> OrderOptions {
    OrderOptions { seed, batch, shuffle: true, drop_last: false }
}

/// `counts[i]` samples of bucket i, each with `views` rows of consecutive numbers.
fn samples(counts: &[u64], views: u64) -> Vec<Vec<OrderRow>> {
    let mut next = 0;
    let mut all = Vec::new();
    for (i, &count) in (1..).zip(counts) {
        for _ in 0..count {
            let rows = next..next + views;
            next += views;
            let size = Size::new(32 * i, 64);
            all.push(rows.map(|row| OrderRow { row: RowId(row), bucket: i as usize, size }).collect());
        }
    }
    all
}

#[test]
fn bijections_are_bijections() {
    for n in (0..70).chain([255, 256, 257, 1000, 4097]) {
        for seed in 0..4 {
            let bijection = Bijection::new(n, Seed(seed));
            let images: BTreeSet<_> = (0..n).map(|i| bijection.get(i)).collect();
            assert_eq!(images.len() as u64, n);
            assert!(images.last().is_none_or(|&last| last < n));
        }
    }
    let image = |seed| -> Vec<_> { (0..1000).map(|i| Bijection::new(1000, Seed(seed)).get(i)).collect() };
    assert_ne!(image(1), image(2));
    // A shuffle leaves about one element in its place and keeps few neighbours together.
    let shuffled = image(1);
    assert!((0..1000).filter(|&i| shuffled[i as usize] == i).count() < 8);
    assert!(shuffled.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() < 12);
}

#[test]
fn every_row_comes_once_an_epoch_in_batches_of_one_size() {
    let counts = [7, 0, 16, 1, 33];
    let order = Order::new(samples(&counts, 1), options(3, 8));
    let mut epochs = Vec::new();
    for number in 0..3 {
        let epoch = order.epoch(number);
        assert_eq!(epoch.len(), 1 + 2 + 1 + 5);
        assert!(epoch.batch(epoch.len()).is_none());
        let batches: Vec<_> = (0..epoch.len()).map(|i| epoch.batch(i).unwrap()).collect();
        let mut rows: Vec<_> = batches.iter().flat_map(|batch| batch.rows.iter().map(|row| row.0)).collect();
        let first = [0, 7, 7, 23, 24, 57];
        for batch in &batches {
            let bucket = (batch.size.height / 32 - 1) as usize;
            assert!(batch.rows.iter().all(|row| (first[bucket]..first[bucket + 1]).contains(&row.0)));
        }
        epochs.push(rows.clone());
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..57));
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_ne!(epochs[1], epochs[2]);
}

#[test]
fn any_batch_is_known_without_the_ones_before() {
    let order = Order::new(samples(&[40, 9, 13], 2), options(5, 4));
    let all = |order: &Order, number| -> Vec<_> {
        let epoch = order.epoch(number);
        (0..epoch.len()).map(|i| epoch.batch(i).unwrap()).collect()
    };
    let expected = all(&order, 6);
    let again = Order::new(samples(&[40, 9, 13], 2), options(5, 4));
    let epoch = again.epoch(6);
    for i in (0..epoch.len()).rev() {
        assert_eq!(epoch.batch(i).unwrap(), expected[i as usize]);
    }
    assert_ne!(expected, all(&Order::new(samples(&[40, 9, 13], 2), options(4, 4)), 6));
}

#[test]
fn an_epoch_visits_one_view_of_each_sample() {
    let order = Order::new(samples(&[100], 2), options(1, 16));
    let views = |number| -> BTreeSet<_> {
        let epoch = order.epoch(number);
        (0..epoch.len()).flat_map(|i| epoch.batch(i).unwrap().rows).map(|row| row.0).collect()
    };
    let (first, second) = (views(0), views(1));
    for rows in [&first, &second] {
        assert_eq!(rows.iter().map(|row| row / 2).collect::<BTreeSet<_>>().len(), 100);
        let mirrored = rows.iter().filter(|&row| row % 2 == 1).count();
        assert!((30..=70).contains(&mirrored), "{mirrored} of 100 are the second view");
    }
    assert_ne!(first, second);
}

#[test]
fn short_batches_are_dropped_on_demand() {
    let options = OrderOptions { drop_last: true, ..options(1, 8) };
    let epoch = Order::new(samples(&[7, 17], 1), options).epoch(0);
    let sizes: Vec<_> = (0..epoch.len()).map(|i| epoch.batch(i).unwrap().rows.len()).collect();
    assert_eq!(sizes, [8, 8]);
    assert!(Order::new(samples(&[7], 1), options).epoch(0).is_empty());
}

#[test]
fn evaluation_reads_in_row_order() {
    let options = OrderOptions { shuffle: false, ..options(1, 3) };
    let epoch = Order::new(samples(&[4, 2], 1), options).epoch(0);
    let rows: Vec<_> = (0..epoch.len()).flat_map(|i| epoch.batch(i).unwrap().rows).map(|row| row.0).collect();
    assert_eq!(rows, [0, 1, 2, 3, 4, 5]);
}

/// Rows and first cells of the batches of a span, as a loader with these options delivers them.
fn delivered(
    store: &Store,
    order: &Order,
    span: Span,
    options: LoaderOptions,
) -> Vec<(Vec<RowId>, f64, Position)> {
    let levels = &store.recipe().levels;
    let read_target = |_: RowId| Ok(());
    let shared = Shared::new(store, order, span, levels, &read_target, options).unwrap();
    std::thread::scope(|scope| {
        let mut loader = shared.start(scope);
        let mut all = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            let maps = batch.maps(Kind::Float, Device::Cpu).unwrap();
            assert_eq!(maps.len(), levels.len());
            for (map, level) in maps.iter().zip(levels) {
                let [h, w, c] = level.shape(batch.rows.size).map(|side| side as i64);
                assert_eq!(map.size(), [batch.rows.rows.len() as i64, c, h, w]);
                assert_eq!(map.stride(), [h * w * c, 1, w * c, c], "channels_last");
            }
            let sum = maps.iter().map(|map| map.sum(Kind::Double).double_value(&[])).sum();
            all.push((batch.rows.rows.clone(), sum, batch.next));
            loader.recycle(batch);
        }
        assert!(loader.next_batch().unwrap().is_none());
        assert!(loader.bytes() > 0);
        all
    })
}

#[test]
fn what_is_delivered_depends_on_order_and_position_alone() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let order = Order::new(selection.samples, options(9, 4));
    let span = Span { start: Position::default(), batches: 17 };
    let expected = delivered(&store, &order, span, LoaderOptions::default());
    assert_eq!(expected.len(), 17);
    let epoch = order.epoch(0);
    for (i, (rows, _, _)) in expected.iter().take(epoch.len() as usize).enumerate() {
        assert_eq!(*rows, epoch.batch(i as u64).unwrap().rows);
    }
    for (threads, bytes) in [(1, 1), (2, 1), (4, 1), (3, 40_000), (4, 1 << 30)] {
        let options = LoaderOptions { threads, bytes, ..LoaderOptions::default() };
        assert_eq!(delivered(&store, &order, span, options), expected, "{threads} threads, {bytes} bytes");
    }
    for done in [1, 5, 6, 7, 16] {
        let start = expected[done - 1].2;
        let rest = Span { start, batches: 17 - done as u64 };
        assert_eq!(delivered(&store, &order, rest, LoaderOptions::default()), expected[done..]);
    }
}

#[test]
fn maps_are_the_memory_that_was_read_into() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let order = Order::new(selection.samples, options(9, 1));
    let read_target = |_: RowId| Ok(());
    let levels = &store.recipe().levels;
    let span = Span { start: Position::default(), batches: 400 };
    let row: usize =
        levels.iter().map(|level| level.shape(Size::new(64, 128)).iter().product::<usize>()).sum();
    // The drawn store holds f32.
    let read = ReadOptions { dtype: Some(DType::Bf16), ..ReadOptions::default() };
    let loader_options = LoaderOptions { bytes: 4 * 4 * row as u64, read, ..LoaderOptions::default() };
    let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
    let (kept, sums) = std::thread::scope(|scope| {
        let mut loader = shared.start(scope);
        let mut places = BTreeSet::new();
        for _ in 1..span.batches {
            let batch = loader.next_batch().unwrap().unwrap();
            let addresses = |kind| -> Vec<_> {
                batch.maps(kind, Device::Cpu).unwrap().iter().map(|map| map.data_ptr().addr()).collect()
            };
            let lent = addresses(Kind::BFloat16);
            assert_eq!(lent, addresses(Kind::BFloat16), "lent twice");
            assert!(lent.iter().all(|address| address.is_multiple_of(64)));
            assert_ne!(lent, addresses(Kind::Float), "another kind is a copy");
            assert!(batch.lends(Kind::BFloat16, Device::Cpu) && !batch.lends(Kind::Float, Device::Cpu));
            assert!(!batch.lends(Kind::BFloat16, Device::Cuda(0)));
            places.extend(lent);
            loader.recycle(batch);
        }
        // Memory is allocated for a few batches, level by level, while it grows, and then no more.
        assert!(places.len() < 100, "{} places", places.len());
        let batch = loader.next_batch().unwrap().unwrap();
        let maps = batch.maps(Kind::BFloat16, Device::Cpu).unwrap();
        let sums: Vec<f64> = maps.iter().map(|map| map.sum(Kind::Double).double_value(&[])).collect();
        (maps, sums)
    });
    drop(shared);
    // The batch is gone; who holds a map holds its memory.
    let still: Vec<f64> = kept.iter().map(|map| map.sum(Kind::Double).double_value(&[])).collect();
    assert_eq!(still, sums);
}

#[test]
fn a_loader_that_is_dropped_early_ends_its_threads() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let order = Order::new(selection.samples, options(9, 4));
    let span = Span { start: Position::default(), batches: 1_000_000 };
    for bytes in [1, 1 << 30] {
        let read_target = |_: RowId| Ok(());
        let loader_options = LoaderOptions { threads: 3, bytes, ..LoaderOptions::default() };
        let levels = &store.recipe().levels;
        let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            assert!(loader.next_batch().unwrap().is_some());
        });
    }
}

#[test]
fn a_failing_label_arrives_at_its_place_in_the_order() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let order = Order::new(selection.samples, options(9, 1));
    let epoch = order.epoch(0);
    let bad = epoch.batch(3).unwrap().rows[0];
    let read_target = move |row: RowId| match row == bad {
        true => Err(Error::invalid(format!("row {row} is bad"))),
        false => Ok(()),
    };
    let span = Span { start: Position::default(), batches: epoch.len() };
    let loader_options = LoaderOptions { threads: 4, ..LoaderOptions::default() };
    let levels = &store.recipe().levels;
    let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
    std::thread::scope(|scope| {
        let mut loader = shared.start(scope);
        for _ in 0..3 {
            assert!(loader.next_batch().unwrap().is_some());
        }
        assert_eq!(loader.next_batch().unwrap_err().to_string(), format!("row {bad} is bad"));
    });
}

#[test]
fn memory_stays_within_the_budget_when_sizes_vary() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let levels = &store.recipe().levels;
    let bytes_of =
        |size: Size| levels.iter().map(|l| l.shape(size).iter().product::<usize>() as u64 * 4).sum::<u64>();
    let (small, large) = (bytes_of(Size::new(64, 64)), bytes_of(Size::new(64, 128)));
    assert_eq!(large, 2 * small);
    let order = Order::new(selection.samples, options(9, 1));
    let span = Span { start: Position::default(), batches: 60 };
    let read_target = |_: RowId| Ok(());
    // Room for five small batches: three that held a large row fill it, recycled or not.
    for threads in [1, 3] {
        let budget = 5 * small;
        let loader_options = LoaderOptions { threads, bytes: budget, ..LoaderOptions::default() };
        let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            let mut sizes = BTreeSet::new();
            while let Some(batch) = loader.next_batch().unwrap() {
                sizes.insert(batch.rows.size.width);
                assert!(loader.memory_bytes() <= budget, "{} of {budget}", loader.memory_bytes());
                loader.recycle(batch);
                assert!(loader.memory_bytes() <= budget, "{} of {budget}", loader.memory_bytes());
            }
            assert_eq!(sizes.len(), 2);
        });
    }
    // A batch larger than the budget is read alone, and its memory is not kept.
    let loader_options = LoaderOptions { threads: 1, bytes: 1, ..LoaderOptions::default() };
    let one = Span { start: Position::default(), batches: 1 };
    let shared = Shared::new(&store, &order, one, levels, &read_target, loader_options).unwrap();
    std::thread::scope(|scope| {
        let mut loader = shared.start(scope);
        let batch = loader.next_batch().unwrap().unwrap();
        loader.recycle(batch);
        assert_eq!(loader.memory_bytes(), 0);
    });
    // Who keeps batches that fill the budget gets the next one all the same, and only that.
    let few = Span { start: Position::default(), batches: 4 };
    for threads in [1, 3] {
        let loader_options = LoaderOptions { threads, bytes: small, ..LoaderOptions::default() };
        let shared = Shared::new(&store, &order, few, levels, &read_target, loader_options).unwrap();
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            let kept: Vec<_> = std::iter::from_fn(|| loader.next_batch().unwrap()).collect();
            assert_eq!(kept.len(), 4);
            kept.into_iter().for_each(|batch| loader.recycle(batch));
        });
    }
}

#[test]
fn a_reading_thread_that_panics_does_not_leave_training_waiting() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let order = Order::new(selection.samples, options(9, 1));
    let bad = order.epoch(0).batch(2).unwrap().rows[0];
    let read_target = move |row: RowId| {
        assert!(row != bad, "as it should be: this case panics");
        Ok(())
    };
    let span = Span { start: Position::default(), batches: 1_000_000 };
    let loader_options = LoaderOptions { threads: 3, bytes: 100_000, ..LoaderOptions::default() };
    let levels = &store.recipe().levels;
    let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
    let mut message = None;
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            message = loop {
                match loader.next_batch() {
                    Ok(Some(batch)) => loader.recycle(batch),
                    Ok(None) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
        });
    }));
    assert!(unwound.is_err(), "the panic itself is not lost");
    assert!(message.unwrap().starts_with("no more batches"));
}
