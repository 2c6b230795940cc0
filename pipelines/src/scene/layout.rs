//! Scenes as files, in the official layouts of COCO 2017 and ADE20K SceneParsing. Scenes are drawn
//! elsewhere; here only names, numbers and formats are decided.
//!
//! ```text
//! DIR/coco/{train,val}/000000000001.jpg
//! DIR/coco/annotations/instances_{train,val}.json
//! DIR/ade20k/images/{training,validation}/ADE_{train,val}_00000001.jpg
//! DIR/ade20k/annotations/{training,validation}/ADE_{train,val}_00000001.png
//! DIR/ade20k/objectInfo150.txt
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use featcache_store::Size;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Ground, Random, Scene, SceneObject, Shape, class_names, draw};

/// Quality of the JPEG files, of 100.
const JPEG_QUALITY: i32 = 92;
/// One picture in this many holds a crowd.
const CROWD_EVERY: usize = 14;

/// What to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SceneOptions {
    /// Determines every byte of the data set.
    pub seed: u64,
    /// Training pictures.
    pub train: usize,
    /// Validation pictures.
    pub val: usize,
    /// Sizes that pictures take in turn.
    pub sizes: Vec<Size>,
}

impl Default for SceneOptions {
    fn default() -> Self {
        let sizes = vec![Size::new(192, 256), Size::new(256, 192), Size::new(224, 224)];
        Self { seed: 2022, train: 200, val: 50, sizes }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSummary {
    /// Root of the COCO layout.
    pub coco: PathBuf,
    /// Root of the ADE20K layout.
    pub ade20k: PathBuf,
    /// Pictures of both splits.
    pub pictures: usize,
    /// COCO annotations of both splits.
    pub objects: usize,
}

/// One split under the names that the two data sets use.
struct Split {
    coco: &'static str,
    ade: &'static str,
    ade_prefix: &'static str,
    pictures: usize,
    /// Number of its first picture, for seeds and COCO's image ids.
    first: usize,
}

/// What remains of a scene once its files are written.
struct Written {
    annotations: Vec<SceneObject>,
    image: Value,
    /// Pixels of each label value.
    pixels: Vec<u64>,
}

/// Draws the data set into `dir` in both layouts. Equal options write equal bytes, on any number of
/// threads; existing files are replaced.
///
/// # Errors
/// If no size is given, a side is 0, or a file cannot be written.
pub fn write_dataset(dir: &Path, options: &SceneOptions) -> Result<DatasetSummary> {
    let usable = |size: &Size| size.width > 0 && size.height > 0;
    anyhow::ensure!(
        !options.sizes.is_empty() && options.sizes.iter().all(usable),
        "scenes need at least one size, without a side of 0, found {:?}",
        options.sizes
    );
    let (coco, ade20k) = (dir.join("coco"), dir.join("ade20k"));
    let train =
        Split { coco: "train", ade: "training", ade_prefix: "ADE_train", pictures: options.train, first: 0 };
    let val = Split {
        coco: "val",
        ade: "validation",
        ade_prefix: "ADE_val",
        pictures: options.val,
        first: options.train,
    };
    let mut objects = 0;
    let mut pixels = Vec::new();
    let mut presence = Vec::new();
    for split in [&train, &val] {
        create_dir(&coco.join(split.coco))?;
        create_dir(&ade20k.join("images").join(split.ade))?;
        create_dir(&ade20k.join("annotations").join(split.ade))?;
        let scenes: Vec<Written> = (0..split.pictures)
            .into_par_iter()
            .map(|index| write_scene(&coco, &ade20k, split, index, options))
            .collect::<Result<_>>()?;
        objects += scenes.iter().map(|scene| scene.annotations.len()).sum::<usize>();
        let classes = 1 + class_names().len();
        let count = |class: usize| scenes.iter().map(|scene| scene.pixels[class]).sum::<u64>();
        pixels.push((0..classes).map(count).collect::<Vec<_>>());
        let present = |class: usize| scenes.iter().filter(|scene| scene.pixels[class] > 0).count();
        presence.push((0..classes).map(present).collect::<Vec<_>>());
        write_instances(&coco, split, &scenes, options.seed)?;
    }
    write(&ade20k.join("objectInfo150.txt"), object_info(&pixels, &presence).as_bytes())?;
    Ok(DatasetSummary { coco, ade20k, pictures: options.train + options.val, objects })
}

fn write_scene(
    coco: &Path,
    ade20k: &Path,
    split: &Split,
    index: usize,
    options: &SceneOptions,
) -> Result<Written> {
    let number = split.first + index;
    let size = options.sizes[number % options.sizes.len()];
    let (width, height) = (size.width as usize, size.height as usize);
    let crowd = index % CROWD_EVERY == CROWD_EVERY / 2;
    let Scene { picture, labels } = draw(Random::derive(options.seed, number as u64), width, height, crowd);

    let jpeg = picture.jpeg(JPEG_QUALITY).with_context(|| format!("failed to encode scene {number}"))?;
    let file_name = format!("{:012}.jpg", number + 1);
    let ade_name = format!("{}_{:08}", split.ade_prefix, index + 1);
    write(&coco.join(split.coco).join(&file_name), &jpeg)?;
    write(&ade20k.join("images").join(split.ade).join(format!("{ade_name}.jpg")), &jpeg)?;
    let values = labels.values();
    let png =
        grey_png(size, &values).with_context(|| format!("failed to encode the labels of scene {number}"))?;
    write(&ade20k.join("annotations").join(split.ade).join(format!("{ade_name}.png")), &png)?;

    let mut pixels = vec![0; 1 + class_names().len()];
    values.iter().for_each(|value| pixels[usize::from(*value)] += 1);
    let image = json!({
        "id": number + 1, "file_name": file_name, "width": width, "height": height, "license": 1,
    });
    Ok(Written { annotations: labels.objects(), image, pixels })
}

fn write_instances(coco: &Path, split: &Split, scenes: &[Written], seed: u64) -> Result<()> {
    let mut annotations = Vec::new();
    for scene in scenes {
        for object in &scene.annotations {
            let segmentation = if object.crowd {
                json!({ "counts": object.counts, "size": [scene.image["height"], scene.image["width"]] })
            } else {
                json!(object.polygons.iter().map(|polygon| polygon.concat()).collect::<Vec<_>>())
            };
            annotations.push(json!({
                "id": split.first * 100 + annotations.len() + 1,
                "image_id": scene.image["id"],
                "category_id": category_id(object.shape),
                "bbox": object.bbox,
                "area": object.area,
                "iscrowd": u8::from(object.crowd),
                "segmentation": segmentation,
            }));
        }
    }
    let categories: Vec<Value> = Shape::ALL
        .iter()
        .map(|shape| json!({ "id": category_id(*shape), "name": shape.name(), "supercategory": "shape" }))
        .collect();
    let instances = json!({
        "info": { "description": "featcache demo: drawn scenes", "version": "1", "seed": seed },
        "licenses": [{ "id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/" }],
        "images": scenes.iter().map(|scene| &scene.image).collect::<Vec<_>>(),
        "annotations": annotations,
        "categories": categories,
    });
    create_dir(&coco.join("annotations"))?;
    let path = coco.join("annotations").join(format!("instances_{}.json", split.coco));
    write(&path, &serde_json::to_vec(&instances)?)
}

/// COCO's category ids have gaps; so do these: 1, 2, 3, 5, 6, 7, 9, 10.
fn category_id(shape: Shape) -> usize {
    let index = shape as usize;
    1 + index + index / 3
}

/// ADE20K's table of classes: index, share of all pixels, pictures with it in both splits, name.
fn object_info(pixels: &[Vec<u64>], presence: &[Vec<usize>]) -> String {
    let all: u64 = pixels.iter().flatten().sum();
    let mut table = String::from("Idx\tRatio\tTrain\tVal\tName\n");
    for (index, name) in class_names().into_iter().enumerate() {
        let value = index + 1;
        let own: u64 = pixels.iter().map(|split| split[value]).sum();
        let ratio = own as f64 / all.max(1) as f64;
        let (train, val) = (presence[0][value], presence[1][value]);
        table.push_str(&format!("{value}\t{ratio:.4}\t{train}\t{val}\t{name}\n"));
    }
    debug_assert_eq!(class_names().len(), Ground::ALL.len() + Shape::ALL.len());
    table
}

fn grey_png(size: Size, values: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.width, size.height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(values)?;
    writer.finish()?;
    Ok(bytes)
}

fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("failed to create {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
}
