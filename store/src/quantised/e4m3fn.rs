//! The numbers of E4M3 with finite values and NaN alone (OCP 8-bit Floating Point Specification 1.0, section
//! 5.1; `float8_e4m3fn` of ml_dtypes and PyTorch).

/// Largest number of a code, 0x7e.
pub(super) const MAX: f32 = 448.0;
/// Least normal number; below it, codes are multiples of 2^-9.
const LEAST_NORMAL: f32 = 1.0 / 64.0;
/// Exponent fields of binary32 and of E4M3 differ by 127 - 7.
const BIAS: u32 = 120 << 23;
/// 2^14: numbers added to it are rounded to multiples of 2^-9, ties to even.
const SUBNORMALS: f32 = 16384.0;

/// The number of a code; NaN for 0x7f and 0xff. Without a branch and without subnormal operands, which some
/// processors are slow with.
#[inline(always)]
pub(super) fn number(code: u8) -> f32 {
    let code = u32::from(code);
    let (sign, magnitude) = ((code & 0x80) << 24, code & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + BIAS);
    // With the exponent of the least normal number, whose mantissa's hidden bit is taken away again.
    let subnormal = f32::from_bits((magnitude << 20) + BIAS + (1 << 23)) - LEAST_NORMAL;
    let value = if magnitude < 8 { subnormal } else { normal };
    let value = if magnitude == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | sign)
}

/// The code nearest to a number of at most [`MAX`], ties to even.
#[inline(always)]
pub(super) fn code(value: f32) -> u8 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 24) & 0x80, bits & 0x7fff_ffff);
    let rounded = magnitude.wrapping_add(0x7_ffff + ((magnitude >> 20) & 1));
    let normal = rounded.wrapping_sub(BIAS) >> 20;
    let subnormal = (f32::from_bits(magnitude) + SUBNORMALS).to_bits().wrapping_sub(SUBNORMALS.to_bits());
    let code = if f32::from_bits(magnitude) < LEAST_NORMAL { subnormal } else { normal };
    let [code, ..] = (code | sign).to_le_bytes();
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: a fraction of eight and a power of two.
    fn defined(code: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let magnitude = match (exponent, code & 0x7f) {
            (_, 0x7f) => f32::NAN,
            (0, _) => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if code < 0x80 { magnitude } else { -magnitude }
    }

    #[test]
    fn codes_are_the_numbers_of_the_definition() {
        for bits in 0..=u8::MAX {
            let (found, expected) = (number(bits), defined(bits));
            if expected.is_nan() {
                assert!(found.is_nan(), "{bits:#x}");
                continue;
            }
            assert_eq!(found.to_bits(), expected.to_bits(), "{bits:#x}");
            assert_eq!(code(found), bits, "{found}");
        }
        assert_eq!((number(0x7e), number(0x01), number(0x08)), (MAX, 2f32.powi(-9), LEAST_NORMAL));
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest_and_ties_to_even() {
        for low in 0..0x7e {
            let (a, b) = (number(low), number(low + 1));
            let middle = (a + b) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            for (value, expected) in [(middle.next_down(), low), (middle, even), (middle.next_up(), low + 1)]
            {
                assert_eq!(code(value), expected, "{value}");
                assert_eq!(code(-value), expected | 0x80, "{value}");
            }
        }
    }
}
