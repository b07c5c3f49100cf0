//! Finds a compiler and a linker for the kernel's target, and builds a crate with them.
//!
//! Stable Rust has no precompiled `core` for this target: `core` is compiled with the crate, from source, with a
//! compiler of the very same version. Two kinds of machine have both:
//!
//! 1. rustup's nightly with the component `rust-src`;
//! 2. Debian 12, whose `rustc-web` and `rust-web-src` are a compiler and the matching source.
//!
//! Build scripts call this module, so it only looks; `cargo xtask` installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::dwarf;

/// The version of bpf-linker that `cargo xtask` installs.
pub const LINKER_VERSION: &str = "0.13.0";

/// Little-endian, like x86-64, arm64 and riscv64.
const TARGET: &str = "bpfel-unknown-none";

/// The path of the compiler of Debian's packages.
const DEBIAN: &str = "/usr/bin/rustc";

/// Variables by which an outer cargo would determine compiler, flags and folders of the inner one.
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

/// For a build script: compiles the binary `name` of the crate in `folder` of the workspace, to `OUT_DIR/name`.
/// An error becomes an error of the build.
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
    let output = toolchain.cargo("build", folder).output().context("cargo cannot be started")?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo:warning={line}");
    }
    ensure!(output.status.success(), "{} does not compile, see above", folder.display());

    let built = target_dir().join(TARGET).join("release").join(name);
    let object = fs::read(&built).with_context(|| format!("{} was not built", built.display()))?;
    let object = dwarf::without(&object).with_context(|| built.display().to_string())?;
    fs::write(out.join(name), object).context("the object cannot be written")
}

/// The folder of the workspace. This crate is only ever built inside the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The target folder of both eBPF crates and all profiles, so that `core` and aya are compiled once. The outer
/// cargo's own folders cannot be used: they are locked while a build script runs.
fn target_dir() -> PathBuf {
    root().join("target/ebpf")
}

/// The folder of downloaded and compiled tools.
///
/// # Errors
/// The user has no home folder.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("lb"))
}

/// This machine by its name in the agent's compiler: `x86_64-unknown-linux-gnu`.
///
/// # Errors
/// There is no rustc, or its output is not understood.
pub fn host() -> Result<String> {
    let version = said(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Whether the agent's compiler has the standard library of a target.
///
/// # Errors
/// There is no rustc, or it does not know the target.
pub fn has_libraries(target: &str) -> Result<bool> {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let folder = said(rustc.args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// A compiler and a linker that fit each other.
pub struct Toolchain {
    /// The compiler, which has the source of `core`.
    pub compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// Finds rustup's nightly or Debian's compiler, each with a linker.
    ///
    /// # Errors
    /// Neither is complete. The error says what is missing from each.
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
        // BTF is made from the debug information. v3 has 32-bit jumps and atomics that return a result.
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
            // Permits `-Z` in a compiler that calls itself stable.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args([action, "--quiet", "--release", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
            .arg(target_dir())
            .stdin(Stdio::null());
        command
    }

    /// Clippy of the same version as the compiler, on the crate in `folder`; warnings are errors.
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
    /// The major version of its LLVM. The linker reads what this LLVM wrote, so the linker's must not be older.
    pub llvm: u32,
}

impl Compiler {
    /// rustup's nightly.
    ///
    /// # Errors
    /// There is none.
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

    /// Debian's compiler, of the package `rustc-web`. The package has no cargo, so the cargo that runs us is used.
    ///
    /// # Errors
    /// There is none.
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

    /// Fails if the source of `core` is missing.
    ///
    /// # Errors
    /// The source is missing, or the compiler cannot be started.
    pub fn require_source(&self) -> Result<()> {
        let sysroot = said(Command::new(&self.rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        ensure!(core.exists(), "{} lacks the source of `core` ({} is missing)", self.version, core.display());
        Ok(())
    }

    /// The path of clippy of the same version.
    pub fn clippy(&self) -> PathBuf {
        self.rustc.with_file_name("clippy-driver")
    }

    /// Whether this is the compiler of Debian's packages.
    pub fn is_debian(&self) -> bool {
        self.rustc == Path::new(DEBIAN)
    }

    /// The folder where `cargo xtask` installs the linker for this compiler.
    ///
    /// # Errors
    /// The user has no home folder.
    pub fn linker_folder(&self) -> Result<PathBuf> {
        Ok(cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm{}", self.llvm)))
    }

    /// Our own linker, or else one from the PATH, which its owner is trusted to have matched to the compiler. The
    /// linker must start: its LLVM is a shared library, which may have been removed.
    ///
    /// # Errors
    /// Neither linker starts.
    pub fn linker(&self) -> Result<PathBuf> {
        let ours = self.linker_folder()?.join("bin/bpf-linker");
        let starts = |linker: &Path| said(Command::new(linker).arg("--version"));
        let Err(why) = starts(&ours) else { return Ok(ours) };
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .map(|folder| folder.join("bpf-linker"))
            .find(|linker| linker.exists() && starts(linker).is_ok())
            .with_context(|| format!("there is no bpf-linker for LLVM {}: {why:#}", self.llvm))
    }
}

/// The standard output of a command that only informs.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", complaint.lines().next().unwrap_or("failed"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
