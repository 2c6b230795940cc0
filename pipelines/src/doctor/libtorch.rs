//! Which libtorch this process runs on, whether it computes, and why CUDA is off. Choosing a device is the
//! extractor's.

use std::path::{Path, PathBuf};

use featcache_extractor::device;
use tch::{Kind, Tensor};

use super::Check;

/// The version that the bindings were written for; any other is undefined behaviour in waiting.
const EXPECTED: &str = "2.11.0";

const HOW: &str = "`cargo xtask setup` fetches the right one; a LIBTORCH that you set must be that version";

/// The loaded library's own version and its folder.
pub(super) fn library() -> Check {
    let name = "libtorch";
    let folder =
        loaded_folder().map_or_else(|| "a place that is not shown".into(), |path| path.display().to_string());
    match loaded_version() {
        Some(found) if found == EXPECTED => Check::ok(name, format!("{found}, as expected, in {folder}")),
        Some(found) => {
            Check::missing(name, format!("expected {EXPECTED}, found {found} in {folder}"), HOW).blocking()
        }
        None => {
            let found = format!("expected {EXPECTED}, found one in {folder} that does not tell its version");
            Check::missing(name, found, HOW).blocking()
        }
    }
}

/// Multiplies two small matrices in both kinds that the backbones compute in.
pub(super) fn arithmetic() -> Check {
    let name = "arithmetic";
    let wrong = |kind: Kind| match product(kind) {
        Ok(values) if values == [19.0, 22.0, 43.0, 50.0] => None,
        Ok(values) => Some(format!("expected [19, 22, 43, 50] in {kind:?}, found {values:?}")),
        Err(error) => Some(format!("{kind:?}: {}", error.to_string().lines().next().unwrap_or_default())),
    };
    match wrong(Kind::Float).or_else(|| wrong(Kind::BFloat16)) {
        None => Check::ok(name, "float32 and bfloat16 matrix products are right"),
        Some(found) => Check::missing(name, found, HOW).blocking(),
    }
}

/// Whether a GPU can be used, and why not.
pub(super) fn cuda() -> Check {
    let name = "CUDA";
    match device::cuda() {
        Ok(count) => Check::ok(name, format!("{count} GPU(s)")),
        Err(reason) if Path::new("/dev/nvidiactl").exists() => Check::warning(
            name,
            format!("off, although there is an NVIDIA driver: {reason}"),
            format!(
                "set LIBTORCH to a CUDA build of libtorch {EXPECTED} (a Python environment's torch folder) and build again"
            ),
        ),
        Err(reason) => {
            Check::missing(name, format!("off: {reason}"), "nothing, unless there is a GPU: the CPU is used")
        }
    }
}

fn product(kind: Kind) -> Result<Vec<f64>, tch::TchError> {
    let left = Tensor::f_from_slice(&[1f32, 2.0, 3.0, 4.0])?.f_view([2, 2])?.f_to_kind(kind)?;
    let right = Tensor::f_from_slice(&[5f32, 6.0, 7.0, 8.0])?.f_view([2, 2])?.f_to_kind(kind)?;
    let product = left.f_matmul(&right)?.f_to_kind(Kind::Double)?.f_view([4])?; // [4]
    Vec::<f64>::try_from(product)
}

/// The folder above the `lib` that the loader took `libtorch_cpu.so` from.
fn loaded_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let library = Path::new(line.get(line.find('/')?..)?);
    Some(library.parent()?.parent()?.to_path_buf())
}

/// What the loaded library says of itself: its C interface packs major, minor and patch into the high bytes
/// (torch/headeronly/version.h, `TORCH_ABI_VERSION`).
#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "the only place where libtorch tells its version is a C function that tch does not bind"
)]
fn loaded_version() -> Option<String> {
    use libloading::os::unix::{Library, Symbol};
    let process = Library::this();
    // SAFETY: libtorch declares `uint64_t aoti_torch_abi_version(void)` in its stable C interface
    // (torch/csrc/inductor/aoti_torch/c/shim.h); it reads a constant and touches no state.
    let packed = unsafe {
        let version: Symbol<unsafe extern "C" fn() -> u64> = process.get(b"aoti_torch_abi_version\0").ok()?;
        version()
    };
    let [major, minor, patch, ..] = packed.to_be_bytes();
    Some(format!("{major}.{minor}.{patch}"))
}

#[cfg(not(unix))]
fn loaded_version() -> Option<String> {
    None
}
