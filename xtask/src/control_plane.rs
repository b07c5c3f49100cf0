//! The programs of the test control plane: which versions fit, and where they are.
//!
//! `cargo xtask` builds missing programs from the Go module in `tests/control-plane`. The tests only look.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::toolchain;

/// The version of Kubernetes that `tests/control-plane/go.mod` requires.
pub const KUBERNETES: &str = "1.36.1";
/// The version of etcd that goes with [`KUBERNETES`].
pub const ETCD: &str = "3.6.8";

/// The Go package of the program that [`rules`] names.
pub const RULES: &str = "./rules";

/// The variable that names a folder with the programs; the tools of `envtest` use the same one.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// A program of the test control plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// kube-apiserver.
    ApiServer,
    /// etcd, the store of kube-apiserver.
    Etcd,
    /// kubectl, which tests use as a user does.
    Kubectl,
    /// kube-proxy, which `lb` is compared with.
    KubeProxy,
}

impl Program {
    /// Every program, in the order of building: the later ones reuse most of what was compiled for the first.
    pub const ALL: [Self; 4] = [Self::ApiServer, Self::Etcd, Self::Kubectl, Self::KubeProxy];

    /// The name of the executable.
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

    /// Finds the program: in `$KUBEBUILDER_ASSETS`, among those that were built earlier, or in the PATH.
    ///
    /// # Errors
    /// There is no such program, or only versions that do not fit. The error names them and says what to do.
    pub fn find(self) -> Result<PathBuf> {
        let built = folder()?.join(self.name());
        let mut unfit = String::new();
        let assets = env::var_os(ASSETS).map(|folder| PathBuf::from(folder).join(self.name()));
        let path = env::var_os("PATH").unwrap_or_default();
        let of_path = env::split_paths(&path).map(|folder| folder.join(self.name()));
        for file in assets.into_iter().chain([built.clone()]).chain(of_path).filter(|file| file.is_file()) {
            // The folder is named after the version.
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
            "there is no {} of a version that fits ({}) in ${ASSETS}, {} or the PATH{unfit}. `cargo xtask test` \
             builds one",
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
        let output = output.with_context(|| format!("{} cannot be started", file.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Version::first_in(&said).with_context(|| format!("{} does not print its version", file.display()))
    }

    /// kubectl may be one minor version apart (Kubernetes' version skew policy). etcd 3.4 is known to work.
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

/// The folder of the programs that were built or fetched.
///
/// # Errors
/// The user has no home folder.
pub fn folder() -> Result<PathBuf> {
    Ok(toolchain::cache()?.join(format!("control-plane-{KUBERNETES}")))
}

/// The path of the program that runs kube-proxy's own rules, built from the Go package [`RULES`]. The file is named
/// after a digest of the source.
///
/// # Errors
/// The user has no home folder, or the source cannot be read.
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
    /// The first version in a text such as `Kubernetes v1.36.1`, `etcd Version: 3.6.8` or `Client Version:
    /// v1.32.4-dispatcher`.
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

    /// The folder of the cache is named after the version, so both must name the same one.
    #[test]
    fn the_go_module_requires_these_versions() {
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
