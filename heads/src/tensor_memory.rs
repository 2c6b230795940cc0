//! Memory of batches that torch owns, so that what is read is a tensor already. Must not know what the
//! bytes mean.

use crate::{Error, Result};
use featcache_store::BatchMemory;
use std::io::ErrorKind;
use tch::{Device, Kind, Tensor};

/// Bytes of one level of a batch in the storage of a tensor. Views of it keep the storage alive.
#[derive(Debug)]
pub(crate) struct TensorMemory {
    /// `[bytes]`, uint8, on the CPU; never resized.
    tensor: Tensor,
    bytes: usize,
}

impl TensorMemory {
    /// Memory of so many bytes.
    pub(crate) fn allocate(bytes: usize) -> std::io::Result<Box<dyn BatchMemory>> {
        let length = i64::try_from(bytes).map_err(|_| ErrorKind::OutOfMemory)?;
        let tensor = Tensor::f_empty([length], (Kind::Uint8, Device::Cpu)).map_err(std::io::Error::other)?;
        prefer_huge_pages(tensor.data_ptr().addr(), bytes);
        Ok(Box::new(Self { tensor, bytes }))
    }

    /// Its first bytes as elements of this kind and shape: the memory itself, not a copy.
    pub(crate) fn view(&self, shape: [usize; 4], kind: Kind) -> Result<Tensor> {
        let bytes =
            shape.iter().try_fold(kind.elt_size_in_bytes(), |product, &side| product.checked_mul(side));
        let fits = bytes.filter(|bytes| *bytes <= self.bytes);
        let bytes = fits.ok_or_else(|| Error::invalid(format!("{shape:?} in {} bytes", self.bytes)))?;
        let elements = self.tensor.f_narrow(0, 0, bytes as i64)?.f_view_dtype(kind)?;
        Ok(elements.f_view(shape.map(|side| side as i64))?)
    }
}

impl BatchMemory for TensorMemory {
    fn bytes(&self) -> &[u8] {
        let start = self.tensor.data_ptr().cast::<u8>().cast_const();
        #[expect(unsafe_code, reason = "tch has no view of a tensor's memory as a slice")]
        // SAFETY: the storage has `bytes` bytes on the CPU, which `allocate` asked for, and lives as long as
        // the tensor, which is never resized. Who holds views of it does not write to them while a batch is
        // read from or into: `LoadedBatch::maps` says so.
        unsafe {
            std::slice::from_raw_parts(start, self.bytes)
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.tensor.data_ptr().cast::<u8>();
        #[expect(unsafe_code, reason = "tch has no view of a tensor's memory as a slice")]
        // SAFETY: as above; and the memory is read into only before views of it are made and after
        // `Loader::recycle`, which says that they are to be gone.
        unsafe {
            std::slice::from_raw_parts_mut(start, self.bytes)
        }
    }
}

/// Asks for huge pages: copying tens of megabytes out of the page cache into small ones spends a third of
/// its time on page-table walks. Torch asks for none unless an environment variable is set.
fn prefer_huge_pages(start: usize, bytes: usize) {
    let page = rustix::param::page_size();
    // Outwards: what shares the first and the last page is advised too, which does no harm.
    let first = start - start % page;
    let length = (start + bytes).next_multiple_of(page) - first;
    #[expect(unsafe_code, reason = "some advice empties memory; this one does not")]
    // SAFETY: the pages hold bytes of a live allocation, and MADV_HUGEPAGE leaves their content as it is.
    let advised = unsafe {
        let first = std::ptr::with_exposed_provenance_mut(first);
        rustix::mm::madvise(first, length, rustix::mm::Advice::LinuxHugepage)
    };
    // Small pages do as well, only slower.
    let _advice = advised;
}
