//! Runs a program as a container runtime does: a root file system of its own that is not writable, what is bound
//! into it, these capabilities and no way to more. The network namespace stays the caller's, as that of a pod on the
//! host network does; so do the processes.

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
    /// OUTSIDE:INSIDE, or OUTSIDE:INSIDE:ro
    #[arg(long)]
    bind: Vec<String>,
    /// CAP_BPF and the like
    #[arg(long)]
    capability: Vec<Capability>,
    /// NAME=VALUE; nothing else is in the environment
    #[arg(long)]
    env: Vec<String>,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // Only this process's view changes from here on, and ends with it.
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
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
        let (outside, inside) = parts.next().zip(parts.next()).context("--bind OUTSIDE:INSIDE")?;
        let inside = root.join(inside.trim_start_matches('/'));
        bind(Path::new(outside), &inside)?;
        if parts.next() == Some("ro") {
            remount(&inside, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
        }
    }
    remount(root, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    nix::unistd::chroot(root).context("chroot")?;
    std::env::set_current_dir("/")?;
    restrict(&options.capability.into_iter().collect())?;

    let (program, arguments) = options.command.split_first().context("a command")?;
    let variables = options.env.iter().filter_map(|line| line.split_once('='));
    Err(Command::new(program).args(arguments).env_clear().envs(variables).exec()).context(program.clone())
}

/// With all that is mounted below.
fn bind(outside: &Path, inside: &Path) -> Result<()> {
    mount(Some(outside), inside, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("bind {} to {}", outside.display(), inside.display()))
}

fn remount(target: &Path, flags: MsFlags) -> Result<()> {
    // What is propagation is no remount.
    let flags = if flags.contains(MsFlags::MS_BIND) { flags | MsFlags::MS_REMOUNT } else { flags };
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("mount {} {flags:?}", target.display()))
}

/// As runc does for root: the same permitted and bounding set, nothing inherited.
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
