//! The architectures that `lb` is built for. The packet path is the same on all of them: eBPF has one little-endian
//! target.

use anyhow::{Result, bail};
use clap::ValueEnum;
use xtask::toolchain;

/// An architecture, by the name that Go, the specification of images and Debian give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// The one that a command's option names; without the option, this machine's.
    pub fn chosen(option: Option<Self>) -> Result<Self> {
        option.map_or_else(Self::host, Ok)
    }

    /// This machine's.
    pub fn host() -> Result<Self> {
        Ok(match std::env::consts::ARCH {
            "x86_64" => Self::Amd64,
            "aarch64" => Self::Arm64,
            other => bail!("lb has never been built for {other}"),
        })
    }

    /// Whether a program for this architecture runs on this machine.
    pub fn is_host(self) -> bool {
        Self::host().is_ok_and(|host| host == self)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name in Linux and in QEMU.
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The name of the target in rustc. This machine's own comes from the compiler, which may use another C library.
    pub fn target(self) -> Result<String> {
        if self.is_host() {
            return toolchain::host();
        }
        Ok(format!("{}-unknown-linux-gnu", self.machine()))
    }

    /// A program of the GNU tools that work on this architecture's files: `strip`, `aarch64-linux-gnu-strip`.
    pub fn tool(self, name: &str) -> String {
        if self.is_host() { name.to_owned() } else { format!("{}-linux-gnu-{name}", self.machine()) }
    }

    /// The Debian packages with those tools and with the C library, for this machine to build for this architecture.
    pub fn cross_packages(self) -> [String; 2] {
        // The name of a package has no underscore.
        let machine = self.machine().replace('_', "-");
        [format!("gcc-{machine}-linux-gnu"), format!("libc6-dev-{}-cross", self.name())]
    }
}
