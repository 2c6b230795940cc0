//! Dense labels: from the bytes of a label map's PNG to the classes that a loss or a metric compares
//! with. Must not know features or tensors.

use featcache_store::{Category, Size};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// Class of pixels that count neither in the loss nor in a metric: not labelled, or padding. mmseg
/// writes it as 255 in maps of bytes; here it lies outside of every class number.
pub const IGNORE: i16 = -1;

/// Value that is ignored wherever it is not itself a category (mmsegmentation's `ignore_index`).
const IGNORED_VALUE: u16 = 255;

/// What value 0 of a label map means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroLabel {
    /// Not labelled: ADE20K's rule, mmsegmentation's `reduce_zero_label` (0 → ignored, v → v - 1).
    Ignore,
    /// A class of its own, before all others.
    Class,
}

/// Which value of a label map is which class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRule {
    /// Class by value; [`IGNORE`] or [`UNKNOWN`].
    class_of: Vec<i16>,
    names: Vec<String>,
}

/// Marks values that no category has.
const UNKNOWN: i16 = -2;

/// Classes of every pixel, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Height and width.
    pub size: Size,
    /// Class of each pixel or [`IGNORE`]; `size.height · size.width` of them.
    pub classes: Vec<i16>,
}

/// Where a target goes: the geometry of the row that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Size after the resize rule, before padding.
    pub valid: Size,
    /// Mirrored left-right after resizing.
    pub hflip: bool,
    /// Size after padding right and bottom.
    pub padded: Size,
}

impl LabelRule {
    /// The rule of a store's categories: class i is the i-th category, its id the value in the map.
    /// Value 0 without a category of its own is ignored or becomes a class in front, called
    /// `background`.
    pub fn new(categories: &[Category], zero: ZeroLabel) -> Result<Self, String> {
        let mut class_of = vec![UNKNOWN; 1 << 16];
        let mut names = Vec::new();
        class_of[usize::from(IGNORED_VALUE)] = IGNORE;
        class_of[0] = IGNORE;
        let zero_is_listed = categories.iter().any(|category| category.id == 0);
        if zero == ZeroLabel::Class && !zero_is_listed {
            class_of[0] = 0;
            names.push("background".to_owned());
        }
        for category in categories {
            let value = u16::try_from(category.id).map_err(|_| {
                format!("category {:?} has id {}, no value of a label map", category.name, category.id)
            })?;
            if value == 0 && zero == ZeroLabel::Ignore {
                return Err(format!("category {:?} has id 0, which is to be ignored", category.name));
            }
            let class = i16::try_from(names.len()).map_err(|_| "more than 32767 categories".to_owned())?;
            let entry = &mut class_of[usize::from(value)];
            if *entry >= 0 {
                return Err(format!("category id {value} occurs twice"));
            }
            *entry = class;
            names.push(category.name.clone());
        }
        if names.is_empty() {
            return Err("no categories: dense labels need at least one".to_owned());
        }
        Ok(Self { class_of, names })
    }

    /// The rule of maps whose values are the classes themselves, 0 to `classes`: COCO-stuff maps as
    /// mmdetection's HTC reads them. 255 is ignored.
    pub fn raw(classes: usize) -> Self {
        let mut class_of = vec![UNKNOWN; 1 << 16];
        let numbers = 0..i16::try_from(classes).unwrap_or(i16::MAX);
        for (entry, class) in class_of.iter_mut().zip(numbers.clone()) {
            *entry = class;
        }
        class_of[usize::from(IGNORED_VALUE)] = IGNORE;
        Self { class_of, names: numbers.map(|class| class.to_string()).collect() }
    }

    /// Names of the classes, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.names.len()
    }

    /// The classes of a label map as it is stored, in original coordinates: what metrics compare
    /// with. `source` is the picture's size; a map of another size is refused.
    pub fn target(&self, png: &[u8], source: Size) -> Result<Target, String> {
        let values = decode(png, source)?;
        let mut classes = Vec::with_capacity(values.len());
        for value in values {
            match self.class_of[usize::from(value)] {
                UNKNOWN => {
                    let last = self.class_of.iter().rposition(|&class| class >= 0).unwrap_or(0);
                    return Err(format!("value {value} is no category (expected at most {last}, or 255)"));
                }
                class => classes.push(class),
            }
        }
        Ok(Target { size: source, classes })
    }
}

impl Target {
    /// Resized to the row's valid size, mirrored if its view is, and padded with [`IGNORE`].
    ///
    /// Nearest as OpenCV's `INTER_NEAREST`, which mmsegmentation uses: pixel x takes source column
    /// `floor(x · (1 / (valid / source)))` in double precision, at most the last.
    pub fn place(&self, placement: Placement) -> Self {
        let Placement { valid, hflip, padded } = placement;
        let columns = nearest(self.size.width, valid.width);
        let lines = nearest(self.size.height, valid.height);
        let width = self.size.width as usize;
        let mut classes = vec![IGNORE; padded.height as usize * padded.width as usize];
        for (out, &line) in classes.chunks_exact_mut(padded.width as usize).zip(&lines) {
            let source = &self.classes[line * width..(line + 1) * width];
            for (x, class) in out.iter_mut().take(columns.len()).enumerate() {
                let x = if hflip { columns.len() - 1 - x } else { x };
                *class = source[columns[x]];
            }
        }
        Self { size: padded, classes }
    }
}

/// Source index of each of `to` output pixels.
pub(crate) fn nearest(from: u32, to: u32) -> Vec<usize> {
    let step = 1.0 / (f64::from(to) / f64::from(from));
    (0..to).map(|x| ((f64::from(x) * step).floor() as usize).min(from as usize - 1)).collect()
}

/// Values of a grey or palette PNG: palette indices and grey levels as they are stored, of 1 to 16
/// bits, never scaled to 8 bits and never looked up.
fn decode(png: &[u8], expected: Size) -> Result<Vec<u16>, String> {
    let mut decoder = png::Decoder::new(Cursor::new(png));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|e| format!("not a readable PNG: {e}"))?;
    let info = reader.info();
    let found = Size::new(info.height, info.width);
    // Compared before anything is allocated: a header may promise gigabytes.
    if found != expected {
        return Err(format!("is {found}, its picture is {expected}"));
    }
    if !matches!(info.color_type, png::ColorType::Grayscale | png::ColorType::Indexed) {
        return Err(format!("has colour type {:?}, expected grey or palette", info.color_type));
    }
    let depth = info.bit_depth as u32;
    let bytes = reader.output_buffer_size().ok_or("does not fit memory")?;
    let mut buffer = vec![0; bytes];
    let frame = reader.next_frame(&mut buffer).map_err(|e| format!("not a readable PNG: {e}"))?;
    let mut values = Vec::with_capacity(found.height as usize * found.width as usize);
    for line in buffer.chunks_exact(frame.line_size).take(found.height as usize) {
        match depth {
            16 => values.extend(line.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))),
            8 => values.extend(line.iter().map(|&value| u16::from(value))),
            _ => values.extend((0..found.width).map(|x| {
                let bit = x * depth;
                let shift = 8 - depth - bit % 8;
                u16::from(line[(bit / 8) as usize] >> shift & ((1 << depth) - 1) as u8)
            })),
        }
    }
    Ok(values)
}
