//! The one integration binary: each further one would be another slow link against libtorch.

mod pictures;
mod scenes;
