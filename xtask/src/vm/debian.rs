//! Packages of Debian for any architecture, fetched and unpacked but not installed. apt works with folders of its own:
//! neither the machine's packages nor its lists of packages change, and nobody needs to be root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{architecture::Architecture, progress};

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// apt for one architecture. Its folders go with this value.
pub struct Debian {
    folder: PathBuf,
}

impl Debian {
    /// Fetches the lists of packages into `folder`, which must not exist.
    pub fn open(architecture: Architecture, folder: PathBuf) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        let this = Self { folder };
        // An empty list of what is installed.
        fs::write(this.folder.join("status"), "")?;
        let (name, path) = (architecture.name(), this.folder.display());
        fs::write(
            this.configuration(),
            format!(
                "APT::Architecture \"{name}\";\n#clear APT::Architectures;\nAPT::Architectures \"{name}\";\n\
                 Dir::State \"{path}/state\";\nDir::State::status \"{path}/status\";\nDir::Cache \"{path}/cache\";\n\
                 APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n"
            ),
        )?;
        let what = format!("fetching Debian's lists of packages for {name}");
        progress::run(&what, this.apt("apt-get").args(["-y", "update"]), LIMIT)?;
        Ok(this)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.configuration()).current_dir(&self.folder);
        command
    }

    /// The names of the packages that match a regular expression.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let output = self.apt("apt-cache").args(["search", "--names-only", pattern]).output();
        let output = output.context("apt-cache cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Unpacks one package, without what it depends on.
    pub fn unpack(&self, package: &str, to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["download", package]);
        progress::run(&format!("fetching {package} (Debian), once"), &mut download, LIMIT)?;
        extract(&self.folder, to)
    }

    /// Unpacks packages and all that they depend on.
    pub fn unpack_all(&self, packages: &[&str], to: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["-y", "install", "--download-only"]).args(packages);
        progress::run(&format!("fetching {} (Debian), once", packages.join(" ")), &mut download, LIMIT)?;
        extract(&self.folder.join("cache/archives"), to)
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // What is left of it in the cache folder does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Unpacks every package of a folder.
fn extract(folder: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for entry in fs::read_dir(folder)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            let name = archive.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&archive).arg(to);
            progress::run(&format!("unpacking {name}"), &mut unpack, LIMIT)?;
        }
    }
    Ok(())
}
