//! Installs the programs of the test control plane if none are found that fit: built from their Go module, or else the
//! official ones.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use xtask::{
    control_plane::{self, KUBERNETES, Program},
    toolchain,
};

use super::apt;
use crate::{privilege::find, progress};

/// A cold compilation of kube-apiserver takes four minutes on two cores.
const BUILD: Duration = Duration::from_secs(60 * 60);
const FETCH: Duration = Duration::from_secs(30 * 60);

/// The version of the official programs, which is of the same minor version as those that are built.
const OFFICIAL: &str = "1.36.0";
/// Architecture by its names in Rust and in Kubernetes, and SHA-512 of `kubernetes-server-linux-<arch>.tar.gz`, from
/// "Server Binaries" in kubernetes/CHANGELOG/CHANGELOG-1.36.md.
const DIGESTS: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "amd64",
        "1c64da92575451c2c7ff97c79b772e603995f8e76da1371a6b0746aaa27b65dce81c4d734cbb50f40e71486a8e08df36f14e12974f97d4d\
         29e41f23a172a6a25",
    ),
    (
        "aarch64",
        "arm64",
        "7f95e451baedd9368a2fa637afa84c9ed1b958736540ca27a379e5e292e1a10c5d9a29539f833047574bf5d3b6f907f32dee5735acecc11\
         aa4686f078108dcf8",
    ),
];

/// Makes sure that every program can be found from now on. Quick if none is missing.
pub fn ensure() -> Result<()> {
    let missing = || Program::ALL.into_iter().filter(|program| program.find().is_err()).collect::<Vec<_>>();
    if missing().is_empty() {
        return Ok(());
    }
    let folder = control_plane::folder()?;
    let _lock = lock(&folder)?;
    let missing = missing();
    for reason in missing.iter().filter_map(|program| program.find().err()) {
        eprintln!("set-up: {reason}");
    }
    let Err(built) = build(&missing, &folder) else { return Ok(()) };
    let Err(fetched) = fetch(&missing, &folder) else { return Ok(()) };
    Err(anyhow!(
        "the programs of the test control plane could not be installed. One of these must work:\n\
         1. Building them, with Go 1.26 or newer and its module proxy. Failed: {built:#}\n\
         2. Fetching the official programs. Failed: {fetched:#}\n\
         3. A folder with kube-apiserver, etcd, kubectl and kube-proxy of Kubernetes 1.36, named by {}",
        control_plane::ASSETS
    ))
}

/// The program that runs kube-proxy's own rules, for a comparison. It can only be built with Go, because it is not
/// published anywhere. Without Go, the test reports that it did not run.
pub fn ensure_rules() -> Result<()> {
    let program = control_plane::rules()?;
    if program.is_file() {
        return Ok(());
    }
    if find("go").is_none() {
        eprintln!("set-up: there is no `go`, so the comparison with kube-proxy's own code is NOT RUN");
        return Ok(());
    }
    let _lock = lock(&control_plane::folder()?)?;
    compile("kube-proxy's rules", control_plane::RULES, KUBERNETES, &program)
}

/// Makes the folder and locks it, so that two commands at once build one after the other.
fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let file = folder.join(".lock");
    let lock = File::create(&file).with_context(|| format!("{} cannot be written", file.display()))?;
    lock.lock().context("the lock of the control plane's folder")?;
    Ok(lock)
}

fn build(programs: &[Program], folder: &Path) -> Result<()> {
    ensure!(find("go").is_some(), "there is no `go` in the PATH");
    for program in programs {
        let name = program.name();
        compile(name, &program.package(), program.version(), &folder.join(name))?;
    }
    Ok(())
}

fn compile(name: &str, package: &str, version: &str, program: &Path) -> Result<()> {
    let partial = program.with_extension("partial");
    let stamp = |key, value| format!("-X k8s.io/component-base/version.{key}={value}");
    let flags = ["-s -w".to_owned(), stamp("gitVersion", "v".to_owned() + KUBERNETES)];
    let numbers = ["gitMajor", "gitMinor"].into_iter().zip(KUBERNETES.split('.'));
    let flags: Vec<_> = flags.into_iter().chain(numbers.map(|(k, v)| stamp(k, v.to_owned()))).collect();
    let mut go = Command::new("go");
    go.current_dir(toolchain::root().join("tests/control-plane"))
        .envs([("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOWORK", "off")])
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags.join(" "), "-o"])
        .arg(&partial)
        .arg(package);
    progress::run(&format!("compiling {name} {version}, once"), &mut go, BUILD)?;
    // Renamed once complete, so that a partial program is never mistaken for a finished one.
    fs::rename(&partial, program).context("the compiled program cannot be renamed")
}

/// Fetches kube-apiserver, kubectl and kube-proxy from their publisher, and etcd from Debian. The Debian package is
/// unpacked and not installed, because it starts a server.
fn fetch(programs: &[Program], folder: &Path) -> Result<()> {
    let partial = folder.join(".fetched");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let (etcd, kubernetes): (Vec<_>, Vec<_>) =
        programs.iter().partition(|program| **program == Program::Etcd);
    if !kubernetes.is_empty() {
        fetch_kubernetes(&kubernetes, &partial)?;
    }
    if !etcd.is_empty() {
        unpack_etcd(&partial)?;
    }
    for program in programs {
        fs::rename(partial.join(program.name()), folder.join(program.name()))
            .with_context(|| format!("{} was not in the download", program.name()))?;
    }
    fs::remove_dir_all(&partial).context("the folder of the download cannot be removed")
}

fn fetch_kubernetes(programs: &[Program], folder: &Path) -> Result<()> {
    let arch = env::consts::ARCH;
    let known = DIGESTS.iter().find(|(rust, ..)| *rust == arch);
    let (_, arch, digest) = known.with_context(|| format!("no digest is known for {arch}"))?;
    if find("curl").is_none() {
        apt(&["curl", "ca-certificates"])?;
    }
    let name = format!("kubernetes-server-linux-{arch}.tar.gz");
    let archive = folder.join(&name);
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--connect-timeout", "20", "--output"])
        .arg(&archive)
        .arg(format!("https://dl.k8s.io/v{OFFICIAL}/{name}"));
    progress::run(&format!("fetching {name} {OFFICIAL}, once"), &mut curl, FETCH)?;
    require_digest(&archive, digest)?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(&archive).arg("-C").arg(folder).arg("--strip-components=3");
    tar.args(programs.iter().map(|program| format!("kubernetes/server/bin/{}", program.name())));
    progress::run(&format!("unpacking {name}"), &mut tar, FETCH)
}

/// Fails unless the file has this SHA-512; the error names both digests.
fn require_digest(file: &Path, digest: &str) -> Result<()> {
    let output = Command::new("sha512sum").arg(file).output().context("sha512sum cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let found = said.trim_start_matches('\\').split_whitespace().next().unwrap_or_default();
    ensure!(
        found == digest,
        "{} has the digest {found:?} instead of {digest:?} and is not used",
        file.display()
    );
    Ok(())
}

fn unpack_etcd(folder: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download.current_dir(folder).args(["download", "etcd-server"]);
    progress::run("fetching etcd (Debian)", &mut download, FETCH)
        .context("run `apt-get update` as root if Debian's lists of packages are missing or old")?;
    let packages = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package =
        packages.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(package.context("apt-get fetched no package")?).arg(folder.join("debian"));
    progress::run("unpacking etcd", &mut unpack, FETCH)?;
    fs::rename(folder.join("debian/usr/bin/etcd"), folder.join("etcd"))
        .context("the package has no /usr/bin/etcd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_digest_is_refused() {
        let file = env::temp_dir().join(format!("lb-digest-{}", std::process::id()));
        fs::write(&file, "abc").expect("the folder for temporary files takes one");
        // FIPS 180-2, appendix C.1.
        let abc = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
                   454d4423643ce80e2a9ac94fa54ca49f";
        let (right, wrong) = (require_digest(&file, abc), require_digest(&file, DIGESTS[0].2));
        fs::remove_file(&file).expect("it was just written");
        right.expect("it is the digest of the file");
        assert!(wrong.expect_err("it is another digest").to_string().contains("is not used"));
    }
}
