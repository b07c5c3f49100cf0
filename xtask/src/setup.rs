//! Installs what the commands need, if it is missing. Set-up is quick if nothing is: it looks at files, runs four
//! programs and asks no server.

pub mod control_plane;

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xtask::toolchain::{self, Compiler, LINKER_VERSION, Toolchain};

use crate::{
    architecture::Architecture,
    cargo,
    privilege::{as_root, find},
    progress,
};

/// Programs that the demo, the tests and people use, and the Debian package of each.
const TOOLS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bpftool", "bpftool"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ipset", "ipset"),
    ("ethtool", "ethtool"),
    ("openssl", "openssl"),
];

/// What boots another kernel, and what only its guest can use; and the Debian package of each.
const GUESTS: [(&str, &str); 5] = [
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("ipvsadm", "ipvsadm"),
];

const INSTALL: Duration = Duration::from_secs(30 * 60);
/// A component is a small download: if it takes longer, there is no server.
const COMPONENT: Duration = Duration::from_secs(20);

/// Installs everything that is missing, except the programs of the test control plane.
pub fn ensure() -> Result<()> {
    tools()?;
    libc()?;
    lints()?;
    compiler()
}

fn tools() -> Result<()> {
    packages_of(&TOOLS)
}

/// Installs what boots another kernel.
pub fn guests(architecture: Architecture) -> Result<()> {
    let qemu = match architecture {
        Architecture::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    };
    let mut programs = GUESTS.to_vec();
    programs.push(qemu);
    packages_of(&programs)
}

/// Installs what builds for an architecture that is not this machine's.
pub fn cross(architecture: Architecture) -> Result<()> {
    if architecture.is_host() {
        return Ok(());
    }
    let target = architecture.target()?;
    if !toolchain::has_libraries(&target)? {
        ensure!(
            find("rustup").is_some(),
            "this machine's Rust has no libraries for {target} and did not come from rustup, which could add them: \
             install rustup, or build on a machine of the architecture {}",
            architecture.name()
        );
        let mut add = Command::new("rustup");
        progress::run(
            &format!("installing Rust's libraries for {target} (rustup)"),
            add.args(["target", "add", &target]),
            INSTALL,
        )?;
    }
    if find(&architecture.tool("gcc")).is_none() {
        let packages = architecture.cross_packages();
        apt(&packages.each_ref().map(String::as_str))?;
    }
    Ok(())
}

fn packages_of(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| find(program).is_none());
    let mut missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { apt(&missing) }
}

/// The C library for static linking. On Debian it comes with a C compiler, elsewhere as a package of its own.
fn libc() -> Result<()> {
    let asked = Command::new("cc").arg("-print-file-name=libc.a").output();
    let asked = asked.context("there is no C linker: install the package that has the command `cc`")?;
    // cc prints the bare name if there is no such file.
    if Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_absolute() {
        return Ok(());
    }
    apt(&["libc6-dev"]).context("the C library's libc.a is missing (glibc-static on Fedora)")
}

/// rustfmt and clippy, from the source that cargo came from.
fn lints() -> Result<()> {
    let works = |action| cargo::quiet(&[action, "--version"]).is_ok();
    if works("fmt") && works("clippy") {
        return Ok(());
    }
    if find("rustup").is_some() {
        let mut add = Command::new("rustup");
        return progress::run(
            "installing rustfmt and clippy (rustup)",
            add.args(["component", "add", "rustfmt", "clippy"]),
            INSTALL,
        );
    }
    apt(&["rustfmt-web", "rust-web-clippy"])
}

/// Clippy for the eBPF crates, which must be of the same version as their compiler.
pub fn ebpf_clippy(compiler: &Compiler) -> Result<()> {
    if compiler.clippy().exists() {
        return Ok(());
    }
    if compiler.is_debian() {
        return apt(&["rust-web-clippy"]);
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "clippy", "--toolchain", "nightly"]);
    progress::run("installing clippy for nightly (rustup)", &mut add, INSTALL)
}

/// A compiler for eBPF: the one that is installed, else the smallest download of these: the source for an installed
/// nightly, Debian's compiler, a nightly.
fn compiler() -> Result<()> {
    if Toolchain::find().is_ok() {
        return Ok(());
    }
    let Err(nightly) = with_nightly() else { return Ok(()) };
    let Err(debian) = with_debian() else { return Ok(()) };
    let Err(fetched) = with_fetched_nightly() else { return Ok(()) };
    Err(anyhow!(
        "no compiler for eBPF could be set up. One of these must work:\n\
         1. rustup's nightly. Failed: {nightly:#}\n   Installing a new one: {fetched:#}\n   Run: rustup toolchain \
         install nightly --component rust-src\n\
         2. Debian 12's rustc. Failed: {debian:#}\n   Run: apt-get update && apt-get install rustc-web \
         rust-web-src llvm-22-dev"
    ))
}

/// The installed nightly of rustup; its source is added if a server has it.
fn with_nightly() -> Result<()> {
    let compiler = Compiler::nightly()?;
    if compiler.require_source().is_err() {
        add_source(&compiler)?;
    }
    linker(&compiler)
}

fn add_source(nightly: &Compiler) -> Result<()> {
    // If a server had no source for this nightly yesterday, do not spend time on another attempt today.
    let failed = toolchain::cache()?.join("no-rust-src");
    if fs::read_to_string(&failed).is_ok_and(|version| version == nightly.version) {
        bail!(
            "{} has no rust-src, and an earlier attempt to fetch it failed (to try again: rm {})",
            nightly.version,
            failed.display()
        );
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    progress::run("fetching the source of core (rustup)", &mut add, COMPONENT)
        .inspect_err(|_| drop(fs::write(&failed, &nightly.version)))
}

fn with_debian() -> Result<()> {
    let usable = || Compiler::debian().and_then(|compiler| compiler.require_source().map(|()| compiler));
    if usable().is_err() {
        apt(&["rustc-web", "rust-web-src"])?;
    }
    linker(&usable()?)
}

fn with_fetched_nightly() -> Result<()> {
    ensure!(find("rustup").is_some(), "rustup is not installed");
    ensure!(Compiler::nightly().is_err(), "a nightly is already installed");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    progress::run("installing Rust nightly (rustup)", &mut install, INSTALL)?;
    linker(&Compiler::nightly()?)
}

/// bpf-linker, compiled against the same major version of LLVM as the compiler.
fn linker(compiler: &Compiler) -> Result<()> {
    if compiler.linker().is_ok() {
        return Ok(());
    }
    let llvm = compiler.llvm;
    ensure!((21..=23).contains(&llvm), "bpf-linker {LINKER_VERSION} does not support LLVM {llvm}");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        apt(&[&format!("llvm-{llvm}-dev")])?;
    }
    // An earlier bpf-linker may only have lacked its library.
    if compiler.linker().is_ok() {
        return Ok(());
    }

    let folder = compiler.linker_folder()?;
    let partial = toolchain::cache()?.join(format!("partial-{}", std::process::id()));
    let mut install = cargo::command();
    install
        .env("LLVM_PREFIX", prefix)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .arg(format!("--features=llvm-{llvm}"))
        .arg("--root")
        .arg(&partial);
    progress::run(&format!("compiling bpf-linker {LINKER_VERSION}"), &mut install, INSTALL)?;
    // Renamed once complete, so that a partial folder is never mistaken for a finished one.
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&partial, &folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    compiler.linker().map(drop)
}

/// Installs Debian packages. A fresh machine's lists of packages are missing or old; after a failure they are fetched,
/// and the installation is tried again.
fn apt(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    ensure!(
        find("apt-get").is_some(),
        "there is no apt-get: install by hand the equivalent of Debian's {names}"
    );
    // Never at the price of a package that is installed.
    let mut install = vec!["install", "--no-install-recommends", "--no-remove"];
    install.extend(packages);
    let what = format!("installing {names} (Debian)");
    apt_get(&what, &install)
        .or_else(|_| update_lists().and_then(|()| apt_get(&what, &install)))
        .with_context(|| format!("Debian packages could not be installed; run: apt-get install {names}"))
}

/// Fetches Debian's lists of packages.
fn update_lists() -> Result<()> {
    apt_get("fetching Debian's lists of packages", &["update"])
}

fn apt_get(what: &str, arguments: &[&str]) -> Result<()> {
    let mut command = as_root("apt-get", &[("DEBIAN_FRONTEND", "noninteractive")])?;
    command.args(["-y", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    progress::run(what, &mut command, INSTALL)
}
