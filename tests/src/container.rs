//! Unpacks the image of `cargo xtask image`, and runs its programs as the manifest of the DaemonSet says.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{PodSpec, SecurityContext};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tar::Archive;

use crate::world::{Agent, Cgroup, World};

/// An unpacked OCI image layout. Each digest is verified when its file is read.
pub struct Image {
    folder: tempfile::TempDir,
    /// The only entry of `index.json`.
    pub entry: Value,
    pub manifest: Value,
    pub config: Value,
}

impl Image {
    /// Opens `$LB_IMAGE`, or the image that `cargo xtask image` made in this workspace.
    pub fn open() -> Result<Self> {
        let archive = archive()?;
        let folder = tempfile::tempdir()?;
        let file = File::open(&archive).with_context(|| archive.display().to_string())?;
        Archive::new(file).unpack(folder.path()).with_context(|| archive.display().to_string())?;
        let json = |path: &Path| -> Result<Value> {
            let path = folder.path().join(path);
            Ok(serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?)?)
        };
        let layout = json(Path::new("oci-layout"))?;
        ensure!(layout["imageLayoutVersion"] == "1.0.0", "{layout}");
        let entry = json(Path::new("index.json"))?["manifests"][0].take();
        let manifest = json(&blob(folder.path(), &entry)?)?;
        let config = json(&blob(folder.path(), &manifest["config"])?)?;
        Ok(Self { folder, entry, manifest, config })
    }

    /// Unpacks the layers into a folder.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        let layers = self.manifest["layers"].as_array().context("the image has no layers")?;
        let plain = self.config["rootfs"]["diff_ids"].as_array().context("the image has no diff_ids")?;
        ensure!(layers.len() == plain.len(), "{} layers, {} diff_ids", layers.len(), plain.len());
        for (layer, expected) in layers.iter().zip(plain) {
            let packed = File::open(blob(self.folder.path(), layer)?)?;
            let mut files = Vec::new();
            GzDecoder::new(packed).read_to_end(&mut files)?;
            ensure!(digest(&files) == *expected, "a layer does not have the digest {expected}");
            Archive::new(&*files).unpack(root)?;
        }
        Ok(())
    }
}

/// The file of a descriptor, after a check of its size and digest.
fn blob(folder: &Path, descriptor: &Value) -> Result<PathBuf> {
    let expected = descriptor["digest"].as_str().context("a descriptor without a digest")?;
    let path = folder.join("blobs").join(expected.replace(':', "/"));
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    ensure!(digest(&bytes) == expected, "{} does not have the digest in its name", path.display());
    ensure!(descriptor["size"] == bytes.len(), "{descriptor}: the file has {} bytes", bytes.len());
    Ok(path)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn archive() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LB_IMAGE") {
        return Ok(path.into());
    }
    let folder = xtask::toolchain::root().join("target/image");
    let archives = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut archives = archives.filter(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.next().with_context(|| {
        format!("no image in {}: run `cargo xtask image`, or set LB_IMAGE", folder.display())
    })
}

/// The pod of the DaemonSet in `deploy/lb.yaml`.
pub fn pod() -> Result<PodSpec> {
    let text = fs::read_to_string(manifest())?;
    let is_daemon_set = |document: &&str| document.lines().any(|line| line == "kind: DaemonSet");
    let document = text.split("---\n").find(is_daemon_set).context("deploy/lb.yaml has no DaemonSet")?;
    let daemon_set: DaemonSet = serde_yaml_ng::from_str(document)?;
    daemon_set.spec.and_then(|spec| spec.template.spec).context("the DaemonSet has no pod")
}

/// The arguments of the container.
pub fn args() -> Result<Vec<String>> {
    let container = pod()?.containers.into_iter().next();
    container.and_then(|container| container.args).context("the container has no arguments")
}

/// The names of the container's environment variables.
pub fn variables() -> Result<Vec<String>> {
    let container = pod()?.containers.into_iter().next();
    let variables = container.and_then(|container| container.env).unwrap_or_default();
    Ok(variables.into_iter().map(|variable| variable.name).collect())
}

/// The manifest that is applied to a cluster.
pub fn manifest() -> PathBuf {
    xtask::toolchain::root().join("deploy/lb.yaml")
}

/// The capabilities of the container, each with the prefix `CAP_`.
pub fn capabilities() -> Result<Vec<String>> {
    let context = security_context()?;
    let capabilities = context.capabilities.context("the container has no capabilities")?;
    ensure!(capabilities.drop == Some(vec!["ALL".into()]), "{capabilities:?}");
    let add = capabilities.add.unwrap_or_default();
    Ok(add.iter().map(|name| format!("CAP_{name}")).collect())
}

pub fn security_context() -> Result<SecurityContext> {
    let pod = pod()?;
    let container = pod.containers.into_iter().next().context("the pod has no container")?;
    container.security_context.context("the container has no security context")
}

/// The cgroup folder of the host in the manifest.
const CGROUP: &str = "/sys/fs/cgroup";

/// Where the container sees the host's cgroup: a test needs the path for `--cgroup`, because its agent must not attach
/// to the root cgroup.
pub fn cgroup() -> Result<String> {
    let pod = pod()?;
    let mut volumes = pod.volumes.into_iter().flatten();
    let volume = volumes.find(|volume| volume.host_path.as_ref().is_some_and(|host| host.path == CGROUP));
    let volume = volume.context("no volume of /sys/fs/cgroup")?;
    let mut mounts = pod.containers.into_iter().flat_map(|container| container.volume_mounts).flatten();
    Ok(mounts.find(|mount| mount.name == volume.name).context("the volume is not mounted")?.mount_path)
}

/// A root file system with the image's content, on the node of a world. The volumes of the manifest are bound into it.
pub struct Container<'a> {
    world: &'a World,
    root: PathBuf,
    /// `lb-container` of this package: `env!("CARGO_BIN_EXE_lb-container")`.
    runtime: PathBuf,
    binds: Vec<String>,
    env: Vec<String>,
    /// Takes the place of the host's root cgroup.
    cgroup: Cgroup,
}

impl<'a> Container<'a> {
    pub fn new(world: &'a World, runtime: &str) -> Result<Self> {
        let root = world.folder().path().join("container");
        Image::open()?.unpack(&root)?;
        let mut container = Self {
            world,
            root,
            runtime: runtime.into(),
            binds: Vec::new(),
            env: Vec::new(),
            cgroup: Cgroup::create()?,
        };
        for folder in ["proc", "sys"] {
            fs::create_dir(container.root.join(folder))?;
        }
        container.bind_host_paths()?;
        Ok(container)
    }

    /// Binds the host paths of the manifest. The world has its own bpffs and cgroup.
    fn bind_host_paths(&mut self) -> Result<()> {
        let pod = pod()?;
        let mounts = pod.containers.into_iter().flat_map(|container| container.volume_mounts);
        let mounts: Vec<_> = mounts.flatten().collect();
        for volume in pod.volumes.into_iter().flatten() {
            let Some(host) = volume.host_path else { continue };
            let outside = match host.path.as_str() {
                "/sys/fs/bpf" => self.world.folder().pins(),
                CGROUP => self.cgroup.path().to_path_buf(),
                path => bail!("the test has no folder for the host path {path}"),
            };
            let mount =
                mounts.iter().find(|mount| mount.name == volume.name).context("the volume is not mounted")?;
            let inside = &mount.mount_path;
            fs::create_dir_all(self.root.join(inside.trim_start_matches('/')))?;
            let mode = if mount.read_only == Some(true) { ":ro" } else { "" };
            self.binds.push(format!("{}:{inside}{mode}", outside.display()));
        }
        Ok(())
    }

    /// Binds a folder of the node, read-only.
    pub fn bind(mut self, outside: &Path, inside: &str) -> Result<Self> {
        fs::create_dir_all(self.root.join(inside.trim_start_matches('/')))?;
        self.binds.push(format!("{}:{inside}:ro", outside.display()));
        Ok(self)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    fn args(&self, capabilities: &[String], lb: &[&str]) -> Vec<String> {
        let mut args = vec!["--root".into(), self.root.display().to_string()];
        let options = [("--bind", &self.binds[..]), ("--env", &self.env[..]), ("--capability", capabilities)];
        for (option, values) in options {
            args.extend(values.iter().flat_map(|value| [option.into(), value.clone()]));
        }
        args.extend(["--".into(), "/lb".into()]);
        args.extend(lb.iter().map(ToString::to_string));
        args
    }

    /// A command that runs `lb` with these arguments and capabilities.
    pub fn command(&self, capabilities: &[String], lb: &[&str]) -> Command {
        let mut command = self.world.node().command(&self.runtime);
        command.args(self.args(capabilities, lb));
        command
    }

    /// Runs `lb` and returns its output, or an error with its messages.
    pub fn output(&self, capabilities: &[String], lb: &[&str]) -> Result<String> {
        let output = self.command(capabilities, lb).output()?;
        if !output.status.success() {
            bail!("lb {}: {}", lb.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts an agent with these arguments, and waits until it is ready.
    pub fn agent(&self, capabilities: &[String], lb: &[&str]) -> Result<Agent> {
        self.world.start_agent_by(&self.runtime, self.args(capabilities, lb))
    }
}
