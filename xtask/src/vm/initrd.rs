//! The first file tree of a guest: a shell and the modules that reach the host's files.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;

/// The modules by which a guest reaches the host's files, and writes over them.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Tags of the host's folders.
pub const ROOT: &str = "root";
pub const MODULE_TREE: &str = "modules";
pub const PROJECT: &str = "project";
pub const SHARED: &str = "shared";
/// Where the guest has the folder that it shares with the host, and the program in it that the guest runs.
pub const SHARED_AT: &str = "/run/xtask";
pub const PROGRAM: &str = "program";

/// The guest's first process. `cache=loose` is right because the host changes nothing that the guest reads.
fn init(project: Option<&Path>) -> String {
    let nine = "-t 9p -o trans=virtio,version=9p2000.L,msize=524288";
    let project = project.map_or_else(String::new, |path| {
        let path = path.display();
        format!("busybox mkdir -p /new{path}\nmount {nine},ro,cache=loose {PROJECT} /new{path}\n")
    });
    format!(
        "#!/bin/busybox sh
export PATH=/bin
for m in $(busybox cat /modules/order); do busybox insmod /modules/$m; done
mount() {{ busybox mount \"$@\"; }}
busybox mkdir -p /low /memory /new
mount {nine},ro,cache=loose {ROOT} /low
mount -t tmpfs tmpfs /memory
busybox mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/low,upperdir=/memory/upper,workdir=/memory/work overlay /new
busybox mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/root
mount -t proc proc /new/proc
mount -t sysfs sysfs /new/sys
mount -t devtmpfs devtmpfs /new/dev
busybox mkdir -p /new/dev/pts /new/dev/shm /new/lib/modules
mount -t devpts devpts /new/dev/pts
for t in dev/shm run tmp; do mount -t tmpfs tmpfs /new/$t; done
busybox chmod 1777 /new/tmp /new/dev/shm
mount -t cgroup2 none /new/sys/fs/cgroup
mount -t bpf none /new/sys/fs/bpf
mount -t tracefs none /new/sys/kernel/tracing
mount {nine},ro,cache=loose {MODULE_TREE} /new/lib/modules
busybox mkdir -p /new{SHARED_AT} /new/run/netns
{project}mount {nine} {SHARED} /new{SHARED_AT}
busybox chroot /new /bin/sh {SHARED_AT}/{PROGRAM} 2>&1 | busybox cat
echo o > /new/proc/sysrq-trigger
busybox sleep 60
"
    )
}

/// The kernel asks for a module by this program, which it runs outside the guest's root.
const MODPROBE: &str = "#!/bin/busybox sh\nexec /bin/busybox chroot /new /sbin/modprobe \"$@\"\n";

/// Writes the file `initrd` for a kernel into a folder. `root` is the tree that the guest will have as its root, and
/// `project` is a folder that it will have besides, at the same path.
pub fn write(kernel: &Kernel, root: &Path, project: Option<&Path>, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("initrd.tree");
    let modules = tree.join("modules");
    for place in [&modules, &tree.join("bin"), &tree.join("sbin")] {
        fs::create_dir_all(place)?;
    }
    fs::copy(root.join("bin/busybox"), tree.join("bin/busybox"))
        .context("busybox-static has no /bin/busybox")?;
    let mut order = String::new();
    for module in in_order(&kernel.folder, kernel.release())? {
        let name = module.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        let name = name.trim_end_matches(".xz");
        unpack(&module, &modules.join(name))?;
        order.push_str(name);
        order.push('\n');
    }
    fs::write(modules.join("order"), order)?;
    for (file, script) in [("init", init(project).as_str()), ("sbin/modprobe", MODPROBE)] {
        let file = tree.join(file);
        fs::write(&file, script)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }

    let archive = folder.join("initrd");
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --quiet --create --format=newc --owner=0:0"])
        .current_dir(&tree)
        .stdout(File::create(&archive)?)
        .status()
        .context("sh cannot be started")?;
    ensure!(status.success(), "cpio failed ({status})");
    Ok(archive)
}

/// The files of the modules, each behind those that it needs. What is built in has no file.
fn in_order(packaged: &Path, release: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("--dirname").arg(packaged).args(["--set-version", release, "--show-depends", module]);
        let output = modprobe.output().context("modprobe cannot be started")?;
        ensure!(
            output.status.success(),
            "the kernel has no module {module}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let file = PathBuf::from(file.trim());
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn unpack(module: &Path, to: &Path) -> Result<()> {
    if module.extension().is_none_or(|extension| extension != "xz") {
        fs::copy(module, to).with_context(|| module.display().to_string())?;
        return Ok(());
    }
    let status = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(module)
        .stdout(Stdio::from(File::create(to)?))
        .status()
        .context("xz cannot be started")?;
    ensure!(status.success(), "{} cannot be unpacked ({status})", module.display());
    Ok(())
}
