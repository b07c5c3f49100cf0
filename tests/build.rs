//! Compiles the toy policy of `tests/ebpf`. A test has it with
//! `include_bytes!(concat!(env!("OUT_DIR"), "/policy"))`; its programs are `policy_from_pod` (ingress of a
//! pod's link) and `policy_to_pod` (egress), both of kind classifier.

use std::{env, path::Path};

fn main() -> anyhow::Result<()> {
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    xtask::toolchain::build_object(&xtask::toolchain::root().join("tests/ebpf"), "policy", Path::new(&out))?;
    Ok(())
}
