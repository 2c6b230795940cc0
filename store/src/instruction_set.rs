//! Loops that are compiled once for each instruction set and chosen when the program runs, so that one
//! binary is fast on every machine. What the loops compute is the same in all: Rust neither fuses nor
//! reorders floating-point operations. Holds no loop itself.

/// A loop over slices. `run` must be inlined always: it is compiled anew into every function that enables
/// an instruction set.
pub(crate) trait Loop {
    /// What the loop comes to.
    type Output;
    /// Runs it.
    fn run(self) -> Self::Output;
}

/// An instruction set that this machine has: values come from detection alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstructionSet(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What every machine of the target has.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl InstructionSet {
    /// The best one for these loops.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return Self(Kind::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                return Self(Kind::Avx2);
            }
        }
        Self(Kind::Portable)
    }

    /// All of this machine, the portable one first.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(is_x86_feature_detected!("avx2").then_some(Self(Kind::Avx2)));
            all.extend(has_avx512().then_some(Self(Kind::Avx512)));
        }
        all
    }

    /// Runs a loop with these instructions.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calling a function that enables instructions")
    )]
    pub(crate) fn run<L: Loop>(self, work: L) -> L::Output {
        match self.0 {
            Kind::Portable => work.run(),
            // SAFETY: a value of this kind exists only where `best` or `all` found the instructions.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { with_avx512(work) },
        }
    }
}

/// The part of AVX-512 that every server processor since 2017 with any of it has.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [u32]);

    impl Loop for Sum<'_> {
        type Output = u32;

        #[inline(always)]
        fn run(self) -> u32 {
            self.0.iter().fold(0, |sum, value| sum.wrapping_add(*value))
        }
    }

    #[test]
    fn every_set_runs_the_loop() {
        let values: Vec<u32> = (0..1000).collect();
        let all = InstructionSet::all();
        assert!(all.contains(&InstructionSet::best()), "{all:?}");
        for set in all {
            assert_eq!(set.run(Sum(&values)), 499_500, "{set:?}");
        }
    }
}
