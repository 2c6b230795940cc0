//! After how many blocks of a stage a weights file has a LayerNorm on the main branch (`norm3`). The SwinV2
//! paper has one every six blocks in H and G; the code that Microsoft released, and the H that it made, has
//! none. No option needs to say what the file's names tell.

use crate::Result;
use crate::weights::{TensorFile, WeightSource};

/// The number of blocks, 0 for no such norm; `None` where there is no file.
pub(super) fn of_source(source: &WeightSource) -> Result<Option<usize>> {
    let WeightSource::File(path) = source else { return Ok(None) };
    let file = TensorFile::open(path)?;
    let block = |name: &str| {
        let (block, _) = name.split_once(".blocks.")?.1.split_once(".norm3.")?;
        block.parse::<usize>().ok()
    };
    // The first one sets the distance; whether the others follow it, matching the weights finds out.
    let first = file.canonical_names().iter().filter_map(|name| block(name)).min();
    Ok(Some(first.map_or(0, |block| block.saturating_add(1))))
}
