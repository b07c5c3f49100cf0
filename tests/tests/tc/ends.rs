//! How a connection ends, and what does not end it: segments that only somebody can have sent who does not see it.

use anyhow::Result;
use lb_common::{Counter, Proto, names};
use lb_tests::datapath::{Datapath, service};
use lb_tests::packet::{Packet, Tcp, assert_same, tcp};
use lb_tests::program::Run;

use crate::{Ends, each_family, handshake, segments};

/// Farther from the connection's sequence numbers than any segment of it.
const FAR: u32 = 0x5000_0000;
/// A number of bytes that fits into any window.
const SOME: u32 = 700;
/// Ticks after which a RST counts as certain.
const CERTAIN: u32 = 3;

/// One Service with one backend.
fn path_to(ends: &Ends) -> Result<Datapath> {
    let mut path = Datapath::new()?;
    path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
    Ok(path)
}

/// The phase of the only flow, whose two entries exist once.
fn phase(path: &Datapath) -> Result<&'static str> {
    let flows = path.flows()?;
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(path.flow_keys()?.len(), 2, "each entry exists once");
    Ok(flows[0].phase)
}

/// Sends a segment in its direction: to a Service it comes from the client.
fn send(path: &mut Datapath, ends: &Ends, segment: &Packet) -> Result<()> {
    let program =
        if segment.from() == ends.backend.parse()? { names::POD_EGRESS } else { names::POD_INGRESS };
    Run::new().packet(path.program(program)?, segment).map(drop)
}

/// What the phase becomes by the second of two segments, the first of which opens the window.
fn after(path: &mut Datapath, ends: &Ends, segments: &[Packet]) -> Result<&'static str> {
    path.forget_flows()?;
    handshake(path, ends)?;
    segments.iter().try_for_each(|segment| send(path, ends, segment))?;
    phase(path)
}

fn seq(segment: &Packet) -> u32 {
    match &segment.transport {
        lb_tests::packet::Transport::Tcp(tcp) => tcp.seq,
        other => panic!("{other:?} is not TCP"),
    }
}

/// The segment as a side sends it that has sent this much more.
fn later(segment: &Packet, by: u32) -> Packet {
    segment.clone().seq(seq(segment).wrapping_add(by))
}

#[test]
fn a_connection_is_assured_by_its_handshake_and_ends_when_both_sides_closed() -> Result<()> {
    each_family(|ends| {
        let mut path = Datapath::new()?;
        path.set([service(Proto::Tcp, ends.vip, &[ends.backend])])?;
        let state = |path: &Datapath| -> Result<_> {
            let flows = path.flows()?;
            assert_eq!(flows.len(), 1, "{flows:?}");
            assert_eq!(path.flow_keys()?.len(), 2, "each entry exists once");
            Ok(flows[0].phase)
        };
        path.from_pod(&tcp(ends.client, ends.vip).syn())?;
        assert_eq!(state(&path)?, "new");
        path.to_pod(&tcp(ends.backend, ends.client).syn_ack())?;
        assert_eq!(state(&path)?, "replied");
        path.from_pod(&tcp(ends.client, ends.vip).ack())?;
        assert_eq!(state(&path)?, "assured");
        path.from_pod(&tcp(ends.client, ends.vip).fin())?;
        assert_eq!(state(&path)?, "closing");
        path.to_pod(&tcp(ends.backend, ends.client).fin())?;
        assert_eq!(state(&path)?, "closed");
        // The last ACK still reaches the backend.
        let last = tcp(ends.client, ends.vip).ack();
        assert_same(&path.from_pod(&last)?.packet()?, &last.clone().with_dst(ends.backend));
        Ok(())
    })
}

#[test]
fn a_rst_ends_a_connection_if_its_receiver_expects_it() -> Result<()> {
    each_family(|ends| {
        let mut path = path_to(ends)?;
        for segment in segments(ends) {
            let data = segment.clone().payload(vec![b'x'; SOME as usize]);
            let rst = segment.clone().rst();
            // The receiver has acknowledged nothing of the data.
            for expected in [rst.clone(), later(&rst, SOME)] {
                assert_eq!(
                    after(&mut path, ends, &[data.clone(), expected.clone()])?,
                    "closed",
                    "{expected}"
                );
            }
            // Late, or guessed: one side at most has ended.
            for near in [later(&rst, 1), later(&rst, SOME - 1), later(&rst, SOME + 1)] {
                assert_eq!(after(&mut path, ends, &[data.clone(), near.clone()])?, "assured", "{near}");
                let near = near.flags(Tcp::RST | Tcp::ACK);
                assert_eq!(after(&mut path, ends, &[data.clone(), near.clone()])?, "closing", "{near}");
                let far = near.acking(FAR);
                assert_eq!(after(&mut path, ends, &[data.clone(), far.clone()])?, "assured", "{far}");
            }
            for far in [later(&rst, FAR), later(&rst, 0_u32.wrapping_sub(FAR)), rst.clone().seq(0x8000_0000)]
            {
                assert_eq!(after(&mut path, ends, &[data.clone(), far.clone()])?, "assured", "{far}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_a_far_segment_says_does_not_count() -> Result<()> {
    each_family(|ends| {
        let mut path = path_to(ends)?;
        for segment in segments(ends) {
            let far = later(&segment, FAR);
            assert_eq!(after(&mut path, ends, &[far.clone().fin()])?, "assured");
            let data = far.clone().payload("forged");
            let rst = later(&far, "forged".len() as u32).rst();
            assert_eq!(
                after(&mut path, ends, &[data.clone(), rst, far.clone().rst(), far.fin()])?,
                "assured"
            );
            // Many of them do not lead the numbers away.
            let sweep = (0..2_048).map(|i| later(&segment, i << 21).acking(FAR).payload("forged"));
            let end = std::iter::once(segment.clone().rst());
            assert_eq!(after(&mut path, ends, &sweep.chain(end).collect::<Vec<_>>())?, "closed");
            // Nor does one hide the real end.
            assert_eq!(after(&mut path, ends, &[data, segment.clone().rst()])?, "closed");
        }
        Ok(())
    })
}

#[test]
fn sequence_numbers_wrap() -> Result<()> {
    each_family(|ends| {
        let mut path = path_to(ends)?;
        let begin = u32::MAX - 100;
        let [client, backend] = segments(ends);
        path.from_pod(&client.clone().seq(begin).syn())?;
        path.to_pod(&backend.clone().acking(begin.wrapping_add(1)).syn_ack())?;
        let data = client.seq(begin.wrapping_add(1)).payload(vec![b'x'; SOME as usize]);
        path.from_pod(&data)?;
        path.from_pod(&later(&data, SOME).payload("").rst())?;
        assert_eq!(phase(&path)?, "closed");
        Ok(())
    })
}

/// A frame of 60 bytes, the least that Ethernet sends, has zeros behind a short segment.
#[test]
fn padding_is_not_data() -> Result<()> {
    each_family(|ends| {
        let mut path = path_to(ends)?;
        handshake(&mut path, ends)?;
        let [client, _] = segments(ends);
        let mut frame = client.bytes();
        frame.extend([0; 6]);
        Run::new().frame(path.program(names::POD_INGRESS)?, &frame)?;
        // Only the client's own end tells: the backend's acknowledgement does not cover what follows.
        path.from_pod(&later(&client, 6).rst())?;
        assert_eq!(phase(&path)?, "assured");
        Ok(())
    })
}

#[test]
fn a_connection_goes_on_after_a_rst_if_both_sides_do() -> Result<()> {
    each_family(|ends| {
        let sides = segments(ends);
        for rst in sides.clone().map(Packet::rst) {
            for [first, second] in [[0, 1], [1, 0]] {
                let mut path = path_to(ends)?;
                handshake(&mut path, ends)?;
                send(&mut path, ends, &rst)?;
                assert_eq!(phase(&path)?, "closed");
                for _ in 0..3 {
                    send(&mut path, ends, &sides[first])?;
                    assert_eq!(phase(&path)?, "closed", "the other side may have gone");
                }
                send(&mut path, ends, &sides[second])?;
                assert_eq!(phase(&path)?, "assured");
                assert_eq!(path.counter(Counter::FlowAssured)?, 2);
                // The connection ends as ever.
                sides.clone().map(Packet::fin).iter().try_for_each(|fin| send(&mut path, ends, fin))?;
                assert_eq!(phase(&path)?, "closed");
                assert_eq!(path.counter(Counter::FlowClosed)?, 2);
            }
        }
        Ok(())
    })
}

#[test]
fn a_refused_or_twice_reset_connection_does_not_go_on() -> Result<()> {
    each_family(|ends| {
        let [client, backend] = segments(ends);
        let rst = backend.clone().rst();
        let mut path = path_to(ends)?;
        assert_eq!(
            after(&mut path, ends, &[rst.clone(), rst.clone(), client.clone(), backend.clone()])?,
            "closed"
        );
        path.forget_flows()?;
        path.from_pod(&client.clone().syn())?;
        for segment in [rst, backend, client] {
            send(&mut path, ends, &segment)?;
            assert_eq!(phase(&path)?, "closed");
        }
        Ok(())
    })
}

#[test]
fn a_syn_after_the_end_is_a_new_flow() -> Result<()> {
    each_family(|ends| {
        let [client, backend] = segments(ends);
        for end in [vec![client.clone().fin(), backend.fin()], vec![client.clone().rst()]] {
            let mut path = path_to(ends)?;
            handshake(&mut path, ends)?;
            end.iter().try_for_each(|end| send(&mut path, ends, end))?;
            path.age(CERTAIN)?;
            path.from_pod(&client.clone().syn())?;
            assert_eq!((phase(&path)?, path.counter(Counter::FlowCreated)?), ("new", 2));
        }
        Ok(())
    })
}

/// The SYN may be forged as well as the RST before it. If it is the client's, its backend takes it.
#[test]
fn a_syn_before_the_end_is_certain_goes_to_the_same_backend() -> Result<()> {
    each_family(|ends| {
        let [client, backend] = segments(ends);
        for end in [client.clone().fin(), client.clone().rst(), backend.clone().rst()] {
            let mut path = path_to(ends)?;
            handshake(&mut path, ends)?;
            // The time counts from the end, not from the packet before.
            path.age(2 * CERTAIN)?;
            send(&mut path, ends, &end)?;
            let before = phase(&path)?;
            // A backend more, to which a new flow might go.
            path.set([service(Proto::Tcp, ends.vip, &[ends.backend, ends.second])])?;
            for _ in 0..20 {
                let sent = path.from_pod(&later(&client, FAR).acking(0).syn())?.packet()?;
                assert_eq!(sent.to(), ends.backend.parse()?);
            }
            assert_eq!((phase(&path)?, path.counter(Counter::FlowCreated)?), (before, 1));
        }
        Ok(())
    })
}

/// The client's end of the old connection may have gone without a word, or with a FIN, or by a RST.
#[test]
fn a_connection_from_a_port_whose_last_one_is_not_over_has_a_life_of_its_own() -> Result<()> {
    each_family(|ends| {
        let [client, backend] = segments(ends);
        let (fin, rst) = (client.clone().fin(), client.clone().rst());
        let refused = vec![fin.clone(), backend.clone().rst()];
        for before in [vec![], vec![fin], vec![rst], refused] {
            let mut path = path_to(ends)?;
            handshake(&mut path, ends)?;
            before.iter().try_for_each(|segment| send(&mut path, ends, segment))?;
            let (mine, its) = (FAR, FAR + 7_000);
            path.from_pod(&client.clone().seq(mine).acking(0).syn())?;
            path.to_pod(&backend.clone().seq(its).acking(mine + 1).syn_ack())?;
            let [client, backend] =
                [client.clone().seq(mine + 1).acking(its + 1), backend.clone().seq(its + 1).acking(mine + 1)];
            path.from_pod(&client)?;
            assert_eq!((phase(&path)?, path.counter(Counter::FlowCreated)?), ("assured", 1), "{before:?}");
            path.from_pod(&client.fin())?;
            assert_eq!(phase(&path)?, "closing");
            path.to_pod(&backend.fin())?;
            assert_eq!(phase(&path)?, "closed");
        }
        Ok(())
    })
}

/// While no program was there, more was sent than is near.
#[test]
fn numbers_that_were_lost_are_found_back_by_those_of_the_other_side() -> Result<()> {
    each_family(|ends| {
        let [client, backend] = segments(ends);
        let mut path = path_to(ends)?;
        handshake(&mut path, ends)?;
        let sent = later(&client, FAR);
        // What the backend acknowledges is near; then the client's segments are.
        for done in (0..=FAR).step_by(1 << 21) {
            path.to_pod(&backend.clone().acking(seq(&client) + done))?;
        }
        path.from_pod(&sent.clone().fin())?;
        path.to_pod(&backend.acking(seq(&sent)).fin())?;
        assert_eq!(phase(&path)?, "closed");
        Ok(())
    })
}
