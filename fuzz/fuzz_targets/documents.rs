//! The documents of a store, `zarr.json` and `manifest.json`, with hashes that fit.

#![no_main]

use featcache_fuzz::{Prey, damaged, prey};
use featcache_store::{Manifest, Spec};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    let &[which, edits @ ..] = &data else { return };
    let prey = prey();
    let document = if which % 2 == 0 { &prey.root } else { &prey.manifest };
    let bytes = damaged(document.to_string().as_bytes(), edits);
    let path = Path::new("document");
    if which % 2 == 0 {
        let _spec = Spec::parse(&bytes, path);
        return;
    }
    let _manifest = Manifest::parse(&bytes, path);
    if let Ok(document) = serde_json::from_slice(&bytes)
        && let Ok(manifest) = Manifest::parse(Prey::sealed(document).to_string().as_bytes(), path)
    {
        for file in &manifest.files {
            let _entry = manifest.file(&file.path);
        }
    }
});
