//! What quantised encodings lose on the features of a store, by granularity, offset and clipping, beside what
//! each costs: `cargo run --release -p featcache-store --example encoding_error STORE [ROWS]`. The store should
//! hold f32 or bf16. Errors are ‖decoded − stored‖₂ / ‖stored‖₂, the mean over rows. The lines that name an
//! encoding are the store's own code; the others were tried for decision 0009.

use featcache_store::{
    Batch, Block, DType, Encoding, NumberFormat, OpenOptions, Projected, ReadOptions, Status, Store,
};
use std::collections::BTreeMap;

/// What the store itself can hold.
const FORMATS: [NumberFormat; 4] =
    [NumberFormat::Bf16, NumberFormat::Int8, NumberFormat::E4m3fn, NumberFormat::Int4];

/// Values that share a scale.
#[derive(Clone, Copy)]
enum Group {
    Row,
    Channel,
    /// Squares of cells of this side, channel by channel.
    Tile(usize),
}

#[derive(Clone, Copy)]
struct Trial {
    name: &'static str,
    steps: f64,
    bits: f64,
    group: Group,
    offset: bool,
    clip: bool,
}

const fn trial(name: &'static str, bits: u32, group: Group, offset: bool, clip: bool) -> Trial {
    Trial { name, steps: ((1u32 << bits) - 1) as f64, bits: bits as f64, group, offset, clip }
}

const TRIALS: [Trial; 12] = [
    trial("8 bits, scale a row", 8, Group::Row, false, false),
    trial("8 bits, scale a channel", 8, Group::Channel, false, false),
    trial("8 bits, scale a channel, clipped", 8, Group::Channel, false, true),
    trial("8 bits, scale and offset a channel, clipped", 8, Group::Channel, true, true),
    trial("8 bits, scale a channel and 16×16 cells", 8, Group::Tile(16), false, false),
    trial("8 bits, scale and offset a channel and 16×16 cells", 8, Group::Tile(16), true, false),
    trial("4 bits, scale a row", 4, Group::Row, false, false),
    trial("4 bits, scale a channel", 4, Group::Channel, false, false),
    trial("4 bits, scale a channel, clipped", 4, Group::Channel, false, true),
    trial("4 bits, scale and offset a channel", 4, Group::Channel, true, false),
    trial("4 bits, scale and offset a channel and 16×16 cells, clipped", 4, Group::Tile(16), true, true),
    trial("4 bits, scale and offset a channel and 8×8 cells, clipped", 4, Group::Tile(8), true, true),
];

#[expect(clippy::print_stdout, reason = "an example shows what it measured")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: encoding_error STORE [ROWS]")?;
    let most: usize = arguments.next().map_or(Ok(8), |rows| rows.parse())?;
    let store = Store::open(folder.as_ref(), OpenOptions { incomplete: true })?;
    let reader = store.reader(ReadOptions { dtype: Some(DType::F32), ..ReadOptions::default() })?;
    let rows: Vec<_> = store.rows().iter().filter(|row| row.status == Status::Ok).take(most).collect();
    // By line of the table: for each level the sums of error and bits, and the rows.
    let mut table: BTreeMap<(usize, String), Vec<[f64; 3]>> = BTreeMap::new();
    let mut batch = Batch::new();
    let levels = &store.recipe().levels;
    for row in &rows {
        for (number, level) in levels.iter().enumerate() {
            reader.read(&[row.id], &[store.level(&level.name)?], None, &mut batch)?;
            let read = batch.level(0);
            let [_, h, w, c] = read.shape;
            let block = Block { shape: [h, w, c], dtype: DType::F32, bytes: read.bytes.to_vec() };
            let values = floats(&block.bytes);
            let mut add = |line: usize, name: String, error: f64, bits: f64| {
                let cells = table.entry((line, name)).or_insert_with(|| vec![[0.0; 3]; levels.len()]);
                cells[number] = [cells[number][0] + error, cells[number][1] + bits, cells[number][2] + 1.0];
            };
            for (line, format) in FORMATS.into_iter().enumerate() {
                let encoding = Encoding::of(format);
                let decoded = floats(&encoding.round_trip(&block, None, Projected::Channels, DType::F32)?);
                let bits = encoding.sample_bytes(block.shape) as f64 * 8.0 / values.len() as f64;
                let lost = values.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                add(line, format!("`{encoding}`"), relative(lost, &values), bits);
            }
            for (line, trial) in TRIALS.iter().enumerate() {
                let (lost, bits) = simulate(trial, &values, block.shape);
                add(10 + line, trial.name.to_owned(), relative(lost, &values), bits);
            }
        }
    }
    println!("error in %, bits an element; {} rows of {}\n", rows.len(), store.recipe().backbone.name);
    let names: Vec<_> =
        levels.iter().map(|level| format!("{} ({} ch)", level.name, level.channels)).collect();
    println!("| encoding | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(levels.len()));
    for ((_, name), cells) in &table {
        let cells = cells.iter().map(|[error, bits, n]| format!("{:.2}, {:.2}", 100.0 * error / n, bits / n));
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn relative(lost: f64, values: &[f32]) -> f64 {
    (lost / values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE)).sqrt()
}

/// The sum of the squares of what is lost, and bits an element, f32 scales and offsets included.
fn simulate(trial: &Trial, values: &[f32], [h, w, c]: [usize; 3]) -> (f64, f64) {
    let across = |side: usize, tile: usize| side.div_ceil(tile);
    let (tile, groups) = match trial.group {
        Group::Row => (0, 1),
        Group::Channel => (h.max(w), c),
        Group::Tile(tile) => (tile, across(h, tile) * across(w, tile) * c),
    };
    let group = |i: usize| match tile {
        0 => 0,
        tile => ((i / c / w / tile) * across(w, tile) + i / c % w / tile) * c + i % c,
    };
    let mut range = vec![[f64::INFINITY, f64::NEG_INFINITY]; groups];
    for (i, value) in values.iter().enumerate() {
        let [least, greatest] = &mut range[group(i)];
        (*least, *greatest) = (least.min(f64::from(*value)), greatest.max(f64::from(*value)));
    }
    let shares: &[f64] = if trial.clip { &[1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6] } else { &[1.0] };
    let mut least_loss = vec![f64::INFINITY; groups];
    for share in shares {
        let mut loss = vec![0.0; groups];
        for (i, value) in values.iter().enumerate() {
            let (value, [least, greatest]) = (f64::from(*value), range[group(i)]);
            // Without an offset, codes lie about zero, one of an odd number of them on it.
            let found = if trial.offset {
                let (middle, scale) = ((least + greatest) / 2.0, (greatest - least) * share / trial.steps);
                let first = middle - scale * trial.steps / 2.0;
                first
                    + ((value - first) / scale.max(f64::MIN_POSITIVE)).round().clamp(0.0, trial.steps) * scale
            } else {
                let most = (trial.steps / 2.0).floor();
                let scale = least.abs().max(greatest.abs()) * share / most;
                (value / scale.max(f64::MIN_POSITIVE)).round().clamp(-most, most) * scale
            };
            loss[group(i)] += (value - found).powi(2);
        }
        least_loss.iter_mut().zip(loss).for_each(|(least, loss)| *least = least.min(loss));
    }
    let numbers = if trial.offset { 2.0 } else { 1.0 };
    (least_loss.iter().sum(), trial.bits + numbers * 32.0 * groups as f64 / values.len() as f64)
}
