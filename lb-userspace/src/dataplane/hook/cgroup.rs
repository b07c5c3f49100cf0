//! Programs at the host's own sockets, attached to a cgroup v2.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use lb_common::names;
use procfs::process::Process;

use crate::dataplane::pins::Pins;
use crate::dataplane::sys::link;

/// Whose sockets are translated: `--socket-lb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketLb {
    /// Sockets of the agent's own network namespace: processes of the host, and pods on the host's network.
    #[default]
    Host,
    /// Sockets of pods too: their packets never carry a Service's address, which sidecars and sandboxes may need.
    All,
    /// No sockets.
    Off,
}

/// The magic of a cgroup v2 hierarchy in `statfs(2)`.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// The number of the root of every cgroup hierarchy.
pub const ROOT: u64 = 1;

/// A cgroup v2 to attach programs to.
#[derive(Debug)]
pub struct Cgroup {
    fd: OwnedFd,
    id: u64,
    /// Where the cgroup was found, for messages.
    pub place: String,
}

impl Cgroup {
    /// Opens the requested folder, or else the host's root: where it is mounted, or by a mount of our own that no other
    /// process sees and that ends with the descriptor.
    ///
    /// # Errors
    /// If there is no cgroup v2, or only the container's own part of it is visible.
    pub fn open(asked: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(dir) = asked {
            return Self::folder(dir);
        }
        let mounts = mounted()?;
        let mut cgroups = mounts.iter().filter_map(|mount| Self::folder(&mount.path).ok());
        if let Some(root) = cgroups.find(|cgroup| cgroup.id == ROOT) {
            return Ok(root);
        }
        if let Some(mount) = above_our_own(&mounts) {
            return Self::folder(&mount.path);
        }
        Self::by_own_mount().context(
            "the root of the host's cgroup v2 hierarchy is not mounted here, and this process cannot mount it: run \
             `mount -t cgroup2 none /sys/fs/cgroup/unified`; in a container, add a hostPath volume of the host's \
             /sys/fs/cgroup, as in deploy/",
        )
    }

    fn by_own_mount() -> io::Result<Self> {
        let cgroup = Self::new(mount_detached()?, "a mount of our own".to_owned())?;
        if cgroup.id == ROOT { Ok(cgroup) } else { Err(io::Error::other("only a part of it is visible")) }
    }

    fn folder(dir: &Path) -> anyhow::Result<Self> {
        let file = File::open(dir).with_context(|| format!("open the cgroup {}", dir.display()))?;
        if file_system(file.as_fd())? != CGROUP2_MAGIC {
            bail!("{} is not a folder of a cgroup v2 hierarchy", dir.display());
        }
        Ok(Self::new(file.into(), dir.display().to_string())?)
    }

    fn new(fd: OwnedFd, place: String) -> io::Result<Self> {
        let id = File::from(fd.try_clone()?).metadata()?.ino();
        Ok(Self { fd, id, place })
    }
}

/// Attaches the programs to a cgroup, or replaces those of the existing links, each atomically. Links to other cgroups
/// are removed.
///
/// # Errors
/// If a program cannot be attached, replaced or detached.
pub fn attach(object: &mut Ebpf, pins: &Pins, cgroup: &Cgroup) -> anyhow::Result<()> {
    for name in names::ON_SOCKETS {
        let pin = pins.socket_link(cgroup.id, name);
        let program = program(object, name)?;
        match link::update_pinned(&pin, program.fd()?.as_fd()) {
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The cgroup is gone, and another one has its number.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => std::fs::remove_file(&pin)?,
            Err(error) => return Err(error).with_context(|| format!("replace the program {name}")),
        }
        // For links, `Single` is what the kernel calls multi: aya passes the other modes as flags, which the kernel
        // refuses.
        let id = program
            .attach(cgroup.fd.as_fd(), CgroupAttachMode::Single)
            .with_context(|| format!("attach {name} to the cgroup {}", cgroup.place))?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&pin).with_context(|| format!("pin {}", pin.display()))?;
    }
    detach_but(pins, Some(cgroup))
}

/// Whether every program is where [`attach`] put it. Another process may have detached one, or the cgroup may be gone.
pub fn is_attached(pins: &Pins, cgroup: &Cgroup) -> bool {
    let pin = |name| pins.socket_link(cgroup.id, name);
    names::ON_SOCKETS.into_iter().all(|name| link::pinned_target(&pin(name)).is_ok_and(|target| target != 0))
}

/// The cgroup that programs are attached to, and the number of these programs; `None` if no program is attached.
///
/// # Errors
/// If the pins cannot be read.
pub fn attached(pins: &Pins) -> anyhow::Result<Option<(u64, usize)>> {
    let mut links = pins.socket_links()?;
    links.retain(|(_, pin)| link::pinned_target(pin).is_ok_and(|target| target != 0));
    Ok(links.first().map(|(cgroup, _)| (*cgroup, links.len())))
}

/// Detaches the programs from every cgroup.
///
/// # Errors
/// If a link cannot be detached or its pin cannot be removed.
pub fn detach(pins: &Pins) -> anyhow::Result<()> {
    detach_but(pins, None)
}

fn detach_but(pins: &Pins, keep: Option<&Cgroup>) -> anyhow::Result<()> {
    for (id, pin) in pins.socket_links()? {
        if keep.is_none_or(|cgroup| cgroup.id != id) {
            match link::detach_pinned(&pin) {
                // The cgroup is gone already.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                done => done.with_context(|| format!("detach {}", pin.display()))?,
            }
            std::fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
    }
    Ok(())
}

/// A program of the object by name.
///
/// # Errors
/// If the object has no such program, which means a build of mixed versions.
pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut CgroupSockAddr> {
    let program = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// A mount of a cgroup v2 hierarchy.
pub struct Mount {
    /// The mounted cgroup, relative to the root of our cgroup namespace (`cgroup_namespaces(7)`).
    root: String,
    pub path: PathBuf,
}

/// The mounts of cgroup v2 hierarchies.
///
/// # Errors
/// If /proc is not mounted.
pub fn mounted() -> anyhow::Result<Vec<Mount>> {
    let mounts = Process::myself().and_then(|own| own.mountinfo()).context("read /proc/self/mountinfo")?;
    let of_v2 = mounts.into_iter().filter(|mount| mount.fs_type == "cgroup2");
    Ok(of_v2.map(|mount| Mount { root: mount.root, path: mount.mount_point }).collect())
}

/// The node's root cgroup, in a container whose node is a container too (kind). It is no root to the kernel, but it is
/// above our own.
fn above_our_own(mounts: &[Mount]) -> Option<&Mount> {
    mounts.iter().filter(|mount| mount.root.starts_with("/..")).max_by_key(|mount| mount.root.len())
}

/// The magic number of a descriptor's file system (`statfs(2)`).
fn file_system(file: BorrowedFd) -> io::Result<i64> {
    // SAFETY: a zeroed struct of integers is valid, and the descriptor is open.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(file.as_raw_fd(), &raw mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_type)
    }
}

/// A cgroup v2 mount without a place in the file system, as seen from the cgroup namespace of process 1: the host's, if
/// the host's process ids are visible.
fn mount_detached() -> io::Result<OwnedFd> {
    // On a thread of its own, because a namespace belongs to a thread.
    let mount = || {
        if let Ok(namespace) = File::open("/proc/1/ns/cgroup") {
            // The kernel refuses this without CAP_SYS_ADMIN in that namespace; the number of the mounted cgroup then
            // shows that the mount is not the host's root.
            // SAFETY: the call takes an open descriptor and no pointers.
            unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWCGROUP) };
        }
        // SAFETY: the strings end with a zero byte, and the kernel gives the descriptors to us alone.
        unsafe {
            let context = own(libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), FSOPEN_CLOEXEC))?;
            let null = std::ptr::null::<libc::c_void>();
            let created =
                libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0);
            if created < 0 {
                return Err(io::Error::last_os_error());
            }
            own(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0))
        }
    };
    std::thread::scope(|scope| scope.spawn(mount).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread ended early")))
}

/// These three are from `linux/mount.h`.
const FSOPEN_CLOEXEC: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSMOUNT_CLOEXEC: u32 = 1;

/// # Safety
/// `result` is the result of a system call that returns a new descriptor.
unsafe fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave the descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_mounts_above_our_own_cgroup_the_uppermost_counts() {
        let mount = |root: &str, path: &str| Mount { root: root.to_owned(), path: path.into() };
        let own = mount("/", "/sys/fs/cgroup");
        let node = mount("/../../..", "/host/sys/fs/cgroup");
        let pod = mount("/..", "/elsewhere");
        let found = above_our_own(&[own, pod, node]).map(|mount| mount.path.clone());
        assert_eq!(found, Some("/host/sys/fs/cgroup".into()));
        assert!(above_our_own(&[mount("/", "/sys/fs/cgroup"), mount("/a", "/b")]).is_none());
    }
}
