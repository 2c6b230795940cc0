//! What lossless schemes for bf16 save on the features of a store, and how fast they come back on one thread:
//! `cargo run --release -p featcache-store --example lossless_rates STORE [ROWS]`. Rates are of the bf16 that
//! comes out, in chunks of at most 4 MiB as in a store, beside memcpy of the same bytes in the same run; medians.

use featcache_store::{Batch, DType, OpenOptions, ReadOptions, Status, Store};
use std::hint::black_box;
use std::time::Instant;
use zstd::bulk::{Compressor, Decompressor};

const CHUNK: usize = 4 << 20;
const ROUNDS: usize = 7;
/// Larger than any cache.
const OUT: usize = 192 << 20;

/// A scheme's frames of one chunk, and what is not compressed.
struct Held {
    frames: Vec<Vec<u8>>,
    raw: Vec<u8>,
}

/// How the bytes of a chunk are split before zstd takes them.
#[derive(Clone, Copy)]
enum Split {
    /// Not at all.
    None,
    /// Low bytes, high bytes; both compressed.
    Bytes,
    /// Exponents, compressed; sign and mantissa as they are.
    Exponent,
    /// Exponents as four bits above the channel's least in the chunk, and rare others by position; nothing is
    /// compressed.
    Nibbles { channels: usize },
}

const SCHEMES: [(&str, Split, i32); 7] = [
    ("zstd 1", Split::None, 1),
    ("zstd 3", Split::None, 3),
    ("byte planes, zstd 1 (`bf16+zstd`)", Split::Bytes, 1),
    ("byte planes, zstd 3", Split::Bytes, 3),
    ("exponents zstd 1, the rest raw", Split::Exponent, 1),
    ("exponents zstd 3, the rest raw", Split::Exponent, 3),
    ("exponents in 4 bits, the rest raw", Split::Nibbles { channels: 0 }, 0),
];

fn exponent(bits: u16) -> u8 {
    (bits >> 7) as u8
}

fn rest(bits: u16) -> u8 {
    (bits >> 8) as u8 & 0x80 | bits as u8 & 0x7f
}

fn joined(exponent: u8, rest: u8) -> [u8; 2] {
    (u16::from(rest & 0x80) << 8 | u16::from(exponent) << 7 | u16::from(rest & 0x7f)).to_le_bytes()
}

fn hold(chunk: &[u8], split: Split, compressor: &mut Compressor<'_>) -> Held {
    let words = || chunk.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    let mut pack = |bytes: &[u8]| compressor.compress(bytes).expect("the memory is there");
    match split {
        Split::None => Held { frames: vec![pack(chunk)], raw: vec![] },
        Split::Bytes => {
            let planes: [Vec<u8>; 2] =
                [words().map(|w| w as u8).collect(), words().map(|w| (w >> 8) as u8).collect()];
            Held { frames: planes.iter().map(|plane| pack(plane)).collect(), raw: vec![] }
        }
        Split::Exponent => {
            let exponents: Vec<u8> = words().map(exponent).collect();
            Held { frames: vec![pack(&exponents)], raw: words().map(rest).collect() }
        }
        Split::Nibbles { channels } => nibbles(&words().collect::<Vec<_>>(), channels),
    }
}

/// Frames: the channels' greatest exponents, codes, others (position and exponent in five bytes). A code of 0 is
/// 15 below the greatest or less: zero if no other stands for it.
fn nibbles(words: &[u16], channels: usize) -> Held {
    let mut greatest = vec![0u8; channels];
    for cell in words.chunks(channels) {
        greatest.iter_mut().zip(cell).for_each(|(g, w)| *g = (*g).max(exponent(*w)));
    }
    let (mut codes, mut others) = (Vec::new(), Vec::new());
    for (i, pair) in words.chunks(2).enumerate() {
        let mut byte = 0;
        for (half, word) in pair.iter().enumerate() {
            let at = 2 * i + half;
            let below = greatest[at % channels] - exponent(*word);
            let code = 15u8.saturating_sub(below);
            if code == 0 && exponent(*word) != 0 {
                others.extend((at as u32).to_le_bytes());
                others.push(exponent(*word));
            }
            byte |= code << (4 * half);
        }
        codes.push(byte);
    }
    Held { frames: vec![greatest, codes, others], raw: words.iter().map(|w| rest(*w)).collect() }
}

fn give_back(
    held: &Held,
    split: Split,
    scratch: &mut [Vec<u8>; 2],
    out: &mut [u8],
    context: &mut Decompressor<'_>,
) {
    let mut unpack = |frame: &[u8], target: &mut [u8]| {
        context.decompress_to_buffer(frame, target).expect("it was packed a moment ago");
    };
    match split {
        Split::None => unpack(&held.frames[0], out),
        Split::Bytes => {
            for (plane, frame) in scratch.iter_mut().zip(&held.frames) {
                plane.resize(out.len() / 2, 0);
                unpack(frame, plane);
            }
            let planes = scratch[0].iter().zip(&scratch[1]);
            out.as_chunks_mut().0.iter_mut().zip(planes).for_each(|(out, (low, high))| *out = [*low, *high]);
        }
        Split::Exponent => {
            scratch[0].resize(out.len() / 2, 0);
            unpack(&held.frames[0], &mut scratch[0]);
            let parts = scratch[0].iter().zip(&held.raw);
            out.as_chunks_mut().0.iter_mut().zip(parts).for_each(|(out, (e, r))| *out = joined(*e, *r));
        }
        Split::Nibbles { channels } => {
            let [greatest, codes, others] = &held.frames[..] else { return };
            let cells =
                out.chunks_mut(2 * channels).zip(codes.chunks(channels / 2)).zip(held.raw.chunks(channels));
            for ((out, codes), rests) in cells {
                let pairs = out.as_chunks_mut::<4>().0.iter_mut().zip(codes).zip(rests.as_chunks::<2>().0);
                for (((out, code), rests), greatest) in pairs.zip(greatest.as_chunks::<2>().0) {
                    let exponent = |code: u8, greatest: u8| {
                        if code == 0 { 0 } else { greatest.wrapping_add(code).wrapping_sub(15) }
                    };
                    let [a, b] = joined(exponent(code & 15, greatest[0]), rests[0]);
                    let [c, d] = joined(exponent(code >> 4, greatest[1]), rests[1]);
                    *out = [a, b, c, d];
                }
            }
            for other in others.as_chunks::<5>().0 {
                let [a, b, c, d, exponent] = *other;
                let at = u32::from_le_bytes([a, b, c, d]) as usize;
                out[2 * at..2 * at + 2].copy_from_slice(&joined(exponent, held.raw[at]));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "an example shows what it measured")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: lossless_rates STORE [ROWS]")?;
    let most: usize = arguments.next().map_or(Ok(4), |rows| rows.parse())?;
    let store = Store::open(folder.as_ref(), OpenOptions { incomplete: true })?;
    let reader = store.reader(ReadOptions { dtype: Some(DType::Bf16), ..ReadOptions::default() })?;
    let rows: Vec<_> = store.rows().iter().filter(|row| row.status == Status::Ok).take(most).collect();
    println!("{} rows of {}", rows.len(), store.recipe().backbone.name);
    println!(
        "| level | scheme | bytes, % of bf16 | decodes GB/s | memcpy GB/s | ÷ memcpy |\n| --- | --- | --- | --- | --- | --- |"
    );
    for level in &store.recipe().levels {
        let channels = level.channels as usize;
        let (mut bytes, mut batch) = (Vec::new(), Batch::new());
        for row in &rows {
            reader.read(&[row.id], &[store.level(&level.name)?], None, &mut batch)?;
            bytes.extend_from_slice(batch.level(0).bytes);
        }
        let chunk_bytes = CHUNK / (2 * channels) * (2 * channels);
        let mut out = vec![0u8; bytes.len() * (OUT / bytes.len()).max(1)];
        for (name, split, zstd) in SCHEMES {
            let split = if let Split::Nibbles { .. } = split { Split::Nibbles { channels } } else { split };
            if matches!(split, Split::Nibbles { .. }) && !channels.is_multiple_of(2) {
                continue;
            }
            let mut compressor = Compressor::new(zstd.max(1))?;
            let held: Vec<Held> =
                bytes.chunks(chunk_bytes).map(|chunk| hold(chunk, split, &mut compressor)).collect();
            let size: usize =
                held.iter().map(|h| h.raw.len() + h.frames.iter().map(Vec::len).sum::<usize>()).sum();
            let (mut context, mut scratch) = (Decompressor::new()?, [Vec::new(), Vec::new()]);
            let (mut decodes, mut copies) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let start = Instant::now();
                for out in out.chunks_mut(bytes.len()) {
                    for (held, out) in held.iter().zip(out.chunks_mut(chunk_bytes)) {
                        give_back(black_box(held), split, &mut scratch, out, &mut context);
                    }
                }
                decodes.push(start.elapsed().as_secs_f64());
                assert!(out.chunks(bytes.len()).all(|out| out == bytes), "{name}: not lossless");
                let start = Instant::now();
                out.chunks_mut(bytes.len()).for_each(|out| out.copy_from_slice(black_box(&bytes)));
                copies.push(start.elapsed().as_secs_f64());
            }
            let rate = |times: &mut Vec<f64>| {
                times.sort_by(f64::total_cmp);
                out.len() as f64 / times[times.len() / 2] / 1e9
            };
            let (decode, copy) = (rate(&mut decodes), rate(&mut copies));
            println!(
                "| {} | {name} | {:.1} | {decode:.2} | {copy:.1} | {:.2} |",
                level.name,
                100.0 * size as f64 / bytes.len() as f64,
                decode / copy
            );
        }
    }
    Ok(())
}
