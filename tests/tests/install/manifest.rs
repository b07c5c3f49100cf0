//! `deploy/`: the files that are applied to a cluster.

use anyhow::{Context, Result};
use lb_tests::container::{Image, capabilities, manifest, pod, security_context};
use lb_userspace::node::capabilities::NEEDED;
use std::fs;
use std::process::Command;

#[test]
fn the_manifest_is_what_the_base_renders_to() -> Result<()> {
    let base = xtask::toolchain::root().join("deploy/base");
    let kubectl = xtask::control_plane::Program::Kubectl.find().context("kubectl")?;
    let output = Command::new(kubectl).arg("kustomize").arg(&base).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = String::from_utf8(output.stdout)?;
    let written = fs::read_to_string(manifest())?;
    // Rendering drops the comments of the base; the necessary ones stand at the top.
    let written: String =
        written.lines().skip_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_eq!(
        written, rendered,
        "deploy/lb.yaml differs from the output of `kubectl kustomize deploy/base`"
    );
    Ok(())
}

#[test]
fn the_container_has_what_the_agent_needs_and_no_more() -> Result<()> {
    let mut needed: Vec<_> = NEEDED.iter().map(|capability| capability.name.to_owned()).collect();
    let mut granted = capabilities()?;
    needed.sort();
    granted.sort();
    assert_eq!(granted, needed);

    let context = security_context()?;
    assert_eq!(context.privileged, Some(false));
    // Corresponds to no_new_privs.
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let pod = pod()?;
    assert_eq!(pod.host_network, Some(true));
    assert!(pod.host_pid.is_none() && pod.host_ipc.is_none() && pod.init_containers.is_none());
    Ok(())
}

#[test]
fn a_new_agent_can_start_next_to_the_old_one() -> Result<()> {
    // A declared port of the host network is given to one pod of each node: the scheduler would refuse the second.
    assert!(pod()?.containers.iter().all(|container| container.ports.is_none()));
    Ok(())
}

#[test]
fn the_image_is_that_of_this_version() -> Result<()> {
    let image = Image::open()?;
    assert_eq!(
        pod()?.containers[0].image.as_deref(),
        image.entry["annotations"]["io.containerd.image.name"].as_str()
    );
    Ok(())
}
