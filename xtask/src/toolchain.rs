//! Finds a compiler and a linker for the kernel's target, and builds a crate with them.
//!
//! Stable Rust has no such target ready made: `core` is compiled with the crate, from its source, with a
//! compiler of the very same version. Two kinds of machine have that:
//!
//! 1. rustup's nightly with the component `rust-src`;
//! 2. Debian 12, whose `rustc-web` and `rust-web-src` are a compiler and the matching source.
//!
//! Build scripts call this, so it only looks; `cargo xtask` installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

pub const LINKER_VERSION: &str = "0.13.0";

/// Little-endian: what x86-64, arm64 and riscv64 run.
const TARGET: &str = "bpfel-unknown-none";

/// Where Debian's packages put the compiler.
const DEBIAN: &str = "/usr/bin/rustc";

/// Variables by which an outer cargo would choose compiler, flags and folders for the inner one.
const FOREIGN: [&str; 11] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
];

/// For a build script: compiles the binary `name` of the crate in `folder` of the workspace to `OUT_DIR/name`.
pub fn embed(folder: &str, name: &str) {
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    if let Err(error) = build_object(&root().join(folder), name, Path::new(&out)) {
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build_object(folder: &Path, name: &str, out: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    for input in [
        &folder.join("src"),
        &folder.join("Cargo.toml"),
        &folder.join("Cargo.lock"),
        &root().join("lb-common/src"),
        &toolchain.linker,
    ] {
        println!("cargo:rerun-if-changed={}", input.display());
    }
    let output = toolchain.cargo("build", folder).output().context("cargo does not start")?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo:warning={line}");
    }
    ensure!(output.status.success(), "{} does not compile, see above", folder.display());

    let built = target_dir().join(TARGET).join("release").join(name);
    fs::copy(&built, out.join(name)).with_context(|| format!("{} was not built", built.display()))?;
    Ok(())
}

/// The workspace: this crate is only ever built inside of it.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// One for both eBPF crates and all profiles: `core` and aya are compiled once. It is none of the outer
/// cargo's own folders, which are locked while a build script runs.
fn target_dir() -> PathBuf {
    root().join("target/ebpf")
}

/// Where downloaded and compiled tools live.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("lb"))
}

/// What the compiler of the agent calls this machine: `x86_64-unknown-linux-gnu`.
pub fn host() -> Result<String> {
    let version = said(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// A compiler and a linker that fit each other.
pub struct Toolchain {
    pub compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    pub fn find() -> Result<Self> {
        let nightly = Compiler::nightly().and_then(Self::with);
        let debian = || Compiler::debian().and_then(Self::with);
        nightly.or_else(|first| {
            debian().map_err(|second| {
                first.context(format!(
                    "no toolchain for eBPF is set up; run `cargo xtask build`, which installs one\n\
                     Debian's: {second:#}\nrustup's"
                ))
            })
        })
    }

    fn with(compiler: Compiler) -> Result<Self> {
        compiler.require_source()?;
        let linker = compiler.linker()?;
        Ok(Self { compiler, linker })
    }

    /// `cargo <action>` on the crate in `folder`, for the kernel's target.
    pub fn cargo(&self, action: &str, folder: &Path) -> Command {
        // BTF is made of the debug information. v3 has 32-bit jumps and atomics with a result.
        let flags = [
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            "-Ctarget-cpu=v3".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        let mut command = Command::new(&self.compiler.cargo);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command
            .current_dir(folder)
            .env("RUSTC", &self.compiler.rustc)
            // `-Z` on a compiler that calls itself stable.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args([action, "--quiet", "--release", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
            .arg(target_dir())
            .stdin(Stdio::null());
        command
    }

    /// Clippy of the same compiler on the crate in `folder`; warnings are errors.
    pub fn lint(&self, folder: &Path) -> Command {
        let mut command = self.cargo("check", folder);
        command.env("RUSTC_WORKSPACE_WRAPPER", self.compiler.clippy()).args([
            "-Zwarnings",
            "--config",
            "build.warnings=\"deny\"",
        ]);
        command
    }
}

/// A Rust compiler of this machine.
pub struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    /// The first line of `rustc -vV`.
    pub version: String,
    /// Major version of its LLVM. The linker reads what it wrote, so it must not be older.
    pub llvm: u32,
}

impl Compiler {
    /// rustup's nightly.
    pub fn nightly() -> Result<Self> {
        let rustc = said(
            Command::new("rustup")
                .args(["which", "--toolchain", "nightly", "rustc"])
                .env("RUSTUP_AUTO_INSTALL", "0"),
        )?;
        let rustc = PathBuf::from(rustc.trim());
        let cargo = rustc.with_file_name("cargo");
        Self::at(rustc, cargo)
    }

    /// Debian's, of the package `rustc-web`. It comes without a cargo: the one that runs us does.
    pub fn debian() -> Result<Self> {
        let cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        Self::at(DEBIAN.into(), cargo)
    }

    fn at(rustc: PathBuf, cargo: PathBuf) -> Result<Self> {
        let version = said(Command::new(&rustc).arg("-vV"))?;
        let llvm = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok());
        let llvm = llvm.with_context(|| format!("{} does not name its LLVM", rustc.display()))?;
        Ok(Self { rustc, cargo, version: version.lines().next().unwrap_or_default().to_owned(), llvm })
    }

    /// Fails where the source of `core` is missing.
    pub fn require_source(&self) -> Result<()> {
        let sysroot = said(Command::new(&self.rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        ensure!(core.exists(), "{} has no source of `core` ({} is missing)", self.version, core.display());
        Ok(())
    }

    pub fn clippy(&self) -> PathBuf {
        self.rustc.with_file_name("clippy-driver")
    }

    pub fn is_debian(&self) -> bool {
        self.rustc == Path::new(DEBIAN)
    }

    /// Where `cargo xtask` puts the linker for this compiler.
    pub fn linker_folder(&self) -> Result<PathBuf> {
        Ok(cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm{}", self.llvm)))
    }

    /// Our own linker, else one of the PATH, whose owner saw to it that it fits. It must start: its LLVM is a
    /// shared library, which may have gone.
    pub fn linker(&self) -> Result<PathBuf> {
        let ours = self.linker_folder()?.join("bin/bpf-linker");
        let starts = |linker: &Path| said(Command::new(linker).arg("--version"));
        let Err(why) = starts(&ours) else { return Ok(ours) };
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .map(|folder| folder.join("bpf-linker"))
            .find(|linker| linker.exists() && starts(linker).is_ok())
            .with_context(|| format!("no bpf-linker for LLVM {}: {why:#}", self.llvm))
    }
}

/// What a command that only informs prints.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", complaint.lines().next().unwrap_or("failed"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
