//! Compiles the toy policy of `tests/ebpf`. A test includes the object with
//! `include_bytes!(concat!(env!("OUT_DIR"), "/policy"))`. The programs are `policy_from_pod` (ingress of a pod's link)
//! and `policy_to_pod` (egress), both of kind classifier.

fn main() {
    xtask::toolchain::embed("tests/ebpf", "policy");
}
