//! Scale and offset of every channel of one row of a level: what its array `[n, 2, 1, c]` holds, scales
//! first.

/// Scales and offsets, one of each a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) offset: &'a [f32],
}

impl<'a> Affine<'a> {
    /// The two halves of what [`read`](Self::read) made.
    pub(crate) fn new(values: &'a [f32]) -> Self {
        let (scale, offset) = values.split_at(values.len() / 2);
        Self { scale, offset }
    }

    /// Channels.
    pub(crate) fn channels(&self) -> usize {
        self.scale.len().min(self.offset.len())
    }

    /// Reads a row of the array into `values`, of the same number of elements; what is wrong with it, if a
    /// scale is no number from 0 or an offset no number.
    pub(crate) fn read(bytes: &[u8], values: &mut [f32]) -> Result<(), String> {
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        let affine = Affine::new(values);
        let bad_scale = |scale: &f32| !scale.is_finite() || *scale < 0.0;
        if let Some(channel) = affine.scale.iter().position(bad_scale) {
            let found = affine.scale.get(channel).copied().unwrap_or_default();
            return Err(format!("scale of channel {channel}: expected a number from 0, found {found}"));
        }
        if let Some(channel) = affine.offset.iter().position(|offset| !offset.is_finite()) {
            let found = affine.offset.get(channel).copied().unwrap_or_default();
            return Err(format!("offset of channel {channel}: expected a number, found {found}"));
        }
        Ok(())
    }
}
