//! The archive that `cargo xtask image` writes.

use anyhow::Result;
use lb_tests::container::Image;
use lb_tests::world::{Layout, World};
use std::fs;

use crate::container::container;

#[test]
fn the_archive_is_an_oci_image_of_lb_alone() -> Result<()> {
    let image = Image::open()?;
    let name = format!("localhost/lb:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(image.entry["annotations"]["io.containerd.image.name"], name);
    assert_eq!(image.entry["annotations"]["org.opencontainers.image.ref.name"], env!("CARGO_PKG_VERSION"));
    assert_eq!(image.entry["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(image.entry["platform"]["os"], "linux");
    assert_eq!(image.entry["platform"]["architecture"], image.config["architecture"]);
    assert_eq!(image.manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(image.manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");

    let root = tempfile::tempdir()?;
    image.unpack(root.path())?;
    let files: Vec<_> = fs::read_dir(root.path())?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(files, ["lb"]);
    Ok(())
}

#[test]
fn the_containerfile_makes_the_same_image() -> Result<()> {
    let text = fs::read_to_string(xtask::toolchain::root().join("deploy/Containerfile"))?;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let config = &Image::open()?.config["config"];
    let path = config["Env"][0].as_str().unwrap_or_default();
    let entry_point = format!("ENTRYPOINT {}", config["Entrypoint"]);
    assert_eq!(lines, ["FROM scratch", "COPY lb /lb", &format!("ENV {path}"), &entry_point]);
    Ok(())
}

#[test]
fn lb_runs_where_nothing_else_is() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let said = container(&world)?.output(&[], &["--version"])?;
    assert_eq!(said.lines().next(), Some(concat!("lb ", env!("CARGO_PKG_VERSION"))), "{said}");
    Ok(())
}
