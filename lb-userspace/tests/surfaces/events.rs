//! Events about Services, sent to an API server that only records its requests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use lb_userspace::objects::name::ObjectName;
use lb_userspace::observe::events::Recorder;
use lb_userspace::observe::moment::Moment;
use lb_userspace::observe::telemetry::Telemetry;
use serde_json::{Value, json};

use super::http::serve;

#[derive(Clone, Default)]
struct Server {
    events: Arc<Mutex<Vec<(Method, String, Value)>>>,
    forbids: bool,
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, body: String) -> Response {
    if method == Method::GET {
        // The agent's role grants a list, not a single object.
        assert!(["/api/v1/namespaces/shop/services", "/api/v1/nodes"].contains(&uri.path()), "{uri}");
        let name = uri.query().and_then(|query| query.split_once("metadata.name%3D")).expect("a name").1;
        let metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid-of-{name}")});
        let item =
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
            "items": [item]});
        return as_json(StatusCode::OK, &list);
    }
    let event: Value = serde_json::from_str(&body).expect("JSON");
    server.events.lock().expect("no thread panicked").push((method, uri.path().to_owned(), event.clone()));
    if server.forbids {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
            "message": "events is forbidden", "code": 403});
        return as_json(StatusCode::FORBIDDEN, &status);
    }
    as_json(StatusCode::OK, &event)
}

fn as_json(code: StatusCode, value: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn recorder(server: &Server) -> (Arc<Telemetry>, Recorder) {
    let address = serve(Router::new().fallback(answer).with_state(server.clone())).await;
    let config = kube::Config::new(format!("http://{address}").parse().expect("a URL"));
    let client = kube::Client::try_from(config).expect("a client");
    let telemetry = Arc::new(Telemetry::new(Moment::now()));
    (Arc::clone(&telemetry), Recorder::start(client, "n1", telemetry))
}

/// Waits until the metric has this value.
async fn outcome(telemetry: &Telemetry, outcome: &str, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text =
            prometheus::TextEncoder::new().encode_to_string(&telemetry.registry().gather()).expect("text");
        let found: u64 = text
            .lines()
            .filter(|line| line.starts_with("lb_kubernetes_events_total") && line.contains(outcome))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum();
        if found == count {
            return;
        }
        assert!(Instant::now() < deadline, "{outcome}: {found} of {count}\n{text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_event_tells_about_the_service_by_its_uid() {
    let server = Server::default();
    let (telemetry, recorder) = recorder(&server).await;
    recorder.report(
        &ObjectName::new("shop", "web"),
        "AddressConflict",
        "10.96.0.1:80/TCP belongs to another",
    );
    outcome(&telemetry, "sent", 1).await;
    let events = server.events.lock().unwrap();
    let (method, path, event) = &events[0];
    assert_eq!((method, path.as_str()), (&Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events"));
    assert_eq!(event["reason"], "AddressConflict");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["note"], "10.96.0.1:80/TCP belongs to another");
    assert_eq!(event["reportingController"], "lb");
    assert_eq!(event["reportingInstance"], "lb-n1");
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["apiVersion"], &regarding["name"], &regarding["uid"]),
        (&json!("Service"), &json!("v1"), &json!("web"), &json!("uid-of-web"))
    );
}

#[tokio::test]
async fn an_event_tells_about_the_agents_node() {
    let server = Server::default();
    let (telemetry, recorder) = recorder(&server).await;
    recorder.report_node("FlowTableNearlyFull", "the flow table is nearly full");
    outcome(&telemetry, "sent", 1).await;
    let events = server.events.lock().unwrap();
    let (_, path, event) = &events[0];
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert_eq!(event["reason"], "FlowTableNearlyFull");
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"], &regarding["uid"]),
        (&json!("Node"), &json!("n1"), &json!("uid-of-n1"))
    );
}

#[tokio::test]
async fn the_same_again_is_held_back() {
    let server = Server::default();
    let (telemetry, recorder) = recorder(&server).await;
    for _ in 0..5 {
        recorder.report(&ObjectName::new("shop", "web"), "AddressConflict", "text");
    }
    recorder.report(&ObjectName::new("shop", "api"), "AddressConflict", "text");
    outcome(&telemetry, "sent", 2).await;
    outcome(&telemetry, "limited", 4).await;
    assert_eq!(server.events.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_flood_is_cut_and_never_waits() {
    let server = Server::default();
    let (telemetry, recorder) = recorder(&server).await;
    let began = Instant::now();
    for i in 0..1000 {
        recorder.report(&ObjectName::new("shop", format!("s{i}")), "AddressConflict", "text");
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    outcome(&telemetry, "sent", 25).await;
    outcome(&telemetry, "limited", 975).await;
}

#[tokio::test]
async fn a_server_that_forbids_events_is_asked_again_and_harms_nothing() {
    let server = Server { forbids: true, ..Server::default() };
    let (telemetry, recorder) = recorder(&server).await;
    recorder.report(&ObjectName::new("shop", "web"), "A", "text");
    recorder.report(&ObjectName::new("shop", "web"), "B", "text");
    outcome(&telemetry, "failed", 2).await;
}
