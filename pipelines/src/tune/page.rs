//! The curve as people see it: tables, a recommendation and a plot. Decides nothing.

use super::choice::{Budget, Choice};
use super::curve::{Loss, Point};
use super::measure::LevelMeasure;
use crate::picture::{Axis, Line, Plot};
use crate::progress::{bytes, duration};
use crate::report::table;
use serde::Serialize;

/// Left and right of the plot's first and last power of two, in powers.
const MARGIN: f64 = 0.15;

/// All that a tuning found.
#[derive(Debug, Clone, Serialize)]
pub struct Tuned {
    /// The store.
    pub store: String,
    /// Recipe of the heads.
    pub head: String,
    /// What the scores are.
    pub metric: String,
    /// Split that the heads were trained on.
    pub train_split: String,
    /// Split that they were scored on.
    pub eval_split: String,
    /// Share of the split's samples that was held out to score on, where both are the same.
    pub held_out: Option<f64>,
    /// Samples of an epoch.
    pub train_samples: u64,
    /// Samples scored on.
    pub eval_samples: u64,
    /// Steps of every head.
    pub steps: u64,
    /// Rows that training left out because they are corrupt on disk, once for every visit.
    pub skipped_rows: u64,
    /// Seeds of the heads.
    pub seeds: Vec<u64>,
    /// Rows that errors and rates were measured on.
    pub measured_rows: usize,
    /// One a candidate, the reference first.
    pub points: Vec<Point>,
    /// Every encoding on every level that was measured.
    pub levels: Vec<LevelMeasure>,
    /// What was asked for.
    pub budget: Budget,
    /// What to take.
    pub choice: Option<Choice>,
    /// Seconds of measuring, training and scoring.
    pub seconds: [f64; 3],
    /// Files written.
    pub written: Vec<String>,
}

impl Tuned {
    /// As text.
    pub fn text(&self) -> String {
        let mut text = self.points_table();
        text.push('\n');
        text += &self.levels_table();
        text += &format!(
            "\n{} heads of {} steps on {} samples of {}, scored on {} of {}{}\n",
            self.points.len() * self.seeds.len(),
            self.steps,
            self.train_samples,
            self.train_split,
            self.eval_samples,
            self.eval_split,
            match (self.held_out, self.train_split == self.eval_split) {
                (Some(_), _) => ", held out",
                (None, true) => ", the ones they learned",
                (None, false) => "",
            }
        );
        if self.skipped_rows > 0 {
            text += &format!("{} rows left out of training: corrupt on disk\n", self.skipped_rows);
        }
        let [measured, trained, scored] = self.seconds.map(duration);
        text += &format!("{measured} of measuring, {trained} of training, {scored} of scoring\n");
        for path in &self.written {
            text += &format!("wrote {path}\n");
        }
        text.push('\n');
        text + &self.recommendation()
    }

    fn points_table(&self) -> String {
        let masks = self.points.iter().any(|point| point.mask_ap.is_some());
        let (metric, range) = (format!("{} %", self.metric), "min–max");
        let mut header = vec!["policy", "bytes/image", "÷ bf16", &metric, range];
        if masks {
            header.push("mask AP %");
        }
        header.extend(["loss %", "min–max", "noise", "untrained loss %"]);
        let rows = self.points.iter().map(|point| {
            let percent = |value: f64| format!("{:.2}", 100.0 * value);
            let loss = |of: &dyn Fn(&Loss) -> String| point.loss.as_ref().map_or("–".to_owned(), of);
            let mut row = vec![
                point.store.clone(),
                bytes(point.bytes_per_image.round() as u64),
                format!("{:.3}", point.of_bf16),
                percent(point.metric.median),
                format!("{}–{}", percent(point.metric.min), percent(point.metric.max)),
            ];
            if masks {
                row.push(point.mask_ap.map_or("–".to_owned(), |masks| percent(masks.median)));
            }
            row.push(loss(&|loss| percent(loss.median)));
            row.push(loss(&|loss| format!("{} to {}", percent(loss.least), percent(loss.greatest))));
            row.push(loss(&|loss| noise(loss).to_owned()));
            let untrained = point.loss_untrained.as_ref();
            row.push(untrained.map_or("–".to_owned(), |loss| percent(loss.median)));
            row
        });
        table(&header, &rows.collect::<Vec<_>>())
    }

    fn levels_table(&self) -> String {
        let header = [
            "level",
            "encoding",
            "bytes/image",
            "rel. L2 %",
            "worst row %",
            "1 − cosine",
            "decode GB/s",
            "÷ memcpy",
        ];
        let rows = self.levels.iter().map(|measure| {
            let trial = &measure.trial;
            vec![
                measure.level.clone(),
                measure.encoding.clone(),
                bytes(measure.bytes_per_image.round() as u64),
                format!("{:.2}", 100.0 * trial.loss.relative_l2),
                format!("{:.2}", 100.0 * trial.loss.worst.relative_l2),
                format!("{:.1e}", (1.0 - trial.loss.cosine).max(0.0)),
                format!("{:.1}", trial.decode_gb_per_s),
                format!("{:.2}", trial.decode_over_memcpy),
            ]
        });
        table(&header, &rows.collect::<Vec<_>>())
    }

    fn recommendation(&self) -> String {
        let Budget { bytes_per_image, max_loss } = self.budget;
        let wanted = [
            max_loss.map(|loss| format!("a loss of at most {:.2} %", 100.0 * loss)),
            bytes_per_image.map(|most| format!("at most {} an image", bytes(most as u64))),
        ];
        let wanted = wanted.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        let Some((choice, point)) =
            self.choice.as_ref().and_then(|choice| Some((choice, self.points.get(choice.point)?)))
        else {
            return String::new();
        };
        let cost = format!(
            "{} an image, {:.3} of bf16{}",
            bytes(point.bytes_per_image.round() as u64),
            point.of_bf16,
            match &point.loss {
                Some(loss) => format!(
                    ", loss {:.2} % ({:.2} to {:.2}), {}",
                    100.0 * loss.median,
                    100.0 * loss.least,
                    100.0 * loss.greatest,
                    match loss.within_noise {
                        Some(true) => "which the seeds do not tell from none",
                        Some(false) => "which is more than the seeds' noise",
                        None => "of one seed: its noise is not known",
                    }
                ),
                None => String::new(),
            }
        );
        match (choice.meets, choice.is_reference) {
            (true, true) => format!("{wanted}: nothing smaller than the store as it is holds that\n"),
            (true, false) => format!("{wanted}: {cost}\n  --store {}\n", choice.store),
            (false, _) => {
                format!("no candidate has {wanted}; the nearest: {cost}\n  --store {}\n", choice.store)
            }
        }
    }

    /// The metric over the bytes, the latter as shares of bf16's in powers of two; every candidate a mark
    /// from its worst to its best seed.
    pub fn plot(&self) -> Plot {
        let share = |point: &Point| point.of_bf16.max(f64::MIN_POSITIVE).log2();
        let x = Axis::around("", self.points.iter().map(share).chain([0.0]));
        let [from, to] = [x.range[0].floor(), x.range[1].ceil()];
        let tick = |power: i32| {
            let text = if power < 0 {
                format!("1/{}", 1u64 << (-power).min(62))
            } else {
                format!("{}", 1u64 << power.min(62))
            };
            (f64::from(power), text)
        };
        let x = Axis {
            name: "bytes an image ÷ bf16".to_owned(),
            range: [from - MARGIN, to + MARGIN],
            ticks: (from as i32..=to as i32).map(tick).collect(),
        };
        let reference = self.points.first().map_or(f64::NAN, |point| point.metric.median);
        let least_wanted = self.budget.max_loss.map(|loss| reference * (1.0 - loss));
        let extremes = self.points.iter().flat_map(|point| [point.metric.min, point.metric.max]);
        let y = Axis::around(&self.metric, extremes.chain(least_wanted));
        let mark = |point: &Point| Line {
            name: point.store.clone(),
            points: vec![[share(point), point.metric.median]],
            spreads: vec![[point.metric.min, point.metric.max]],
            strong: true,
        };
        let mut lines: Vec<Line> = self.points.iter().map(mark).collect();
        if let (Some(wanted), Some(loss)) = (least_wanted, self.budget.max_loss) {
            lines.push(Line {
                name: format!("{:.2} % below the reference", 100.0 * loss),
                points: vec![[from - MARGIN, wanted], [to + MARGIN, wanted]],
                ..Line::default()
            });
        }
        let title = match self.seeds.len() {
            1 => format!("{} over bytes", self.metric),
            seeds => format!("{} over bytes, {seeds} seeds", self.metric),
        };
        Plot { title, x, y, lines, side: Plot::DEFAULT_SIDE }
    }
}

fn noise(loss: &Loss) -> &'static str {
    match loss.within_noise {
        Some(true) => "within",
        Some(false) => "beyond",
        None => "unknown",
    }
}
