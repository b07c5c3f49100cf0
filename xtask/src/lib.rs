//! What build scripts and tests share with `cargo xtask`: how the programs for the kernel are compiled, and where
//! those of the test control plane are.

pub mod control_plane;
pub mod toolchain;
