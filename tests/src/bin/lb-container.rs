//! Runs a program as a container runtime does: with a separate, read-only root file system, the folders that are bound
//! into it, these capabilities, and no way to gain more. The network namespace stays the caller's, as for a pod on the
//! host network, and so does the pid namespace.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use clap::Parser;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_no_new_privs;

#[derive(Parser)]
struct Options {
    /// The root file system
    #[arg(long)]
    root: PathBuf,
    /// Folder to bind: OUTSIDE:INSIDE, or OUTSIDE:INSIDE:ro
    #[arg(long)]
    bind: Vec<String>,
    /// Capability to keep, such as CAP_BPF
    #[arg(long)]
    capability: Vec<Capability>,
    /// Environment variable NAME=VALUE; no other variable is set
    #[arg(long)]
    env: Vec<String>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // From here on, mounts change only the view of this process, and end with it.
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    remount(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    let root = &options.root;
    bind(root, root)?;
    for folder in ["proc", "sys"] {
        bind(&Path::new("/").join(folder), &root.join(folder))?;
    }
    for folder in ["sys", "proc/sys"] {
        let folder = root.join(folder);
        bind(&folder, &folder)?;
        remount(&folder, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    }
    for line in &options.bind {
        let mut parts = line.splitn(3, ':');
        let (outside, inside) = parts.next().zip(parts.next()).context("expected --bind OUTSIDE:INSIDE")?;
        let inside = root.join(inside.trim_start_matches('/'));
        bind(Path::new(outside), &inside)?;
        if parts.next() == Some("ro") {
            remount(&inside, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
        }
    }
    remount(root, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    nix::unistd::chroot(root).context("cannot change the root")?;
    std::env::set_current_dir("/")?;
    restrict(&options.capability.into_iter().collect())?;

    let (program, arguments) = options.command.split_first().context("there is no command")?;
    let variables = options.env.iter().filter_map(|line| line.split_once('='));
    Err(Command::new(program).args(arguments).env_clear().envs(variables).exec()).context(program.clone())
}

/// Binds a folder, with everything that is mounted below it.
fn bind(outside: &Path, inside: &Path) -> Result<()> {
    mount(Some(outside), inside, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", outside.display(), inside.display()))
}

fn remount(target: &Path, flags: MsFlags) -> Result<()> {
    // A change of the propagation is not a remount.
    let flags = if flags.contains(MsFlags::MS_BIND) { flags | MsFlags::MS_REMOUNT } else { flags };
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot remount {} {flags:?}", target.display()))
}

/// Sets capabilities as runc does for root: the same permitted and bounding set, nothing inheritable.
fn restrict(to: &CapsHashSet) -> Result<()> {
    for capability in caps::read(None, CapSet::Bounding)?.difference(to) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, to)?;
    caps::set(None, CapSet::Permitted, to)?;
    Ok(set_no_new_privs()?)
}
