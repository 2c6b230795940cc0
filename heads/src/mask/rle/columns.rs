//! Run lengths column by column: written one run after another, and read from any column. Must not
//! decide what lies inside.

use super::{Rle, check};
use crate::Result;
use featcache_store::Size;

/// Puts a mask together from runs of any length; neighbours that are alike become one run.
#[derive(Debug)]
pub(crate) struct RunWriter {
    size: Size,
    counts: Vec<u32>,
    inside: bool,
    /// Length of the run that is being written.
    run: u32,
    /// Pixels that are still to come.
    left: u32,
}

impl RunWriter {
    /// Nothing written yet of a mask of `size`.
    ///
    /// # Errors
    /// A size that no mask can have.
    pub(crate) fn new(size: Size) -> Result<Self> {
        check(size)?;
        let left = size.height * size.width;
        Ok(Self { size, counts: Vec::new(), inside: false, run: 0, left })
    }

    /// The next `count` pixels down the columns; what passes the last pixel is cut off.
    pub(crate) fn push(&mut self, inside: bool, count: u32) {
        let count = count.min(self.left);
        if count == 0 {
            return;
        }
        if inside != self.inside {
            self.counts.push(self.run);
            self.run = 0;
            self.inside = inside;
        }
        self.run += count;
        self.left -= count;
    }

    /// The mask; pixels that were not written lie outside.
    pub(crate) fn finish(mut self) -> Rle {
        self.push(false, self.left);
        self.counts.push(self.run);
        Rle { size: self.size, counts: self.counts }
    }
}

/// A mask with the place in its runs where each column begins.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    rle: &'a Rle,
    /// For each column the run that its first pixel is in, and how much of it lies before.
    starts: Vec<(u32, u32)>,
}

impl<'a> Columns<'a> {
    /// Walks the runs once.
    pub(crate) fn new(rle: &'a Rle) -> Self {
        let height = rle.size.height;
        let mut starts = Vec::with_capacity(rle.size.width as usize);
        // Pixels from the beginning of the run to the first of the next column.
        let mut ahead = 0;
        for (run, &count) in (0..).zip(&rle.counts) {
            while ahead < count {
                starts.push((run, ahead));
                // At most an area and one more column: see MAX_SIDE.
                ahead += height;
            }
            ahead -= count;
        }
        Self { rle, starts }
    }

    /// The runs of column `x` from top to bottom: whether inside, and how many pixels.
    pub(crate) fn runs(&self, x: usize) -> impl Iterator<Item = (bool, u32)> {
        let (run, before) = self.starts[x];
        let mut left = self.rle.size.height;
        let mut before = before;
        let mut inside = run % 2 == 0;
        self.rle.counts[run as usize..].iter().map_while(move |&count| {
            let length = (count - before).min(left);
            (before, inside) = (0, !inside);
            left -= length;
            (left > 0 || length > 0).then_some((inside, length))
        })
    }
}

impl Rle {
    /// Mirrored left-right.
    pub fn mirror(&self) -> Self {
        let columns = Columns::new(self);
        let left = self.size.height * self.size.width;
        let counts = Vec::with_capacity(self.counts.len());
        let mut writer = RunWriter { size: self.size, counts, inside: false, run: 0, left };
        for x in (0..self.size.width as usize).rev() {
            columns.runs(x).for_each(|(inside, count)| writer.push(inside, count));
        }
        writer.finish()
    }
}
