//! Which level is held how, for how many bytes: the search that turns the measured error of every encoding
//! on every level into a few policies for all levels. Pure arithmetic: reads nothing and measures nothing.
//!
//! The error of a policy is the sum over the levels of the square of their relative errors: every level
//! counts alike, because heads normalise levels before they mix them. From each level at its most exact, the
//! search takes the step, one level to one cheaper encoding, that adds least error for a byte saved, and goes on
//! until all levels are at their cheapest. That visits the lower convex hull of all combinations: no policy
//! of fewer bytes than one on the path has less error than the path's next ones (Shoham and Gersho, 1988,
//! "Efficient bit allocation for an arbitrary set of quantizers").

use crate::{Encoding, Encodings};

/// One way to hold a level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// The encoding.
    pub encoding: Encoding,
    /// Bytes that the level takes of an image.
    pub bytes: f64,
    /// ‖decoded − source‖₂ / ‖source‖₂.
    pub error: f64,
}

/// A level with the ways to hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ladder {
    /// Name of the level.
    pub level: String,
    /// In any order.
    pub rungs: Vec<Rung>,
}

/// An encoding for every level.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The encodings.
    pub encodings: Encodings,
    /// Bytes of an image.
    pub bytes: f64,
    /// The sum over the levels of the square of the relative error.
    pub error: f64,
}

/// The policies from the most exact to the cheapest, each one step of one level from the one before. Levels
/// without a rung are left out of all policies.
pub fn path(ladders: &[Ladder]) -> Vec<Policy> {
    let best = |ladder: &Ladder| {
        let order = |a: &&Rung, b: &&Rung| a.error.total_cmp(&b.error).then(a.bytes.total_cmp(&b.bytes));
        ladder.rungs.iter().min_by(order).copied()
    };
    let ladders: Vec<(&Ladder, Rung)> =
        ladders.iter().filter_map(|ladder| Some((ladder, best(ladder)?))).collect();
    let mut held: Vec<Rung> = ladders.iter().map(|(_, rung)| *rung).collect();
    let policy = |held: &[Rung]| {
        let named = ladders.iter().zip(held).map(|((ladder, _), rung)| (ladder.level.clone(), rung.encoding));
        Policy {
            encodings: named.collect(),
            bytes: held.iter().map(|rung| rung.bytes).sum(),
            error: held.iter().map(|rung| rung.error * rung.error).sum(),
        }
    };
    let mut policies = vec![policy(&held)];
    while let Some((level, rung)) = cheapest_step(&ladders, &held) {
        if let Some(place) = held.get_mut(level) {
            *place = rung;
        }
        policies.push(policy(&held));
    }
    policies
}

/// The step that adds least error for a byte saved: which level goes to which rung.
fn cheapest_step(ladders: &[(&Ladder, Rung)], held: &[Rung]) -> Option<(usize, Rung)> {
    let steps = ladders.iter().zip(held).enumerate().flat_map(|(level, ((ladder, _), now))| {
        let cheaper = ladder.rungs.iter().filter(|rung| rung.bytes < now.bytes);
        cheaper.map(move |rung| {
            let added = rung.error * rung.error - now.error * now.error;
            (added / (now.bytes - rung.bytes), rung.bytes, level, *rung)
        })
    });
    // Of equal slopes the longest step: what lies between is no better.
    let least = steps.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    least.map(|(_, _, level, rung)| (level, rung))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(level: &str, rungs: &[(&str, f64, f64)]) -> Ladder {
        let rung = |&(encoding, bytes, error): &(&str, f64, f64)| Rung {
            encoding: encoding.parse().unwrap(),
            bytes,
            error,
        };
        Ladder { level: level.into(), rungs: rungs.iter().map(rung).collect() }
    }

    fn shown(policies: &[Policy]) -> Vec<String> {
        policies.iter().map(|policy| format!("{} {}", policy.encodings, policy.bytes)).collect()
    }

    #[test]
    fn the_large_level_gives_up_its_bits_first() {
        let rungs = |n: f64| {
            [
                ("bf16", 16.0 * n, 0.0),
                ("int8", 8.0 * n, 0.01),
                ("e4m3fn", 8.0 * n, 0.03),
                ("int4", 4.0 * n, 0.1),
            ]
        };
        let policies = path(&[ladder("p2", &rungs(4.0)), ladder("p3", &rungs(1.0))]);
        let expected = [
            "p2=bf16,p3=bf16 80",
            "p2=int8,p3=bf16 48",
            "p2=int8,p3=int8 40",
            "p2=int4,p3=int8 24",
            "p2=int4,p3=int4 20",
        ];
        assert_eq!(shown(&policies), expected);
        assert!(policies.is_sorted_by(|a, b| a.bytes > b.bytes && a.error < b.error));
    }

    #[test]
    fn what_is_off_the_hull_is_passed_over() {
        // The middle rung costs nearly as much error as the last for a sixth of its saving.
        let policies =
            path(&[ladder("p2", &[("int4", 4.0, 0.1), ("bf16", 16.0, 0.0), ("int8", 14.0, 0.09)])]);
        assert_eq!(shown(&policies), ["p2=bf16 16", "p2=int4 4"]);
        // A cheaper rung that is no worse is where the path begins.
        let policies = path(&[ladder("p2", &[("f32", 4.0, 0.0), ("bf16", 2.0, 0.0)])]);
        assert_eq!(shown(&policies), ["p2=bf16 2"]);
    }

    #[test]
    fn no_combination_lies_below_the_path() {
        let ladders = [
            ladder(
                "p2",
                &[("bf16", 64.0, 0.0), ("int8", 32.0, 0.02), ("e4m3fn", 31.0, 0.2), ("int4", 16.0, 0.09)],
            ),
            ladder("p3", &[("bf16", 16.0, 0.0), ("int8", 8.0, 0.01), ("int4", 4.0, 0.2)]),
            ladder("p4", &[("bf16", 4.0, 0.0), ("int8", 2.5, 0.03), ("int4", 1.5, 0.05)]),
        ];
        let path = path(&ladders);
        let mut combinations = vec![(0.0, 0.0)];
        for ladder in &ladders {
            combinations = combinations
                .iter()
                .flat_map(|(bytes, error)| {
                    ladder.rungs.iter().map(move |rung| (bytes + rung.bytes, error + rung.error * rung.error))
                })
                .collect();
        }
        for (bytes, error) in combinations {
            for pair in path.windows(2) {
                let [from, to] = [&pair[0], &pair[1]];
                if (to.bytes..=from.bytes).contains(&bytes) {
                    let share = (from.bytes - bytes) / (from.bytes - to.bytes);
                    let chord = from.error + share * (to.error - from.error);
                    assert!(error >= chord - 1e-12, "{bytes} bytes, {error} below {chord}");
                }
            }
        }
    }

    #[test]
    fn nothing_to_choose_is_no_step() {
        assert_eq!(path(&[]).len(), 1);
        assert_eq!(path(&[ladder("p2", &[]), ladder("p3", &[("int8", 1.0, 0.1)])]).len(), 1);
    }
}
