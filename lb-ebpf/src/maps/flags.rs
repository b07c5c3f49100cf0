//! Flags of maps, as the declarations take them.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};

pub const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
pub const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
