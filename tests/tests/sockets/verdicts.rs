//! The errors that a process of the host gets if no endpoint serves it.

use anyhow::{Result, ensure};
use lb_tests::world::Family;
use std::io::ErrorKind::{ConnectionRefused, TimedOut};
use std::net::SocketAddr;
use std::time::Instant;

use crate::client::{LIMIT, connect, refusals};
use crate::stage::{PORT, Stage, Web, balancer, external_ip, node_ports, vip};

#[test]
fn without_endpoints_a_process_is_refused_at_once() -> Result<()> {
    let stage = Stage::new("host", &Web::default())?;
    let mut refused = 0;
    for family in Family::ALL {
        let others = [vip(family), balancer(family), external_ip(family)];
        for to in node_ports(family).into_iter().chain(others) {
            let refusals = stage.node(|| refusals(to))?;
            ensure!(refusals == [Some(ConnectionRefused); 2], "{to}: {refusals:?}");
            refused += 2;
        }
    }
    ensure!(stage.counter("refused_no_endpoint")? == refused);
    Ok(())
}

#[test]
fn a_port_that_no_service_has_is_refused_and_on_other_addresses_it_is_not_ours() -> Result<()> {
    let stage = Stage::new("host", &Web::on([1]))?;
    for family in Family::ALL {
        let to = SocketAddr::new(vip(family).ip(), PORT + 1);
        let refusals = stage.node(|| refusals(to))?;
        ensure!(refusals == [Some(ConnectionRefused); 2], "{to}: {refusals:?}");
    }
    ensure!(stage.counter("refused_unknown_port")? == 4);
    // A daemon of the node may listen on such a port.
    let own = stage.node(|| Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?))?;
    let to = own.local_addr()?;
    ensure!(stage.node(|| Ok(std::net::TcpStream::connect(to)?.peer_addr()?))? == to);
    Ok(())
}

/// The same error as from a peer that never answers, only sooner.
#[test]
fn a_local_internal_policy_without_an_endpoint_here_is_a_drop() -> Result<()> {
    let web = Web { internal_local: true, endpoints: vec![(1, "elsewhere")], ..Web::default() };
    let stage = Stage::new("host", &web)?;
    for family in Family::ALL {
        let begin = Instant::now();
        let refusals = stage.node(|| refusals(vip(family)))?;
        ensure!(refusals == [Some(TimedOut); 2] && begin.elapsed() < LIMIT, "{refusals:?}");
    }
    ensure!(stage.counter("drop_no_local_endpoint")? == 4);
    Ok(())
}

#[test]
fn source_ranges_hold_for_the_load_balancers_address_and_the_nodes_own_one_decides() -> Result<()> {
    let others = Web { source_ranges: &["192.0.2.0/24", "2001:db8:ffff::/48"], ..Web::on([1]) };
    let stage = Stage::new("host", &others)?;
    for family in Family::ALL {
        let refusals = stage.node(|| refusals(balancer(family)))?;
        ensure!(refusals == [Some(TimedOut); 2], "{refusals:?}");
        for to in [vip(family), external_ip(family)] {
            ensure!(
                stage.node(|| Ok(connect(to)?))?.1 == "b1",
                "the ranges hold only for the load balancer's address"
            );
        }
    }
    ensure!(stage.counter("drop_source_range")? == 4);
    // These ranges contain the InternalIPs of the node in a world: NODE_V4 and NODE_V6.
    stage.delete()?;
    let own = Web { source_ranges: &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"], ..others };
    stage.apply(&own)?;
    for family in Family::ALL {
        ensure!(stage.node(|| Ok(connect(balancer(family))?))?.1 == "b1");
    }
    Ok(())
}
