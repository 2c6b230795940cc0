//! A safetensors file: mapped, its header checked before anything in it is believed.
//!
//! Only the header is read here; values are read when a parameter is made of them. Pickled checkpoints are
//! recognised to be refused by name: they are programs, not data.

use crate::image::open_file;
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::Kind;

/// Element types that hold weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredType {
    F32,
    F16,
    Bf16,
}

impl StoredType {
    fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Appends the values of little-endian `bytes` as little-endian binary32. Exact.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend_from_slice(bytes),
            Self::F16 => bytes.as_chunks().0.iter().for_each(|&b| {
                out.extend_from_slice(&half::f16::from_le_bytes(b).to_f32().to_le_bytes());
            }),
            Self::Bf16 => bytes.as_chunks().0.iter().for_each(|&b| {
                out.extend_from_slice(&half::bf16::from_le_bytes(b).to_f32().to_le_bytes());
            }),
        }
    }
}

/// One tensor of the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// As the file names it.
    pub(crate) dtype: String,
    /// If it can hold weights.
    pub(crate) stored: Option<StoredType>,
    /// In the file.
    pub(crate) range: Range<usize>,
}

/// A mapped safetensors file whose header is valid: every tensor lies in the file and has the bytes of its
/// shape.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    entries: Vec<Entry>,
}

impl TensorFile {
    /// Maps the file and checks its header. Fails with [`Error::Weights`] on anything that is not a whole
    /// safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, bytes) = open_file(path).map_err(Error::io(path))?;
        if bytes < 8 {
            return Err(Error::weights(path, format!("no safetensors file: {bytes} bytes")));
        }
        let map = map(&file).map_err(Error::io(path))?;
        if map.starts_with(b"PK\x03\x04") || map.starts_with(b"\x80\x02") {
            return Err(Error::weights(
                path,
                "a pickled PyTorch checkpoint, which is a program: expected safetensors, convert it first",
            ));
        }
        let entries = entries(&map).map_err(|what| Error::weights(path, what))?;
        Ok(Self { path: path.to_owned(), map, entries })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes, ordered by name.
    pub fn names(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    /// What its tensors are called in the canonical naming, those left out that have no name in it.
    pub(crate) fn canonical_names(&self) -> Vec<String> {
        super::naming::canonical_names(self)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of the file; the range comes from a checked header.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.map.get(range).unwrap_or_default()
    }
}

#[expect(unsafe_code, reason = "mapping a file is the only way to read weights larger than memory twice")]
fn map(file: &std::fs::File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this value. The user who names a weights file owes that
    // nobody truncates it while a run reads it; every other change only changes values, which the weights'
    // hash in the recipe would show.
    unsafe { Mmap::map(file) }
}

fn entries(map: &[u8]) -> std::result::Result<Vec<Entry>, String> {
    let (length, rest) = map.split_first_chunk::<8>().ok_or("no safetensors file: too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > rest.len() {
        return Err(format!("no safetensors file: header of {length} bytes in a file of {}", map.len()));
    }
    // Offsets are bounded before the library adds them up: it would overflow on hostile ones.
    let header: Metadata = serde_json::from_slice(rest.get(..length).unwrap_or_default())
        .map_err(|e| format!("safetensors header: {e}"))?;
    let data = rest.len() - length;
    for (name, info) in header.tensors() {
        if info.data_offsets.0 > info.data_offsets.1 || info.data_offsets.1 > data {
            return Err(format!(
                "safetensors header: {name} lies at {}..{} of {data} bytes of data",
                info.data_offsets.0, info.data_offsets.1
            ));
        }
    }
    let (_, header) = SafeTensors::read_metadata(map).map_err(|e| format!("safetensors header: {e}"))?;
    let mut entries: Vec<Entry> = header
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry {
            name,
            shape: info.shape.clone(),
            dtype: format!("{:?}", info.dtype).to_lowercase(),
            stored: StoredType::of(info.dtype),
            range: 8 + length + info.data_offsets.0..8 + length + info.data_offsets.1,
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
