//! Tables of another size or of an older layout replace the current ones.

use crate::stage::{SHOP, Stage, WEB, operations};
use anyhow::{Context, Result};
use lb_common::{Counter, FrontendKind, Prefix, Proto, names, node_bit, range_bit};
use lb_tests::datapath::{Datapath, also_on, service};
use lb_tests::packet::{assert_same, tcp, udp};
use lb_tests::world::Layout;
use lb_userspace::dataplane::migrate::CONVERTERS;
use lb_userspace::dataplane::shape::Sizes;
use lb_userspace::desired::ServiceRanges;
use lb_userspace::tables::interest::Interest;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// New connections, datagrams and held connections while the flow table grows, shrinks, and grows again, even if the
/// agent is killed in the middle.
#[test]
fn a_flow_table_of_another_size_loses_no_packet() -> Result<()> {
    let stage = Stage::new(Layout::routed())?;
    let room = |stage: &Stage| -> Result<u64> {
        let status = stage.json("status")?;
        let tables = status["tables"].as_array().context("tables")?.clone();
        tables.iter().find(|table| table["name"] == "flows").context("flows")?["capacity"]
            .as_u64()
            .context("room")
    };
    let mut agent = stage.world.start_agent(&["--max-flows", "20000"])?;
    assert_eq!(room(&stage)?, 40_000, "two entries a flow");
    let talk = stage.talk(WEB, 50)?;
    let load = stage.load(SHOP, 250);
    for (round, flows) in ["40000", "10000", "80000", "20000"].into_iter().enumerate() {
        sleep(Duration::from_millis(200));
        agent.terminate()?;
        agent = stage.world.spawn_agent(&["--max-flows", flows])?;
        if round % 2 == 1 {
            // The agent is killed somewhere in the migration: with fresh tables, copies, or half of the links
            // swapped.
            let log = agent.wait_for_text("attached", Duration::from_secs(30));
            agent.kill()?;
            log?;
            agent.start_again()?;
        }
        agent.wait_until_ready()?;
        assert_eq!(operations(&agent)?, 0, "round {round}:\n{}", agent.log());
        assert_eq!(room(&stage)?, 2 * flows.parse::<u64>()?);
        for left in ["v3-old", "v3-next"] {
            assert!(!stage.world.folder().pins().join(left).exists(), "round {round}: {left}");
        }
    }
    println!("four changes of the flow table's size:");
    load.assert_clean();
    talk.assert_clean();
    Ok(())
}

/// An earlier version of this schema did not have these maps.
#[test]
fn tables_to_which_maps_were_added_lose_no_packet() -> Result<()> {
    let stage = Stage::new(Layout::bridge(false, false))?;
    let mut agent = stage.start_agent(&[])?;
    let talk = stage.talk(WEB, 50)?;
    let load = stage.load(SHOP, 250);
    agent.terminate()?;
    let added = [names::BRIDGE_PORTS, names::BRIDGE_HOSTS];
    let pins = || added.map(|map| stage.world.folder().pins().join("v3").join(map));
    for pin in pins() {
        fs::remove_file(&pin).with_context(|| pin.display().to_string())?;
    }
    agent.start_again()?;
    assert_eq!(operations(&agent)?, 0, "{}", agent.log());
    assert!(pins().iter().all(|pin| pin.exists()));
    load.assert_clean();
    talk.assert_clean();
    Ok(())
}

const FRONTEND: &str = "10.96.0.10:80";
const OTHER_FRONTEND: &str = "10.96.0.20:81";
const BACKENDS: [&str; 3] = ["10.244.1.11:8080", "10.244.1.12:8080", "10.244.1.13:8080"];
const BEGUN: &str = "10.244.1.10:40001";
const KNOWN: &str = "10.244.1.10:40002";

/// Opens one connection whose SYN was seen and one that is complete; returns their backends.
fn two_flows(path: &mut Datapath) -> Result<[SocketAddr; 2]> {
    path.set([service(Proto::Tcp, FRONTEND, &BACKENDS)])?;
    let begun = path.from_pod(&tcp(BEGUN, FRONTEND).syn())?.packet()?.to();
    let known = path.from_pod(&tcp(KNOWN, FRONTEND).syn())?.packet()?.to();
    path.to_pod(&tcp(known, KNOWN).syn_ack())?;
    path.from_pod(&tcp(KNOWN, FRONTEND).ack())?;
    assert_eq!((path.counter(Counter::FlowCreated)?, path.counter(Counter::FlowAssured)?), (2, 1));
    Ok([begun, known])
}

/// Asserts that packets of both connections go where they went, in both directions, and that `created` flows were
/// created in all.
fn check_flows(path: &mut Datapath, [begun, known]: [SocketAddr; 2], created: u64) -> Result<()> {
    let sent = tcp(KNOWN, FRONTEND).ack().payload("data");
    assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(known));
    let reply = tcp(begun, BEGUN).syn_ack();
    assert_same(&path.to_pod(&reply)?.packet()?, &reply.clone().with_src(FRONTEND));
    let sent = tcp(BEGUN, FRONTEND).ack();
    assert_same(&path.from_pod(&sent)?.packet()?, &sent.clone().with_dst(begun));
    assert_eq!((path.counter(Counter::FlowCreated)?, path.counter(Counter::ResetUnknownFlow)?), (created, 0));
    Ok(())
}

/// The flow table gets another size: a packet finds its flow even if only the previous tables have it.
#[test]
fn flows_are_read_through_to_the_previous_tables() -> Result<()> {
    let mut path = Datapath::new()?;
    let backends = two_flows(&mut path)?;
    let keys = path.flow_keys()?.len();
    let change = path.change(Sizes { flows: 4_096 }, &[])?;
    assert_eq!(path.flow_keys()?.len(), 0, "new tables");
    // The tuple at the backend belongs to another flow, which only the previous tables have.
    path.set([service(Proto::Tcp, OTHER_FRONTEND, &[&backends[0].to_string()])])?;
    let clash = path.from_pod(&tcp(BEGUN, OTHER_FRONTEND).syn())?.packet()?;
    assert!(
        clash.to() == backends[0] && clash.from() != BEGUN.parse()?,
        "{} to {}",
        clash.from(),
        clash.to()
    );
    check_flows(&mut path, backends, 3)?;
    let keys = keys + 2;
    let copied = path.end(change)?;
    assert!(copied < keys, "{copied} of {keys} entries had to be copied");
    assert_eq!(path.flow_keys()?.len(), keys);
    check_flows(&mut path, backends, 3)?;
    // An ended connection does not come back.
    path.from_pod(&tcp(KNOWN, FRONTEND).seq(1_000 + "data".len() as u32).rst())?;
    // Until the RST is certain, a SYN belongs to the connection.
    path.age(3)?;
    path.from_pod(&tcp(KNOWN, FRONTEND).syn())?;
    assert_eq!(path.counter(Counter::FlowCreated)?, 4);
    Ok(())
}

/// Makes the tables of this schema those of schema 2, whose flows were shorter and lay in three maps. Returns the folder.
fn as_schema_2(path: &Datapath) -> Result<PathBuf> {
    let now = path.pin(names::FLOWS);
    let now = now.parent().context("a folder")?;
    let older = now.with_file_name("v2");
    fs::rename(now, &older)?;
    let mut flows = Vec::new();
    path.kernel.maps.for_each_flow(|key, flow| flows.push((*key, *flow)))?;
    for map in [names::FLOWS, names::FLOWS_LIVE, names::RINGS] {
        fs::remove_file(older.join(map))?;
    }
    for (map, kind) in
        [(names::FLOWS, "hash"), (names::FLOWS_SYN, "lru_hash"), (names::FLOWS_UDP, "lru_hash")]
    {
        let pin = older.join(map).to_string_lossy().into_owned();
        // BPF_F_NO_PREALLOC
        let flags = if kind == "hash" { "1" } else { "0" };
        bpftool(
            &["map", "create", &pin, "type", kind, "key", "40", "value", "76"],
            &["entries", "1000", "name", map, "flags", flags],
        )?;
        for (key, flow) in &flows {
            let lru = if key.is_tcp() { names::FLOWS_SYN } else { names::FLOWS_UDP };
            if map == if flow.is_live() { names::FLOWS } else { lru } {
                let (key, value) = (hex(key), hex(flow));
                let mut words = vec!["key", "hex"];
                words.extend(key.iter().map(String::as_str));
                words.extend(["value", "hex"]);
                words.extend(value[..76].iter().map(String::as_str));
                bpftool(&["map", "update", "pinned", &pin], &words)?;
            }
        }
    }
    Ok(older)
}

/// Packets find their flows in the three maps of schema 2, and take them along.
#[test]
fn flows_of_schema_2_are_read_through_and_copied() -> Result<()> {
    const UNANSWERED: &str = "10.244.1.10:40003";
    let mut path = Datapath::new()?;
    let backends = two_flows(&mut path)?;
    path.set([service(Proto::Udp, FRONTEND, &BACKENDS)])?;
    let question = udp(UNANSWERED, FRONTEND).payload("anybody?");
    let unanswered = path.from_pod(&question)?.packet()?.to();
    let keys: BTreeSet<_> = path.flow_keys()?.into_iter().collect();
    assert_eq!(keys.len(), 6);
    let tables = lb_userspace::dataplane::read(&path.kernel.maps)?;
    let older = as_schema_2(&path)?;

    // Without a converter the tables are refused, and nothing changes.
    let refused = path.change(Sizes::default(), &[]).err().context("no converter")?.to_string();
    assert!(refused.contains("of another shape") && refused.contains("v2/flows"), "{refused}");
    assert!(older.exists() && !path.pin(names::FLOWS).exists());

    let change = path.change(Sizes::default(), CONVERTERS)?;
    assert!(lb_userspace::dataplane::read(&path.kernel.maps)? == tables, "ids and all");
    assert_eq!(path.flow_keys()?.len(), 0, "packets bring their flows along");
    check_flows(&mut path, backends, 3)?;
    // Once a beat, a packet asks for the entry of the other direction, too.
    let asked_for = path.flow_keys()?.len();
    assert!((3..6).contains(&asked_for), "{asked_for}");
    assert_eq!(path.end(change)?, 6 - asked_for);
    assert_eq!(path.flow_keys()?.into_iter().collect::<BTreeSet<_>>(), keys);
    assert!(!older.exists() && !older.with_file_name("v2-old").exists());
    check_flows(&mut path, backends, 3)?;
    assert_eq!(path.from_pod(&question)?.packet()?.to(), unanswered);
    assert_eq!(path.counter(Counter::FlowCreated)?, 3);
    // Live flows of before are counted from the first sweep on.
    path.sweep(1)?;
    assert_eq!(path.kernel.maps.live()[0], 2);
    Ok(())
}

/// Schema 1 had one bit for a block of addresses, and no block for the node's addresses.
#[test]
fn bitmaps_of_schema_1_lead_to_node_ports_and_ranges_before_a_program_is_swapped() -> Result<()> {
    const NODE_PORT: &str = "192.168.77.1:30080";
    const NOBODYS: &str = "10.97.0.1:80";
    const FREE_BLOCK: u32 = 12_345;
    let mut path = Datapath::new()?;
    path.set_node_addresses(&["192.168.77.1"])?;
    path.set_service_ranges(ServiceRanges {
        cidrs: [Prefix::new([10, 97, 0, 0].into(), 16)].into(),
        others: [].into(),
    })?;
    path.set([also_on(service(Proto::Tcp, FRONTEND, &BACKENDS[..1]), FrontendKind::NodePort, NODE_PORT)])?;
    path.from_pod(&tcp(BEGUN, NODE_PORT).syn())?.packet()?;

    let older = as_schema_2(&path)?;
    fs::rename(&older, older.with_file_name("v1"))?;
    let ports = range_bit(Ipv4Addr::UNSPECIFIED.into());
    let blocks: Vec<u32> =
        Interest::from_words(path.kernel.maps.interest.words()).bits().filter(|bit| *bit >= ports).collect();
    assert!(blocks.contains(&node_bit(Ipv4Addr::new(192, 168, 77, 1).into())) && blocks.len() > 2);
    for bit in blocks {
        path.kernel.maps.interest.store(bit, false);
    }
    path.kernel.maps.interest.store(ports + FREE_BLOCK, true);

    let change = path.change(Sizes::default(), CONVERTERS)?;
    let tables = lb_userspace::dataplane::read(&path.kernel.maps)?;
    assert!(!tables.interest.contains(ports + FREE_BLOCK), "the bit means another block now");
    let sent = path.from_pod(&tcp(BEGUN, NODE_PORT).ack())?.packet()?;
    assert_eq!(sent.to(), BACKENDS[0].parse()?);
    assert_eq!(path.from_pod(&tcp(KNOWN, NODE_PORT).syn())?.packet()?.to(), BACKENDS[0].parse()?);
    path.from_pod(&tcp(KNOWN, NOBODYS).syn())?;
    assert_eq!((path.counter(Counter::DropUnallocated)?, path.counter(Counter::FlowCreated)?), (1, 2));
    path.end(change).map(drop)
}

/// The bytes of a value.
fn hex<T: aya::Pod>(value: &T) -> Vec<String> {
    // SAFETY: The value is `repr(C)` without hidden padding.
    let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bpftool(first: &[&str], rest: &[&str]) -> Result<()> {
    let output = std::process::Command::new("bpftool").args(first).args(rest).output().context("bpftool")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "bpftool {}: {said}", first.join(" "));
    Ok(())
}
