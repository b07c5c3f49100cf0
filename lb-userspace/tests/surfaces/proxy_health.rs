//! `/healthz` and `/livez`, as in k/k pkg/proxy/healthcheck/healthcheck_test.go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_userspace::objects::node::Node;
use lb_userspace::observe::health::LinkHealth;
use lb_userspace::observe::http::health_router;
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::Telemetry;
use serde_json::Value;

use super::http::{get, request, serve};

async fn server() -> (Arc<Telemetry>, SocketAddr) {
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    let address = serve(health_router(Arc::clone(&telemetry))).await;
    (telemetry, address)
}

fn node(telemetry: &Telemetry, yaml: &str) {
    let node = Node::new(serde_yaml_ng::from_str(yaml).expect("YAML"));
    telemetry.health(|health| health.set_node(Some(&node)));
}

fn ago(time: Duration) -> Moment {
    let now = Moment::now();
    Moment { mono: now.mono - time, wall: now.wall - time }
}

/// The names at the top level, in the order in which Go writes them.
fn names(text: &str) -> Vec<&str> {
    let mut names: Vec<(usize, &str)> =
        ["\"lastUpdated\"", "\"currentTime\"", "\"nodeEligible\"", "\"healthy\"", "\"status\""]
            .iter()
            .filter_map(|name| Some((text.find(name)?, *name)))
            .collect();
    names.sort_unstable();
    names.into_iter().map(|(_, name)| name.trim_matches('"')).collect()
}

#[tokio::test]
async fn healthz_of_a_node_that_works() {
    let (telemetry, address) = server().await;
    node(&telemetry, "metadata: {name: n1}");
    let updated = ago(Duration::from_secs(100));
    telemetry.health(|health| health.update(updated));
    let answer = get(address, "/healthz").await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(names(&answer.body), ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]);
    let json = answer.json();
    assert_eq!(json["lastUpdated"], json["currentTime"], "older readers expect a recent time");
    assert_eq!(json["nodeEligible"], true);
    assert_eq!(json["healthy"], true);
    for family in ["IPv4", "IPv6"] {
        assert_eq!(json["status"][family]["healthy"], true);
        assert_eq!(json["status"][family]["lastUpdated"], updated.wall.to_string());
    }
    // Go writes a time without zeros at the end of the fraction, and with Z for UTC.
    let time = json["currentTime"].as_str().expect("text");
    assert!(time.ends_with('Z') && !time.ends_with("0Z") || !time.contains('.'), "{time}");
}

#[tokio::test]
async fn healthz_is_503_while_the_node_is_leaving_and_livez_is_not() {
    let (telemetry, address) = server().await;
    telemetry.health(|health| health.update(Moment::now()));
    let code = async |path| get(address, path).await.code;
    assert_eq!([code("/healthz").await, code("/livez").await], [503, 200], "the Node is unknown");
    node(&telemetry, "metadata: {name: n1}");
    assert_eq!([code("/healthz").await, code("/livez").await], [200, 200]);
    node(
        &telemetry,
        "{metadata: {name: n1}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: X}]}}",
    );
    assert_eq!([code("/healthz").await, code("/livez").await], [503, 200]);
    node(&telemetry, "{metadata: {name: n1, deletionTimestamp: \"2026-01-01T00:00:00Z\"}}");
    assert_eq!([code("/healthz").await, code("/livez").await], [503, 200]);
    let answer = get(address, "/healthz").await.json();
    assert_eq!([&answer["nodeEligible"], &answer["healthy"]], [&Value::from(false), &Value::from(true)]);
    let answer = get(address, "/livez").await;
    assert_eq!(names(&answer.body), ["lastUpdated", "currentTime", "healthy", "status"]);
}

#[tokio::test]
async fn an_update_that_waits_for_too_long_is_unhealthy_with_the_time_of_the_last_success() {
    let (telemetry, address) = server().await;
    node(&telemetry, "metadata: {name: n1}");
    let updated = ago(Duration::from_secs(100));
    telemetry.health(|health| {
        health.update(updated);
        health.queue(ago(Duration::from_secs(59)));
    });
    assert_eq!(get(address, "/livez").await.code, 200);
    telemetry.health(|health| {
        health.update(updated);
        health.queue(ago(Duration::from_secs(60)));
    });
    for path in ["/livez", "/healthz"] {
        let answer = get(address, path).await;
        assert_eq!(answer.code, 503);
        let json = answer.json();
        assert_eq!(json["healthy"], false);
        assert_eq!(json["lastUpdated"], updated.wall.to_string());
        assert_eq!(json["status"]["IPv4"]["healthy"], false);
    }
    telemetry.health(|health| health.update(Moment::now()));
    assert_eq!(get(address, "/healthz").await.code, 200);
}

#[tokio::test]
async fn a_node_without_tables_waits_for_its_first_state() {
    let (telemetry, address) = server().await;
    node(&telemetry, "metadata: {name: n1}");
    let answer = get(address, "/healthz").await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.json()["lastUpdated"], "0001-01-01T00:00:00Z");
    assert_eq!(names(&answer.body), ["lastUpdated", "currentTime", "nodeEligible", "healthy"]);
    assert_eq!(get(address, "/livez").await.code, 200, "a restart would not help");
    telemetry.health(|health| health.inherit());
    assert_eq!(get(address, "/healthz").await.code, 200, "the tables of an earlier agent serve");
}

#[tokio::test]
async fn a_link_that_lost_its_programs_is_found_at_the_next_question() {
    let (telemetry, address) = server().await;
    node(&telemetry, "metadata: {name: n1}");
    telemetry.health(|health| health.update(Moment::now()));
    let lost = Arc::new(AtomicBool::new(false));
    let look = {
        let lost = Arc::clone(&lost);
        move || if lost.load(Ordering::Relaxed) { vec!["veth1".to_owned()] } else { Vec::new() }
    };
    telemetry.links(1, LinkHealth { wanted: 1, missing: Vec::new() }, look);
    lost.store(true, Ordering::Relaxed);
    // The link has just been looked at.
    assert_eq!(get(address, "/livez").await.code, 200);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(get(address, "/livez").await.code, 503);
    tokio::time::timeout(Duration::from_secs(1), telemetry.repair()).await.expect("the loop is woken");
    let complaints = telemetry.health(|health| health.complaints(Moment::now()));
    assert_eq!(complaints, ["no program on veth1"]);
    telemetry.links(1, LinkHealth { wanted: 1, missing: Vec::new() }, Vec::new);
    assert_eq!(get(address, "/livez").await.code, 200);
}

#[tokio::test]
async fn answers_are_counted_by_code_and_other_paths_are_not_found() {
    let (telemetry, address) = server().await;
    get(address, "/healthz").await;
    get(address, "/healthz").await;
    request(address, "POST", "/livez").await;
    let missing = get(address, "/").await;
    assert_eq!((missing.code, missing.body.as_str()), (404, "404 page not found\n"));
    assert_eq!(missing.header("content-type"), Some("text/plain; charset=utf-8"));
    let text = prometheus::TextEncoder::new().encode_to_string(&telemetry.registry().gather()).unwrap();
    assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 2\n"), "{text}");
    assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1\n"), "{text}");
}
