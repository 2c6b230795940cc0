//! COCO-stuff maps beside objects: listed with their pictures, stored, mirrored with their view, learned by
//! HTC's semantic branch, and kept from heads that learn label maps of the store's own categories.

use featcache::scene::{SceneOptions, write_dataset};
use featcache_extractor::dataset::{self, Dataset, Wanted};
use featcache_extractor::preprocess::DECODER;
use featcache_heads::labels::IGNORE;
use featcache_heads::metric::coco::GroundTruth;
use featcache_heads::objects::{ObjectOptions, ObjectTruth};
use featcache_store::listing::Label;
use featcache_store::{Listing, OpenOptions, Preprocess, ResizeRule, Size, Store};
use featcache_tests::{done, run, text};
use std::path::{Path, PathBuf};

/// Classes of COCO-stuff as mmdetection's HTC counts them.
const CLASSES: usize = 183;

/// Scenes in COCO's layout, gone when dropped.
struct Scenes {
    folder: tempfile::TempDir,
}

impl Scenes {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SceneOptions { train: 3, val: 1, ..Default::default() };
        write_dataset(&folder.path().join("scenes"), &options).unwrap();
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.at("scenes/coco")
    }

    fn list(&self, stuff: Option<PathBuf>) -> featcache_extractor::Result<Listing> {
        let wanted = Wanted { splits: vec!["train".into()], stuff };
        let preprocess = Preprocess {
            decoder: DECODER.into(),
            exif_transpose: false,
            resize: ResizeRule::None,
            resampler: "pillow-bilinear-hv".into(),
            mean: [0.0; 3],
            std: [1.0; 3],
            pad_divisor: 32,
        };
        let dataset: Box<dyn Dataset> = dataset::open("coco", &self.root(), &wanted)?;
        dataset.list(&preprocess)
    }

    /// Names and sizes of the training pictures.
    fn pictures(&self) -> Vec<(String, Size)> {
        let samples = self.list(None).unwrap().samples;
        samples.into_iter().map(|sample| (sample.key.0, sample.size.unwrap())).collect()
    }

    /// Writes a map for every training picture into `folder`: the left third is class 182, the last, then
    /// class 0, the first, and the last eighth is not labelled.
    fn write_maps(&self, folder: &Path) {
        for (key, size) in self.pictures() {
            write_map(&folder.join(format!("train/{key}.png")), size, |x| match x {
                _ if 3 * x < size.width => 182,
                _ if 8 * x >= 7 * size.width => 255,
                _ => 0,
            });
        }
    }
}

fn write_map(path: &Path, size: Size, value: impl Fn(u32) -> u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels: Vec<u8> = (0..size.height).flat_map(|_| (0..size.width).map(&value)).collect();
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, size.width, size.height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
}

fn maps(listing: &Listing) -> usize {
    listing.annotations.iter().filter(|one| matches!(one.label, Label::LabelMap { .. })).count()
}

#[test]
fn stuff_maps_are_listed_with_their_pictures() {
    let scenes = Scenes::new();
    let plain = scenes.list(None).unwrap();
    assert_eq!(maps(&plain), 0);
    // Below the root, and from anywhere else.
    scenes.write_maps(&scenes.at("elsewhere"));
    scenes.write_maps(&scenes.root().join("stuffthingmaps"));
    for (stuff, folder) in
        [(None, scenes.root().join("stuffthingmaps")), (Some(scenes.at("elsewhere")), scenes.at("elsewhere"))]
    {
        let listing = scenes.list(stuff).unwrap();
        assert_eq!(maps(&listing), 3);
        assert_eq!(listing.annotations.len(), plain.annotations.len() + 3);
        for annotation in listing.annotations.iter().filter(|one| one.id.is_none()) {
            let png = std::fs::read(folder.join(format!("train/{}.png", annotation.key))).unwrap();
            assert_eq!(annotation.label, Label::LabelMap { png });
        }
    }

    // A picture without a map has its objects; one whose map does not fit is a failure that says so.
    let pictures = scenes.pictures();
    let map =
        |picture: usize| scenes.root().join(format!("stuffthingmaps/train/{}.png", pictures[picture].0));
    std::fs::remove_file(map(0)).unwrap();
    write_map(&map(1), Size::new(9, 7), |_| 1);
    let listing = scenes.list(None).unwrap();
    assert_eq!(maps(&listing), 1);
    let outcome: Vec<_> = listing.samples.iter().map(|sample| sample.size.clone()).collect();
    assert_eq!(outcome[0], Ok(pictures[0].1));
    assert_eq!(outcome[1], Err(format!("stuff map is 9x7, its picture {}", pictures[1].1)));
    let bytes = std::fs::read(map(2)).unwrap();
    std::fs::write(map(2), &bytes[..bytes.len() - 30]).unwrap();
    let reason = scenes.list(None).unwrap().samples[2].size.clone().unwrap_err();
    assert!(reason.starts_with("stuff map: "), "{reason}");
}

#[test]
fn stuff_maps_of_another_kind_are_refused_in_one_line() {
    let scenes = Scenes::new();
    let pictures = scenes.pictures();
    let refused = |stuff: Option<PathBuf>, expected: &str| {
        let message = scenes.list(stuff).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message}");
    };
    refused(Some(scenes.at("none")), "not a folder: expected the stuff maps of split train");
    std::fs::create_dir_all(scenes.at("empty/train")).unwrap();
    refused(
        Some(scenes.at("empty")),
        &format!("none of 3 pictures has a stuff map: expected {}.png", pictures[0].0),
    );
    // The 1-based `stuff_*_pixelmaps` have 183 where there is a thing.
    let folder = scenes.at("pixelmaps");
    scenes.write_maps(&folder);
    write_map(&folder.join(format!("train/{}.png", pictures[2].0)), pictures[2].1, |_| 183);
    refused(Some(folder), "value 183: expected a stuff map of 8-bit values, 0 to 182 and 255");
    let folder = scenes.at("colours");
    scenes.write_maps(&folder);
    let file = std::fs::File::create(folder.join(format!("train/{}.png", pictures[0].0))).unwrap();
    let Size { height, width } = pictures[0].1;
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels = vec![7; (3 * height * width) as usize];
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    refused(Some(folder), "an RGB label map: expected a stuff map of 8-bit values");
    let ade = run(&format!(
        "extract ade20k --root {0} --stuff {0} --backbone fake --out {1}",
        scenes.at("scenes").display(),
        scenes.at("store").display()
    ));
    assert_eq!(ade.status.code(), Some(2), "{}", text(&ade.stderr));
}

#[test]
fn a_semantic_branch_learns_from_an_extracted_store() {
    let scenes = Scenes::new();
    scenes.write_maps(&scenes.root().join("stuffthingmaps"));
    let path = scenes.at("store");
    done(&format!(
        "--quiet extract coco --root {} --split train --backbone fake --resize none --views base,hflip --out {}",
        scenes.root().display(),
        path.display()
    ));
    let store = Store::open(&path, OpenOptions::default()).unwrap();
    let truth = ObjectTruth::new(&store, &ObjectOptions { semantic_classes: Some(CLASSES) }).unwrap();
    for row in store.rows() {
        let objects = truth.placed(row.id).unwrap();
        let (map, valid) = (objects.semantic.unwrap(), objects.valid);
        assert_eq!((Some(map.size), row.valid_size), (row.bucket, Some(valid)));
        // Two columns from either edge, mirrored with the view.
        let at = |x: u32| map.classes[(valid.height / 2 * map.size.width + x) as usize];
        let [left, middle, right] = [2, valid.width / 2, valid.width - 3].map(at);
        let expected = if &*row.view == "hflip" { [IGNORE, 0, 182] } else { [182, 0, IGNORE] };
        assert_eq!([left, middle, right], expected, "{} {}", row.key, row.view);
    }
    // The metric's truth passes over the maps.
    let rows: Vec<_> = store.rows().iter().filter(|row| &*row.view == "base").map(|row| row.id).collect();
    let listed = scenes.list(None).unwrap().annotations;
    assert_eq!(GroundTruth::of_store(&store, &rows).unwrap().objects().len(), listed.len() - 3);

    let htc = "[head]\nkind = \"detector\"\n[detector]\npreset = \"htc\"\n[detector.neck]\nchannels = 16\n\
               [detector.rpn]\nchannels = 16\ntrain = { per_level = 50, keep = 40 }\n\
               test = { per_level = 50, keep = 40 }\n[detector.head]\nsamples = 16\n\
               [detector.head.semantic]\n[detector.head.box]\nfc_channels = 16\n\
               [detector.head.mask]\nconvs = 1\nchannels = 16\n[train]\nsteps = 1\nbatch = 2\nlog_every = 1\n";
    let (recipe, out) = (scenes.at("htc.toml"), scenes.at("htc"));
    let train = |recipe: &Path, out: &Path| {
        format!("--quiet train {} --recipe {} --out {}", path.display(), recipe.display(), out.display())
    };
    std::fs::write(&recipe, htc).unwrap();
    done(&train(&recipe, &out));
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let losses: Vec<f64> = lines.filter_map(|line| line["losses"]["loss_semantic_seg"].as_f64()).collect();
    // 0.2 · ln 183 = 1.04 of logits that know nothing.
    assert!(matches!(losses[..], [loss] if loss > 0.2 && loss < 5.0), "{losses:?}");

    // Values of the maps are no categories of the store.
    std::fs::write(&recipe, "[head]\nkind = \"linear\"\n[train]\nsteps = 1\nbatch = 1\n").unwrap();
    let refused = run(&train(&recipe, &scenes.at("linear")));
    assert_eq!(refused.status.code(), Some(3));
    let message = text(&refused.stderr);
    assert!(message.contains("is labelled with objects; this head needs label maps"), "{message}");
}
