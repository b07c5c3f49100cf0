//! Virtual servers of a kernel that has IPVS. The guests of `cargo xtask test` have such a kernel; this machine's need
//! not, so that the tests run only where they are asked for (`--ignored`).

use anyhow::Result;
use lb_tests::world::{Layout, Netns, World};

/// What kube-proxy makes: on addresses of its device, and on a NodePort of the node.
const KUBE_PROXYS: [&str; 4] =
    ["-t 10.96.0.10:80", "-u 10.96.0.10:53", "-t [fd00:10:96::a]:80", "-t 192.0.2.1:30080"];
/// What others make: on the node's address, on an address of nobody, and by mark.
const OTHERS: [&str; 3] = ["-t 192.0.2.1:80", "-t 198.51.100.7:80", "-f 7"];

fn ipvsadm(node: &Netns, command: &str) -> Result<String> {
    node.run("ipvsadm", &command.split(' ').collect::<Vec<_>>())
}

/// The virtual servers, in the form of `ipvsadm --save`, without their real servers.
fn servers(node: &Netns) -> Result<Vec<String>> {
    let saved = ipvsadm(node, "--save --numeric")?;
    let mut servers: Vec<String> = saved
        .lines()
        .filter_map(|line| line.strip_prefix("-A "))
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    servers.sort();
    Ok(servers)
}

#[test]
#[ignore = "needs a kernel with IPVS; `cargo xtask test` runs this in a guest"]
fn virtual_servers_of_kube_proxy_go_and_those_of_others_stay() -> Result<()> {
    let world = World::new(Layout::routed().with_backends(1))?;
    let node = world.node();
    node.ip("addr add 192.0.2.1/32 dev lo\n\
         link add kube-ipvs0 type dummy\n\
         addr add 10.96.0.10/32 dev kube-ipvs0\n\
         addr add fd00:10:96::a/128 dev kube-ipvs0\n")?;
    for server in KUBE_PROXYS.iter().chain(&OTHERS) {
        ipvsadm(node, &format!("-A {server} -s rr"))?;
    }
    ipvsadm(node, "-a -t 10.96.0.10:80 -r 10.244.1.11:8080 -m")?;

    let output = world.lb_output(&["check"])?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{report}");
    assert!(report.contains("kube-ipvs0 with 2 addresses; 4 IPVS virtual servers"), "{report}");
    let planned = world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?;
    for server in ["--tcp-service [fd00:10:96::a]:80", "--udp-service 10.96.0.10:53"] {
        assert!(planned.contains(&format!("ipvsadm --delete-service {server}\n")), "{planned}");
    }

    // The host has no ipvsadm as far as `lb` can see.
    let host = world.folder().path().join("no-tools");
    std::fs::create_dir(&host)?;
    let host = host.to_string_lossy();
    let clean = ["cleanup", "--kube-proxy", "--host-root", host.as_ref()];
    let said = world.lb(&clean)?;
    assert!(said.contains("removed: kube-ipvs0 with 2 addresses; 4 IPVS virtual servers"), "{said}");
    for server in ["--tcp-service 192.0.2.1:80", "--tcp-service 198.51.100.7:80", "--fwmark-service 7"] {
        assert!(said.lines().any(|line| line.contains(" stay: ") && line.contains(server)), "{said}");
    }
    let mut others = OTHERS.map(str::to_owned).to_vec();
    others.sort();
    assert_eq!(servers(node)?, others);
    assert!(node.link_index("kube-ipvs0").is_err());

    let said = world.lb(&clean)?;
    assert!(said.contains("kube-proxy left nothing to remove"), "{said}");
    let report = world.lb(&["check"])?;
    assert!(report.contains("ok       leftovers"), "{report}");
    Ok(())
}
