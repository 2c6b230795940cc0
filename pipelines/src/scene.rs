//! The demo's own data set: textured scenes of shapes, drawn from a seed, in COCO's and ADE20K's
//! official layouts. What a scene holds is decided here; how a surface, a shape or a label looks is
//! below. It must not read a clock, a host or a thread count: equal seeds give equal files.
//!
//! No class can be told by its colour. Grounds are classes of texture in overlapping colours; shapes
//! are classes of outline in any colour, each with a surface that most of its class wear and that
//! some borrow from another class or from a ground; light, shadow and noise vary; shapes hide each
//! other; blobs of no class lie between them.

mod label;
mod layout;
mod random;
mod shape;
mod texture;

pub use label::{Outline, SceneLabels, SceneObject, run_lengths};
pub use layout::{DatasetSummary, SceneOptions, write_dataset};
pub use shape::Shape;
pub use texture::Ground;

use crate::picture::Canvas;
use random::Random;
use shape::{Coverage, Polygon};
use texture::{Pattern, Texture};

/// Classes of the label maps, in the order of their values, which start at 1: grounds, then shapes.
pub fn class_names() -> Vec<&'static str> {
    Ground::ALL
        .iter()
        .map(|ground| ground.name())
        .chain(Shape::ALL.iter().map(|shape| shape.name()))
        .collect()
}

/// Tries to find a place for a shape before it is left out.
const PLACEMENTS: usize = 24;
/// A shape must keep this share of its outline inside the picture and in front of later shapes.
const MIN_VISIBLE: f64 = 0.45;
/// Objects with fewer visible pixels are too small to tell, so none is left like that.
const MIN_PIXELS: usize = 40;

/// Share of shapes with a surface that is not the usual one of their class.
const BORROWED: f32 = 0.12;

/// A drawn picture and what is in it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The picture.
    pub picture: Canvas,
    /// What is where.
    pub labels: SceneLabels,
}

/// Draws one scene. The same seed and size give the same scene.
pub fn draw(seed: u64, width: usize, height: usize, crowd: bool) -> Scene {
    let mut random = Random::new(seed);
    let mut painter =
        Painter { canvas: vec![[0.0; 3]; width * height], labels: SceneLabels::new(width, height) };
    painter.grounds(&mut random);
    for _ in 0..random.below(3) {
        painter.clutter(&mut random);
    }
    if crowd {
        painter.crowd(&mut random);
    }
    for _ in 0..3 + random.below(5) {
        painter.shape(&mut random);
    }
    let picture = develop(&painter.canvas, width, height, &mut random);
    Scene { picture, labels: painter.labels }
}

/// Colours in 0..1 and labels, drawn together so that they cannot disagree.
struct Painter {
    canvas: Vec<[f32; 3]>,
    labels: SceneLabels,
}

impl Painter {
    /// Two grounds that meet in a wavy line.
    fn grounds(&mut self, random: &mut Random) {
        let (width, height) = (self.labels.width(), self.labels.height());
        let first = random.below(Ground::ALL.len());
        let second = (first + 1 + random.below(Ground::ALL.len() - 1)) % Ground::ALL.len();
        let grounds = [Ground::ALL[first], Ground::ALL[second]];
        let textures = grounds.map(|ground| ground.texture(random));
        let angle = random.range(0.0, std::f32::consts::TAU);
        let offset = random.range(-0.25, 0.25) * width.min(height) as f32;
        let (wave, length, phase) =
            (random.range(2.0, 9.0), random.range(18.0, 50.0), random.range(0.0, 6.0));
        for y in 0..height {
            for x in 0..width {
                let (dx, dy) = (x as f32 - width as f32 / 2.0, y as f32 - height as f32 / 2.0);
                let along = dx * angle.cos() + dy * angle.sin();
                let across = dy * angle.cos() - dx * angle.sin();
                let side = usize::from(across + wave * (along / length + phase).sin() > offset);
                self.canvas[y * width + x] = textures[side].color(x as f32, y as f32);
                self.labels.set_ground(x, y, grounds[side]);
            }
        }
    }

    /// One shape of a random class, where it fits.
    fn shape(&mut self, random: &mut Random) {
        let shape = Shape::ALL[random.below(Shape::ALL.len())];
        let side = self.labels.width().min(self.labels.height()) as f32;
        let texture = surface(shape, random);
        for _ in 0..PLACEMENTS {
            let radius = side * random.range(0.3f32.ln(), 0.1f32.ln()).exp();
            let (x, y) = self.anywhere(random);
            let coverage =
                shape.polygon(x, y, radius, random).coverage(self.labels.width(), self.labels.height());
            if self.labels.accepts(&coverage, MIN_VISIBLE, MIN_PIXELS) {
                self.labels.add_object(shape, &coverage);
                return self.paint(&coverage, &texture, random);
            }
        }
    }

    /// Many small shapes of one class, labelled as one crowd region.
    fn crowd(&mut self, random: &mut Random) {
        let shape = Shape::ALL[random.below(Shape::ALL.len())];
        let (center_x, center_y) = self.anywhere(random);
        let spread = self.labels.width().min(self.labels.height()) as f32 * 0.2;
        let mut members = Vec::new();
        for _ in 0..10 + random.below(8) {
            let (x, y) = (center_x + random.normal() * spread, center_y + random.normal() * spread * 0.6);
            let radius = random.range(7.0, 11.0);
            let polygon = shape.polygon(x, y, radius, random);
            let coverage = polygon.coverage(self.labels.width(), self.labels.height());
            let texture = surface(shape, random);
            self.paint(&coverage, &texture, random);
            members.push(coverage);
        }
        self.labels.add_crowd(shape, &members);
    }

    /// A blob of no class, not labelled.
    fn clutter(&mut self, random: &mut Random) {
        let (x, y) = self.anywhere(random);
        let polygon = Polygon::blob(x, y, random.range(6.0, 15.0), random);
        let coverage = polygon.coverage(self.labels.width(), self.labels.height());
        let texture = Texture::of_object(Pattern::any(random), random);
        self.labels.hide(&coverage);
        self.paint(&coverage, &texture, random);
    }

    fn anywhere(&self, random: &mut Random) -> (f32, f32) {
        (random.range(0.0, self.labels.width() as f32), random.range(0.0, self.labels.height() as f32))
    }

    /// Draws a shadow, then the surface with a lit and a dark rim.
    fn paint(&mut self, coverage: &Coverage, texture: &Texture, random: &mut Random) {
        let width = self.labels.width();
        let soft = coverage.blurred(2);
        let shadow = random.range(0.15, 0.5);
        for (x, y, alpha) in soft.shifted(3, 3).pixels() {
            let pixel = &mut self.canvas[y * width + x];
            *pixel = pixel.map(|v| v * (1.0 - shadow * alpha));
        }
        let rim = random.range(0.1, 0.45);
        for (x, y, alpha) in coverage.pixels() {
            let light =
                1.0 + rim * (soft.at(x as i64 + 2, y as i64 + 2) - soft.at(x as i64 - 2, y as i64 - 2));
            let surface = texture.color(x as f32, y as f32).map(|v| v * light);
            let pixel = &mut self.canvas[y * width + x];
            for (old, new) in pixel.iter_mut().zip(surface) {
                *old += (new - *old) * alpha;
            }
        }
    }
}

/// The usual surface of a shape, or a borrowed one.
fn surface(shape: Shape, random: &mut Random) -> Texture {
    let pattern = if random.unit() < BORROWED { Pattern::any(random) } else { shape.usual_pattern() };
    Texture::of_object(pattern, random)
}

/// From painted colours to a photograph: uneven light, exposure, a cast, grain.
fn develop(canvas: &[[f32; 3]], width: usize, height: usize, random: &mut Random) -> Canvas {
    let angle = random.range(0.0, std::f32::consts::TAU);
    let slope = random.range(0.05, 0.35);
    let exposure = random.range(0.8, 1.15);
    let cast: [f32; 3] = std::array::from_fn(|_| random.range(0.92, 1.08));
    let grain = random.range(0.005, 0.035);
    let mut rgb = Vec::with_capacity(canvas.len() * 3);
    for (at, pixel) in canvas.iter().enumerate() {
        let dx = (at % width) as f32 / width as f32 - 0.5;
        let dy = (at / width) as f32 / height as f32 - 0.5;
        let light = exposure * (1.0 + slope * (dx * angle.cos() + dy * angle.sin()));
        for (value, cast) in pixel.iter().zip(cast) {
            rgb.push(((value * light * cast + grain * random.normal()).clamp(0.0, 1.0) * 255.0).round() as u8);
        }
    }
    Canvas::from_rgb(width, height, rgb).expect("one colour a pixel was pushed")
}
