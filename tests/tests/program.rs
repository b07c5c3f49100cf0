//! `BPF_PROG_TEST_RUN` as the test harness calls it, with the toy policy.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::SchedClassifier;
use lb_tests::packet::{assert_same, tcp, udp};
use lb_tests::program::{Run, run};

const POLICY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy"));
const PASS: i32 = 0;
const DROP: i32 = 2;

fn loaded<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a SchedClassifier> {
    let program: &mut SchedClassifier = object.program_mut(name).context("no such program")?.try_into()?;
    program.load()?;
    Ok(program)
}

#[test]
fn a_packet_goes_through_unchanged() -> Result<()> {
    let mut object = Ebpf::load(POLICY)?;
    let program = loaded(&mut object, "policy_from_pod")?;
    for packet in [
        tcp("10.244.1.10:4000", "10.96.0.10:80").syn().vlan(7),
        udp("[fd00:10:244:1::10]:4000", "[fd00:10:96::10]:53").payload("a question"),
    ] {
        let (verdict, out) = run(program, &packet)?;
        assert_eq!(verdict, PASS);
        assert_same(&out, &packet);
        let outcome = Run::new().checksum_complete().mark(7).packet(program, &packet)?;
        assert_eq!((outcome.verdict, outcome.mark()), (PASS, 7));
        let outcome = Run::new().repeat(10_000).packet(program, &packet)?;
        println!("policy_from_pod: {:?} a packet", outcome.time);
        assert!(outcome.time.as_nanos() > 0);
    }
    Ok(())
}

#[test]
fn a_drop_is_a_verdict() -> Result<()> {
    let mut object = Ebpf::load(POLICY)?;
    let program = loaded(&mut object, "policy_to_pod")?;
    let answer = tcp("10.96.0.10:80", "10.244.1.10:4000").syn_ack();
    assert_eq!(run(program, &answer)?.0, DROP);
    Ok(())
}

#[test]
fn a_broken_frame_is_an_error_of_the_run() -> Result<()> {
    let mut object = Ebpf::load(POLICY)?;
    let program = loaded(&mut object, "policy_from_pod")?;
    assert!(Run::new().frame(program, &[0; 4]).is_err());
    Ok(())
}
