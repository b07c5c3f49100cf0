//! Kubernetes Events, for users of `kubectl describe`, about Services that ask for something that they cannot get, and
//! about the node. Reporting never waits, never fails loudly, and never floods the API server.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use kube::api::ListParams;
use kube::runtime::events::{self, EventType, Reporter};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::metrics::ours::EventOutcome;
use super::telemetry::Telemetry;
use crate::objects::name::ObjectName;

/// The controller that the Events name as their source.
const CONTROLLER: &str = "lb";
/// Events that may be sent at once (client-go's own limits are of this size).
const BURST: u32 = 25;
/// The interval after which one more Event may be sent.
const REFILL: Duration = Duration::from_secs(10);
/// The same reason about the same Service is not reported again within this time.
const REPEAT: Duration = Duration::from_secs(300);
/// Events that may wait for the API server; further ones are dropped.
const WAITING: usize = 64;
/// The API's limit for a note.
const NOTE_BYTES: usize = 1024;

/// Accepts notices for publication. All clones are the same recorder.
#[derive(Clone)]
pub struct Recorder {
    node_name: Arc<str>,
    sender: mpsc::Sender<Report>,
    telemetry: Arc<Telemetry>,
}

struct Report {
    about: About,
    reason: &'static str,
    note: String,
}

/// The object of an Event.
#[derive(Clone, PartialEq, Eq, Hash)]
enum About {
    Service(ObjectName),
    Node(Arc<str>),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "Service {service}"),
            Self::Node(node) => write!(f, "Node {node}"),
        }
    }
}

impl Recorder {
    /// Starts a recorder that publishes until all clones are dropped. Must be called in a tokio runtime. `node_name`
    /// identifies the reporter, and its Node.
    pub fn start(client: Client, node_name: &str, telemetry: Arc<Telemetry>) -> Self {
        let (sender, reports) = mpsc::channel(WAITING);
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(format!("{CONTROLLER}-{node_name}")),
        };
        let publisher = Publisher {
            recorder: events::Recorder::new(client.clone(), reporter),
            client,
            limiter: Limiter::new(Instant::now()),
            said: false,
            telemetry: Arc::clone(&telemetry),
        };
        tokio::spawn(publisher.run(reports));
        Self { node_name: node_name.into(), sender, telemetry }
    }

    /// Publishes a warning about a Service. Never waits.
    pub fn report(&self, service: &ObjectName, reason: &'static str, text: &str) {
        self.send(About::Service(service.clone()), reason, text);
    }

    /// Publishes a warning about the agent's Node. Never waits.
    pub fn report_node(&self, reason: &'static str, text: &str) {
        self.send(About::Node(Arc::clone(&self.node_name)), reason, text);
    }

    fn send(&self, about: About, reason: &'static str, text: &str) {
        let report = Report { about, reason, note: note(text) };
        if self.sender.try_send(report).is_err() {
            self.telemetry.event_sent(reason, EventOutcome::Limited);
        }
    }
}

struct Publisher {
    client: Client,
    recorder: events::Recorder,
    limiter: Limiter,
    /// Whether the missing permission to write Events was logged.
    said: bool,
    telemetry: Arc<Telemetry>,
}

impl Publisher {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        while let Some(report) = reports.recv().await {
            if !self.limiter.admits(&report.about, report.reason, Instant::now()) {
                self.telemetry.event_sent(report.reason, EventOutcome::Limited);
                continue;
            }
            let outcome = match self.publish(&report).await {
                Ok(()) => EventOutcome::Sent,
                Err(error) => {
                    self.say(&report, &error);
                    EventOutcome::Failed
                }
            };
            self.telemetry.event_sent(report.reason, outcome);
        }
    }

    async fn publish(&self, report: &Report) -> kube::Result<()> {
        let event = events::Event {
            type_: EventType::Warning,
            reason: report.reason.to_owned(),
            note: Some(report.note.clone()),
            action: "Program".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &self.reference(&report.about).await?).await
    }

    /// `kubectl describe` finds Events by the object's uid, which nothing else in the agent needs. The uid is read by a
    /// list, which the agent's role grants, unlike `get`.
    async fn reference(&self, about: &About) -> kube::Result<ObjectReference> {
        match about {
            About::Service(of) => {
                let services = Api::<Service>::namespaced(self.client.clone(), &of.namespace);
                reference(services, &of.name, Some(&*of.namespace)).await
            }
            About::Node(name) => reference(Api::<Node>::all(self.client.clone()), name, None).await,
        }
    }

    fn say(&mut self, report: &Report, error: &kube::Error) {
        let is_forbidden = matches!(error, kube::Error::Api(status) if status.code == 403);
        if !is_forbidden {
            debug!("Event {} about {}: {error}", report.reason, report.about);
        } else if !self.said {
            self.said = true;
            warn!(
                "Events cannot be written: {error}; grant create and patch on events (events.k8s.io), \
                 as deploy/ does. This message is not repeated"
            );
        }
    }
}

async fn reference<K>(objects: Api<K>, name: &str, namespace: Option<&str>) -> kube::Result<ObjectReference>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug,
{
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = objects.list_metadata(&only).await?.items.into_iter().next();
    Ok(ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: found.and_then(|object| object.metadata.uid),
        ..ObjectReference::default()
    })
}

/// A token bucket, and a pause for each subject.
struct Limiter {
    tokens: u32,
    filled: Instant,
    told: HashMap<(About, &'static str), Instant>,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, told: HashMap::new() }
    }

    fn admits(&mut self, about: &About, reason: &'static str, now: Instant) -> bool {
        self.told.retain(|_, told| now.saturating_duration_since(*told) < REPEAT);
        if self.told.contains_key(&(about.clone(), reason)) {
            return false;
        }
        let refills = now.saturating_duration_since(self.filled).as_secs() / REFILL.as_secs();
        if refills > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(u32::try_from(refills).unwrap_or(BURST)));
            self.filled = now;
        }
        let Some(left) = self.tokens.checked_sub(1) else { return false };
        self.tokens = left;
        self.told.insert((about.clone(), reason), now);
        true
    }
}

/// Cuts the text to the API's limit, between characters.
fn note(text: &str) -> String {
    let mut end = text.len().min(NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_again_only_after_a_while() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let web = About::Service(ObjectName::new("d", "web"));
        assert!(limiter.admits(&web, "A", start));
        assert!(!limiter.admits(&web, "A", start + Duration::from_secs(299)));
        assert!(limiter.admits(&web, "B", start));
        assert!(limiter.admits(&web, "A", start + REPEAT));
    }

    #[test]
    fn a_flood_is_cut_to_a_burst_and_a_trickle() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let admitted = |limiter: &mut Limiter, from: usize, now| {
            (from..from + 100)
                .filter(|i| limiter.admits(&About::Node(i.to_string().into()), "A", now))
                .count()
        };
        assert_eq!(admitted(&mut limiter, 0, start), BURST as usize);
        assert_eq!(admitted(&mut limiter, 100, start + REFILL), 1);
        assert_eq!(admitted(&mut limiter, 200, start + 4 * REFILL), 3);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(note("short"), "short");
        assert_eq!(note(&"é".repeat(600)).len(), NOTE_BYTES);
        assert_eq!(note(&format!("a{}", "é".repeat(600))).len(), NOTE_BYTES - 1);
    }
}
