//! An API server behind a ClusterIP that `lb` serves.

use std::net::{SocketAddr, TcpListener};

use lb_common::{
    Active, Backend, BackendState, Frontend, FrontendKey, FrontendKind, Port, Proto, Service, ServiceRecord,
    Slot, SlotRange,
};
use lb_userspace::source::api::Access;
use lb_userspace::tables::Tables;

use super::agent::{Agent, times};
use super::{BOTH, server, slice};

/// The tables that an earlier agent left: a frontend with these backends.
fn left(frontend: SocketAddr, backends: &[SocketAddr]) -> Tables {
    let mut tables = Tables::default();
    let key = FrontendKey::new(frontend.ip().into(), Port::new(frontend.port()), Proto::Tcp.number());
    tables
        .frontends
        .insert(key, Frontend { service: 0, kind: FrontendKind::Cluster.number(), flags: 0, pad: [0; 2] });
    for (id, backend) in (0..).zip(backends) {
        let backend = Backend {
            addr: backend.ip().into(),
            port: Port::new(backend.port()),
            proto: Proto::Tcp.number(),
            state: BackendState::Active.number(),
            generation: 1,
            service: 0,
            weight: 1,
            sets: Backend::IN_CLUSTER,
            pad: 0,
        };
        tables.backends.insert(id, backend);
        tables.slots.push(Slot { backend: id, generation: 1 });
    }
    let len = u32::try_from(backends.len()).unwrap();
    let record = ServiceRecord { cluster: SlotRange { offset: 0, len }, ..ServiceRecord::BLANK };
    let service = Service { active: Active(0).0, records: [record, ServiceRecord::BLANK] };
    tables.services.insert(0, service);
    tables
}

#[tokio::test]
async fn a_cluster_ip_of_our_own_is_bypassed() {
    let mut server = server();
    // Nothing listens there any longer.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let frontend: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let tables = left(frontend, &[dead, server.address()]);
    let access = Access { server: Some(format!("http://{frontend}")), times: times(), ..Access::default() };
    let mut agent = Agent::with(access, tables).await;
    agent.until(BOTH).await;
    // The Service of the API server is not in the lists and thus no longer in the tables: its backends are kept.
    assert!(
        !agent
            .tables()
            .frontends
            .keys()
            .any(|key| key.port == Port::new(frontend.port()) && key.addr == frontend.ip().into())
    );
    assert_eq!(agent.watch.route.ways(), [server.address(), dead, frontend]);
    server.stop();
    server.again();
    server.put("endpointslices", slice("a", &["10.0.0.3"]));
    agent.until("a 10.0.0.3:8080; b 10.0.0.2:8080").await;
}

#[tokio::test]
async fn changed_backends_are_learned_from_the_tables() {
    let server = server();
    let frontend: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let access = Access { server: Some(format!("http://{frontend}")), times: times(), ..Access::default() };
    let agent = Agent::with(access, left(frontend, &[server.address()])).await;
    let route = &agent.watch.route;
    assert_eq!(route.ways(), [server.address(), frontend]);
    let other: SocketAddr = "192.0.2.9:6443".parse().unwrap();
    route.learn(&left(frontend, &[other]));
    assert_eq!(route.ways(), [other, frontend]);
    route.learn(&left(frontend, &[]));
    assert_eq!(route.ways(), [other, frontend]);
    route.learn(&left("192.0.2.2:80".parse().unwrap(), &[server.address()]));
    assert_eq!(route.ways(), [other, frontend]);
}
