//! Orders that keep rows of one group apart, and what every order promises whatever its views and groups.

use crate::drawn_store::DrawnStore;
use featcache_heads::loader::{LoaderOptions, Shared, Span};
use featcache_heads::order::{Order, OrderOptions, OrderRow, Position};
use featcache_heads::selection::{KeepApart, Selection};
use featcache_store::{RowId, Size};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Samples with a group, and with one to three views in buckets of their own.
fn samples() -> impl Strategy<Value = Vec<(Vec<OrderRow>, u32)>> {
    let sample = (0..40u32, 0..3usize, 1..4usize);
    prop::collection::vec(sample, 1..200).prop_map(|samples| {
        let mut next = 0;
        let mut row = |bucket: usize| {
            next += 1;
            OrderRow { row: RowId(next - 1), bucket, size: Size::new(32 * (bucket as u32 + 1), 32) }
        };
        let sample = |(group, shape, views)| ((0..views).map(|view| row(3 * view + shape)).collect(), group);
        samples.into_iter().map(sample).collect()
    })
}

fn options() -> impl Strategy<Value = OrderOptions> {
    (any::<u64>(), 1..12usize, any::<bool>()).prop_map(|(seed, batch, drop_last)| OrderOptions {
        seed,
        batch,
        shuffle: true,
        drop_last,
    })
}

proptest! {
    #[test]
    fn every_sample_comes_once_an_epoch(samples in samples(), options in options(), number in 0..5u64) {
        let views: Vec<_> = samples.iter().map(|(views, _)| views.clone()).collect();
        let sample_of: BTreeMap<RowId, usize> = (0..)
            .zip(&views)
            .flat_map(|(i, views)| views.iter().map(move |row| (row.row, i)))
            .collect();
        let group_of: Vec<u32> = samples.iter().map(|(_, group)| *group).collect();
        let size_of: BTreeMap<RowId, Size> = views.iter().flatten().map(|row| (row.row, row.size)).collect();
        let mut orders = vec![Order::new(views, options)];
        orders.extend(Order::apart(samples.clone(), options));
        for (apart, order) in [false, true].into_iter().zip(orders) {
            let epoch = order.epoch(number);
            let mut seen = BTreeSet::new();
            for cursor in 0..epoch.len() {
                let batch = epoch.batch(cursor).unwrap();
                prop_assert!(!batch.rows.is_empty() && batch.rows.len() <= options.batch);
                prop_assert!(!options.drop_last || batch.rows.len() == options.batch);
                prop_assert!(batch.rows.iter().all(|row| size_of[row] == batch.size));
                let samples: Vec<usize> = batch.rows.iter().map(|row| sample_of[row]).collect();
                for sample in &samples {
                    prop_assert!(seen.insert(*sample), "sample {} comes twice", sample);
                }
                let groups: BTreeSet<u32> = samples.iter().map(|sample| group_of[*sample]).collect();
                prop_assert!(!apart || groups.len() == samples.len(), "groups {:?}", groups);
                // Known without the ones before it.
                prop_assert_eq!(order.epoch(number).batch(cursor), Some(batch));
            }
            prop_assert!(epoch.batch(epoch.len()).is_none());
            prop_assert!(options.drop_last || seen.len() == group_of.len());
        }
    }
}

#[test]
fn views_take_turns_evenly_and_differ_by_epoch() {
    let samples = (0..900u64).map(|i| {
        let row =
            |view| OrderRow { row: RowId(3 * i + view), bucket: view as usize, size: Size::new(32, 32) };
        (0..3u64).map(row).collect()
    });
    let options = OrderOptions { seed: 7, batch: 50, shuffle: true, drop_last: false };
    let order = Order::new(samples.collect(), options);
    let shown = |number| -> Vec<u64> {
        let epoch = order.epoch(number);
        let mut rows: Vec<u64> =
            (0..epoch.len()).flat_map(|i| epoch.batch(i).unwrap().rows).map(|row| row.0).collect();
        rows.sort_unstable();
        rows.iter().map(|row| row % 3).collect()
    };
    let epochs: Vec<Vec<u64>> = (0..60).map(shown).collect();
    for views in &epochs {
        let counts = [0, 1, 2].map(|view| views.iter().filter(|&&shown| shown == view).count());
        assert_eq!(counts, [300; 3]);
    }
    // A sample shows each view in about a third of the epochs, and neighbours are independent.
    for sample in 0..900 {
        let shown = epochs.iter().filter(|views| views[sample] == 0).count();
        assert!((5..=38).contains(&shown), "{shown} of 60");
    }
    let alike = (0..899).filter(|&i| epochs[0][i] == epochs[0][i + 1]).count();
    assert!((230..370).contains(&alike), "{alike} neighbours show the same view");
}

#[test]
fn groups_too_large_for_the_batches_are_refused_or_counted() {
    let options = OrderOptions { seed: 1, batch: 8, shuffle: true, drop_last: false };
    let rows = |groups: &[u32]| -> Vec<_> {
        let row = |i: usize| OrderRow { row: RowId(i as u64), bucket: 0, size: Size::new(32, 32) };
        groups.iter().enumerate().map(|(i, group)| (vec![row(i)], *group)).collect()
    };
    // Three clips of a video in a bucket of ten rows: three batches instead of two.
    let order = Order::apart(rows(&[1, 1, 1, 2, 3, 4, 5, 6, 7, 8]), options).unwrap();
    assert_eq!(order.batches_apart(), (3, 2));
    // One folder for all.
    let error = Order::apart(rows(&[5; 80]), options).unwrap_err().to_string();
    assert!(error.contains("80 batches of 10"), "{error}");
    let dropping = OrderOptions { drop_last: true, ..options };
    let error = Order::apart(rows(&[5; 80]), dropping).unwrap_err().to_string();
    assert!(error.contains("0 batches of 10"), "{error}");
}

#[test]
fn the_middle_of_a_late_epoch_of_a_million_rows_is_found_at_once() {
    for views in [1u64, 2] {
        let samples = (0..1_000_000 / views).map(|i| {
            let row = |view| OrderRow {
                row: RowId(views * i + view),
                bucket: (2 * view + i % 2) as usize,
                size: Size::new(32, 32),
            };
            (0..views).map(row).collect()
        });
        let options = OrderOptions { seed: 3, batch: 16, shuffle: true, drop_last: false };
        let order = Order::new(samples.collect(), options);
        let begin = Instant::now();
        let steps: u64 = (0..1000).map(|epoch| order.epoch(epoch).len()).sum();
        let epoch = order.epoch(1000);
        let batch = epoch.batch(epoch.len() / 2).unwrap();
        let taken = begin.elapsed();
        assert!(batch.rows.len() == 16 && steps >= 1000 * 1_000_000 / views / 16);
        println!("{views} views: all steps and the middle of epoch 1000 found in {taken:?}");
        assert!(taken < Duration::from_millis(200), "{taken:?}");
    }
}

#[test]
fn readers_and_kills_do_not_change_what_comes() {
    let drawn = DrawnStore::default().write();
    let store = drawn.open();
    let selection = Selection::new(&store, "train", &[]).unwrap();
    let groups = selection.groups(&store, KeepApart::Source).unwrap();
    assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), groups.len(), "a file a sample");
    let options = OrderOptions { seed: 11, batch: 3, shuffle: true, drop_last: false };
    // Pairs of samples that are to stay apart.
    let pairs = selection.samples.into_iter().zip((0..).map(|i: u32| i / 2));
    let order = Order::apart(pairs.collect(), options).unwrap();
    let levels = &store.recipe().levels;
    let read = |start: Position, batches: u64, threads: usize| -> Vec<(Vec<RowId>, Position)> {
        let read_target = |_: RowId| Ok(());
        let loader_options = LoaderOptions { threads, ..LoaderOptions::default() };
        let span = Span { start, batches };
        let shared = Shared::new(&store, &order, span, levels, &read_target, loader_options).unwrap();
        std::thread::scope(|scope| {
            let mut loader = shared.start(scope);
            let mut all = Vec::new();
            while let Some(batch) = loader.next_batch().unwrap() {
                all.push((batch.rows.rows.clone(), batch.next));
                loader.recycle(batch);
            }
            all
        })
    };
    let expected = read(Position::default(), 40, 1);
    for threads in [2, 3, 8, 64] {
        assert_eq!(read(Position::default(), 40, threads), expected, "{threads} readers");
    }
    // What survives a kill is where the last batch ended.
    for (done, threads) in [(1, 64), (7, 5), (20, 2), (39, 8)] {
        assert_eq!(read(expected[done - 1].1, 40 - done as u64, threads), expected[done..]);
    }
}
