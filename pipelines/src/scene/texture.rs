//! Surfaces: procedural textures as functions of the place in the picture. They know neither shapes
//! nor labels.

use super::random::Random;
use crate::picture::from_oklch;

type Color = [f32; 3];

/// A class of ground: its texture, not its colour, tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Blades of grass.
    Meadow,
    /// Ripples.
    Water,
    /// A wall of bricks.
    Bricks,
    /// Round stones.
    Pebbles,
}

impl Ground {
    /// All grounds, in the order of their label values, which start at 1.
    pub const ALL: [Self; 4] = [Self::Meadow, Self::Water, Self::Bricks, Self::Pebbles];

    /// Name of the class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meadow => "meadow",
            Self::Water => "water",
            Self::Bricks => "bricks",
            Self::Pebbles => "pebbles",
        }
    }

    /// A surface of this ground: colours that others may have as well, own scale and direction.
    pub(super) fn texture(self, random: &mut Random) -> Texture {
        // Typical hues (degrees, OKLCH), wide enough to overlap: green, blue, red, yellow.
        let typical: f32 = match self {
            Self::Meadow => 130.0,
            Self::Water => 235.0,
            Self::Bricks => 40.0,
            Self::Pebbles => 85.0,
        };
        let hue =
            if random.unit() < 0.35 { random.range(0.0, 360.0) } else { typical + random.range(-45.0, 45.0) };
        let chroma = random.range(0.015, 0.10);
        let lightness = random.range(0.48, 0.66);
        Texture::new(Pattern::Ground(self), [hue, hue + random.range(-30.0, 30.0)], chroma, lightness, random)
    }
}

/// What a surface looks like, apart from its colours.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pattern {
    Plain,
    Stripes,
    Dots,
    Checks,
    Clouds,
    Zigzag,
    Weave,
    Scales,
    Ground(Ground),
}

impl Pattern {
    const OF_OBJECTS: [Self; 8] = [
        Self::Plain,
        Self::Stripes,
        Self::Dots,
        Self::Checks,
        Self::Clouds,
        Self::Zigzag,
        Self::Weave,
        Self::Scales,
    ];

    /// Any of them, those of the grounds included.
    pub(super) fn any(random: &mut Random) -> Self {
        let index = random.below(Self::OF_OBJECTS.len() + Ground::ALL.len());
        match Self::OF_OBJECTS.get(index) {
            Some(pattern) => *pattern,
            None => Self::Ground(Ground::ALL[index - Self::OF_OBJECTS.len()]),
        }
    }
}

/// One surface.
#[derive(Debug, Clone)]
pub(super) struct Texture {
    pattern: Pattern,
    dark: Color,
    light: Color,
    scale: f32,
    turn: (f32, f32),
    shift: (f32, f32),
    seed: u64,
}

impl Texture {
    /// The surface of an object: this pattern in any colour.
    pub(super) fn of_object(pattern: Pattern, random: &mut Random) -> Self {
        let hue = random.range(0.0, 360.0);
        let (chroma, lightness) = (random.range(0.02, 0.19), random.range(0.35, 0.8));
        Self::new(pattern, [hue, hue + random.range(-120.0, 120.0)], chroma, lightness, random)
    }

    fn new(pattern: Pattern, hues: [f32; 2], chroma: f32, lightness: f32, random: &mut Random) -> Self {
        let contrast = random.range(0.1, 0.2);
        let color = |lightness: f32, hue: f32| {
            from_oklch(lightness.clamp(0.05, 0.98), chroma, hue.to_radians()).map(|v| f32::from(v) / 255.0)
        };
        let angle = match pattern {
            // Walls and fields stand upright, more or less.
            Pattern::Ground(_) => random.range(-0.25, 0.25),
            _ => random.range(0.0, std::f32::consts::TAU),
        };
        Self {
            pattern,
            dark: color(lightness - contrast, hues[0]),
            light: color(lightness + contrast, hues[1]),
            scale: random.range(0.8, 1.3),
            turn: (angle.cos(), angle.sin()),
            shift: (random.range(0.0, 500.0), random.range(0.0, 500.0)),
            seed: random.bits(),
        }
    }

    /// Colour (0..1, may pass 1 a little) at a place in pixels.
    pub(super) fn color(&self, x: f32, y: f32) -> Color {
        let u = (x * self.turn.0 + y * self.turn.1 + self.shift.0) / self.scale;
        let v = (y * self.turn.0 - x * self.turn.1 + self.shift.1) / self.scale;
        let tone = match self.pattern {
            Pattern::Plain => 0.4 + 0.2 * self.clouds(u / 30.0, v / 30.0),
            Pattern::Stripes => edge((u * 0.6).sin() * 2.5),
            Pattern::Dots => {
                let (dx, dy) = ((u / 9.0).rem_euclid(1.0) - 0.5, (v / 9.0).rem_euclid(1.0) - 0.5);
                edge((0.3 - (dx * dx + dy * dy).sqrt()) * 14.0)
            }
            Pattern::Checks => edge((u * 0.42).sin() * (v * 0.42).sin() * 5.0),
            Pattern::Clouds => self.clouds(u / 14.0, v / 14.0) * 1.6 - 0.3,
            Pattern::Zigzag => {
                let fold = ((u / 13.0).rem_euclid(1.0) - 0.5).abs() * 13.0;
                edge(((v + fold) * 0.7).sin() * 2.5)
            }
            Pattern::Weave => {
                let across = ((u / 11.0).floor() + (v / 11.0).floor()).rem_euclid(2.0) < 1.0;
                edge((if across { u } else { v } * std::f32::consts::TAU * 3.0 / 22.0).sin() * 2.0)
            }
            Pattern::Scales => {
                let shift = if (v / 7.0).floor().rem_euclid(2.0) < 1.0 { 0.0 } else { 0.5 };
                let (du, dv) =
                    (((u / 12.0 + shift).rem_euclid(1.0) - 0.5) * 12.0, (v / 7.0).rem_euclid(1.0) * 7.0);
                let distance = du.hypot(dv);
                0.25 + 0.1 * distance - 0.8 * edge((distance - 6.0) * 0.8) + 0.2
            }
            Pattern::Ground(Ground::Meadow) => self.meadow(u, v),
            Pattern::Ground(Ground::Water) => self.water(u, v),
            Pattern::Ground(Ground::Bricks) => self.bricks(u, v),
            Pattern::Ground(Ground::Pebbles) => self.pebbles(u, v),
        };
        std::array::from_fn(|i| self.dark[i] + (self.light[i] - self.dark[i]) * tone)
    }

    /// Upright streaks of uneven length, bunched in tufts.
    fn meadow(&self, u: f32, v: f32) -> f32 {
        let lean = 3.0 * self.noise(u / 25.0, v / 25.0);
        let blades = self.noise((u + lean) / 1.7, v / 9.0);
        let tufts = self.clouds(u / 28.0, v / 20.0);
        (blades * 0.75 + tufts * 0.55 - 0.15).clamp(-0.1, 1.2)
    }

    /// Wavy level ripples with bright crests.
    fn water(&self, u: f32, v: f32) -> f32 {
        let swell = self.clouds(u / 26.0, v / 13.0);
        let crest = ((v + 9.0 * swell) * 0.62).sin() * 0.5 + 0.5;
        0.15 + 0.35 * swell + 0.65 * crest * crest * crest
    }

    /// Rows of bricks, each of its own shade, with mortar between.
    fn bricks(&self, u: f32, v: f32) -> f32 {
        const LENGTH: f32 = 21.0;
        const HEIGHT: f32 = 9.0;
        let row = (v / HEIGHT).floor();
        let along = u / LENGTH + if row.rem_euclid(2.0) < 1.0 { 0.0 } else { 0.5 };
        let joint_u = (along.rem_euclid(1.0) - 0.5).abs() * LENGTH - (LENGTH / 2.0 - 1.1);
        let joint_v = ((v / HEIGHT).rem_euclid(1.0) - 0.5).abs() * HEIGHT - (HEIGHT / 2.0 - 1.1);
        let mortar = edge(joint_u.max(joint_v) * 2.5);
        let shade =
            0.1 + 0.55 * self.hash(along.floor() as i64, row as i64) + 0.2 * self.noise(u / 2.0, v / 2.0);
        shade + (1.05 - shade) * mortar
    }

    /// Stones as cells of scattered points (S. Worley, "A cellular texture basis function", 1996):
    /// shade by stone, dark where two are equally near.
    fn pebbles(&self, u: f32, v: f32) -> f32 {
        const SIZE: f32 = 11.0;
        let (column, row) = ((u / SIZE).floor() as i64, (v / SIZE).floor() as i64);
        let (mut nearest, mut second, mut stone) = (f32::MAX, f32::MAX, 0.0);
        for y in row - 1..=row + 1 {
            for x in column - 1..=column + 1 {
                let px = (x as f32 + 0.15 + 0.7 * self.hash(2 * x, y)) * SIZE;
                let py = (y as f32 + 0.15 + 0.7 * self.hash(2 * x + 1, y)) * SIZE;
                let distance = (px - u).hypot(py - v);
                if distance < nearest {
                    (second, nearest, stone) = (nearest, distance, self.hash(x, y ^ 0x5555));
                } else if distance < second {
                    second = distance;
                }
            }
        }
        let inside = ((second - nearest) / 3.5).clamp(0.0, 1.0);
        (0.25 + 0.75 * stone) * inside - 0.15 + 0.25 * (1.0 - nearest / SIZE)
    }

    /// Three octaves of [`Self::noise`], 0..1.
    fn clouds(&self, u: f32, v: f32) -> f32 {
        (self.noise(u, v) * 4.0 + self.noise(u * 2.1, v * 2.1) * 2.0 + self.noise(u * 4.3, v * 4.3)) / 7.0
    }

    /// Smoothly interpolated random values at whole coordinates, 0..1.
    fn noise(&self, u: f32, v: f32) -> f32 {
        let (column, row) = (u.floor(), v.floor());
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (s, t) = (smooth(u - column), smooth(v - row));
        let at = |x: i64, y: i64| self.hash(column as i64 + x, row as i64 + y);
        let top = at(0, 0) + (at(1, 0) - at(0, 0)) * s;
        let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * s;
        top + (bottom - top) * t
    }

    /// A random value that belongs to a whole place, 0..1.
    fn hash(&self, x: i64, y: i64) -> f32 {
        let place =
            (x as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (y as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        Random::new(self.seed ^ place).unit()
    }
}

/// A soft step from 0 to 1 around 0.
fn edge(value: f32) -> f32 {
    (value + 0.5).clamp(0.0, 1.0)
}
