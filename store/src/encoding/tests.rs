//! The text of encodings, and what stores of them would hand out.

use super::*;

#[test]
fn every_encoding_has_one_text() {
    for format in NumberFormat::ALL {
        for projection in [None, NonZeroU32::new(1), NonZeroU32::new(u32::MAX)] {
            for compression in [Compression::None, Compression::Zstd] {
                let encoding = Encoding { projection, format, compression };
                assert_eq!(encoding.to_string().parse::<Encoding>().unwrap(), encoding);
            }
        }
        // As it was when an encoding was a number format.
        assert_eq!(Encoding::of(format).to_string(), format.name());
    }
    for (text, full) in
        [("pca64", "pca64+bf16"), ("pca64+zstd", "pca64+bf16+zstd"), ("int8+zstd", "int8+zstd")]
    {
        assert_eq!(text.parse::<Encoding>().unwrap().to_string(), full);
    }
}

#[test]
fn what_is_no_encoding_is_refused_with_what_is() {
    for (text, found) in [
        ("", r#""" is unknown"#),
        ("fp8", r#""fp8" is unknown"#),
        ("Int8", r#""Int8" is unknown"#),
        ("zstd", r#""zstd" is unknown"#),
        ("int8+", r#""int8+" is unknown"#),
        ("int8+zstd+zstd", r#""int8+zstd" is unknown"#),
        ("zstd+int8", r#""zstd+int8" is unknown"#),
        ("int8+pca8", r#""int8+pca8" is unknown"#),
        ("int8+lz4", r#""int8+lz4" is unknown"#),
        ("pca8+int8+int4", r#""int8+int4" is unknown"#),
        ("pca8+pca4+int8", r#""pca4+int8" is unknown"#),
        ("pca8+", r#""" is unknown"#),
        ("pca+int8", r#""" is no number of coefficients"#),
        ("pca0", r#""0" is no number of coefficients"#),
        ("pca08", r#""08" is no number of coefficients"#),
        ("pca+8", r#""" is no number of coefficients"#),
        ("pca-8", r#""-8" is no number of coefficients"#),
        ("pca4294967296", r#""4294967296" is no number of coefficients"#),
    ] {
        let error = text.parse::<Encoding>().unwrap_err().to_string();
        let known = "expected [pcaK+]FORMAT[+zstd] with K from 1 and as FORMAT one of bf16, f16, f32, int8, int4, e4m3fn";
        assert!(error.contains(&format!("encoding {text:?}: {found}: {known}")), "{error}");
    }
}

fn all() -> impl Iterator<Item = Encoding> {
    NumberFormat::ALL.into_iter().map(Encoding::of)
}

#[test]
fn blocks_must_fit_their_shape() {
    let block = Block { shape: [2, 2, 3], dtype: DType::F32, bytes: vec![0; 47] };
    let huge = Block { shape: [usize::MAX, 2, 3], dtype: DType::F32, bytes: vec![] };
    for encoding in all() {
        for block in [&block, &huge] {
            let error = Encoder::new(encoding, None, 3).unwrap().encode(block).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{encoding}: {error}");
        }
    }
}

#[test]
fn round_trips_give_what_a_store_would() {
    let values = [1.5f32, -2.0, 0.0, 1e-3];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let block = Block { shape: [2, 1, 2], dtype: DType::F32, bytes };
    let trip = |encoding: Encoding| {
        let bytes = encoding.round_trip(&block, None, Projected::Channels, DType::F32).unwrap();
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        values
    };
    assert_eq!(trip(NumberFormat::F32.into()), values);
    assert_eq!(trip(NumberFormat::Bf16.into()), [1.5, -2.0, 0.0, half::bf16::from_f32(1e-3).to_f32()]);
    // Two values a channel: the ends of its range, which have codes of their own.
    for format in [NumberFormat::Int8, NumberFormat::Int4] {
        for (found, value) in trip(format.into()).iter().zip(values) {
            assert!((found - value).abs() < 1e-5, "{format}: {found} for {value}");
        }
        let packed = Encoding { compression: Compression::Zstd, ..format.into() };
        assert_eq!(trip(packed), trip(format.into()), "compression loses nothing");
    }
    let nan = Block { bytes: f32::NAN.to_le_bytes().repeat(4), ..block };
    for encoding in all() {
        let error = encoding.round_trip(&nan, None, Projected::Channels, DType::F32).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{encoding}: {error}");
    }
}

#[test]
fn sizes_are_those_of_the_arrays() {
    use crate::{Bucket, LevelArrays, RowId, Size};
    let bucket = Bucket {
        split: "val".into(),
        view: "base".into(),
        size: Size::new(32, 48),
        rows: RowId(0)..RowId(3),
        unit_rows: 3,
    };
    for encoding in all() {
        for channels in [1, 8, 33] {
            for projection in [None, NonZeroU32::new(1), NonZeroU32::new(channels)] {
                let encoding = Encoding { projection, ..encoding };
                let level = LevelSpec {
                    name: "p2".into(),
                    stride: 4,
                    channels,
                    tap: "stage0".into(),
                    norm: "none".into(),
                };
                let arrays = LevelArrays::new(&bucket, &level, encoding).unwrap();
                let bytes: u64 = arrays.iter().map(|array| array.geometry.sample_bytes()).sum();
                assert_eq!(encoding.sample_bytes(level.shape(bucket.size)), bytes, "{encoding} {channels}");
            }
        }
    }
}
