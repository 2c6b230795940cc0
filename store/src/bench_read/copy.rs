//! Copying memory: what handing out decoded bytes is measured against.

use crate::batch::AlignedBytes;
use crate::{Error, Result};
use std::time::Instant;

/// Bytes copied at a time: no cache holds them.
const BYTES: usize = 32 << 20;

/// Memory to copy from and to, for each thread.
pub(super) struct Copies {
    lanes: Vec<[AlignedBytes; 2]>,
}

impl Copies {
    pub(super) fn new(threads: usize) -> Self {
        Self { lanes: (0..threads.max(1)).map(|_| Default::default()).collect() }
    }

    /// Seconds that copying so many bytes takes all threads together: measured on a fixed amount.
    pub(super) fn time(&mut self, bytes: u64) -> Result<f64> {
        for memory in self.lanes.iter_mut().flatten() {
            if memory.bytes().is_empty() {
                memory.resize(BYTES).map_err(|_| Error::invalid(format!("no memory for {BYTES} bytes")))?;
                memory.bytes_mut().fill(1);
            }
        }
        let (threads, start) = (self.lanes.len(), Instant::now());
        std::thread::scope(|scope| {
            for lane in &mut self.lanes {
                scope.spawn(move || {
                    let [from, to] = lane;
                    to.bytes_mut().copy_from_slice(std::hint::black_box(from.bytes()));
                });
            }
        });
        Ok(start.elapsed().as_secs_f64() * bytes as f64 / (threads * BYTES) as f64)
    }
}
