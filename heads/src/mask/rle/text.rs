//! COCO's string of run lengths (`rleToString`, `rleFrString`): each count as its difference to the one
//! before the last, in groups of 5 bits, lowest first, as characters from `0` on.

use super::Rle;
use crate::{Error, Result};
use featcache_store::Size;

/// Character of the group 0.
const ZERO: u8 = b'0';
/// Marks a group that another follows.
const MORE: i64 = 0x20;
/// Highest bit of a group: in the last one the sign.
const SIGN: i64 = 0x10;
/// Groups of the longest difference: 33 bits and the sign.
const MAX_GROUPS: u32 = 7;

impl Rle {
    /// The string form of the counts: pycocotools' `counts` of a compressed mask.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(self.counts.len() * 2);
        for (i, &count) in self.counts.iter().enumerate() {
            let before = if i > 2 { self.counts[i - 2] } else { 0 };
            let mut rest = i64::from(count) - i64::from(before);
            loop {
                let group = rest & 0x1f;
                rest >>= 5;
                let last = rest == if group & SIGN != 0 { -1 } else { 0 };
                let group = if last { group } else { group | MORE };
                text.push(char::from(ZERO + group as u8));
                if last {
                    break;
                }
            }
        }
        text
    }

    /// A mask from its string form.
    ///
    /// # Errors
    /// A character that no mask has, a string that ends within a count, a count below 0 or over 32
    /// bits; and as [`Rle::new`].
    pub fn decode(size: Size, text: &str) -> Result<Self> {
        let mut counts: Vec<u32> = Vec::with_capacity(text.len() / 2);
        let (mut value, mut groups) = (0, 0);
        for (position, &byte) in text.as_bytes().iter().enumerate() {
            let wrong =
                |what| Error::invalid(format!("counts string of a {size} mask: {what} at {position}"));
            let group = i64::from(byte) - i64::from(ZERO);
            if !(0..0x40).contains(&group) {
                return Err(wrong("a character outside of '0' to 'o'"));
            }
            if groups == MAX_GROUPS {
                return Err(wrong("a count of more than 32 bits"));
            }
            value |= (group & 0x1f) << (5 * groups);
            groups += 1;
            if group & MORE != 0 {
                continue;
            }
            if group & SIGN != 0 {
                value |= -1 << (5 * groups);
            }
            if let [_, .., before, _] = counts[..] {
                value += i64::from(before);
            }
            counts.push(u32::try_from(value).map_err(|_| wrong("a count below 0 or of more than 32 bits"))?);
            (value, groups) = (0, 0);
        }
        if groups != 0 {
            return Err(Error::invalid(format!("counts string of a {size} mask ends within a count")));
        }
        Self::new(size, counts)
    }
}
