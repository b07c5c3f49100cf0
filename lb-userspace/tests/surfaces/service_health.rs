//! The health check of a Service, as in k/k pkg/proxy/healthcheck/service_health.go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::Port;
use lb_userspace::model::HealthCheck;
use lb_userspace::objects::name::{Family, ObjectName};
use lb_userspace::observe::http::{HealthChecks, ServiceHealth, health_check_addresses};
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::Telemetry;

use super::http::{get, request};

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port is free");
    listener.local_addr().expect("the listener is bound").port()
}

fn checks(port: u16, local_endpoints: usize) -> HealthChecks {
    let key = (ObjectName::new("shop", "web"), Family::Ipv4);
    let check = HealthCheck { port: Port::new(port), local_endpoints };
    HealthChecks { checks: [(key, check)].into(), primary: Vec::new() }
}

fn servers() -> (Arc<Telemetry>, ServiceHealth) {
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    // The addresses are given as a prefix of loopback, because these tests listen nowhere else.
    let servers = ServiceHealth::new(vec!["127.0.0.1/32".into()], Arc::clone(&telemetry), None);
    (telemetry, servers)
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[tokio::test]
async fn the_answer_counts_local_endpoints_word_by_word() {
    let (_, mut servers) = servers();
    let port = free_port();
    assert!(servers.follow(&checks(port, 2)).await);
    let answer = request(at(port), "POST", "/any/path").await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("2"));
    assert_eq!(
        answer.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
         \"serviceProxyHealthy\": true\n}"
    );
    assert!(servers.follow(&checks(port, 0)).await);
    let answer = get(at(port), "/").await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("0"));
    assert_eq!(answer.json()["localEndpoints"], 0);
}

#[tokio::test]
async fn an_unhealthy_agent_turns_load_balancers_away() {
    let (telemetry, mut servers) = servers();
    let port = free_port();
    assert!(servers.follow(&checks(port, 1)).await);
    let now = Moment::now();
    telemetry.health(|health| health.queue(Moment { mono: now.mono - Duration::from_secs(61), ..now }));
    let answer = get(at(port), "/").await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.json()["serviceProxyHealthy"], false);
    assert_eq!(answer.json()["localEndpoints"], 1);
}

#[tokio::test]
async fn ports_follow_the_services() {
    let (_, mut servers) = servers();
    let (first, second) = (free_port(), free_port());
    assert!(servers.follow(&checks(first, 1)).await);
    assert!(servers.follow(&checks(second, 1)).await);
    assert_eq!(get(at(second), "/").await.code, 200);
    tokio::task::yield_now().await;
    assert!(tokio::net::TcpStream::connect(at(first)).await.is_err(), "the old port is closed");
    assert!(servers.follow(&HealthChecks::default()).await);
    tokio::task::yield_now().await;
    assert!(tokio::net::TcpStream::connect(at(second)).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_opened_when_it_is_free() {
    let (_, mut servers) = servers();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    assert!(!servers.follow(&checks(port, 1)).await);
    drop(other);
    assert!(servers.follow(&checks(port, 1)).await);
    assert_eq!(get(at(port), "/").await.code, 200);
}

#[test]
fn node_port_addresses_say_where_to_listen() {
    let local =
        ["127.0.0.1", "192.168.0.5", "192.168.0.6", "10.0.0.1", "::1", "fd00::5"].map(|a| a.parse().unwrap());
    let listens = |family, given: &[&str], primary: &[&str]| {
        let given: Vec<String> = given.iter().map(|prefix| (*prefix).to_owned()).collect();
        let primary: Vec<lb_common::Addr> =
            primary.iter().map(|address| address.parse::<std::net::IpAddr>().unwrap().into()).collect();
        let places = health_check_addresses(family, &given, &primary, &local);
        places.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listens(Family::Ipv4, &[], &[]), ["0.0.0.0"]);
    assert_eq!(listens(Family::Ipv6, &[], &[]), ["::"]);
    assert_eq!(listens(Family::Ipv4, &["192.168.0.0/24"], &[]), ["192.168.0.5", "192.168.0.6"]);
    assert_eq!(
        listens(Family::Ipv6, &["192.168.0.0/24"], &[]),
        ["::"],
        "a family without a prefix means all addresses"
    );
    assert_eq!(listens(Family::Ipv4, &["0.0.0.0/0", "10.0.0.0/8"], &[]), ["0.0.0.0"]);
    assert_eq!(
        listens(Family::Ipv4, &["127.0.0.0/8"], &[]),
        ["127.0.0.1"],
        "health checks also listen on loopback, which NodePorts skip"
    );
    assert_eq!(listens(Family::Ipv4, &["primary"], &["192.168.0.5", "fd00::5"]), ["192.168.0.5"]);
    assert_eq!(listens(Family::Ipv6, &["primary"], &["192.168.0.5"]), ["::"]);
}
