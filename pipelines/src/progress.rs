//! The progress line of what fills a store: the only place that draws. Stages send counters, this reads them.

use featcache_extractor::counters::Counters;
use featcache_store::TranscodeCounters;
use featcache_store::fill::FillCounters;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a bar is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a line is printed where there is no terminal.
const PLAIN_LINE: Duration = Duration::from_secs(10);

/// Draws on stderr until dropped: a bar on a terminal, a line every ten seconds elsewhere.
pub struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Counters that can be drawn.
pub trait Drawn: Send + Sync + 'static {
    /// Those that every filling of a store has.
    fn fill(&self) -> &FillCounters;
    /// Rows without features.
    fn failed(&self) -> u64;
    /// Rows of this run, which the rate follows from.
    fn rows(&self) -> u64;
    /// What holds the others up.
    fn bottleneck(&self) -> &'static str;
}

impl Drawn for Counters {
    fn fill(&self) -> &FillCounters {
        self.fill()
    }

    fn failed(&self) -> u64 {
        self.failed()
    }

    fn rows(&self) -> u64 {
        self.computed()
    }

    fn bottleneck(&self) -> &'static str {
        self.bottleneck().name()
    }
}

impl Drawn for TranscodeCounters {
    fn fill(&self) -> &FillCounters {
        self.fill()
    }

    fn failed(&self) -> u64 {
        self.fill().failed()
    }

    fn rows(&self) -> u64 {
        self.fill().written()
    }

    fn bottleneck(&self) -> &'static str {
        self.bottleneck()
    }
}

impl Progress {
    /// Starts to draw `counters`; `quiet` draws nothing.
    pub fn start(counters: Arc<impl Drawn>, quiet: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = (!quiet).then(|| std::thread::spawn(move || draw(counters.as_ref(), &seen)));
        Self { stop, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic while drawing must not hide how the work itself ended.
            drop(thread.join());
        }
    }
}

fn draw(counters: &impl Drawn, stop: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        Some(counters.fill().total()),
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    // The bar takes what the text leaves, on a narrow terminal nothing.
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    let started = Instant::now();
    let mut last_line = Instant::now();
    let mut rate = Rate::default();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let fill = counters.fill();
        let line = Line {
            done: fill.done(),
            total: fill.total(),
            images_per_second: rate.update(counters.rows(), started.elapsed()),
            bytes: fill.bytes(),
            failed: counters.failed(),
            bottleneck: counters.bottleneck(),
        };
        bar.set_length(line.total);
        bar.set_position(line.done);
        let line = line.to_string();
        if !terminal && (last_line.elapsed() >= PLAIN_LINE) {
            log::info!("{line}");
            last_line = Instant::now();
        }
        bar.set_message(line);
        if stopping {
            bar.finish_and_clear();
            return;
        }
        std::thread::park_timeout(REDRAW);
    }
}

/// What one line says: `36781/118287 3.42 img/s · 125 GB · 9h 36m left · 0 failed · backbone-bound`.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Rows done.
    pub done: u64,
    /// Rows of the plan.
    pub total: u64,
    /// Images a second; 0 as long as it is not known.
    pub images_per_second: f64,
    /// Bytes written.
    pub bytes: u64,
    /// Rows that failed.
    pub failed: u64,
    /// What holds the others up.
    pub bottleneck: &'static str,
}

impl Line {
    /// Columns that it fits, with a space in front.
    pub const COLUMNS: usize = 80;
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { done, total, images_per_second, bytes, failed, bottleneck } = *self;
        let left = match images_per_second {
            0.0 => "estimating".to_owned(),
            rate => format!("{} left", duration(total.saturating_sub(done) as f64 / rate)),
        };
        let parts = [
            format!("{} img/s", figures(images_per_second)),
            with_unit(bytes, figures),
            left,
            format!("{failed} failed"),
            bottleneck.to_owned(),
        ];
        let line = format!("{done}/{total} {}", parts.join(" · "));
        match line.chars().count() < Self::COLUMNS {
            true => f.write_str(&line),
            false => write!(f, "{done}/{total} {}", parts.join(" ")),
        }
    }
}

/// A number's first three figures.
fn figures(value: f64) -> String {
    let decimals = match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// Images a second over a sliding window, so that the estimate follows a change of buckets or of disk speed.
#[derive(Default)]
struct Rate {
    points: std::collections::VecDeque<(f64, u64)>,
}

impl Rate {
    const WINDOW_SECONDS: f64 = 60.0;

    fn update(&mut self, done: u64, elapsed: Duration) -> f64 {
        let now = elapsed.as_secs_f64();
        self.points.push_back((now, done));
        while self.points.front().is_some_and(|(at, _)| now - at > Self::WINDOW_SECONDS) {
            self.points.pop_front();
        }
        match self.points.front() {
            Some(&(at, first)) if now > at => (done - first) as f64 / (now - at),
            _ => 0.0,
        }
    }
}

/// A number of bytes in decimal units, as disks are sold.
pub fn bytes(count: u64) -> String {
    with_unit(count, |value| format!("{value:.2}"))
}

fn with_unit(count: u64, digits: impl Fn(f64) -> String) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{} {unit}", digits(value)) };
        }
        value /= 1000.0;
    }
    format!("{} TB", digits(value))
}

/// Seconds as a person says them.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s:02}s"),
        (0, h, m, _) => format!("{h}h {m:02}m"),
        (d, h, _, _) => format!("{d}d {h:02}h"),
    }
}
