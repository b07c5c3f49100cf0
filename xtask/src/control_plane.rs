//! The programs of the test control plane: which versions fit, and where they are found.
//!
//! `cargo xtask` builds what is missing from the Go module in `tests/control-plane`; the tests only look.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::toolchain;

/// What `tests/control-plane/go.mod` requires.
pub const KUBERNETES: &str = "1.36.1";
/// The etcd that goes with it.
pub const ETCD: &str = "3.6.8";

/// The Go package of [`rules`].
pub const RULES: &str = "./rules";

/// The folder where programs of `envtest` are looked for, as its own tools name it.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    ApiServer,
    Etcd,
    Kubectl,
    KubeProxy,
}

impl Program {
    /// In the order in which they are built: each takes over most of what was compiled for the first.
    pub const ALL: [Self; 4] = [Self::ApiServer, Self::Etcd, Self::Kubectl, Self::KubeProxy];

    pub fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::Etcd => "etcd",
            Self::Kubectl => "kubectl",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// The Go package of its `main`.
    pub fn package(self) -> String {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3".to_owned(),
            _ => format!("k8s.io/kubernetes/cmd/{}", self.name()),
        }
    }

    /// The version that is built.
    pub fn version(self) -> &'static str {
        if self == Self::Etcd { ETCD } else { KUBERNETES }
    }

    /// Where the program is: in `$KUBEBUILDER_ASSETS`, built before, or in the PATH.
    ///
    /// # Errors
    /// It is nowhere, or only in a version that does not fit: says which, and what to do.
    pub fn find(self) -> Result<PathBuf> {
        let built = folder()?.join(self.name());
        let mut unfit = String::new();
        let assets = env::var_os(ASSETS).map(|folder| PathBuf::from(folder).join(self.name()));
        let path = env::var_os("PATH").unwrap_or_default();
        let of_path = env::split_paths(&path).map(|folder| folder.join(self.name()));
        for file in assets.into_iter().chain([built.clone()]).chain(of_path).filter(|file| file.is_file()) {
            // Its folder is named after its version.
            if file == built {
                return Ok(file);
            }
            match self.version_of(&file) {
                Ok(version) if self.fits(version) => return Ok(file),
                Ok(version) => unfit += &format!("; {} is {version}", file.display()),
                Err(error) => unfit += &format!("; {error:#}"),
            }
        }
        bail!(
            "no {} that fits ({}) in ${ASSETS}, {} or the PATH{unfit}. `cargo xtask test` builds one",
            self.name(),
            self.wanted(),
            folder()?.display()
        )
    }

    fn version_of(self, file: &Path) -> Result<Version> {
        let mut command = Command::new(file);
        match self {
            Self::Kubectl => command.args(["version", "--client"]),
            _ => command.arg("--version"),
        };
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
        let output = output.with_context(|| format!("{} does not start", file.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Version::first_in(&said).with_context(|| format!("{} does not tell its version", file.display()))
    }

    /// kubectl may be one minor version away (Kubernetes' version skew policy); etcd 3.4 is known to work.
    fn fits(self, version: Version) -> bool {
        let Version { major, minor, .. } = version;
        let kubernetes = Version::first_in(KUBERNETES).map_or(0, |version| version.minor);
        match self {
            Self::Etcd => major == 3 && minor >= 4,
            Self::Kubectl => major == 1 && minor.abs_diff(kubernetes) <= 1,
            Self::ApiServer | Self::KubeProxy => major == 1 && minor == kubernetes,
        }
    }

    fn wanted(self) -> String {
        let minor = KUBERNETES.rsplit_once('.').map_or(KUBERNETES, |(minor, _)| minor);
        match self {
            Self::Etcd => "3.4 or newer".to_owned(),
            Self::Kubectl => format!("at most one minor version from {minor}"),
            Self::ApiServer | Self::KubeProxy => minor.to_owned(),
        }
    }
}

/// Where the programs that were built or fetched are kept.
///
/// # Errors
/// The user has no home.
pub fn folder() -> Result<PathBuf> {
    Ok(toolchain::cache()?.join(format!("control-plane-{KUBERNETES}")))
}

/// Where kube-proxy's own rules are, built from this Go package of the module. It is named after its source.
///
/// # Errors
/// The user has no home, or the source is not there.
pub fn rules() -> Result<PathBuf> {
    let source = toolchain::root().join("tests/control-plane").join(RULES).join("main.go");
    let text = fs::read(&source).with_context(|| source.display().to_string())?;
    let digest: String = Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(folder()?.join(format!("rules-{digest}")))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Of `Kubernetes v1.36.1`, `etcd Version: 3.6.8` or `Client Version: v1.32.4-dispatcher`.
    fn first_in(text: &str) -> Option<Self> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
        words.map(|word| word.strip_prefix('v').unwrap_or(word)).find_map(|word| {
            let mut numbers = word.split('.').map(|number| number.parse().ok());
            let mut next = || numbers.next()?;
            Some(Self { major: next()?, minor: next()?, patch: next()? })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        let read = |text| Version::first_in(text).map(|version| version.to_string());
        assert_eq!(read("Kubernetes v1.36.1\n").as_deref(), Some("1.36.1"));
        assert_eq!(
            read("etcd Version: 3.6.8\nGit SHA: 0e2a6f4\nGo Version: go1.26.8\n").as_deref(),
            Some("3.6.8")
        );
        assert_eq!(
            read("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0").as_deref(),
            Some("1.32.4")
        );
        assert_eq!(read("unknown flag: --version"), None);
    }

    #[test]
    fn only_versions_of_the_same_minor_fit() {
        let fits = |program: Program, text| program.fits(Version::first_in(text).expect("a version"));
        assert!(fits(Program::ApiServer, "1.36.0") && !fits(Program::ApiServer, "1.35.9"));
        assert!(fits(Program::Kubectl, "1.37.0") && !fits(Program::Kubectl, "1.32.4"));
        assert!(fits(Program::Etcd, "3.4.23") && !fits(Program::Etcd, "2.3.8"));
    }

    /// The folder of the cache is named after the version, so both must say the same.
    #[test]
    fn the_go_module_is_of_these_versions() {
        let file = toolchain::root().join("tests/control-plane/go.mod");
        let text = std::fs::read_to_string(file).expect("it is part of the repository");
        for (module, version) in [("k8s.io/kubernetes", KUBERNETES), ("go.etcd.io/etcd/server/v3", ETCD)] {
            assert!(
                text.contains(&format!("\t{module} v{version}\n")),
                "{module} is not {version} in go.mod"
            );
        }
    }
}
