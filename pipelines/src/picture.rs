//! Pictures for people: a canvas with text, PCA pictures of feature levels, overlays of labels and
//! objects, plots, contact sheets. Everything here is plain bytes in, plain bytes out: it knows no store, no model
//! and no tensor, and never draws on anything but its own memory.

mod canvas;
mod font;
pub mod instances;
pub mod overlay;
mod palette;
mod pca;
mod plot;
mod sheet;

pub use canvas::{Canvas, Rgb};
pub use font::{TextSize, text_width};
pub use palette::Palette;
pub(crate) use palette::from_oklch;
pub use pca::{LevelMap, PcaBasis};
pub use plot::{Axis, Line, Plot};
pub use sheet::{Sheet, SheetRow};
