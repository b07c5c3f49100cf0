//! Compiles the packet path, so that `include_bytes!` finds it as `OUT_DIR/lb-ebpf`.

use std::{env, path::Path};

fn main() -> anyhow::Result<()> {
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    xtask::toolchain::build_object(&xtask::toolchain::root().join("lb-ebpf"), "lb-ebpf", Path::new(&out))?;
    Ok(())
}
