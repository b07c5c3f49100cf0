//! An API server in memory: lists, streamed lists, watches with versions and bookmarks, and faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// An API server whose objects outlive [`Server::stop`], as if they were in etcd.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    /// Counts changes and wakes those who wait for them.
    changed: watch::Sender<u64>,
    /// Dropped with all connections when the server stops.
    running: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Shared {
    version: u64,
    /// Objects by resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Changes as version, resource and watch event.
    log: Vec<(u64, String, Value)>,
    /// Changes up to this version are forgotten.
    compacted: u64,
    /// A watch that began in an older generation ends.
    generation: u64,
    streams_lists: bool,
    faults: VecDeque<Fault>,
    requests: Vec<String>,
    tokens: Option<Vec<String>>,
}

/// A fault, which affects the next matching request.
pub struct Fault {
    /// Words that the path and query contain.
    pub at: &'static str,
    pub what: What,
}

pub enum What {
    Status(u16),
    /// The server begins to answer only after this time.
    Slow(Duration),
    /// The server lists only this many objects.
    Only(usize),
}

impl Server {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Shared { version: 1, streams_lists: true, ..Shared::default() };
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Mutex::new(shared)),
            changed: watch::Sender::new(0),
            running: None,
        };
        server.run(listener);
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks every connection and accepts no new one.
    pub fn stop(&mut self) {
        // The runtime is dropped on a thread that may wait until the worker, and with it the socket, has ended.
        let running = self.running.take().unwrap();
        std::thread::spawn(move || drop(running)).join().unwrap();
    }

    /// Starts the server again at the same address.
    pub fn again(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        self.run(listener);
    }

    /// Creates or changes an object.
    pub fn put(&self, resource: &str, object: Value) {
        self.shared().put(resource, object);
        self.tell();
    }

    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.shared().delete(resource, namespace, name);
        self.tell();
    }

    /// Makes all changes so far unavailable to watches, including a last one that no watch has seen.
    pub fn compact(&self) {
        let mut shared = self.shared();
        shared.version += 1;
        shared.compacted = shared.version;
        shared.log.clear();
    }

    /// Ends all watches, as when a connection breaks.
    pub fn cut(&self) {
        self.shared().generation += 1;
        self.tell();
    }

    pub fn page_only(&self) {
        self.shared().streams_lists = false;
    }

    pub fn fault(&self, at: &'static str, what: What) {
        self.shared().faults.push_back(Fault { at, what });
    }

    /// From now on only these bearer tokens are accepted.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        self.shared().tokens = Some(tokens.iter().map(ToString::to_string).collect());
    }

    /// Restores the state of the time when `snapshot` was taken, including the version.
    pub fn restore(&self, snapshot: Snapshot) {
        let mut shared = self.shared();
        shared.version = snapshot.version;
        shared.objects = snapshot.objects;
        shared.log.clear();
        shared.compacted = snapshot.version;
    }

    pub fn snapshot(&self) -> Snapshot {
        let shared = self.shared();
        Snapshot { version: shared.version, objects: shared.objects.clone() }
    }

    /// Path and query of each request so far that contains this text.
    pub fn requests(&self, containing: &str) -> Vec<String> {
        self.shared().requests.iter().filter(|request| request.contains(containing)).cloned().collect()
    }

    fn run(&mut self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let app = Router::new().fallback(answer).with_state((self.shared.clone(), self.changed.subscribe()));
        runtime.spawn(async move {
            axum::serve(TcpListener::from_std(listener).unwrap(), app).await.unwrap();
        });
        self.running = Some(runtime);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown_background();
        }
    }
}

pub struct Snapshot {
    version: u64,
    objects: BTreeMap<(String, String, String), Value>,
}

impl Shared {
    fn put(&mut self, resource: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let key = key(resource, &object);
        let kind = if self.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, resource.to_owned(), json!({"type": kind, "object": object})));
    }

    fn delete(&mut self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key).expect("the object exists");
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push((self.version, resource.to_owned(), json!({"type": "DELETED", "object": object})));
    }

    fn list(&self, resource: &str, name: Option<&str>) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|((kind, ..), _)| kind == resource);
        of_kind.filter(|((.., n), _)| name.is_none_or(|name| n == name)).map(|(_, o)| o.clone()).collect()
    }
}

fn key(resource: &str, object: &Value) -> (String, String, String) {
    let field = |name| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (resource.to_owned(), field("namespace"), field("name"))
}

type Answers = State<(Arc<Mutex<Shared>>, watch::Receiver<u64>)>;

async fn answer(State((shared, changed)): Answers, request: Request) -> Response {
    let uri = request.uri().clone();
    let target = uri.path_and_query().unwrap().to_string();
    let token =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let fault = {
        let mut shared = shared.lock().unwrap();
        shared.requests.push(target.clone());
        if let Some(tokens) = &shared.tokens
            && !tokens.iter().any(|accepted| token == Some(format!("Bearer {accepted}")))
        {
            return status(401, "Unauthorized");
        }
        let index =
            shared.faults.iter().position(|fault| fault.at.split(' ').all(|word| target.contains(word)));
        index.and_then(|index| shared.faults.remove(index))
    };
    let mut only = usize::MAX;
    match fault.map(|fault| fault.what) {
        Some(What::Status(code)) => return status(code, "on demand"),
        Some(What::Slow(pause)) => tokio::time::sleep(pause).await,
        Some(What::Only(count)) => only = count,
        None => {}
    }
    let resource = uri.path().rsplit('/').next().unwrap().to_owned();
    if !["services", "endpointslices", "nodes", "servicecidrs"].contains(&&*resource) {
        return status(404, "the server could not find the requested resource");
    }
    let name = parameter(&uri, "fieldSelector")
        .and_then(|fields| fields.strip_prefix("metadata.name=").map(str::to_owned));
    match parameter(&uri, "watch").as_deref() {
        Some("true") => watch(shared, changed, resource, name, &uri, only),
        _ => list(&shared.lock().unwrap(), &resource, name.as_deref(), &uri, only),
    }
}

fn list(shared: &Shared, resource: &str, name: Option<&str>, uri: &Uri, only: usize) -> Response {
    let start: usize = parameter(uri, "continue").map_or(0, |token| token.parse().unwrap());
    let limit = parameter(uri, "limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let mut all = shared.list(resource, name);
    all.truncate(only);
    let items: Vec<Value> = all.iter().skip(start).take(limit).cloned().collect();
    let end = start + items.len();
    let next = if end < all.len() { end.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": shared.version.to_string(), "continue": next});
    axum_json(&json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn watch(
    shared: Arc<Mutex<Shared>>,
    changed: watch::Receiver<u64>,
    resource: String,
    name: Option<String>,
    uri: &Uri,
    only: usize,
) -> Response {
    let begin: u64 = parameter(uri, "resourceVersion").map_or(0, |version| version.parse().unwrap());
    let mut first = Vec::new();
    let (generation, seen) = {
        let shared = shared.lock().unwrap();
        if parameter(uri, "sendInitialEvents").as_deref() == Some("true") {
            if !shared.streams_lists {
                return status(422, "sendInitialEvents is forbidden");
            }
            let objects = shared.list(&resource, name.as_deref()).into_iter().take(only);
            first.extend(objects.map(|object| json!({"type": "ADDED", "object": object})));
            first.push(bookmark(shared.version, true));
            (shared.generation, shared.version)
        } else if begin < shared.compacted {
            let error =
                json!({"type": "ERROR", "object": {"status": "Failure", "code": 410, "message": "too old"}});
            return Response::new(Body::from(line(&error)));
        } else {
            (shared.generation, begin)
        }
    };
    let state = Watching { shared, changed, resource, name, generation, seen, first };
    let body = Body::from_stream(stream::unfold(state, Watching::next));
    Response::new(body)
}

struct Watching {
    shared: Arc<Mutex<Shared>>,
    changed: watch::Receiver<u64>,
    resource: String,
    name: Option<String>,
    generation: u64,
    seen: u64,
    first: Vec<Value>,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let mut events = std::mem::take(&mut self.first);
            {
                let shared = self.shared.lock().unwrap();
                if shared.generation != self.generation {
                    return None;
                }
                let news = shared.log.iter().filter(|(version, ..)| *version > self.seen);
                events.extend(
                    news.filter(|(_, resource, event)| {
                        let name = event["object"]["metadata"]["name"].as_str();
                        *resource == self.resource && (self.name.is_none() || self.name.as_deref() == name)
                    })
                    .map(|(_, _, event)| event.clone()),
                );
                // As in a real API server, a watch from a future version waits for that version.
                self.seen = self.seen.max(shared.version);
            }
            if !events.is_empty() {
                let text: String = events.iter().map(line).collect();
                return Some((Ok(Bytes::from(text)), self));
            }
            self.changed.changed().await.ok()?;
        }
    }
}

/// The type comes first, as a real API server writes it.
fn line(event: &Value) -> String {
    format!("{{\"type\":{},\"object\":{}}}\n", event["type"], event["object"])
}

fn bookmark(version: u64, ends_list: bool) -> Value {
    let annotations = if ends_list { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": metadata}})
}

fn status(code: u16, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), axum_json(&body)).into_response()
}

fn axum_json(value: &Value) -> Response {
    Response::new(Body::from(value.to_string()))
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
    Some(value.replace("%3D", "=").replace("%21", "!").replace("%2F", "/"))
}
