//! How much of a forward pass is worked on at a time. Sets speed and memory; what comes out differs by no more
//! than the rounding of sums in another order.

use tch::Device;

/// Sizes of what is worked on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portions {
    /// Pictures of a batch go through the network together. On a CPU they go one by one: it is busy with one,
    /// and features then do not depend on the batch, to the last bit.
    pub together: bool,
    /// Bytes of the hidden layer of a slice of windows. On a CPU it is to stay in cache (measured: flat between
    /// 2 and 16 MiB); a GPU wants large products.
    pub slice_bytes: usize,
    /// Cells of a slice whatever its bytes: below 1024 a matrix product does not reach a CPU's speed. At least
    /// one window.
    pub slice_cells: usize,
    /// Bytes of logits that attention on a CPU holds at a time, at least a head of a window: half of a core's
    /// second-level cache (measured: 1 and 4 MiB alike, 16 MiB a quarter slower).
    pub logit_bytes: usize,
    /// Bytes of spread position biases kept between blocks and passes. What goes beyond is made anew once a
    /// block and mask.
    pub kept_bias_bytes: usize,
}

impl Portions {
    /// What suits a device.
    pub fn of(device: Device) -> Self {
        let cpu = device == Device::Cpu;
        Self {
            together: !cpu,
            slice_bytes: if cpu { 4 << 20 } else { 1 << 30 },
            slice_cells: 1024,
            logit_bytes: 1 << 20,
            kept_bias_bytes: 256 << 20,
        }
    }
}
