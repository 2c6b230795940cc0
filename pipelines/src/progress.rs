//! The progress line of an extraction: the only place that draws. Stages send counters, this reads them.

use featcache_extractor::counters::Counters;
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

impl Progress {
    /// Starts to draw `counters`; `quiet` draws nothing.
    pub fn start(counters: Arc<Counters>, quiet: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = (!quiet).then(|| std::thread::spawn(move || draw(&counters, &seen)));
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

fn draw(counters: &Counters, stop: &AtomicBool) {
    let terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        Some(counters.total()),
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {wide_msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    let started = Instant::now();
    let mut last_line = Instant::now();
    let mut rate = Rate::default();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let line = line(counters, rate.update(counters.computed(), started.elapsed()));
        bar.set_length(counters.total());
        bar.set_position(counters.done());
        bar.set_message(line.clone());
        if !terminal && (last_line.elapsed() >= PLAIN_LINE) {
            log::info!("{}/{} {line}", counters.done(), counters.total());
            last_line = Instant::now();
        }
        if stopping {
            bar.finish_and_clear();
            return;
        }
        std::thread::park_timeout(REDRAW);
    }
}

/// `3.42 img/s · 1.25 GB · 2m 10s left · 0 failed · backbone-bound`
fn line(counters: &Counters, images_per_second: f64) -> String {
    let left = counters.total().saturating_sub(counters.done());
    let eta = if images_per_second > 0.0 {
        format!("{} left", duration(left as f64 / images_per_second))
    } else {
        "estimating".to_owned()
    };
    format!(
        "{images_per_second:.2} img/s · {} · {eta} · {} failed · {}",
        bytes(counters.bytes()),
        counters.failed(),
        counters.bottleneck()
    )
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
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.2} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
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
