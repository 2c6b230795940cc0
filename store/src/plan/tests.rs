//! Plans of drawn listings: order, units, shuffles, what is refused.

use super::*;
use crate::fixture::{listing, recipe};
use crate::{ResizeRule, Size};
use proptest::prelude::*;

fn sample(split: &str, key: &str) -> ListedSample {
    ListedSample {
        split: split.into(),
        key: SampleKey(key.into()),
        source: format!("{key}.jpg"),
        image_id: None,
        size: Ok(Size::new(64, 64)),
    }
}

#[test]
fn rows_are_ordered_and_units_tile_the_buckets() {
    let plan = Plan::new(&recipe(), &listing(97), 20_000).unwrap();
    assert_eq!(plan.rows().len(), 2 * 97);
    let mut next = 0;
    for (index, bucket) in plan.buckets().iter().enumerate() {
        assert_eq!(bucket.rows.start.0, next);
        next = bucket.rows.end.0;
        for id in bucket.rows.start.0..bucket.rows.end.0 {
            let row = plan.row(RowId(id)).unwrap();
            let place = row.place.as_ref().unwrap();
            assert_eq!((place.bucket, place.row), (bucket.size, id - bucket.rows.start.0));
            assert_eq!((&row.split, &row.view), (&bucket.split, &bucket.view));
            assert_eq!(plan.bucket_of(RowId(id)), Some(index));
        }
    }
    for (id, row) in plan.rows().iter().enumerate().skip(next as usize) {
        assert!(row.place.is_err());
        assert_eq!(plan.bucket_of(RowId(id as u64)), None);
    }
    assert!((next as usize) < plan.rows().len());

    let mut covered = 0;
    for unit in plan.units() {
        assert_eq!(unit.rows.start.0, covered);
        let bucket = &plan.buckets()[unit.bucket];
        // p2 has stride 4, 8 channels, two bytes.
        let row_bytes = 2 * bucket.size.area() / 16 * 8;
        let expected = (20_000 / row_bytes).clamp(1, bucket.row_count());
        assert_eq!(bucket.unit_rows, expected);
        assert!(unit.row_count() == expected || unit.rows.end == bucket.rows.end);
        covered = unit.rows.end.0;
    }
    assert_eq!(covered, next);
    assert_eq!(plan.units().count() as u64, plan.unit_count());
    assert!(plan.units().any(|unit| unit.number > 1), "the fixture should have buckets of many units");
}

#[test]
fn rows_of_a_bucket_are_shuffled_by_fingerprint() {
    let rows = |recipe: &Recipe| {
        let plan = Plan::new(recipe, &listing(97), 1 << 20).unwrap();
        let largest = plan.buckets().iter().max_by_key(|bucket| bucket.row_count()).unwrap().clone();
        let ids = largest.rows.start.0 as usize..largest.rows.end.0 as usize;
        plan.rows()[ids].iter().map(|row| row.key.clone()).collect::<Vec<_>>()
    };
    let keys = rows(&recipe());
    let mut sorted = keys.clone();
    sorted.sort();
    assert_ne!(keys, sorted);
    let mut other = recipe();
    other.backbone.options.clear();
    let others = rows(&other);
    assert_ne!(keys, others);
    let mut others_sorted = others;
    others_sorted.sort();
    assert_eq!(sorted, others_sorted);
}

#[test]
fn duplicate_keys_are_refused_within_a_split_only() {
    let mut listing = Listing { dataset: "folder".into(), ..Listing::default() };
    listing.samples = vec![sample("train", "a"), sample("val", "a")];
    Plan::new(&recipe(), &listing, 1).unwrap();
    listing.samples.push(ListedSample { source: "b/a.png".into(), ..sample("val", "a") });
    let error = Plan::new(&recipe(), &listing, 1).unwrap_err().to_string();
    assert_eq!(error, "sample key \"a\" occurs twice in split val: a.jpg and b/a.png");
}

#[test]
fn names_sources_and_empty_listings_are_checked() {
    let mut listing = Listing { dataset: "coco".into(), ..Listing::default() };
    assert!(Plan::new(&recipe(), &listing, 1).unwrap_err().to_string().contains("lists no samples"));
    for bad in [
        sample("../val", "a"),
        ListedSample { source: "/etc/passwd".into(), ..sample("val", "a") },
        ListedSample { source: "a/../../b".into(), ..sample("val", "a") },
        sample("val", ""),
    ] {
        listing.samples = vec![bad.clone()];
        assert!(matches!(Plan::new(&recipe(), &listing, 1), Err(Error::Invalid { .. })), "{bad:?}");
    }
}

#[test]
fn sizes_beyond_the_limit_and_empty_pictures_are_failed_rows() {
    let mut recipe = recipe();
    recipe.preprocess.resize = ResizeRule::None;
    let mut listing = listing(0);
    listing.samples = [Size::new(u32::MAX, u32::MAX), Size::new(40_000, 8), Size::new(0, 8)]
        .into_iter()
        .enumerate()
        .map(|(i, size)| ListedSample { size: Ok(size), ..sample("val", &i.to_string()) })
        .collect();
    let plan = Plan::new(&recipe, &listing, 1).unwrap();
    assert_eq!(plan.buckets(), []);
    let reasons: Vec<_> = plan.rows().iter().take(3).map(|row| row.place.clone().unwrap_err()).collect();
    assert!(reasons[0].contains("4294967295") && reasons[1].contains("40000"), "{reasons:?}");
    assert!(reasons[2].contains("empty"), "{reasons:?}");
}

#[test]
fn rows_that_contradict_each_other_or_the_spec_are_refused() {
    let plan = Plan::new(&recipe(), &listing(40), 20_000).unwrap();
    plan.check_splits(&["train".into(), "val".into()]).unwrap();
    let error = plan.check_splits(&["train".into()]).unwrap_err();
    assert!(error.contains("expected a split of train, found \"val\""), "{error}");
    // Of a bucket, and of the rows without a place.
    let failed = plan.rows().iter().position(|row| row.place.is_err()).unwrap();
    for at in [1, failed + 1] {
        let mut rows = plan.rows().to_vec();
        rows[at].key = rows[at - 1].key.clone();
        let error = Plan::from_rows(&recipe(), rows, 20_000).map(|_| ()).unwrap_err();
        assert!(error.contains(&format!("row {at} ")) && error.contains("occurs twice"), "{error}");
    }
}

#[test]
fn a_million_names_take_no_time() {
    let mut names = Names::default();
    for i in 0..1_000_000 {
        names.get(&i.to_string());
    }
    assert!(Arc::ptr_eq(&names.get("77"), &names.get("77")));
}

#[test]
fn long_reasons_are_cut() {
    let mut listing = listing(0);
    listing.samples = vec![ListedSample { size: Err("é".repeat(5000)), ..sample("val", "a") }];
    let plan = Plan::new(&recipe(), &listing, 1).unwrap();
    assert_eq!(plan.rows()[0].place, Err("é".repeat(MAX_REASON_CHARS)));
}

proptest! {
    #[test]
    fn the_order_of_the_listing_does_not_matter(
        count in 1..60usize, shard_bytes in 1..100_000u64, seed in any::<u64>(),
    ) {
        let sorted = listing(count);
        let mut shuffled = sorted.clone();
        shuffle(&mut shuffled.samples, &Fingerprint(seed.to_string()), "x");
        prop_assert_eq!(
            Plan::new(&recipe(), &sorted, shard_bytes).unwrap(),
            Plan::new(&recipe(), &shuffled, shard_bytes).unwrap()
        );
    }
}
