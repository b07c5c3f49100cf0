//! What a server can do to its clients. In every case, Services continue to work with the known state.

use std::time::Duration;

use lb_userspace::objects::name::Kind;
use lb_userspace::source::api::Access;
use lb_userspace::tables::Tables;
use serde_json::json;

use super::agent::{Agent, access, times};
use super::server::{Server, What};
use super::{BOTH, following, forget, server, service, slice};

const PAUSE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_watch_that_is_cut_continues_where_it_was() {
    let (server, mut agent) = following().await;
    let before = agent.operations;
    server.cut();
    agent.stays(BOTH, PAUSE).await;
    assert_eq!(agent.operations, before);
    server.put("endpointslices", slice("a", &["10.0.0.9"]));
    agent.until("a 10.0.0.9:8080; b 10.0.0.2:8080").await;
    // The watch is resumed by version; nothing is listed again.
    let lists = server.requests("endpointslices");
    assert_eq!(lists.iter().filter(|r| r.contains("sendInitialEvents=true")).count(), 1, "{lists:?}");
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_listed_anew_and_deletions_are_seen() {
    let (mut server, mut agent) = following().await;
    server.stop();
    forget(&server, "a");
    server.put("endpointslices", slice("b", &["10.0.0.8"]));
    server.compact();
    agent.stays(BOTH, PAUSE).await;
    server.again();
    agent.until("b 10.0.0.8:8080").await;
}

#[tokio::test]
async fn a_server_that_comes_back_is_found() {
    let (mut server, mut agent) = following().await;
    let before = agent.operations;
    server.stop();
    agent.wait("a fault", |agent| agent.watch.progress.fault(Kind::Service).is_some()).await;
    agent.stays(BOTH, PAUSE * 3).await;
    let fault = agent.watch.progress.fault(Kind::Service).unwrap();
    let expected = format!("cannot watch services: {}: ", server.url());
    assert!(fault.starts_with(&expected) && fault.contains("Connection refused"), "{fault}");
    server.again();
    agent
        .wait("watched again", |agent| {
            let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
            kinds.iter().all(|kind| agent.watch.progress.fault(*kind).is_none())
        })
        .await;
    agent.stays(BOTH, PAUSE).await;
    assert_eq!(agent.operations, before);
    server.put("services", service("c", "10.96.0.3"));
    agent.until("a 10.0.0.1:8080; b 10.0.0.2:8080; c ").await;
}

#[tokio::test]
async fn nothing_is_applied_before_every_kind_was_listed() {
    let server = server();
    for _ in 0..4 {
        server.fault("endpointslices", What::Status(500));
    }
    let mut agent = Agent::start(&server).await;
    agent
        .wait("four faults", |agent| {
            agent.watch.progress.kind(Kind::EndpointSlice).failures.load(std::sync::atomic::Ordering::Relaxed)
                == 4
        })
        .await;
    assert_eq!(agent.operations, 0);
    agent.until(BOTH).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_asked_for_again() {
    let server = server();
    server.fault("services", What::Slow(Duration::from_secs(60)));
    let mut agent = Agent::start(&server).await;
    agent.wait("a fault", |agent| agent.watch.progress.fault(Kind::Service).is_some()).await;
    let fault = agent.watch.progress.fault(Kind::Service).unwrap();
    assert!(fault.contains("no answer within 0.5 s"), "{fault}");
    agent.until(BOTH).await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let server = server();
    server.fault("endpointslices", What::Status(403));
    let mut agent = Agent::start(&server).await;
    agent.wait("a fault", |agent| agent.watch.progress.fault(Kind::EndpointSlice).is_some()).await;
    let fault = agent.watch.progress.fault(Kind::EndpointSlice).unwrap();
    assert!(
        fault.starts_with(
            "403, not allowed to watch endpointslices.discovery.k8s.io: apply the ClusterRole of \
             deploy/base/rbac.yaml"
        ),
        "{fault}"
    );
    agent.until(BOTH).await;
    assert_eq!(agent.watch.progress.fault(Kind::EndpointSlice), None);
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_at_once() {
    let server = server();
    server.accept_tokens(&["one"]);
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&token, "one").unwrap();
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
        "users": [{"name": "u", "user": {"tokenFile": token}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let access = Access { kubeconfig: Some(kubeconfig), times: times(), ..Access::default() };
    let mut agent = Agent::with(access, Tables::default()).await;
    agent.until(BOTH).await;
    // The token has expired and is not replaced yet.
    server.accept_tokens(&["two"]);
    server.cut();
    agent.wait("a fault", |agent| agent.watch.progress.fault(Kind::Service).is_some()).await;
    let fault = agent.watch.progress.fault(Kind::Service).unwrap();
    assert!(fault.starts_with("401, the API server does not accept our credentials"), "{fault}");
    agent.stays(BOTH, PAUSE).await;
    std::fs::write(&token, "two").unwrap();
    server.put("endpointslices", slice("b", &["10.0.0.7"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.7:8080").await;
}

/// A plugin may ask a cloud or wait for a network.
#[tokio::test]
async fn a_credential_plugin_that_takes_its_time_holds_nothing_up() {
    let server = server();
    server.accept_tokens(&["from-plugin"]);
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    });
    // The plugin waits until the other work is done; if it blocks that work, it gives up after ten seconds.
    let done = dir.path().join("done");
    let is_done = done.display();
    let script =
        format!("for i in $(seq 200); do [ -e {is_done} ] && break; sleep 0.05; done; echo '{credential}'");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "interactiveMode": "Never",
        }}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let access = Access { kubeconfig: Some(kubeconfig), times: times(), ..Access::default() };
    // The other work of the loop's thread.
    let others = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = std::time::Instant::now();
        std::fs::write(done, "").unwrap();
        now
    };
    let started = async {
        let agent = Agent::with(access, Tables::default()).await;
        (agent, std::time::Instant::now())
    };
    let ((mut agent, started), others) = tokio::join!(started, others);
    assert!(others < started, "the plugin held the loop up");
    agent.until(BOTH).await;
}

#[tokio::test]
async fn an_object_that_does_not_decode_is_named_and_keeps_its_last_state() {
    let (server, mut agent) = following().await;
    let mut broken = slice("a", &["10.0.0.5"]);
    broken["endpoints"] = json!("none");
    server.put("endpointslices", broken);
    server.put("endpointslices", slice("b", &["10.0.0.6"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.6:8080").await;
    let notices = agent.notices();
    assert!(
        notices[0].starts_with("EndpointSlice default/a-1: cannot be decoded: invalid type"),
        "{notices:?}"
    );
    // A new list does not remove an object that it cannot decode.
    server.compact();
    server.cut();
    let lists =
        || server.requests("endpointslices").iter().filter(|r| r.contains("sendInitialEvents")).count();
    agent.wait("a second list", |_| lists() == 2).await;
    server.put("endpointslices", slice("b", &["10.0.0.4"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.4:8080").await;
    server.put("endpointslices", slice("a", &["10.0.0.5"]));
    agent.until("a 10.0.0.5:8080; b 10.0.0.4:8080").await;
    assert_eq!(agent.notices(), [""; 0]);
}

#[tokio::test]
async fn a_node_that_is_missing_is_waited_for_but_not_for_ever() {
    let server = Server::start();
    server.put("endpointslices", slice("a", &["10.0.0.1"]));
    server.put("services", service("a", "10.96.0.1"));
    let began = std::time::Instant::now();
    let mut agent = Agent::start(&server).await;
    agent.until("a 10.0.0.1:8080").await;
    assert!(began.elapsed() >= times().node, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_went_back_in_time_is_listed_anew() {
    let (mut server, mut agent) = following().await;
    let backup = server.snapshot();
    server.put("services", service("c", "10.96.0.3"));
    server.put("endpointslices", slice("b", &["10.0.0.5"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.5:8080; c ").await;
    server.stop();
    server.restore(backup);
    server.again();
    agent.until(BOTH).await;
    // These versions were seen before, with another content.
    server.put("endpointslices", slice("a", &["10.0.0.6"]));
    agent.until("a 10.0.0.6:8080; b 10.0.0.2:8080").await;
}

#[tokio::test]
async fn after_a_long_interruption_a_watch_is_not_resumed() {
    let mut server = server();
    let mut access = access(&server);
    access.times.resume = Duration::ZERO;
    let mut agent = Agent::with(access, Tables::default()).await;
    agent.until(BOTH).await;
    let backup = server.snapshot();
    server.put("services", service("c", "10.96.0.3"));
    server.put("endpointslices", slice("b", &["10.0.0.5"]));
    agent.until("a 10.0.0.1:8080; b 10.0.0.5:8080; c ").await;
    server.stop();
    // The server is restored, and then as many changes are made as before, so the version does not reveal the change.
    server.restore(backup);
    forget(&server, "a");
    agent.wait("a fault", |agent| agent.watch.progress.fault(Kind::Service).is_some()).await;
    server.again();
    agent.until("b 10.0.0.2:8080").await;
    let lists = server.requests("api/v1/services");
    assert_eq!(lists.iter().filter(|r| r.contains("sendInitialEvents=true")).count(), 2, "{lists:?}");
}

#[tokio::test]
async fn a_list_that_lost_most_is_confirmed_first() {
    let (server, mut agent) = following().await;
    let before = agent.operations;
    let doubted = |agent: &Agent| {
        let kinds = [Kind::Service, Kind::EndpointSlice].map(|kind| agent.watch.progress.kind(kind));
        kinds.map(|kind| kind.doubted.load(std::sync::atomic::Ordering::Relaxed))
    };
    // The server forgets its objects for one list and has them again in the second.
    server.fault("endpointslices sendInitialEvents", What::Only(0));
    server.compact();
    server.cut();
    agent.wait("a doubt", |agent| doubted(agent) == [0, 1]).await;
    agent.stays(BOTH, PAUSE * 3).await;
    assert_eq!((agent.operations, doubted(&agent)), (before, [0, 1]));
    // Now the object is really gone.
    server.delete("endpointslices", "default", "a-1");
    agent.until("a ; b 10.0.0.2:8080").await;
}

#[tokio::test]
async fn a_list_that_lost_most_and_is_confirmed_is_taken() {
    let (mut server, mut agent) = following().await;
    server.stop();
    for name in ["a", "b"] {
        forget(&server, name);
    }
    server.compact();
    let began = std::time::Instant::now();
    server.again();
    agent.until("").await;
    assert!(began.elapsed() >= times().confirm, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_an_earlier_agent_left_is_not_taken_away_by_one_empty_list() {
    let (server, agent) = following().await;
    server.fault("services", What::Only(0));
    server.fault("endpointslices", What::Only(0));
    let access = access(&server);
    let mut next = Agent::with(access, agent.tables().clone()).await;
    next.wait("all kinds listed", |agent| agent.model.ready()).await;
    next.stays(BOTH, PAUSE).await;
    assert_eq!(next.operations, 0);
}
