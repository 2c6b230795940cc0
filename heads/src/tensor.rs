//! From a batch's bytes to tensors and from tensors to bytes: the one place where memory crosses into
//! torch. Must not keep either side's memory.

use crate::labels::{IGNORE, Target};
use crate::{Error, Result};
use featcache_store::{DType, Size};
use tch::{Device, Kind, Tensor};

/// A level of a batch, `[n, h, w, c]` little-endian bytes, as a map `[n, c, h, w]` in channels_last
/// memory of the given kind on the given device. The bytes are passed over once: conversion is the
/// copy.
pub fn feature_map(
    bytes: &[u8],
    shape: [usize; 4],
    dtype: DType,
    kind: Kind,
    device: Device,
) -> Result<Tensor> {
    let expected = shape.iter().try_fold(dtype.bytes(), |product, &side| product.checked_mul(side));
    if expected != Some(bytes.len()) {
        let found = bytes.len();
        return Err(Error::invalid(format!("{found} bytes for a batch {shape:?} of {dtype}")));
    }
    let shape = shape.map(|side| side as i64);
    let cells = copied(bytes, &shape, torch_kind(dtype), kind, device)?; // [n, h, w, c]
    channels_last(&cells)
}

/// A map `[n, h, w, c]` as `[n, c, h, w]` in channels_last memory: the same memory.
pub(crate) fn channels_last(cells: &Tensor) -> Result<Tensor> {
    Ok(cells.f_permute([0, 3, 1, 2])?) // [n, c, h, w]
}

/// Targets of one batch as `[n, H, W]` int64; rows without one are all ignored.
///
/// # Errors
/// A target of another size.
pub fn label_tensor(targets: &[Option<&Target>], size: Size, device: Device) -> Result<Tensor> {
    let Size { height, width } = size;
    let pixels = height as usize * width as usize;
    let mut classes = Vec::with_capacity(pixels * targets.len());
    for target in targets {
        match target {
            Some(target) if target.size == size => classes.extend_from_slice(&target.classes),
            Some(target) => {
                let found = target.size;
                return Err(Error::invalid(format!("a target is {found}, its batch {size}")));
            }
            None => classes.resize(classes.len() + pixels, IGNORE),
        }
    }
    let shape = [targets.len() as i64, i64::from(height), i64::from(width)];
    let target = Tensor::f_from_slice(&classes)?.f_reshape(shape)?;
    Ok(target.f_to_device(device)?.f_to_kind(Kind::Int64)?) // [n, H, W]
}

/// Torch's name of a store's element type.
pub fn torch_kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::F16 => Kind::Half,
        DType::Bf16 => Kind::BFloat16,
    }
}

/// A tensor of its own with the values of `bytes`, which hold `shape` elements of kind `from`.
fn copied(bytes: &[u8], shape: &[i64], from: Kind, to: Kind, device: Device) -> Result<Tensor> {
    if bytes.as_ptr().align_offset(from.elt_size_in_bytes()) != 0 {
        // Never with the store's batches, whose memory is aligned: one more pass over the bytes.
        return Ok(Tensor::f_from_data_size(bytes, shape, from)?.f_to_device_(device, to, false, false)?);
    }
    #[expect(
        unsafe_code,
        reason = "tch's safe constructors fill memory with zeros and then copy: two passes"
    )]
    // SAFETY: `feature_map`, the only caller, checked that `bytes` has exactly the elements of `shape`,
    // and the line above that they are aligned. The view only reads, and it is dropped before `bytes`
    // is: the copy made from it (`copy = true`, blocking) is what leaves this function.
    let view = unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &[], from, Device::Cpu)? };
    Ok(view.f_to_device_(device, to, false, true)?)
}

/// The elements of a tensor, contiguous and little-endian, wherever it lives.
pub(crate) fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_detach()?.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
