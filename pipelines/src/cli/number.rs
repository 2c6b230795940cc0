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
