//! Ports that another process has taken.

use std::sync::Arc;
use std::time::Duration;

use lb_userspace::observe::http::{ServerOptions, Surfaces};
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::Telemetry;

use super::http::get;

#[tokio::test]
async fn a_port_that_is_taken_is_fatal_only_when_asked_for_and_names_the_process() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    let options = ServerOptions { healthz: Some(taken), hard_fail: true, ..ServerOptions::default() };
    let (surfaces, mut failed) = Surfaces::start(options, Arc::clone(&telemetry), None, None).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), failed.recv())
        .await
        .expect("the failure is reported")
        .expect("the failure has a reason");
    drop(surfaces);
    let expected = format!("the health server cannot listen on {taken}: the port is in use by ");
    let error = error.to_string();
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(error.ends_with("(--healthz-bind-address changes the address)"), "{error}");

    let options = ServerOptions { healthz: Some(taken), hard_fail: false, ..ServerOptions::default() };
    let (_surfaces, mut failed) = Surfaces::start(options, telemetry, None, None).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(300), failed.recv()).await;
    assert!(waited.is_err(), "the agent continues");
    drop(other);
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    while tokio::net::TcpStream::connect(taken).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the free port was not opened");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(taken, "/livez").await.code, 200);
}

#[tokio::test]
async fn an_unspecified_address_is_all_addresses_of_both_families() {
    let address = lb_userspace::observe::http::bind(([0, 0, 0, 0], 0).into()).unwrap().local_addr().unwrap();
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    assert_eq!(address.is_ipv6(), has_ipv6, "{address}");
    let address =
        lb_userspace::observe::http::bind(([127, 0, 0, 1], 0).into()).unwrap().local_addr().unwrap();
    assert_eq!(address.ip(), std::net::Ipv4Addr::LOCALHOST);
}
