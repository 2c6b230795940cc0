//! Overlaps of detections with objects: a small matrix, and how boxes fill it (`bbIou` of pycocotools' `maskApi.c`,
//! operation by operation).

/// Overlap of every detection of a cell with every object, `[detections, objects]`.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    values: Vec<f64>,
    /// Greatest of each detection; below every threshold where there are no objects.
    best: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Overlaps {
    /// Starts over with as many detections and objects; `values` row by row.
    pub(super) fn fill(&mut self, [rows, columns]: [usize; 2], values: impl IntoIterator<Item = f64>) {
        (self.rows, self.columns) = (rows, columns);
        self.values.clear();
        self.values.extend(values);
        self.best.clear();
        if columns > 0 {
            let rows = self.values.chunks_exact(columns);
            self.best.extend(rows.map(|row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        }
    }

    /// Number of detections.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Overlaps of a detection, one an object.
    pub(super) fn row(&self, detection: usize) -> &[f64] {
        &self.values[detection * self.columns..][..self.columns]
    }

    /// Greatest overlap of a detection; negative infinity without objects.
    pub(super) fn best(&self, detection: usize) -> f64 {
        self.best.get(detection).copied().unwrap_or(f64::NEG_INFINITY)
    }
}

/// Intersection over union of two boxes (x, y, width, height); over the detection alone if `truth` is a crowd.
pub(super) fn box_iou(found: [f64; 4], truth: [f64; 4], crowd: bool) -> f64 {
    let [dx, dy, dw, dh] = found;
    let [gx, gy, gw, gh] = truth;
    let width = (dw + dx).min(gw + gx) - dx.max(gx);
    if width <= 0.0 {
        return 0.0;
    }
    let height = (dh + dy).min(gh + gy) - dy.max(gy);
    if height <= 0.0 {
        return 0.0;
    }
    let (inside, area) = (width * height, dw * dh);
    let whole = if crowd { area } else { area + gw * gh - inside };
    inside / whole
}
