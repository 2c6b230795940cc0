//! Ranges of the numbers that flags take.

/// Most MiB that a flag may ask for: an exabyte.
pub(super) const MOST_MIB: u64 = 1 << 40;

/// Most threads or readers that a flag may ask for: more is a slip of the finger.
const MOST_THREADS: usize = 1024;

/// Most pictures of a batch or a benchmark that a flag may ask for: their places in queues are made at once.
const MOST_PICTURES: usize = 1 << 16;

/// Most scenes of a kind that the demo draws.
const MOST_SCENES: usize = 1 << 20;

/// A number of things of which one at least is meant.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| format!("expected a number from 1, found {text:?}"))?;
    if count == 0 { Err("expected a number from 1, found 0".to_owned()) } else { Ok(count) }
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    up_to(MOST_THREADS, text)
}

/// A number of processes beside this one; 0 is none.
pub(super) fn workers(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { threads(text) }
}

/// A number of pictures that are held or drawn at a time.
pub(super) fn pictures(text: &str) -> Result<usize, String> {
    up_to(MOST_PICTURES, text)
}

/// A number of drawn scenes.
pub(super) fn scenes(text: &str) -> Result<usize, String> {
    up_to(MOST_SCENES, text)
}

/// A score or another share of 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let refuse = || format!("expected a number from 0 to 1, found {text}");
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(refuse)
}

/// A share of something of which a part stays.
pub(super) fn part(text: &str) -> Result<f64, String> {
    let refuse = || format!("expected a number from 0 to below 1, found {text}");
    text.parse().ok().filter(|share| (0.0..1.0).contains(share)).ok_or_else(refuse)
}

/// A loss: a share, or hundredths with a sign for it.
pub(super) fn loss(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(hundredths) => (hundredths, 0.01),
        None => (text, 1.0),
    };
    let refuse = || format!("expected a share such as 0.5% or 0.005, found {text}");
    let loss = number.trim().parse().map(|number: f64| number * unit);
    loss.ok().filter(|loss| (0.0..=1.0).contains(loss)).ok_or_else(refuse)
}

/// A number of bytes, with a unit or without.
pub(super) fn byte_count(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("B", 1.0),
    ];
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1.0));
    let refuse = || format!("expected a number of bytes such as 60kB, found {text}");
    let bytes = number.trim().parse().map(|number: f64| number * unit);
    bytes.ok().filter(|bytes| bytes.is_finite() && *bytes > 0.0).ok_or_else(refuse)
}

/// A largest difference: no NaN, which every difference would pass or none.
pub(super) fn tolerance(text: &str) -> Result<f64, String> {
    let refuse = || format!("expected a number from 0, found {text}");
    text.parse().ok().filter(|tolerance: &f64| *tolerance >= 0.0).ok_or_else(refuse)
}

/// An amount of memory, of which some at least is meant.
pub(super) fn mebibytes(text: &str) -> Result<u64, String> {
    let refuse = || format!("expected 1 to {MOST_MIB}, found {text}");
    text.parse().ok().filter(|mib| (1..=MOST_MIB).contains(mib)).ok_or_else(refuse)
}

fn up_to(most: usize, text: &str) -> Result<usize, String> {
    let refuse = || format!("expected 1 to {most}, found {text}");
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(refuse)
}
