//! Tells the linker where libtorch will be at run time.
//! A build script and not `.cargo/config.toml`: it survives a set `RUSTFLAGS` and any target folder.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else { return };
    let libtorch = std::fs::canonicalize(&libtorch).unwrap_or(libtorch);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", Path::new(&libtorch).join("lib").display());
}
