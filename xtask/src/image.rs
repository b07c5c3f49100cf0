//! `cargo xtask image`: makes the archive of an image (OCI image layout) that holds nothing but `lb`. No base image,
//! registry or container engine is needed. The same `lb` and name give the same archive.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use xtask::toolchain;

use crate::{architecture::Architecture, cargo, setup};

/// The version of `lb` too: all packages have the version of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The options of `cargo xtask image`.
#[derive(Args)]
pub struct Options {
    /// Name of the image on a node, including the registry if there is one
    #[arg(long, default_value_t = name())]
    name: String,
    /// Build for this architecture instead of this machine's
    #[arg(long)]
    arch: Option<Architecture>,
}

/// The name in `deploy/base/daemonset.yaml`. No public registry has an image of this name.
pub fn name() -> String {
    format!("localhost/lb:{VERSION}")
}

/// Builds `lb`, makes the archive, and prints its path.
pub fn run(options: &Options) -> Result<()> {
    let architecture = Architecture::chosen(options.arch)?;
    setup::cross(architecture)?;
    let programs = cargo::build_for(architecture, &["--package", "lb-userspace", "--bins"])?;
    println!("{}", make(cargo::find(&programs, "lb")?, &options.name, architecture)?.display());
    Ok(())
}

/// Makes the archive. In the same folder is the stripped `lb` (of another architecture: `lb-arm64`), which
/// `deploy/Containerfile` uses.
pub fn make(lb: &Path, name: &str, architecture: Architecture) -> Result<PathBuf> {
    let folder = toolchain::root().join("target/image");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let architecture_name = architecture.name();
    let program = if architecture.is_host() { "lb".to_owned() } else { format!("lb-{architecture_name}") };
    let program = folder.join(program);
    // The names of functions stay, for the backtrace of a crash.
    cargo::run(
        Command::new(architecture.tool("strip")).arg("--strip-debug").arg("-o").arg(&program).arg(lb),
    )?;

    let archive = folder.join(format!("lb-{VERSION}-{architecture_name}.tar"));
    let partial = archive.with_extension("partial");
    let program = fs::read(&program).with_context(|| program.display().to_string())?;
    write(&Image::new(&program, name, architecture)?, File::create(&partial)?)
        .with_context(|| format!("{} cannot be written", partial.display()))?;
    // Renamed once complete, so that a partial archive is never mistaken for a finished one.
    fs::rename(&partial, &archive)?;
    Ok(archive)
}

/// Content that is addressed by its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: hex(&bytes), bytes }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        let digest = format!("sha256:{}", self.digest);
        json!({ "mediaType": media_type, "digest": digest, "size": self.bytes.len() })
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of the archive, as the OCI image specification 1.1 defines them.
struct Image {
    index: Value,
    blobs: [Blob; 3],
}

impl Image {
    fn new(program: &[u8], name: &str, architecture: Architecture) -> Result<Self> {
        let files = file_system(program)?;
        let layer = Blob::new(compressed(&files)?);
        let platform = json!({ "architecture": architecture.name(), "os": "linux" });
        let mut config = platform.clone();
        // No user: the kernel gives capabilities only to processes of root. `deploy/Containerfile` does the same.
        config["config"] = json!({ "Entrypoint": ["/lb"], "Env": ["PATH=/"] });
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [format!("sha256:{}", hex(&files))] });
        let config = Blob::json(&config)?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
            "annotations": {
                "org.opencontainers.image.title": "lb",
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        }))?;
        let mut entry = manifest.descriptor(MANIFEST);
        entry["platform"] = platform;
        // containerd reads the whole name, other tools read the tag.
        entry["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": tag(name)?,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        Ok(Self { index, blobs: [manifest, config, layer] })
    }
}

/// The tag of an image's name. The port of a registry is not a tag: `localhost:5000/lb` has none.
fn tag(name: &str) -> Result<&str> {
    let (_, last) = name.rsplit_once('/').with_context(|| {
        format!("{name}: the name needs a registry; if there is none, use `localhost/lb:{VERSION}`")
    })?;
    match last.split_once(':') {
        Some((_, tag)) if !tag.is_empty() => Ok(tag),
        _ => bail!("{name}: the name needs a tag, for example `{name}:{VERSION}`"),
    }
}

/// The image's files, as a tar archive.
fn file_system(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut files = Builder::new(Vec::new());
    append(&mut files, "lb", 0o755, program)?;
    files.into_inner()
}

fn compressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    // The header has no time and no file name, so that equal content gives equal bytes.
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    gzip.write_all(bytes)?;
    gzip.finish()
}

/// Writes the image layout as a tar archive.
fn write(image: &Image, archive: File) -> Result<()> {
    let mut archive = Builder::new(archive);
    append(
        &mut archive,
        "oci-layout",
        0o644,
        &serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    )?;
    append(&mut archive, "index.json", 0o644, &serde_json::to_vec(&image.index)?)?;
    for folder in ["blobs/", "blobs/sha256/"] {
        let mut header = header(0o755, 0);
        header.set_entry_type(EntryType::Directory);
        archive.append_data(&mut header, folder, io::empty())?;
    }
    for blob in &image.blobs {
        append(&mut archive, &format!("blobs/sha256/{}", blob.digest), 0o644, &blob.bytes)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(())
}

fn append<W: Write>(archive: &mut Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(mode, bytes.len()), path, bytes)
}

/// The header of a file that belongs to root and has no time.
fn header(mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_registry_and_a_tag() {
        assert_eq!(tag("localhost/lb:0.1.0").unwrap(), "0.1.0");
        assert_eq!(tag("registry.example:5000/net/lb:v1").unwrap(), "v1");
        // The first name would be another owner's image on a public registry.
        for name in ["lb:0.1.0", "registry.example:5000/lb", "localhost/lb:"] {
            assert!(tag(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        let image =
            |program: &[u8]| Image::new(program, "localhost/lb:1", Architecture::Arm64).unwrap().index;
        assert_eq!(image(b"one"), image(b"one"));
        assert_ne!(image(b"one"), image(b"two"));
    }
}
