//! Other kernels, booted by QEMU on this machine.
//!
//! A guest has this machine's own file tree as its root, read-only beneath an overlay in memory: the programs, tools
//! and libraries in it are the host's, and only the kernel differs. Nothing has to be copied into an image, and nothing
//! that a guest does stays. A guest of another architecture has a tree of unpacked packages instead. QEMU translates instructions (TCG), because a test machine may lack hardware support for
//! guests; it is some ten times slower than the host, so that no measure of time made in a guest means anything.

mod debian;
mod guest;
mod initrd;
mod kernel;
mod userland;

pub use guest::{Guest, Step};
pub use kernel::{Kernel, Series};
