//! Programs on the cgroup outlive the agent, are replaced under their links, and are removed by `lb cleanup`. If they
//! cannot be attached, the agent says so.

use anyhow::{Result, ensure};
use lb_common::names;
use lb_tests::world::{Family, Layout, World, lb_binary};
use lb_userspace::dataplane::pins::Pins;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{LIMIT, connect};
use crate::stage::{Stage, Web, vip};

#[test]
fn a_dead_agent_and_the_next_one_leave_sockets_working() -> Result<()> {
    let mut stage = Stage::new("host", &Web::on([1]))?;
    let to = vip(Family::V4);
    let mut held = stage.node(|| Ok(connect(to)?))?.0;
    let before = stage.programs()?;
    ensure!(before.len() == 8, "{before:?}");
    stage.agent.kill()?;
    stage.node(|| Ok(connect(to)?))?;
    stage.agent.start_again()?;
    // Other programs are now in the same places.
    let after = stage.programs()?;
    ensure!(after.iter().zip(&before).all(|(after, before)| after.0 == before.0 && after.1 != before.1));
    ensure!(after.len() == 8, "{after:?}");
    stage.node(|| Ok(connect(to)?))?;
    held.write_all(b"x")?;
    held.read_exact(&mut [0])?;
    ensure!(held.peer_addr()? == to);
    stage.agent.terminate()?;
    stage.world.lb(&["cleanup"])?;
    ensure!(stage.programs()?.is_empty());
    ensure!(stage.node(|| Ok(TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_err()))?);
    Ok(())
}

#[test]
fn an_agent_with_socket_lb_off_removes_the_programs() -> Result<()> {
    let mut stage = Stage::new("host", &Web::on([1]))?;
    stage.agent.terminate()?;
    stage.agent = stage.world.start_agent(&["--socket-lb=off"])?;
    ensure!(stage.programs()?.is_empty());
    let status = stage.world.lb(&["status"])?;
    ensure!(status.contains("sockets no programs: processes of the host reach no Service"), "{status}");
    Ok(())
}

/// A process that connects continuously sees no gap.
#[test]
fn while_programs_are_swapped_every_connection_works() -> Result<()> {
    let mut stage = Stage::new("host", &Web::on([1]))?;
    let node = stage.world.node().clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let client = node.spawn(move || -> Result<u32> {
        let mut count = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            connect(vip(Family::V4))?;
            count += 1;
            // Each connection leaves a port in TIME_WAIT.
            sleep(Duration::from_millis(1));
        }
        Ok(count)
    });
    for _ in 0..2 {
        stage.agent.terminate()?;
        stage.agent.start_again()?;
    }
    drop(stop);
    let count = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(count > 10, "{count} connections");
    Ok(())
}

#[test]
fn detached_programs_come_back() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let links = stage.world.folder().pins().join("links");
    for entry in std::fs::read_dir(links)? {
        let pin = entry?.path();
        if pin.to_string_lossy().contains("cgroup") {
            lb_userspace::dataplane::sys::link::detach_pinned(&pin)?;
        }
    }
    ensure!(stage.programs()?.is_empty());
    // The sweep attaches the programs again; it runs every ten seconds.
    let deadline = Instant::now() + Duration::from_secs(15);
    while stage.programs()?.len() != 8 {
        ensure!(Instant::now() < deadline, "{}", stage.agent.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.node(|| Ok(connect(vip(Family::V4))?))?;
    Ok(())
}

#[test]
fn the_status_shows_where_programs_are() -> Result<()> {
    let mut stage = Stage::new("host", &Web::on([1]))?;
    let status = stage.world.lb(&["status"])?;
    ensure!(status.contains("sockets 8 programs on cgroup "), "{status}");
    ensure!(stage.json(&["status"])?["hostSockets"]["programs"] == 8);
    stage.agent.terminate()?;
    let status = stage.world.lb(&["status"])?;
    ensure!(status.contains("sockets 8 programs on cgroup "), "{status}");
    Ok(())
}

#[test]
fn bpftool_prints_what_is_known_of_a_socket_with_named_fields() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    let _held = stage.node(|| Ok(connect(vip(Family::V4))?))?;
    let pin = Pins::new(&stage.world.folder().pins()).map(names::SOCKETS);
    let output = Command::new("bpftool").args(["map", "dump", "pinned"]).arg(pin).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    for field in ["\"cookie\"", "\"side\": 0", "10,96,0,10", "\"proto\": 6", "\"service\"", "\"generation\""]
    {
        ensure!(text.contains(field), "no {field} in {text}");
    }
    Ok(())
}

#[test]
fn without_a_cgroup_the_agent_says_so_and_pods_are_served() -> Result<()> {
    let world = World::new(Layout::routed())?;
    let folder = world.folder().path().to_owned();
    let mut agent = world.start_agent(&["--socket-lb=host", &format!("--cgroup={}", folder.display())])?;
    let complaint = "processes of the host reach no Service";
    agent.wait_for_text(complaint, LIMIT)?;
    ensure!(agent.log().contains("is not a folder of a cgroup v2 hierarchy"), "{}", agent.log());
    let status = world.lb(&["status"])?;
    ensure!(status.contains(complaint) && status.contains("sockets no programs"), "{status}");
    Ok(())
}

/// `lb check` attaches nothing; it looks for the root in the same way as the agent.
#[test]
fn without_a_mounted_cgroup_v2_the_root_is_mounted_by_us_or_what_is_missing_is_named() -> Result<()> {
    let check = |by: &str| -> Result<String> {
        let lb = lb_binary()?;
        // The command runs in a mount namespace of its own.
        let script = format!(
            "for at in $(awk '$3 == \"cgroup2\" {{ print $2 }}' /proc/self/mounts); do umount \"$at\"; done; \
             {by} {} check | grep -A 1 '  cgroup  '",
            lb.display()
        );
        let output = Command::new("unshare").args(["--mount", "--net", "sh", "-c", &script]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let found = check("")?;
    ensure!(found.starts_with("ok ") && found.contains("root of version 2 at a mount of our own"), "{found}");
    let found = check("setpriv --bounding-set=-sys_admin")?;
    ensure!(found.starts_with("warning ") && found.contains("/sys/fs/cgroup, as in deploy/"), "{found}");
    ensure!(found.contains("without it, processes of the host reach no Service"), "{found}");
    Ok(())
}
