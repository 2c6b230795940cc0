//! Colours for classes: as far apart as they get for a given number of classes, the same on every
//! run. It must not know what a class is.

use super::Rgb;

/// One colour a class, by class index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Palette {
    colors: Vec<Rgb>,
}

impl Palette {
    /// A palette for `classes` classes in OKLCH. A dozen or two get evenly spaced hues, ordered so that
    /// neighbours in the list are far apart; more of them hues a golden angle apart. Lightness goes
    /// in three steps, so that similar hues differ in it.
    pub fn new(classes: usize) -> Self {
        const GOLDEN_ANGLE: f32 = 137.507_77;
        const EVEN: usize = 24;
        const LIGHTNESS: [f32; 3] = [0.74, 0.58, 0.86];
        let step = even_step(classes);
        let color = |class: usize| {
            let turn = match classes {
                0..=EVEN => 360.0 * ((class * step) % classes) as f32 / classes as f32,
                _ => class as f32 * GOLDEN_ANGLE,
            };
            from_oklch(LIGHTNESS[class % LIGHTNESS.len()], 0.17, (25.0 + turn).rem_euclid(360.0).to_radians())
        };
        Self { colors: (0..classes).map(color).collect() }
    }

    /// The colours of some of the classes, in the order given.
    pub fn of(&self, classes: impl IntoIterator<Item = usize>) -> Self {
        Self { colors: classes.into_iter().map(|class| self.color(class)).collect() }
    }

    /// The colour of a class; beyond the palette it starts over.
    pub fn color(&self, class: usize) -> Rgb {
        self.colors.get(class % self.colors.len().max(1)).copied().unwrap_or([128; 3])
    }
}

/// A step near the golden section of `classes` that visits every hue once.
fn even_step(classes: usize) -> usize {
    let coprime = |step: &usize| (2..=*step).all(|d| !step.is_multiple_of(d) || !classes.is_multiple_of(d));
    (1..=classes * 2 / 5).rev().find(coprime).unwrap_or(1)
}

/// OKLCH to sRGB (B. Ottosson, "A perceptual color space for image processing", 2020), with the
/// chroma lowered until the colour exists in sRGB. `hue` in radians.
pub(crate) fn from_oklch(lightness: f32, chroma: f32, hue: f32) -> Rgb {
    let mut chroma = chroma;
    loop {
        let linear = oklab_to_linear(lightness, chroma * hue.cos(), chroma * hue.sin());
        if chroma < 0.005 || linear.iter().all(|v| (0.0..=1.0).contains(v)) {
            return linear.map(|v| (encode_srgb(v.clamp(0.0, 1.0)) * 255.0).round() as u8);
        }
        chroma *= 0.95;
    }
}

fn oklab_to_linear(lightness: f32, a: f32, b: f32) -> [f32; 3] {
    let l = (lightness + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let m = (lightness - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let s = (lightness - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    [
        4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s,
        -1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s,
        -0.004_196_086_3 * l - 0.703_418_6 * m + 1.707_614_7 * s,
    ]
}

fn encode_srgb(linear: f32) -> f32 {
    if linear <= 0.003_130_8 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}
