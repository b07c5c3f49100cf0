//! What a real API server does to its clients when it is stopped, restored, renewed, or refuses them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_common::Prefix;
use lb_tests::cluster::Cluster;
use lb_tests::world::{NODE_NAME, Service};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pins::Pins;
use lb_userspace::objects::name::Kind;
use lb_userspace::source::api::{self, Times};
use lb_userspace::tables::Tables;
use tokio::runtime::Builder;

use crate::stage::Stage;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_server_that_is_gone_older_or_renewed_costs_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let mut cluster = Cluster::in_world(&stage.world)?;
    stage.begin(&cluster, &[1])?;
    let mut agent = stage.world.start_agent_on_api(&cluster.kubeconfig("admin")?, &[])?;
    stage.wait_for(&[1])?;

    // The server is gone and comes back.
    cluster.kill_apiserver()?;
    agent.wait_for_text("the last known state stays in force", LIMIT)?;
    stage.assert_served_by(&["b1"]);
    cluster.start_apiserver()?;
    stage.change(&cluster, &[1, 2])?;
    stage.wait_for(&[1, 2])?;
    agent.wait_for_text("watched again", LIMIT)?;

    // The server comes back with an older state.
    let saved = cluster.save()?;
    stage.change(&cluster, &[3])?;
    cluster.apply(&Service::new("late").vips(11).tcp(80, 8080).yaml())?;
    stage.wait_for(&[3])?;
    cluster.restore(&saved)?;
    stage.wait_for(&[1, 2])?;
    stage.assert_served_by(&["b1", "b2"]);
    let deadline = Instant::now() + LIMIT;
    while stage.world.lb(&["services"])?.contains("late") {
        ensure!(Instant::now() < deadline, "a Service is still there that the older state lacks");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A resource version that existed before gets another content.
    stage.change(&cluster, &[2, 3])?;
    stage.wait_for(&[2, 3])?;

    // Nothing changed while no agent ran.
    agent.kill()?;
    agent.start_again()?;
    assert!(agent.log().contains("operations=0"), "{}", agent.log());

    // The server gets a certificate that no client has seen; the kubeconfig names its file.
    cluster.renew_certificate()?;
    stage.assert_served_by(&["b2", "b3"]);
    stage.change(&cluster, &[1])?;
    stage.wait_for(&[1])?;
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    Ok(())
}

#[test]
fn a_network_that_stalls_slows_or_breaks_costs_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let cluster = Cluster::shared()?;
    let door = cluster.door(stage.world.node())?;
    stage.begin(&cluster, &[1])?;
    let agent = stage.world.start_agent_on_api(&cluster.kubeconfig_at("admin", door.address())?, &[])?;
    stage.wait_for(&[1])?;

    door.stall();
    stage.change(&cluster, &[2])?;
    std::thread::sleep(Duration::from_secs(1));
    stage.assert_served_by(&["b1"]);
    door.open();
    stage.wait_for(&[2])?;

    door.delay(Duration::from_millis(300));
    stage.change(&cluster, &[3])?;
    stage.wait_for(&[3])?;

    door.shut();
    stage.change(&cluster, &[1, 3])?;
    std::thread::sleep(Duration::from_secs(1));
    stage.assert_served_by(&["b3"]);
    door.open();
    stage.wait_for(&[1, 3])?;

    door.cut();
    stage.change(&cluster, &[2, 3])?;
    stage.wait_for(&[2, 3])?;
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    Ok(())
}

/// Shorter times than the agent's own, to keep the test short.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(8);

#[test]
fn a_server_that_hangs_is_noticed_and_one_that_is_quiet_is_left_alone() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {NODE_NAME}}}}}"))?;
    let access = api::Access {
        kubeconfig: Some(cluster.kubeconfig("admin")?),
        times: Times { ping: PING, pong: PONG, ..Times::default() },
        ..api::Access::default()
    };
    // The runtime's threads open the sockets in the namespace of the thread that created them. Everything is spawned,
    // because a thread created by block_on() on this one may become the worker.
    let runtime =
        cluster.netns().enter(|| Builder::new_multi_thread().worker_threads(1).enable_all().build())?;
    let (said, mut heard) = tokio::sync::mpsc::channel(1024);
    runtime.spawn(async move { while heard.recv().await.is_some() {} });
    let watching = async move { api::watch(access, NODE_NAME, &Tables::default(), said).await };
    let watch = runtime.block_on(runtime.spawn(watching))??;
    let progress = &watch.progress;
    let all = |is_so: &dyn Fn(Kind) -> bool| Kind::ALL.into_iter().all(is_so);
    let wait = |what: &str, is_so: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !is_so() {
            ensure!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {progress:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(began.elapsed())
    };
    // On a busy machine the first answers may take longer than the PONG.
    let is_followed = |kind| progress.kind(kind).lists.load(Relaxed) > 0 && progress.fault(kind).is_none();
    wait("each kind is listed", &|| all(&is_followed))?;
    let lists = Kind::ALL.map(|kind| progress.kind(kind).lists.load(Relaxed));
    let failures = Kind::ALL.map(|kind| progress.kind(kind).failures.load(Relaxed));
    std::thread::sleep(PING * 2 + PONG);
    let since = Kind::ALL.map(|kind| progress.kind(kind).failures.load(Relaxed));
    assert_eq!(since, failures, "a quiet watch was mistaken for a dead one");
    let frozen = cluster.freeze_apiserver()?;
    let noticed = wait("each watch has a fault", &|| all(&|kind| progress.fault(kind).is_some()))?;
    println!("a hung server is noticed after {noticed:.1?}: {:?}", progress.fault(Kind::Service));
    drop(frozen);
    wait("each kind is watched again", &|| all(&|kind| progress.fault(kind).is_none()))?;
    cluster.apply(&Service::new("new").vips(12).tcp(80, 8080).yaml())?;
    wait("a change is seen", &|| progress.kind(Kind::Service).changes.load(Relaxed) > 0)?;
    let since = Kind::ALL.map(|kind| progress.kind(kind).lists.load(Relaxed));
    assert!(
        since.iter().zip(lists).all(|(since, before)| *since <= before + 1),
        "listed repeatedly: {since:?}"
    );
    Ok(())
}

/// Grants the user `nobody` the agent's rights.
fn grant(cluster: &Cluster, service_cidrs: bool) -> Result<()> {
    let more = if service_cidrs { SERVICE_CIDRS } else { "" };
    cluster.apply(&format!("{ROLE}{more}{BINDING}"))
}

fn revoke(cluster: &Cluster) -> Result<()> {
    for kind in ["ClusterRoleBinding", "ClusterRole"] {
        cluster.delete("rbac.authorization.k8s.io/v1", kind, "", "api-faults")?;
    }
    Ok(())
}

const ROLE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: api-faults}
rules:
- {apiGroups: [''], resources: [services, nodes], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
";
const SERVICE_CIDRS: &str = "\
- {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [list, watch]}
";
const BINDING: &str = "---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: api-faults}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: api-faults}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: nobody}
";

#[test]
fn an_invalid_token_and_a_missing_right_are_reported_and_can_be_fixed() -> Result<()> {
    let stage = Stage::new()?;
    let cluster = Cluster::shared()?;
    let door = cluster.door(stage.world.node())?;
    stage.begin(&cluster, &[1])?;
    let kubeconfig = cluster.kubeconfig_at("admin", door.address())?;
    let token = stage.world.folder().path().join("token");
    let text = fs::read_to_string(&kubeconfig)?;
    fs::write(&kubeconfig, text.replace("token: admin", &format!("tokenFile: {}", token.display())))?;
    fs::write(&token, "admin")?;
    let mut agent = stage.world.start_agent_on_api(&kubeconfig, &[])?;

    fs::write(&token, "expired")?;
    // kube reads a token file once a minute; a client that opens new connections reads it at once.
    door.shut();
    agent.wait_for_text("Connection reset", LIMIT)?;
    door.open();
    agent.wait_for_text("401, the API server does not accept our credentials", LIMIT)?;
    fs::write(&token, "nobody")?;
    agent.wait_for_text("403, not allowed to watch endpointslices.discovery.k8s.io", LIMIT)?;
    agent.wait_for_text("deploy/base/rbac.yaml", LIMIT)?;
    stage.change(&cluster, &[2])?;
    stage.assert_served_by(&["b1"]);

    grant(&cluster, true)?;
    let outcome = stage.wait_for(&[2]);
    revoke(&cluster)?;
    outcome
}

/// The user's own role does not grant ServiceCIDRs: the ranges of the command line are used.
#[test]
fn without_the_right_to_see_service_cidrs_all_else_is_served_and_the_ranges_can_be_named() -> Result<()> {
    let stage = Stage::new()?;
    let cluster = Cluster::shared()?;
    let door = cluster.door(stage.world.node())?;
    stage.begin(&cluster, &[1])?;
    grant(&cluster, false)?;
    let outcome = ranges_are_those_that_are_named(&stage, &cluster, door.address());
    revoke(&cluster)?;
    outcome
}

fn ranges_are_those_that_are_named(stage: &Stage, cluster: &Cluster, server: SocketAddr) -> Result<()> {
    let prefix = |a, b, c, len| Prefix::new(Ipv4Addr::new(a, b, c, 0).into(), len);
    let is_known = |range: &Prefix| -> Result<bool> {
        let maps = Maps::open(&Pins::new(&stage.world.folder().pins()), false)?;
        Ok(lb_userspace::dataplane::read(&maps)?.ranges.contains_key(range))
    };
    let wait = |range: Prefix| {
        let began = Instant::now();
        while !is_known(&range)? {
            ensure!(began.elapsed() < LIMIT, "{range} is not in the tables");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let kubeconfig = cluster.kubeconfig_at("nobody", server)?;
    let mut agent = stage.world.start_agent_on_api(&kubeconfig, &["--service-cidrs=192.0.2.0/24"])?;
    agent.wait_for_text("403, not allowed to watch servicecidrs.networking.k8s.io", LIMIT)?;
    stage.wait_for(&[1])?;
    wait(prefix(192, 0, 2, 24))?;
    let servers = prefix(10, 96, 0, 16);
    ensure!(!is_known(&servers)?, "{servers} should not be visible");
    grant(cluster, true)?;
    wait(servers)
}
