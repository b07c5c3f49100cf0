//! `lb cleanup --kube-proxy` removes what belongs to kube-proxy, and nothing else.

use crate::process::Process;
use crate::rules::{FOREIGN, KUBE_PROXY, VARIANTS, assert_same, nft, restore, ruleset, saved};
use anyhow::Result;
use lb_tests::world::{Layout, World};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

const CLEANUP: [&str; 2] = ["cleanup", "--kube-proxy"];

fn world() -> Result<World> {
    World::new(Layout::routed().with_backends(0))
}

/// The standard error of a command that fails.
fn refused(world: &World, args: &[&str]) -> Result<String> {
    let output = world.lb_output(args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !said.contains("panicked"), "{args:?}: {said}");
    Ok(said)
}

#[test]
fn iptables_of_both_variants_is_what_it_was_before_kube_proxy() -> Result<()> {
    let world = world()?;
    let node = world.node();
    for variant in VARIANTS {
        restore(node, variant, FOREIGN)?;
    }
    let before = saved(node)?;
    assert!(before.iter().any(|line| line.contains("[7:420] -A INPUT")), "{before:#?}");
    for variant in VARIANTS {
        restore(node, variant, KUBE_PROXY)?;
    }
    let with = saved(node)?;
    assert!(with.len() > before.len() + 100, "33 lines in each of four places: {with:#?}");

    let shown = world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?;
    assert!(shown.contains("nft delete chain ip6 nat KUBE-SVC-7CZWRQZJHAZQ4YZU\n"), "{shown}");
    assert!(
        shown.contains("ip6tables-legacy-restore --noflush") && shown.contains("-X KUBE-SERVICES"),
        "{shown}"
    );
    assert!(
        !shown.contains("KUBE-FIREWALL") && !shown.contains("MINE") && !shown.contains("DOCKER"),
        "{shown}"
    );
    assert_same(&saved(node)?, &with);

    let said = world.lb(&CLEANUP)?;
    assert!(said.contains("iptables-nft ip nat: 7 chains, 3 jumps"), "{said}");
    assert!(said.contains("iptables-legacy ip6 filter: 6 chains"), "{said}");
    assert_same(&saved(node)?, &before);
    assert_eq!(world.lb(&CLEANUP)?.trim(), "kube-proxy left nothing to remove");
    Ok(())
}

/// The commands that a dry run prints do the cleanup if they are typed into a shell.
#[test]
fn what_a_dry_run_prints_does_it() -> Result<()> {
    let world = world()?;
    let node = world.node();
    for variant in VARIANTS {
        restore(node, variant, FOREIGN)?;
    }
    let before = saved(node)?;
    for variant in VARIANTS {
        restore(node, variant, KUBE_PROXY)?;
    }
    let shown = world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?;
    node.run("sh", &["-ec", &shown])?;
    assert_same(&saved(node)?, &before);
    Ok(())
}

#[test]
fn nftables_loses_the_tables_of_kube_proxy_alone() -> Result<()> {
    let world = world()?;
    let node = world.node();
    let mine = "table inet kube-proxy-mine { chain input { type filter hook input priority 0; tcp dport 9 counter packets 7 bytes 420 accept; }; }\n\
                table inet kube-proxy { map m { type inet_service : verdict; }; }\n";
    nft(node, mine)?;
    let before = ruleset(node)?;
    for family in ["ip", "ip6"] {
        nft(
            node,
            &format!(
                "table {family} kube-proxy {{\n\
                 chain service-ABC {{ numgen random mod 1 vmap {{ 0 : accept }}; }}\n\
                 map service-ips {{ type inet_service : verdict; elements = {{ 80 : goto service-ABC }}; }}\n\
                 chain services {{ tcp dport vmap @service-ips; }}\n\
                 chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}\n}}\n"
            ),
        )?;
    }
    assert_eq!(
        world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?,
        "nft delete table ip kube-proxy\nnft delete table ip6 kube-proxy\n"
    );
    world.lb(&CLEANUP)?;
    assert_eq!(ruleset(node)?, before);
    Ok(())
}

#[test]
fn a_chain_that_others_use_stays_and_is_named() -> Result<()> {
    let world = world()?;
    let node = world.node();
    let users = "*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n\
                 *filter\n:MINE - [0:0]\n-A MINE -j KUBE-SERVICES\nCOMMIT\n";
    for variant in VARIANTS {
        restore(node, variant, KUBE_PROXY)?;
        restore(node, variant, users)?;
    }
    let said = world.lb(&CLEANUP)?;
    for variant in VARIANTS {
        let line = format!("iptables-{variant} ip nat: KUBE-POSTROUTING stays, because CNI-HOSTPORT-SETMARK");
        assert!(said.contains(&line), "{said}");
        let line = format!(
            "iptables-{variant} ip6 filter: KUBE-SERVICES stays without rules, because a rule in MINE"
        );
        assert!(said.contains(&line), "{said}");
    }
    let left: Vec<String> = saved(node)?.into_iter().filter(|line| line.contains("KUBE-")).collect();
    for variant in VARIANTS {
        let mut of: Vec<&str> =
            left.iter().filter_map(|line| line.strip_prefix(&format!("iptables-{variant} "))).collect();
        // Each variant prints the tables in its own order.
        of.sort_unstable();
        assert_eq!(
            of,
            [
                "-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ",
                "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
                "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
                "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
                "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
                "-A MINE -j KUBE-SERVICES",
                "-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
                ":KUBE-MARK-MASQ -",
                ":KUBE-POSTROUTING -",
                ":KUBE-SERVICES -",
            ]
        );
    }
    Ok(())
}

/// This kernel has neither dummy devices nor IPVS: a link of another kind has the name, and unit tests cover virtual
/// servers.
#[test]
fn the_device_and_the_sets_of_ipvs_mode_go() -> Result<()> {
    let world = world()?;
    let node = world.node();
    node.ip("link add kube-ipvs0 type ifb\naddr add 10.96.0.1/32 dev kube-ipvs0\naddr add 10.96.0.10/32 dev kube-ipvs0\n")?;
    let theirs = "KUBE-DST-2FAIIK2E4RIPMTGF";
    for (set, kind, family) in [
        ("KUBE-CLUSTER-IP", "hash:ip,port", "inet"),
        ("KUBE-6-CLUSTER-IP", "hash:ip,port", "inet6"),
        ("KUBE-LOOP-BACK", "hash:ip,port,ip", "inet"),
        (theirs, "hash:ip", "inet"),
    ] {
        node.run("ipset", &["create", set, kind, "family", family])?;
    }
    for variant in VARIANTS {
        let program = format!("iptables-{variant}");
        node.run(&program, &["-t", "nat", "-N", "KUBE-SERVICES"])?;
        let rule = "-t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT";
        node.run(&program, &rule.split(' ').collect::<Vec<_>>())?;
    }
    let shown = world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?;
    assert!(shown.contains("ip link delete kube-ipvs0\nipset destroy KUBE-"), "{shown}");
    let said = world.lb(&CLEANUP)?;
    assert!(said.contains("kube-ipvs0 with 2 addresses; 3 ipsets"), "{said}");
    assert!(node.link_index("kube-ipvs0").is_err());
    assert_eq!(node.run("ipset", &["list", "-name"])?.trim(), theirs);
    Ok(())
}

#[test]
fn a_set_that_others_use_is_an_error_that_says_so() -> Result<()> {
    let world = world()?;
    let node = world.node();
    node.run("ipset", &["create", "KUBE-CLUSTER-IP", "hash:ip,port"])?;
    let rule = "-A INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT";
    node.run("iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
    let said = refused(&world, &CLEANUP)?;
    assert!(said.contains("ipset KUBE-CLUSTER-IP: a rule of another program uses the set"), "{said}");
    assert!(saved(node)?.iter().any(|line| line.contains("--match-set KUBE-CLUSTER-IP")));
    Ok(())
}

#[test]
fn it_refuses_while_kube_proxy_runs() -> Result<()> {
    let world = world()?;
    let node = world.node();
    restore(node, "nft", KUBE_PROXY)?;
    restore(node, "legacy", KUBE_PROXY)?;
    let before = saved(node)?;
    let folder = world.folder().path();

    let process = Process::start(folder, node, "kube-proxy")?;
    let said = refused(&world, &CLEANUP)?;
    let named = format!("process {} is a kube-proxy", process.id());
    assert!(said.contains(&named) && said.contains("--force"), "{said}");
    assert_same(&saved(node)?, &before);
    let shown = world.lb(&["cleanup", "--kube-proxy", "--dry-run"])?;
    assert!(shown.contains("nft delete chain ip nat KUBE-SERVICES"), "a dry run is allowed: {shown}");
    drop(process);

    // In k3s, no process has the name kube-proxy.
    let listener = node.enter(|| TcpListener::bind("127.0.0.1:10249"))?;
    let said = refused(&world, &CLEANUP)?;
    assert!(said.contains("does not answer"), "the listener may be busy: {said}");
    // The client of this connection is gone already.
    listener.accept()?;
    let server = node.spawn(move || {
        let (mut stream, _) = listener.accept().expect("lb connects");
        let mut request = [0; 512];
        let length = stream.read(&mut request).expect("lb sends a request");
        assert!(request[..length].starts_with(b"GET /proxyMode "));
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\niptables").expect("lb reads the answer");
    });
    let said = refused(&world, &CLEANUP)?;
    server.join().expect("the server does not panic");
    assert!(said.contains("/proxyMode says iptables"), "{said}");
    assert_same(&saved(node)?, &before);

    // A kube-proxy in a node that is a container on this machine is not ours.
    let _elsewhere = Process::start(folder, world.outside(), "kube-proxy")?;
    world.lb(&CLEANUP)?;
    assert!(!saved(node)?.iter().any(|line| line.contains("KUBE-SERVICES")));
    Ok(())
}

#[test]
fn force_removes_under_a_running_kube_proxy() -> Result<()> {
    let world = world()?;
    restore(world.node(), "nft", KUBE_PROXY)?;
    let _process = Process::start(world.folder().path(), world.node(), "kube-proxy")?;
    refused(&world, &CLEANUP)?;
    world.lb(&["cleanup", "--kube-proxy", "--force"])?;
    assert!(!saved(world.node())?.iter().any(|line| line.contains("KUBE-")));
    Ok(())
}

#[test]
fn without_iptables_legacy_the_rest_goes_and_what_to_type_is_said() -> Result<()> {
    let world = world()?;
    let node = world.node();
    for variant in VARIANTS {
        restore(node, variant, KUBE_PROXY)?;
    }
    let empty = world.folder().path().join("root");
    fs::create_dir(&empty)?;
    let empty = empty.to_string_lossy();
    let said = refused(&world, &["cleanup", "--kube-proxy", "--host-root", &empty])?;
    assert!(
        said.contains("iptables-legacy ip nat: 7 chains: there is no iptables-legacy-restore in"),
        "{said}"
    );
    assert!(said.contains("run `lb cleanup --kube-proxy` on a host that has it"), "{said}");
    assert!(said.contains("removed: iptables-nft ip nat: 7 chains, 3 jumps; "), "{said}");
    let left = saved(node)?;
    assert!(!left.iter().any(|line| line.contains("tables-nft") && line.contains("KUBE-")), "{left:#?}");
    assert!(left.iter().any(|line| line.contains("tables-legacy") && line.contains("KUBE-")), "{left:#?}");
    Ok(())
}
