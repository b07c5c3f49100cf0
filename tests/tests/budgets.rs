//! The cost of a packet: nanoseconds are printed, verified instructions are asserted.
//!
//! `BPF_PROG_TEST_RUN` does not restore a packet between its repeats, so a program that rewrites would work on its
//! own output. Here that output is the next packet: services form a ring, in which the backend of each is the
//! frontend of the next. A run of N repeats walks N flows, each of them established, and every repeat does all the
//! work that a packet needs.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::MapData;
use aya::programs::SchedClassifier;
use lb_common::{Counter, Proto, names};
use lb_tests::datapath::{Datapath, service};
use lb_tests::packet::{Packet, tcp, udp};
use lb_tests::program::Run;

const POLICY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy"));

/// Verified instructions. The kernel's limit is 1,000,000.
const BUDGETS: [(&str, u32); 15] = [
    (names::POD_INGRESS, 60_000),
    (names::POD_EGRESS, 60_000),
    (names::PORT_INGRESS, 60_000),
    (names::PORT_EGRESS, 60_000),
    (names::TAP_INGRESS, 60_000),
    (names::TAP_PORT_INGRESS, 60_000),
    (names::SWEEP, 5_000),
    ("connect4", 10_000),
    ("connect6", 10_000),
    ("sendmsg4", 10_000),
    ("sendmsg6", 10_000),
    ("recvmsg4", 1_000),
    ("recvmsg6", 1_000),
    ("getpeername4", 1_000),
    ("getpeername6", 1_000),
];

const ROUNDS: usize = 9;

fn client(v6: bool) -> &'static str {
    if v6 { "[fd00:10:244:1::10]:40000" } else { "10.244.1.10:40000" }
}

/// Frontend `i` of the ring.
fn place(v6: bool, i: usize) -> String {
    let (high, low) = (i / 250, i % 250 + 1);
    if v6 { format!("[fd00:10:96::{high}:{low}]:80") } else { format!("10.96.{high}.{low}:80") }
}

fn ring(proto: Proto, v6: bool, len: usize) -> Result<Datapath> {
    let mut path = Datapath::new()?;
    path.set((0..len).map(|i| service(proto, &place(v6, i), &[&place(v6, (i + 1) % len)])))?;
    Ok(path)
}

/// The first packet to place `i`.
fn first_packet(proto: Proto, v6: bool, i: usize) -> Packet {
    match proto {
        Proto::Udp => udp(client(v6), place(v6, i).as_str()),
        _ => tcp(client(v6), place(v6, i).as_str()).syn(),
    }
}

/// As many flows may be half open at once, with room to spare.
const HALF_OPEN: usize = 10_000;

/// Opens every flow of the ring; each flow gets an answer, and each answer is confirmed.
fn establish(path: &mut Datapath, proto: Proto, v6: bool, len: usize) -> Result<()> {
    for start in (0..len).step_by(HALF_OPEN) {
        let end = len.min(start + HALF_OPEN);
        let all = Run::new().repeat((end - start) as u32);
        let first = first_packet(proto, v6, start);
        all.packet(path.program(names::POD_INGRESS)?, &first)?;
        let reply = reply(proto, v6, end % len);
        let reply = if proto == Proto::Udp { reply } else { reply.syn_ack() };
        all.packet(path.program(names::POD_EGRESS)?, &reply)?;
        let confirm = if proto == Proto::Udp { first } else { first.ack() };
        all.packet(path.program(names::POD_INGRESS)?, &confirm)?;
    }
    assert_eq!(path.counter(Counter::FlowCreated)?, len as u64, "{proto} v6 {v6}");
    assert_eq!(path.counter(Counter::FlowAssured)?, len as u64, "{proto} v6 {v6}");
    Ok(())
}

/// A reply of place `i`, which walks the ring backwards.
fn reply(proto: Proto, v6: bool, i: usize) -> Packet {
    match proto {
        Proto::Udp => udp(place(v6, i).as_str(), client(v6)),
        _ => tcp(place(v6, i).as_str(), client(v6)).ack(),
    }
}

/// Plays whole TCP connections, from the SYN to the ACK of the last FIN, by every flow of the ring at once: eight packets
/// each. Returns nanoseconds per connection. Each call needs a client port of its own.
fn connections(path: &mut Datapath, v6: bool, len: usize, port: u16) -> Result<u64> {
    let (address, _) = client(v6).rsplit_once(':').context("an address and a port")?;
    let (client, service) = (format!("{address}:{port}"), place(v6, 0));
    let sent = tcp(&*client, &*service);
    let reply = tcp(&*service, &*client);
    let packets = [
        (names::POD_INGRESS, sent.clone().syn()),
        (names::POD_EGRESS, reply.clone().syn_ack()),
        (names::POD_INGRESS, sent.clone().ack()),
        (names::POD_INGRESS, sent.clone().ack().payload("request")),
        (names::POD_EGRESS, reply.clone().ack().payload("response")),
        (names::POD_INGRESS, sent.clone().fin()),
        (names::POD_EGRESS, reply.fin()),
        (names::POD_INGRESS, sent.ack()),
    ];
    let all = Run::new().repeat(len as u32);
    let times = packets.iter().map(|(program, packet)| Ok(all.packet(path.program(program)?, packet)?.time));
    Ok(times.sum::<Result<Duration>>()?.as_nanos() as u64)
}

/// Minimum, median and maximum of a few rounds.
fn time(program: &SchedClassifier, packet: &Packet, repeat: u32) -> Result<[u64; 3]> {
    let run = Run::new().repeat(repeat);
    run.packet(program, packet)?;
    let mut rounds =
        (0..ROUNDS).map(|_| Ok(run.packet(program, packet)?.time)).collect::<Result<Vec<Duration>>>()?;
    rounds.sort();
    Ok([rounds[0], rounds[ROUNDS / 2], rounds[ROUNDS - 1]].map(|time| time.as_nanos() as u64))
}

struct Table {
    empty: u64,
}

impl Table {
    fn begin() -> Result<Self> {
        let mut object = Ebpf::load(POLICY)?;
        let program: &mut SchedClassifier =
            object.program_mut("nothing").context("no such program")?.try_into()?;
        program.load()?;
        let times = time(program, &tcp(client(false), place(false, 0).as_str()).ack(), 1_000_000)?;
        println!("{:<46} {:>6} {:>6} {:>13}", "case", "ns", "net", "min - max");
        let table = Self { empty: times[1] };
        table.row("an empty program", times);
        Ok(table)
    }

    fn row(&self, case: &str, [min, median, max]: [u64; 3]) {
        let net = median.saturating_sub(self.empty);
        println!("{case:<46} {median:>6} {net:>6} {:>13}", format!("{min} - {max}"));
    }
}

/// Aims: at most 15 ns over an empty program for a packet that is not ours, at most 60 ns for an established flow at
/// 1,000 flows.
#[test]
fn nanoseconds_per_packet() -> Result<()> {
    println!();
    let table = Table::begin()?;
    for v6 in [false, true] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let mut path = ring(Proto::Tcp, v6, 1000)?;
        let stranger = if v6 { "[fd00:10:244:1::99]:8080" } else { "10.244.1.99:8080" };
        let out = tcp(client(v6), stranger).ack();
        let back = tcp(stranger, client(v6)).ack();
        table.row(
            &format!("{family} not ours, ingress"),
            time(path.program(names::POD_INGRESS)?, &out, 1_000_000)?,
        );
        table.row(
            &format!("{family} not ours, egress"),
            time(path.program(names::POD_EGRESS)?, &back, 1_000_000)?,
        );
        assert!(path.flow_keys()?.is_empty());
    }
    for (proto, v6) in [(Proto::Tcp, false), (Proto::Tcp, true), (Proto::Udp, false)] {
        for len in [2, 1000, 20_000] {
            let mut path = ring(proto, v6, len)?;
            establish(&mut path, proto, v6, len)?;
            let first = first_packet(proto, v6, 0);
            let first = if proto == Proto::Tcp { first.ack() } else { first };
            let family = if v6 { "IPv6" } else { "IPv4" };
            let case = |what: &str| format!("{family} {proto} {what}, {len} flows");
            let repeat = 200_000_u32.next_multiple_of(len as u32);
            table.row(&case("established"), time(path.program(names::POD_INGRESS)?, &first, repeat)?);
            table.row(&case("reply"), time(path.program(names::POD_EGRESS)?, &reply(proto, v6, 0), repeat)?);
            assert_eq!(
                path.counter(Counter::FlowCreated)?,
                len as u64,
                "only the first packets opened flows"
            );
        }
    }
    for (proto, v6) in [(Proto::Tcp, false), (Proto::Tcp, true), (Proto::Udp, false)] {
        const NEW: usize = 5_000;
        let mut times = Vec::new();
        for _ in 0..3 {
            let mut path = ring(proto, v6, NEW)?;
            let run = Run::new().repeat(NEW as u32);
            times.push(
                run.packet(path.program(names::POD_INGRESS)?, &first_packet(proto, v6, 0))?.time.as_nanos()
                    as u64,
            );
            assert_eq!(path.counter(Counter::FlowCreated)?, NEW as u64);
        }
        times.sort_unstable();
        let family = if v6 { "IPv6" } else { "IPv4" };
        table.row(&format!("{family} {proto} new flow"), [times[0], times[1], times[2]]);
    }
    for v6 in [false, true] {
        const AT_ONCE: usize = 5_000;
        let mut path = ring(Proto::Tcp, v6, AT_ONCE)?;
        // First, so many connections end that each further end removes the traces of an earlier one.
        let rounds = (0..2 * ROUNDS).map(|i| connections(&mut path, v6, AT_ONCE, 20_000 + i as u16));
        let mut times = rounds.collect::<Result<Vec<u64>>>()?.split_off(ROUNDS);
        assert_eq!(path.counter(Counter::FlowClosed)?, (2 * ROUNDS * AT_ONCE) as u64);
        times.sort_unstable();
        let family = if v6 { "IPv6" } else { "IPv4" };
        let spread = [times[0], times[ROUNDS / 2], times[ROUNDS - 1]];
        table.row(&format!("{family} TCP connection of 8 packets"), spread);
    }
    Ok(())
}

/// Bytes of the kernel's memory for a flow, both entries and their overhead.
const FLOW_MEMORY: u64 = 384;

/// Bytes of a pinned map, as the kernel counts them.
fn memory(pin: &Path) -> Result<u64> {
    let map = MapData::from_pin(pin)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
    Ok(line.trim().parse()?)
}

#[test]
fn memory_of_a_flow() -> Result<()> {
    const FLOWS: usize = 10_000;
    let mut path = ring(Proto::Tcp, false, 1)?;
    let flows = path.pin(names::FLOWS);
    let before = memory(&flows)?;
    for port in 0..FLOWS as u16 {
        let from = format!("10.244.1.10:{}", 20_000 + port);
        path.from_pod(&tcp(from.as_str(), place(false, 0).as_str()).syn())?;
    }
    assert_eq!(path.flow_keys()?.len(), 2 * FLOWS);
    let each = (memory(&flows)? - before) / FLOWS as u64;
    println!("\na flow takes {each} bytes of the kernel's memory; {FLOW_MEMORY} are allowed");
    assert!((1..=FLOW_MEMORY).contains(&each));
    Ok(())
}

#[test]
fn verified_instructions() -> Result<()> {
    let path = Datapath::verified()?;
    println!("\n{:<14} {:>10} {:>10} {:>12}", "program", "verified", "budget", "machine code");
    for (name, budget) in BUDGETS {
        let info = path.info(name)?;
        let verified = info.verified_instruction_count().context("the kernel does not report the count")?;
        let code = info.size_jitted();
        println!("{name:<14} {verified:>10} {budget:>10} {code:>10} B");
        assert!(verified <= budget, "{name}: {verified} verified instructions, {budget} allowed");
    }
    Ok(())
}
