//! Compiles the packet path, so that `include_bytes!` finds it as `OUT_DIR/lb-ebpf`.

fn main() {
    xtask::toolchain::embed("lb-ebpf", "lb-ebpf");
}
