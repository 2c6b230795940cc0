//! Bases of the levels that are held as coefficients, calibrated on a sample of rows: mean and covariance of their
//! cells, and the directions in which they differ most. Must not know where cells come from: extraction computes
//! them, transcoding reads them.

use crate::exit::{ExitCode, failure};
use anyhow::Result;
use featcache_store::{Encodings, LevelSpec, Projection, Projections};
use tch::{Device, Kind, Tensor};

/// Rows that bases are calibrated on.
pub const DEFAULT_CALIBRATION_ROWS: usize = 64;
/// Which rows those are.
pub const CALIBRATION_SEED: u64 = 0;
/// Cells of a map that are looked at, spread evenly over it: neighbours tell the same.
const MOST_CELLS: i64 = 4096;

/// Running sums over the cells of the levels that are held as coefficients.
#[derive(Debug)]
pub struct Calibration {
    levels: Vec<LevelSums>,
}

#[derive(Debug)]
struct LevelSums {
    /// Position of the level.
    number: usize,
    name: String,
    coefficients: i64,
    cells: i64,
    /// `[c]`, in binary64.
    sum: Tensor,
    /// `[c, c]`: of the products of every two channels.
    products: Tensor,
}

impl Calibration {
    /// Of those of these levels that the encodings hold as coefficients; perhaps of none.
    pub fn new(levels: &[LevelSpec], encodings: &Encodings) -> Result<Self> {
        let mut sums = Vec::new();
        for (number, level) in levels.iter().enumerate() {
            let Some(k) = encodings.of(&level.name).and_then(|encoding| encoding.projection) else {
                continue;
            };
            let (c, options) = (i64::from(level.channels), (Kind::Double, Device::Cpu));
            sums.push(LevelSums {
                number,
                name: level.name.clone(),
                coefficients: i64::from(k.get()),
                cells: 0,
                sum: Tensor::f_zeros([c], options)?,
                products: Tensor::f_zeros([c, c], options)?,
            });
        }
        Ok(Self { levels: sums })
    }

    /// Whether no level is held as coefficients.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Positions of the levels whose cells are wanted.
    pub fn levels(&self) -> impl Iterator<Item = usize> {
        self.levels.iter().map(|level| level.number)
    }

    /// Adds the cells of a map `[…, c]` of a level (by position) of any float kind, wherever it lives. A map that
    /// is not finite everywhere counts for nothing, as no row can hold it.
    pub fn add(&mut self, level: usize, map: &Tensor) -> Result<()> {
        let Some(sums) = self.levels.iter_mut().find(|sums| sums.number == level) else { return Ok(()) };
        let c = sums.sum.size1()?;
        let cells = map.f_reshape([-1, c])?; // [cells, c]
        let step = (cells.size()[0] + MOST_CELLS - 1) / MOST_CELLS;
        let cells =
            cells.f_slice(0, 0, None, step.max(1))?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        if !bool::try_from(cells.f_isfinite()?.f_all()?)? {
            return Ok(());
        }
        sums.cells += cells.size()[0];
        sums.sum = sums.sum.f_add(&cells.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?)?;
        sums.products = sums.products.f_add(&cells.f_tr()?.f_matmul(&cells)?)?;
        Ok(())
    }

    /// The bases: of every level the leading eigenvectors of the covariance of its cells, and their mean.
    ///
    /// # Errors
    /// A level has had no cells.
    pub fn finish(self) -> Result<Projections> {
        let mut projections = Projections::default();
        for sums in self.levels {
            if sums.cells == 0 {
                let what = format!("level {}: no row has features to calibrate its basis on", sums.name);
                return Err(failure(ExitCode::BadInput, what));
            }
            let mean = sums.sum.f_div_scalar(sums.cells as f64)?; // [c]
            let covariance = sums.products.f_div_scalar(sums.cells as f64)?.f_sub(&mean.f_outer(&mean)?)?;
            let (_, vectors) = covariance.f_linalg_eigh("L")?; // columns, the least value's first
            let c = mean.size1()?;
            let leading = vectors.f_narrow(1, c - sums.coefficients, sums.coefficients)?;
            let basis = leading.f_flip([1])?.f_tr()?; // [K, c], the leading direction first
            // A direction and its opposite are as good as each other: the sign of the largest element decides.
            let largest = basis.f_abs()?.f_argmax(1, true)?;
            let basis = basis.f_mul(&basis.f_gather(1, &largest, false)?.f_sign()?)?;
            projections.insert(&sums.name, Projection::new(floats(&basis)?, floats(&mean)?)?);
        }
        Ok(projections)
    }
}

/// `count` of these numbers, by seed, in ascending order.
pub fn sample(numbers: impl Iterator<Item = u64>, count: usize, seed: u64) -> Vec<u64> {
    let draw = |number: u64| *blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat()).as_bytes();
    let mut drawn: Vec<([u8; 32], u64)> = numbers.map(|number| (draw(number), number)).collect();
    drawn.sort_unstable();
    drawn.truncate(count);
    let mut chosen: Vec<u64> = drawn.into_iter().map(|(_, number)| number).collect();
    chosen.sort_unstable();
    chosen
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(tensor.f_to_kind(Kind::Float)?.f_contiguous()?.f_flatten(0, -1)?)?)
}
