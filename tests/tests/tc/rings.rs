//! Rings: what bounds flows that nobody has confirmed and flows that have ended, without an agent.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::{Counter, Proto, RING_SHARDS, timeout};
use lb_tests::datapath::{Datapath, service};
use lb_tests::packet::{tcp, udp};
use lb_userspace::dataplane::shape::{Sizes, possible_cpus};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::{Ends, V4, each_family, handshake, segments};

/// Each ring has 32 slots, and there is room for 400 live flows.
const SMALL: Sizes = Sizes { flows: 1_024 };
/// Longer than two ticks: a flow without a packet is then not in use any more.
const TWO_TICKS: Duration = Duration::from_millis(3_300);
/// Longer than a tick and a beat: the next packet counts as use.
const A_TICK: Duration = Duration::from_millis(1_200);

fn small(ends: &Ends) -> Result<Datapath> {
    assert_eq!((SMALL.ring(), SMALL.live()), (32, 400));
    stay_on_one_cpu()?;
    let mut path = Datapath::sized(SMALL)?;
    path.set([
        service(Proto::Tcp, ends.vip, &[ends.backend]),
        service(Proto::Udp, ends.vip, &[ends.backend]),
    ])?;
    Ok(path)
}

/// Keeps this test on the CPU where it runs, because each CPU has its own slots.
pub fn stay_on_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

/// The slots of each ring that a CPU has.
fn slots() -> Result<usize> {
    Ok((SMALL.ring() / SMALL.shards(possible_cpus()?)) as usize)
}

/// Another port of the client's address.
fn from_port(client: &str, port: u16) -> String {
    let (address, _) = client.rsplit_once(':').expect("an address and a port");
    format!("{address}:{port}")
}

/// How many flows are in this phase, of one protocol.
fn count(path: &Datapath, protocol: &str, phase: &str) -> Result<usize> {
    Ok(path.flows()?.iter().filter(|flow| flow.protocol == protocol && flow.phase == phase).count())
}

fn has(path: &Datapath, client: &str) -> Result<bool> {
    Ok(path.flows()?.iter().any(|flow| flow.client == client))
}

#[test]
fn a_flood_evicts_only_flows_of_its_own_kind() -> Result<()> {
    each_family(|ends| {
        let mut path = small(ends)?;
        handshake(&mut path, ends)?;
        let unanswered = from_port(ends.client, 50_000);
        path.from_pod(&udp(&*unanswered, ends.vip).payload("anybody?"))?;
        for port in 1_000..1_100 {
            path.from_pod(&tcp(&*from_port(ends.client, port), ends.vip).syn())?;
        }
        let half_open = slots()?;
        assert_eq!(count(&path, "TCP", "new")?, half_open);
        assert!(has(&path, &from_port(ends.client, 1_099))?, "the last one");
        assert_eq!(path.counter(Counter::FlowEvicted)?, 100 - half_open as u64);
        assert_eq!((count(&path, "TCP", "assured")?, count(&path, "UDP", "new")?), (1, 1));
        assert_eq!(path.flow_keys()?.len(), 2 * (half_open + 2), "both entries of a flow leave");

        for port in 1_000..1_100 {
            path.from_pod(&udp(&*from_port(ends.client, port), ends.vip).payload("anybody?"))?;
        }
        assert_eq!(count(&path, "UDP", "new")?, slots()?);
        assert_eq!((count(&path, "TCP", "assured")?, count(&path, "TCP", "new")?), (1, half_open));
        Ok(())
    })
}

#[test]
fn connections_that_end_leave_without_an_agent() -> Result<()> {
    each_family(|ends| {
        let mut path = small(ends)?;
        handshake(&mut path, ends)?;
        for port in 1_000..1_100 {
            let client = from_port(ends.client, port);
            let (sent, reply) = (tcp(&*client, ends.vip), tcp(ends.backend, &*client));
            path.from_pod(&sent.clone().syn())?;
            path.to_pod(&reply.clone().syn_ack())?;
            path.from_pod(&sent.clone().ack())?;
            if port % 2 == 0 {
                path.from_pod(&sent.fin())?;
                path.to_pod(&reply.fin())?;
            } else {
                path.to_pod(&reply.seq(1_001).rst())?;
            }
        }
        let ended = slots()?;
        assert_eq!(count(&path, "TCP", "closed")?, ended);
        assert_eq!(path.counter(Counter::FlowClosed)?, 100);
        assert_eq!(path.flow_keys()?.len(), 2 * (ended + 1));
        assert_eq!(count(&path, "TCP", "assured")?, 1);
        Ok(())
    })
}

#[test]
fn a_flow_in_use_gets_another_chance() -> Result<()> {
    let mut path = small(&V4)?;
    let question = udp(V4.client, V4.vip).payload("one way only");
    path.from_pod(&question)?;
    sleep(A_TICK);
    path.from_pod(&question)?;
    for port in 1_000..1_100 {
        path.from_pod(&udp(&*from_port(V4.client, port), V4.vip).payload("anybody?"))?;
    }
    assert!(has(&path, V4.client)?);
    sleep(TWO_TICKS);
    for port in 1_000..1_100 {
        path.from_pod(&udp(&*from_port(V4.client, port), V4.vip).payload("anybody?"))?;
    }
    assert!(!has(&path, V4.client)?, "it was silent for longer than two ticks");
    Ok(())
}

/// A slot whose flow was opened anew is not for the later flow, which has a slot of its own.
#[test]
fn a_slot_is_for_one_life_of_a_flow() -> Result<()> {
    let mut path = small(&V4)?;
    let syn = tcp(V4.client, V4.vip).syn();
    path.from_pod(&syn)?;
    path.to_pod(&tcp(V4.backend, V4.client).rst())?;
    for port in 0..slots()? - 2 {
        path.from_pod(&tcp(&*from_port(V4.client, 1_000 + port as u16), V4.vip).syn())?;
    }
    sleep(A_TICK);
    path.from_pod(&syn)?;
    // Takes the slot of the first life.
    path.from_pod(&tcp(&*from_port(V4.client, 2_000), V4.vip).syn())?;
    assert!(has(&path, V4.client)?);
    assert_eq!((count(&path, "TCP", "new")?, path.counter(Counter::FlowEvicted)?), (slots()?, 0));
    Ok(())
}

/// With as many live flows as there is room for, and every ring of every CPU full, flows still begin.
#[test]
fn a_full_table_has_room_for_a_flow_that_begins() -> Result<()> {
    let mut path = small(&V4)?;
    crowd().try_for_each(|client| open(&mut path, &client))?;
    path.sweep(1)?;
    for cpu in 0..possible_cpus()?.min(RING_SHARDS) {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        if sched_setaffinity(Pid::from_raw(0), &only).is_err() {
            // Not online, or not this process's.
            continue;
        }
        for port in 0..SMALL.ring() as u16 {
            let client = from_port(V4.client, 10_000 + cpu as u16 * 1_000 + port);
            path.from_pod(&tcp(&*client, V4.vip).syn())?;
            path.to_pod(&tcp(V4.backend, &*client).rst())?;
        }
        for port in 0..SMALL.ring() as u16 {
            let client = from_port(V4.client, 10_000 + cpu as u16 * 1_000 + 500 + port);
            path.from_pod(&tcp(&*client, V4.vip).syn())?;
            path.from_pod(&udp(&*client, V4.vip).payload("anybody?"))?;
            assert!(path.flows()?.iter().filter(|flow| flow.client == client).count() == 2, "{client}");
        }
    }
    assert_eq!((path.counter(Counter::DropFlowInsert)?, path.counter(Counter::ClashDropped)?), (0, 0));
    assert_eq!(count(&path, "TCP", "assured")?, SMALL.live() as usize);
    assert!(path.flow_keys()?.len() <= SMALL.flows as usize);
    Ok(())
}

fn open(path: &mut Datapath, client: &str) -> Result<()> {
    path.from_pod(&tcp(client, V4.vip).syn())?;
    path.to_pod(&tcp(V4.backend, client).syn_ack())?;
    path.from_pod(&tcp(client, V4.vip).ack()).map(drop)
}

/// Four connections of each of these clients fill the table.
fn crowd() -> impl Iterator<Item = String> {
    (0..100).flat_map(|host| (1_000..1_004).map(move |port| format!("10.244.1.{}:{port}", 100 + host)))
}

#[test]
fn a_connection_without_room_works_and_is_assured_when_there_is_room() -> Result<()> {
    let mut path = small(&V4)?;
    crowd().try_for_each(|client| open(&mut path, &client))?;
    // Each CPU counts up to 31 flows for itself.
    path.sweep(1)?;
    open(&mut path, V4.client)?;
    assert_eq!((count(&path, "TCP", "assured")?, count(&path, "TCP", "replied")?), (400, 1));
    assert_eq!(path.counter(Counter::FlowTableFull)?, 1);
    let sent = tcp(V4.client, V4.vip).ack().payload("data");
    for _ in 0..10 {
        assert_eq!(path.from_pod(&sent)?.packet()?.to(), V4.backend.parse()?);
    }
    assert_eq!(path.counter(Counter::FlowTableFull)?, 1, "counted once");
    // The connection is established, although its phase says otherwise.
    path.age(timeout::TCP_HANDSHAKE + 1)?;
    path.sweep(1)?;
    assert_eq!(path.flow_keys()?.len(), 2 * 401, "both entries stay");

    let first = crowd().next().context("a client")?;
    path.from_pod(&tcp(&*first, V4.vip).rst())?;
    path.sweep(1)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(&path, "TCP", "replied")? == 1 && Instant::now() < deadline {
        sleep(Duration::from_millis(200));
        path.from_pod(&sent)?;
    }
    assert_eq!((count(&path, "TCP", "assured")?, count(&path, "TCP", "replied")?), (400, 0));
    Ok(())
}

/// A connection that was reset has lost its room, and may go on nevertheless.
#[test]
fn a_connection_that_goes_on_without_room_waits_for_it() -> Result<()> {
    let mut path = small(&V4)?;
    let [client, backend] = segments(&V4);
    handshake(&mut path, &V4)?;
    path.from_pod(&client.clone().rst())?;
    crowd().try_for_each(|client| open(&mut path, &client))?;
    path.sweep(1)?;
    path.from_pod(&client)?;
    path.to_pod(&backend)?;
    let phase = |path: &Datapath| -> Result<_> {
        Ok(path.flows()?.iter().find(|flow| flow.client == V4.client).map(|flow| flow.phase))
    };
    assert_eq!(phase(&path)?, Some("replied"));
    // Neither the end of others nor the time of an ended flow takes it.
    path.age(timeout::TCP_CLOSED + 1)?;
    path.sweep(1)?;
    assert_eq!(path.from_pod(&client)?.packet()?.to(), V4.backend.parse()?);
    let first = crowd().next().context("a client")?;
    path.from_pod(&tcp(&*first, V4.vip).rst())?;
    path.sweep(1)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while phase(&path)? == Some("replied") && Instant::now() < deadline {
        sleep(Duration::from_millis(200));
        path.from_pod(&client)?;
    }
    assert_eq!(phase(&path)?, Some("assured"));
    Ok(())
}

/// When the table is nearly full, connections that were opened and hardly used leave, until there is room again.
#[test]
fn idle_connections_with_few_packets_leave_a_nearly_full_table() -> Result<()> {
    let mut path = small(&V4)?;
    open(&mut path, V4.client)?;
    path.begin_earlier(2 * timeout::EARLY)?;
    crowd().take(SMALL.live() as usize - 1).try_for_each(|client| open(&mut path, &client))?;
    path.sweep(2)?;
    assert_eq!(count(&path, "TCP", "assured")?, SMALL.live() as usize, "none is idle");
    path.age(timeout::EARLY + 1)?;
    for _ in 0..2 {
        path.sweep(2)?;
        assert_eq!(count(&path, "TCP", "assured")?, SMALL.live() as usize / 10 * 9 - 1);
        assert!(has(&path, V4.client)?, "the connection had packets for longer");
        assert_eq!(path.flow_keys()?.len(), 2 * path.flows()?.len(), "no flow is left by halves");
    }
    Ok(())
}

/// One client takes all that it gets: three quarters of the room. The others share the rest.
#[test]
fn one_client_leaves_room_for_others() -> Result<()> {
    const SIZES: Sizes = Sizes { flows: 4_096 };
    let (all, others) = (SIZES.live() as usize / 4 * 3, 100);
    let mut path = Datapath::sized(SIZES)?;
    path.set([service(Proto::Tcp, V4.vip, &[V4.backend])])?;
    for port in 0..all {
        open(&mut path, &from_port(V4.client, 10_000 + port as u16))?;
    }
    // Each CPU counts up to 31 flows for itself.
    path.sweep(1)?;
    for port in 0..others {
        open(&mut path, &from_port(V4.client, 20_000 + port as u16))?;
    }
    assert_eq!(
        (count(&path, "TCP", "assured")?, path.counter(Counter::FlowTableFull)?),
        (all, others as u64)
    );
    for host in 0..others {
        open(&mut path, &format!("10.244.2.{host}:1000"))?;
    }
    assert_eq!(count(&path, "TCP", "assured")?, all + others);
    Ok(())
}
