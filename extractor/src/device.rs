//! Where a backbone runs: the CPU, or a GPU if CUDA can be used, and if not, why.
//!
//! `libtorch_cuda.so` is opened at start and never linked: one binary runs with and without a GPU. Opening it
//! registers its kernels with libtorch, so it must happen before the first tensor is made.

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tch::Device;

/// Which device was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if CUDA can be used, the CPU otherwise.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = |n: &str| n.parse().ok();
        match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(number).map(Self::Cuda),
        }
        .ok_or_else(|| Error::Unknown {
            kind: "device",
            name: name.to_owned(),
            expected: "auto, cpu, cuda or cuda:N".into(),
        })
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The device, or [`Error::Device`] with the reason why it cannot be used. `Auto` logs that reason and
    /// takes the CPU.
    pub fn open(self) -> Result<Device> {
        let gpus = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Auto | Self::Cuda(_) => cuda(),
        };
        let refused = |reason: String| Error::Device { device: self.to_string(), reason };
        match (self, gpus) {
            (Self::Cuda(number), Ok(count)) if number >= *count => {
                Err(refused(format!("this machine has {count} of them, numbered from 0")))
            }
            (Self::Cuda(number), Ok(_)) => Ok(Device::Cuda(number)),
            (Self::Cuda(_), Err(reason)) => Err(refused(reason.clone())),
            (_, Ok(_)) => Ok(Device::Cuda(0)),
            (_, Err(reason)) => {
                // `doctor` tells; here it would be said with every command of a machine without a GPU.
                log::debug!("running on the CPU: {reason}");
                Ok(Device::Cpu)
            }
        }
    }
}

/// Number of GPUs that libtorch can use (at least one), or why CUDA is off. Found out once.
pub fn cuda() -> &'static std::result::Result<usize, String> {
    static CUDA: OnceLock<std::result::Result<usize, String>> = OnceLock::new();
    CUDA.get_or_init(|| {
        let library = libtorch_folder()?.join("libtorch_cuda.so");
        if !library.exists() {
            return Err(format!("{} does not exist: a libtorch without CUDA", library.display()));
        }
        open_for_good(&library).map_err(|e| format!("{} does not open: {e}", library.display()))?;
        match tch::Cuda::device_count() {
            count if count > 0 && tch::Cuda::is_available() => Ok(count as usize),
            _ => Err(format!("{} opened, but the NVIDIA driver shows no GPU", library.display())),
        }
    })
}

/// Threads for libtorch's operations: the CPUs that this process may use, by affinity and by control group,
/// not those of the host.
pub fn intra_op_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The folder that `libtorch_cpu.so` was loaded from, or else `LIBTORCH/lib`.
fn libtorch_folder() -> std::result::Result<PathBuf, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded = maps.lines().filter_map(|line| Some(Path::new(line.get(line.find('/')?..)?)));
    let mut loaded = loaded.filter(|path| path.file_name().is_some_and(|name| name == "libtorch_cpu.so"));
    if let Some(folder) = loaded.next().and_then(Path::parent) {
        return Ok(folder.to_owned());
    }
    match std::env::var_os("LIBTORCH") {
        Some(root) => Ok(Path::new(&root).join("lib")),
        None => Err("libtorch_cpu.so is not among the loaded libraries and LIBTORCH is not set".into()),
    }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "opening a shared library runs its initialisers")]
fn open_for_good(library: &Path) -> std::result::Result<(), libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the file is the CUDA half of the libtorch that this process already runs; its initialisers
    // register kernels and are made to be run at any time before their use.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }?;
    // Kernels point into it for the life of the process.
    std::mem::forget(opened);
    Ok(())
}
