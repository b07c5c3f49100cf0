//! What build scripts and tests share with `cargo xtask`: compiling the programs for the kernel, and finding the
//! programs of the test control plane.

pub mod control_plane;
mod dwarf;
pub mod toolchain;
