//! Datasets as they lie on disk: the real samples in their official layouts, exporters' variants, and
//! what is wrong with them, said in one line.

use featcache_extractor::dataset::{self, KINDS, Wanted};
use featcache_extractor::image::Limits;
use featcache_extractor::preprocess::DECODER;
use featcache_extractor::{Error, Result};
use featcache_store::listing::Label;
use featcache_store::{ListedSample, Listing, Preprocess, ResizeRule, Size};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn recipe() -> Preprocess {
    Preprocess {
        decoder: DECODER.into(),
        exif_transpose: false,
        resize: ResizeRule::None,
        resampler: "pillow-bilinear-hv".into(),
        mean: [0.0; 3],
        std: [1.0; 3],
        pad_divisor: 1,
    }
}

fn list(kind: &str, root: &Path, splits: &[&str]) -> Result<Listing> {
    let splits = splits.iter().map(|split| (*split).to_owned()).collect();
    dataset::open(kind, root, &Wanted { splits, stuff: None })?.list(&recipe())
}

/// What every listing promises to the store.
fn check_contract(root: &Path, listing: &Listing) {
    let mut keys = BTreeSet::new();
    for sample in &listing.samples {
        assert!(keys.insert((&sample.split, &sample.key)), "{} twice", sample.key);
        let source = Path::new(&sample.source);
        assert!(source.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        if sample.size.is_ok() {
            assert!(root.join(source).is_file());
            dataset::read_source(root, &sample.source, &Limits::default()).unwrap().unwrap();
        }
    }
    let categories: BTreeSet<i64> = listing.categories.iter().map(|category| category.id).collect();
    assert_eq!(categories.len(), listing.categories.len());
    for annotation in &listing.annotations {
        assert!(keys.contains(&(&annotation.split, &annotation.key)));
        if let Label::Object { category_id, .. } = &annotation.label {
            assert!(categories.contains(category_id));
        }
    }
}

/// The message of a dataset that is refused: one line that begins with the path.
fn refused(kind: &str, root: &Path, splits: &[&str]) -> String {
    let error = list(kind, root, splits).unwrap_err();
    assert!(matches!(error, Error::Dataset { .. }), "{error:?}");
    let message = error.to_string();
    let message = message.strip_prefix(&root.display().to_string()).unwrap_or_else(|| panic!("{message}"));
    assert!(!message.contains('\n'), "{message}");
    message.trim_start_matches('/').to_owned()
}

fn tiny(name: &str) -> Vec<u8> {
    let goldens: Value = serde_json::from_str(include_str!("../parity/pillow_goldens.json")).unwrap();
    let text = goldens["tiny"][name]["file"].as_str().unwrap().to_owned();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn write(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn sample<'a>(listing: &'a Listing, key: &str) -> &'a ListedSample {
    listing.samples.iter().find(|sample| sample.key.0 == key).unwrap()
}

#[test]
fn coco_samples_are_listed_as_the_json_has_them() {
    let Some(samples) = featcache_tests::samples() else { return };
    let root = samples.join("coco");
    let listing = list("coco", &root, &[]).unwrap();
    check_contract(&root, &listing);
    assert_eq!(listing.dataset, "coco");
    assert_eq!(listing.categories.len(), 80);
    assert_eq!((listing.categories[79].id, listing.categories[79].name.as_str()), (90, "toothbrush"));
    for (split, pictures, objects) in [("train2017", 80, 739), ("val2017", 79, 624)] {
        let text = std::fs::read_to_string(root.join(format!("annotations/instances_{split}.json"))).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let listed: Vec<_> = listing.samples.iter().filter(|sample| sample.split == split).collect();
        assert_eq!(listed.len(), pictures);
        for image in json["images"].as_array().unwrap() {
            let id = image["id"].as_i64();
            let found = listed.iter().find(|sample| sample.image_id == id).unwrap();
            assert_eq!(found.key.0, image["file_name"].as_str().unwrap().trim_end_matches(".jpg"));
            let of = |name: &str| image[name].as_u64().unwrap() as u32;
            assert_eq!(found.size, Ok(Size::new(of("height"), of("width"))));
        }
        let rows: BTreeMap<i64, &Value> = json["annotations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["id"].as_i64().unwrap(), row))
            .collect();
        assert_eq!(rows.len(), objects);
        for annotation in listing.annotations.iter().filter(|annotation| annotation.split == split) {
            let row = rows[&annotation.id.unwrap()];
            let Label::Object { category_id, bbox, area, iscrowd, segmentation } = &annotation.label else {
                panic!("{annotation:?}")
            };
            assert_eq!(json!(category_id), row["category_id"]);
            assert_eq!(
                bbox.to_vec(),
                row["bbox"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>()
            );
            assert_eq!(Some(*area), row["area"].as_f64());
            assert_eq!(i64::from(*iscrowd), row["iscrowd"].as_i64().unwrap());
            // Verbatim: the very text stands in the file.
            let segmentation = segmentation.as_deref().unwrap();
            assert!(text.contains(segmentation));
            assert_eq!(serde_json::from_str::<Value>(segmentation).unwrap(), row["segmentation"]);
        }
        assert_eq!(listing.annotations.iter().filter(|a| a.split == split).count(), objects);
    }
    let crowds =
        listing.annotations.iter().filter(|a| matches!(a.label, Label::Object { iscrowd: true, .. }));
    assert!(crowds.count() > 0);
}

#[test]
fn coco_variants_of_exporters_are_read() {
    let Some(samples) = featcache_tests::samples() else { return };
    for (variant, pictures, objects) in [
        ("datumaro_coco_instances", 2, 3),
        ("datumaro_mmdet_coco", 2, 3),
        ("datumaro_coco_roboflow", 2, 3),
        ("datumaro_coco_image_info", 2, 0),
        ("datumaro_relaxed_coco", 2, 2),
    ] {
        let root = samples.join("coco/other_coco_format").join(variant);
        let listing = list("coco", &root, &[]).unwrap();
        check_contract(&root, &listing);
        assert_eq!((listing.samples.len(), listing.annotations.len()), (pictures, objects), "{variant}");
        assert!(listing.samples.iter().all(|sample| sample.size.is_ok()), "{variant}");
    }
    let message = refused("coco", &samples.join("coco/golden_eval/cocoapi_fake100"), &["val2014_100"]);
    assert!(message.contains("no pictures of split val2014_100"), "{message}");
    let message = refused("coco", &samples.join("coco/panoptic_sample"), &[]);
    assert!(message.contains("expected annotations/instances_<split>.json"), "{message}");
}

/// A small valid dataset: two pictures, one of them twice annotated.
fn coco_json() -> Value {
    json!({
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 37, "height": 21},
            {"id": 2, "file_name": "b.jpg", "width": 37, "height": 21},
        ],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4.5], "area": 6, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
            {"id": 8, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2], "iscrowd": true, "segmentation": {"counts": [1, 2], "size": [21, 37]}},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog", "supercategory": "animal"}, {"id": 9, "name": "unused"}],
    })
}

fn coco_with(json: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "annotations/instances_val.json", json);
    for name in ["a.jpg", "b.jpg"] {
        write(root.path(), &format!("val/{name}"), tiny("rgb_420.jpg"));
    }
    root
}

#[test]
fn coco_without_crowd_flags_areas_or_uses_is_fine() {
    let root = coco_with(&coco_json().to_string());
    let listing = list("coco", root.path(), &["val"]).unwrap();
    check_contract(root.path(), &listing);
    assert_eq!(listing.categories.len(), 3);
    let Label::Object { area, iscrowd, segmentation, .. } = &listing.annotations[1].label else { panic!() };
    assert_eq!((*area, *iscrowd), (4.0, true));
    assert_eq!(segmentation.as_deref(), Some(r#"{"counts":[1,2],"size":[21,37]}"#));
}

#[test]
fn coco_pictures_that_are_absent_or_broken_are_recorded() {
    let mut json = coco_json();
    json["images"][1]["file_name"] = "absent.jpg".into();
    json["images"].as_array_mut().unwrap().push(json!({"id": 3, "file_name": "c.jpg"}));
    // A size that the json states wrongly: the header's counts.
    json["images"][0]["width"] = 99.into();
    let root = coco_with(&json.to_string());
    write(root.path(), "val/c.jpg", b"not a picture");
    let listing = list("coco", root.path(), &[]).unwrap();
    check_contract(root.path(), &listing);
    assert_eq!(sample(&listing, "a").size, Ok(Size::new(21, 37)));
    let reason = |key: &str| sample(&listing, key).size.clone().unwrap_err();
    assert!(reason("absent").starts_with("unreadable: No such file"), "{}", reason("absent"));
    assert!(reason("c").starts_with("not a picture"), "{}", reason("c"));
}

#[test]
fn coco_files_that_contradict_themselves_are_refused_in_one_line() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 14] = [
        (|j| j["images"][1]["id"] = 1.into(), "image id 1 twice: \"a.jpg\" and \"b.jpg\""),
        (|j| j["annotations"][1]["id"] = 7.into(), "annotation id 7 twice"),
        (|j| j["annotations"][1]["image_id"] = 5.into(), "annotation 8: image 5 is not among the 2 images"),
        (
            |j| j["annotations"][0]["category_id"] = 4.into(),
            "annotation 7: category 4 is not among the 3 categories",
        ),
        (|j| j["categories"][1]["id"] = 3.into(), "category id 3 twice (second: \"dog\")"),
        (|j| drop(j.as_object_mut().unwrap().remove("categories")), "no categories"),
        (|j| drop(j.as_object_mut().unwrap().remove("images")), "no images"),
        (
            |j| drop(j["annotations"][0].as_object_mut().unwrap().remove("category_id")),
            "annotation 7: no category_id",
        ),
        (|j| drop(j["annotations"][0].as_object_mut().unwrap().remove("bbox")), "annotation 7: no bbox"),
        (|j| j["images"][0]["file_name"] = "../a.jpg".into(), "file_name \"../a.jpg\" leaves the folder"),
        (
            |j| j["images"][0]["file_name"] = "/etc/passwd".into(),
            "file_name \"/etc/passwd\" leaves the folder",
        ),
        (|j| j["images"][0]["file_name"] = "b.png".into(), "sample \"b\" twice: \"b.png\" and \"b.jpg\""),
        (
            |j| j["annotations"][0]["iscrowd"] = 2.into(),
            "iscrowd: invalid value: integer `2`, expected 0 or 1",
        ),
        (|j| *j = json!([1, 2]), "not COCO json: invalid type: integer `1`"),
    ];
    for (change, expected) in changes {
        let mut json = coco_json();
        change(&mut json);
        let root = coco_with(&json.to_string());
        let message = refused("coco", root.path(), &["val"]);
        assert!(message.starts_with("annotations/instances_val.json: "), "{message}");
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
    let root = coco_with("{\"images\": [");
    assert!(
        refused("coco", root.path(), &["val"]).contains("not COCO json: EOF while parsing a list at line 1")
    );
}

/// As in `image_info_test-dev2017.json`: a fifth of the pictures in `test2017/`.
#[test]
fn coco_pictures_are_found_where_their_addresses_say() {
    let image = |id: i64, url: Value| json!({"id": id, "file_name": format!("{id}.jpg"), "coco_url": url});
    let with = |folder: &str, urls: [Value; 2]| {
        let root = tempfile::tempdir().unwrap();
        let [one, two] = urls;
        let json = json!({"images": [image(1, one), image(2, two)], "categories": []});
        write(root.path(), "annotations/image_info_test-dev2017.json", json.to_string());
        for id in [1, 2] {
            write(root.path(), &format!("{folder}/{id}.jpg"), tiny("rgb_420.jpg"));
        }
        root
    };
    let official = |id: i64| json!(format!("http://images.cocodataset.org/test2017/{id}.jpg"));
    for folder in ["test2017", "images/test2017"] {
        let root = with(folder, [official(1), official(2)]);
        let listing = list("coco", root.path(), &["test-dev2017"]).unwrap();
        check_contract(root.path(), &listing);
        assert_eq!(listing.samples[1].source, format!("{folder}/2.jpg"));
        assert!(listing.samples.iter().all(|sample| sample.split == "test-dev2017" && sample.size.is_ok()));
    }
    // What is no folder's name is not looked at, whatever stands there.
    for url in [json!("http://x/../1.jpg"), json!("http://x/./1.jpg"), json!("1.jpg"), json!(7), json!(null)]
    {
        let root = with("elsewhere", [url, official(2)]);
        assert!(refused("coco", root.path(), &["test-dev2017"]).contains("no pictures of split"));
    }
}

#[test]
fn coco_names_may_begin_with_a_dot_and_a_slash() {
    let mut json = coco_json();
    json["images"][0]["file_name"] = "./a.jpg".into();
    let root = coco_with(&json.to_string());
    let listing = list("coco", root.path(), &["val"]).unwrap();
    check_contract(root.path(), &listing);
    assert_eq!((listing.samples[0].source.as_str(), listing.samples[0].key.0.as_str()), ("val/a.jpg", "a"));
    json["images"][1]["file_name"] = "a.jpg".into();
    let root = coco_with(&json.to_string());
    assert!(refused("coco", root.path(), &["val"]).contains("sample \"a\" twice"));
}

#[test]
fn coco_splits_that_differ_or_are_missing_are_refused() {
    let root = coco_with(&coco_json().to_string());
    let message = refused("coco", root.path(), &["train"]);
    assert!(
        message.contains("annotations/instances_train.json") && message.contains("[\"val\"]"),
        "{message}"
    );
    let mut other = coco_json();
    other["categories"][0]["name"] = "lynx".into();
    write(root.path(), "annotations/instances_train.json", other.to_string());
    write(root.path(), "train/a.jpg", tiny("grey.jpg"));
    let message = refused("coco", root.path(), &["val", "train"]);
    assert!(message.contains("expected \"3 cat\", found \"3 lynx\""), "{message}");
}

#[test]
fn ade20k_samples_carry_their_label_files() {
    let Some(samples) = featcache_tests::samples() else { return };
    let root = samples.join("ade20k");
    let listing = list("ade20k", &root, &["training", "validation"]).unwrap();
    check_contract(&root, &listing);
    assert_eq!((listing.samples.len(), listing.annotations.len(), listing.categories.len()), (9, 9, 150));
    assert_eq!((listing.categories[0].id, listing.categories[0].name.as_str()), (1, "wall"));
    assert_eq!((listing.categories[149].id, listing.categories[149].name.as_str()), (150, "flag"));
    for annotation in &listing.annotations {
        let file = root.join("annotations").join(&annotation.split).join(format!("{}.png", annotation.key));
        assert_eq!(annotation.label, Label::LabelMap { png: std::fs::read(file).unwrap() });
    }
    let root = root.join("four_class_variant");
    let listing = list("ade20k", &root, &[]).unwrap();
    check_contract(&root, &listing);
    assert_eq!((listing.samples.len(), listing.annotations.len()), (20, 20));
    let names: Vec<&str> = listing.categories.iter().map(|category| category.name.as_str()).collect();
    assert_eq!(names, ["label 1", "label 2"]);
}

#[test]
fn ade20k_in_the_full_releases_encoding_is_refused() {
    let Some(samples) = featcache_tests::samples() else { return };
    let full = samples.join("ade20k/full_ade20k_format/2021_17_01");
    assert!(refused("ade20k", &full, &[]).contains("the full ADE20K release"));
    let root = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(full.join(name)).unwrap();
    write(root.path(), "images/training/x.jpg", read("ADE_train_00016964.jpg"));
    write(root.path(), "annotations/training/x.png", read("ADE_train_00016964_seg.png"));
    let message = refused("ade20k", root.path(), &[]);
    assert!(message.starts_with("annotations/training/x.png: an RGB label map"), "{message}");
}

fn grey(width: u32, height: u32, values: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(values).unwrap();
    file
}

#[test]
fn ade20k_labels_that_do_not_fit_fail_their_sample_only() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: Vec<u8>| write(root.path(), path, bytes);
    for name in ["fits", "other_size", "broken", "unlabelled", "cut", "spoilt"] {
        write(&format!("images/training/{name}.jpg"), tiny("rgb_420.jpg"));
    }
    write("images/training/.hidden.jpg", b"x".to_vec());
    write("images/training/notes.txt", b"x".to_vec());
    write("annotations/training/fits.png", grey(37, 21, &[0, 3, 255].repeat(259)));
    write("annotations/training/other_size.png", grey(21, 37, &[9; 777]));
    write("annotations/training/broken.png", b"\x89PNG\r\n\x1a\n\0\0".to_vec());
    // A header like any other, and pixels that cannot be had: the file ends early, or a bit has flipped.
    let noise: Vec<u8> = (0..777u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 150).collect();
    let whole = grey(37, 21, &noise);
    write("annotations/training/cut.png", whole[..whole.len() - 200].to_vec());
    let mut spoilt = whole.clone();
    spoilt[whole.len() / 2] ^= 1;
    write("annotations/training/spoilt.png", spoilt);
    let listing = list("ade20k", root.path(), &["training"]).unwrap();
    check_contract(root.path(), &listing);
    assert_eq!(listing.samples.len(), 6);
    assert_eq!(listing.annotations.len(), 1);
    for name in ["cut", "spoilt"] {
        let reason = sample(&listing, name).size.clone().unwrap_err();
        assert!(reason.starts_with("label map: corrupt: "), "{reason}");
    }
    assert_eq!(sample(&listing, "fits").size, Ok(Size::new(21, 37)));
    assert_eq!(sample(&listing, "unlabelled").size, Ok(Size::new(21, 37)));
    assert_eq!(sample(&listing, "other_size").size, Err("label map is 37x21, its picture 21x37".into()));
    assert!(sample(&listing, "broken").size.as_ref().unwrap_err().starts_with("label map: truncated"));
    // 0 and 255 are no categories; what is between 1 and the largest is.
    assert_eq!(listing.categories.iter().map(|category| category.id).collect::<Vec<_>>(), [1, 2, 3]);
    write("categories.txt", b"wall\nfloor\n".to_vec());
    let listing = list("ade20k", root.path(), &[]).unwrap();
    assert_eq!(listing.categories.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["wall", "floor"]);
    write("objectInfo150.txt", b"Idx\tName\nwall\n".to_vec());
    assert!(refused("ade20k", root.path(), &[]).contains("objectInfo150.txt: line 2: no Idx and Name"));
}

#[test]
fn ade20k_in_another_layout_is_refused() {
    let root = tempfile::tempdir().unwrap();
    assert!(refused("ade20k", root.path(), &[]).contains("expected images/<split> and annotations/<split>"));
    write(root.path(), "ADEChallengeData2016/images/training/a.jpg", tiny("grey.jpg"));
    assert!(refused("ade20k", root.path(), &[]).contains("found them in ADEChallengeData2016"));
    write(root.path(), "images/training/a.jpg", tiny("grey.jpg"));
    write(root.path(), "images/training/a.png", tiny("grey8.png"));
    assert!(refused("ade20k", root.path(), &[]).contains("sample \"a\" twice"));
    // Sorted by name it stands between them.
    write(root.path(), "images/training/a.k.jpg", tiny("grey.jpg"));
    assert!(refused("ade20k", root.path(), &[]).contains("sample \"a\" twice"));
    assert!(
        refused("ade20k", root.path(), &["val"]).contains("no such split: expected one of [\"training\"]")
    );
}

#[test]
fn folders_are_listed_at_any_depth_in_stable_order() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "b.jpg", tiny("rgb_420.jpg"));
    write(root.path(), "a/z.PNG", tiny("grey8.png"));
    write(root.path(), "a/deep/no_suffix", tiny("grey.jpg"));
    write(root.path(), "a/notes.txt", "text");
    write(root.path(), "a/._z.png", "resource fork");
    write(root.path(), ".cache/c.jpg", tiny("grey.jpg"));
    write(root.path(), "c.webp", "RIFF\0\0\0\0WEBPVP8 ");
    std::os::unix::fs::symlink("b.jpg", root.path().join("link.jpg")).unwrap();
    std::os::unix::fs::symlink("nowhere.jpg", root.path().join("dangling.jpg")).unwrap();
    std::os::unix::fs::symlink(".", root.path().join("loop")).unwrap();
    let listing = list("folder", root.path(), &[]).unwrap();
    check_contract(root.path(), &listing);
    let keys: Vec<&str> = listing.samples.iter().map(|sample| sample.key.0.as_str()).collect();
    assert_eq!(keys, ["a/deep/no_suffix", "a/z.PNG", "b.jpg", "c.webp", "dangling.jpg", "link.jpg"]);
    assert!(listing.samples.iter().all(|sample| sample.split == "all"));
    assert_eq!(sample(&listing, "a/z.PNG").size, Ok(Size::new(7, 13)));
    assert!(sample(&listing, "c.webp").size.as_ref().unwrap_err().starts_with("WebP"));
    assert!(sample(&listing, "dangling.jpg").size.is_err());
    assert!(
        list("folder", root.path(), &["mine"]).unwrap().samples.iter().all(|sample| sample.split == "mine")
    );
}

#[test]
fn folders_keep_what_lies_outside_out() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret.jpg", tiny("grey.jpg"));
    for target in [outside.path().join("secret.jpg"), outside.path().to_owned()] {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target, root.path().join("link.jpg")).unwrap();
        assert!(refused("folder", root.path(), &[]).starts_with("link.jpg: link leaves the dataset"));
    }
    let read = |source: &str| dataset::read_source(outside.path(), source, &Limits::default());
    assert!(read("secret.jpg").unwrap().is_ok() && read("./secret.jpg").unwrap().is_ok());
    for source in ["../secret.jpg", "/etc/hostname", "", "a/../../b", "a\\..\\b"] {
        assert!(read(source).unwrap_err().to_string().contains("leaves the dataset"), "{source}");
    }
}

#[test]
fn what_is_no_dataset_is_refused() {
    let root = tempfile::tempdir().unwrap();
    assert!(refused("folder", root.path(), &[]).contains("no pictures"));
    assert!(refused("coco", root.path(), &[]).contains("not a COCO dataset"));
    for kind in KINDS {
        assert!(refused(kind, &root.path().join("none"), &[]).contains("not a folder"));
        assert!(refused(kind, root.path(), &["../up"]).contains("is not a folder name"));
    }
    let error = list("imagenet", root.path(), &[]).unwrap_err().to_string();
    assert_eq!(error, "dataset \"imagenet\" is unknown: expected coco, ade20k, folder");
}

#[test]
fn listing_applies_the_recipes_orientation() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "x.jpg", tiny("orientation_6.jpg"));
    write(root.path(), "y.png", tiny("exif.png"));
    for (exif_transpose, x, y) in
        [(false, Size::new(6, 11), Size::new(5, 9)), (true, Size::new(11, 6), Size::new(9, 5))]
    {
        let recipe = Preprocess { exif_transpose, ..recipe() };
        let listing =
            dataset::open("folder", root.path(), &Wanted::default()).unwrap().list(&recipe).unwrap();
        assert_eq!(listing.samples[0].size, Ok(x));
        assert_eq!(listing.samples[1].size, Ok(y));
    }
}
