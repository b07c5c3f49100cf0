//! What the build scripts share with `cargo xtask`: how the programs for the kernel are compiled.

pub mod toolchain;
