//! The tables are legible with `bpftool` by their field names, without any other tool.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use lb_common::{FrontendKind, Prefix, Proto, names};
use lb_tests::datapath::{Datapath, also_on, service};
use lb_tests::packet::{tcp, udp};

/// What a dump of each table must show, once the table has an entry of that kind.
const SHOWN: [(&str, &[&str]); 15] = [
    (names::FRONTENDS, &["\"addr\"", "10,96,0,10", "\"port\"", "\"service\"", "\"kind\""]),
    (names::LOCAL_ADDRS, &["192,168,77,1", "\"value\""]),
    (names::SERVICE_RANGES, &["\"prefix_len\"", "10,96,0,10", "\"value\": 1"]),
    (names::SOURCE_RANGES, &["\"prefix_len\"", "\"service\"", "192,0,2,0"]),
    (names::AFFINITY, &["\"client\"", "10,244,1,10", "\"last_new\"", "\"generation\""]),
    (names::SERVICES, &["\"active\"", "\"records\"", "\"cluster\"", "\"offset\"", "\"affinity_timeout\""]),
    (
        names::NAMES,
        &["\"namespace\": \"default\"", "\"name\": \"s-10-96-0-10-80\"", "\"proto\": 6", "\"family\": 4"],
    ),
    (names::SLOTS, &["\"backend\"", "\"generation\""]),
    (names::BACKENDS, &["10,244,1,11", "\"state\"", "\"weight\""]),
    (names::FLOWS, &["\"sport\"", "\"zone\"", "\"first_seen\"", "\"phase\"", "\"previous_backend\""]),
    (names::FLOWS_LIVE, &["\"value\""]),
    (names::RINGS, &["\"key\"", "\"sport\"", "\"first_seen\""]),
    (names::SERVICE_STATS, &["\"connections\"", "\"reply_bytes\""]),
    (names::BACKEND_STATS, &["\"packets\"", "\"bytes\"", "\"reply_packets\""]),
    (names::COUNTERS, &["\"cpu\"", "\"value\""]),
];

#[test]
fn bpftool_prints_every_table_with_named_fields() -> Result<()> {
    let mut path = Datapath::new()?;
    let (vip, backend) = ("10.96.0.10:80", "10.244.1.11:8080");
    path.set_node_addresses(&["192.168.77.1"])?;
    let (name, mut tcp_port) =
        also_on(service(Proto::Tcp, vip, &[backend]), FrontendKind::LoadBalancer, "203.0.113.10:80");
    tcp_port.source_ranges = [Prefix::new("192.0.2.0".parse::<IpAddr>()?, 24)].into();
    tcp_port.affinity_timeout = 60;
    path.set([(name, tcp_port), service(Proto::Udp, vip, &[backend])])?;
    path.from_pod(&tcp("10.244.1.10:4000", vip).syn())?;
    path.from_pod(&udp("10.244.1.10:4000", vip).payload("unanswered"))?;
    path.from_pod(&udp("10.244.1.10:4001", vip).payload("answered"))?;
    path.to_pod(&udp(backend, "10.244.1.10:4001").payload("answer"))?;
    for (map, fields) in SHOWN {
        let output = Command::new("bpftool").args(["map", "dump", "pinned"]).arg(path.pin(map)).output();
        let output = output.context("bpftool, which the set-up installs")?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{map}: {}", String::from_utf8_lossy(&output.stderr));
        for field in fields {
            assert!(text.contains(field), "{map}: no {field} in {}", &text[..text.len().min(1500)]);
        }
    }
    Ok(())
}
