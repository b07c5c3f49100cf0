//! Kernels of Debian's packages, unpacked into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use xtask::toolchain;

use super::debian::Debian;
use crate::{architecture::Architecture, progress, setup};

const LIMIT: Duration = Duration::from_secs(60);

/// Folders of `kernel/` in a package that no test needs: nine tenths of it.
const DRIVERS: &str = "drivers";
const KEPT_DRIVERS: [&str; 3] = ["block", "net", "virtio"];
const HARDWARE: [&str; 8] =
    ["arcnet", "can", "ethernet", "fddi", "hamradio", "ieee802154", "usb", "wireless"];

/// A series of kernels that is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Series {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// A kernel that is ready to boot.
pub struct Kernel {
    pub series: Series,
    pub architecture: Architecture,
    /// The name of its package: `linux-image-6.1.0-57-amd64-unsigned`.
    pub package: String,
    pub image: PathBuf,
    /// Where the package is unpacked: `lib/modules` is in it.
    pub folder: PathBuf,
}

impl Kernel {
    /// The kernel of this series in the cache; if there is none, the newest that Debian has.
    pub fn ensure(series: Series, architecture: Architecture) -> Result<Self> {
        setup::guests(architecture)?;
        let kernels = toolchain::cache()?.join("kernels");
        let package = match newest(cached(&kernels), series, architecture) {
            Some(package) => package,
            None => fetch(series, architecture, &kernels)?,
        };
        let folder = kernels.join(&package);
        let image = only(&folder.join("boot"), "vmlinuz-")?;
        Ok(Self { series, architecture, package, image, folder })
    }

    /// How results name it: `6.1`, or `6.1 arm64` where that is not this machine's architecture.
    pub fn name(&self) -> String {
        match self.architecture {
            host if host.is_host() => self.series.name().to_owned(),
            other => format!("{} {}", self.series.name(), other.name()),
        }
    }

    /// `6.1.0-57-amd64`, as `uname -r` says in the guest.
    pub fn release(&self) -> &str {
        self.package.trim_start_matches("linux-image-").trim_end_matches("-unsigned")
    }
}

/// The names of packages of kernels in the cache.
fn cached(kernels: &Path) -> Vec<String> {
    let entries = fs::read_dir(kernels).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The newest package of a series. Kernels for clouds lack 9p, and those for real time are another kind.
fn newest(packages: Vec<String>, series: Series, architecture: Architecture) -> Option<String> {
    let end = format!("-{}-unsigned", architecture.name());
    let fits = |package: &String| {
        let rest = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(series.name()));
        rest.is_some_and(|rest| rest.starts_with('.'))
            && !["cloud", "rt", "dbg"].iter().any(|kind| package.contains(&format!("-{kind}-")))
            && package.ends_with(&end)
    };
    packages.into_iter().filter(fits).max_by_key(|package| numbers(package))
}

/// The numbers of a version, which order versions.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Unpacks what a guest needs of the newest package into the cache, and returns the package's name.
fn fetch(series: Series, architecture: Architecture, kernels: &Path) -> Result<String> {
    let process = std::process::id();
    let debian = Debian::open(architecture, kernels.join(format!("apt-{process}")))
        .context("kernels come from Debian's packages")?;
    let pattern = format!("^linux-image-6[.].*-{}-unsigned$", architecture.name());
    let package = newest(debian.names(&pattern)?, series, architecture);
    let package =
        package.with_context(|| format!("Debian's lists of packages have no kernel {}", series.name()))?;
    let partial = kernels.join(format!("partial-{process}"));
    let _ = fs::remove_dir_all(&partial);
    debian.unpack(&package, &partial)?;

    // A merged /usr keeps modules under usr/lib.
    let modules = partial.join("lib/modules");
    if !modules.is_dir() {
        fs::create_dir_all(partial.join("lib"))?;
        fs::rename(partial.join("usr/lib/modules"), &modules).context("the package has no modules")?;
    }
    let release = only(&modules, "")?;
    prune(&release.join("kernel"))?;
    let mut depmod = Command::new("/sbin/depmod");
    depmod.arg("-b").arg(&partial).arg(release.file_name().context("a release has a name")?);
    progress::run("listing its modules", &mut depmod, LIMIT)?;
    // Renamed once complete, so that a partial folder is never mistaken for a finished one.
    let folder = kernels.join(&package);
    fs::rename(&partial, &folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(package)
}

fn prune(kernel: &Path) -> Result<()> {
    remove_all(&kernel.join(DRIVERS), |name| !KEPT_DRIVERS.contains(&name))?;
    remove_all(&kernel.join(DRIVERS).join("net"), |name| HARDWARE.contains(&name))?;
    remove_all(kernel, |name| name == "sound")
}

fn remove_all(folder: &Path, what: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && what(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    let first = found.next().with_context(|| format!("{} has no {prefix}*", folder.display()))?;
    ensure!(found.next().is_none(), "{} has more than one {prefix}*", folder.display());
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_series_is_taken() {
        let packages = [
            "linux-image-6.1.0-9-amd64-unsigned",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-6.1.0-58-cloud-amd64-unsigned",
            "linux-image-6.1.0-58-rt-amd64-unsigned",
            "linux-image-6.12.115+deb12-amd64-unsigned",
            "linux-image-6.12.117+deb12-amd64-unsigned",
            "linux-image-6.12.118+deb12-arm64-unsigned",
            "partial-17",
        ];
        let newest = |series| newest(packages.map(str::to_owned).to_vec(), series, Architecture::Amd64);
        assert_eq!(newest(Series::V6_1).as_deref(), Some("linux-image-6.1.0-57-amd64-unsigned"));
        assert_eq!(newest(Series::V6_12).as_deref(), Some("linux-image-6.12.117+deb12-amd64-unsigned"));
    }
}
