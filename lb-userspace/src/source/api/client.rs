//! The client of all watches. It renews itself: it reads token, certificates and address again if the current ones do
//! not work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use kube::client::Body;
use tower::{BoxError, ServiceExt};
use tower_http::timeout::TimeoutBody;
use tracing::{debug, info, warn};

use super::access::{self, Access};
use super::connect::{Connector, Route};
use super::fault;
use super::rewind::{self, Resumption};
use super::transport::{self, Transport};
use crate::objects::name::Kind;
use crate::source::progress::Progress;

/// A watch that receives nothing for this long is dead. kube's watchers give up earlier, and PINGs detect a hanging
/// server much earlier; this limit only prevents an endless wait.
const WATCH_SILENCE: Duration = Duration::from_secs(600);

const ADVICE: &str = "; KUBERNETES_SERVICE_HOST is usually a ClusterIP, which nothing serves on a node without \
                      kube-proxy before the first start of lb: give the address of an API server with --api-server \
                      HOST:PORT";

/// The address, credentials and certificates that were read, and the connections made with them.
#[derive(Clone)]
struct Inner {
    /// Counts renewals, because several watches find at the same time that one is needed.
    number: u64,
    server: String,
    service: Transport,
}

/// The body of an answer. The arrival of each part is noted in [`Progress`].
type Answer = UnsyncBoxBody<Bytes, BoxError>;

pub(super) struct Client {
    access: Access,
    route: Route,
    progress: Arc<Progress>,
    inner: Mutex<Inner>,
}

impl Client {
    /// # Errors
    /// If files or variables are missing or cannot be read. No request is sent to the API server yet.
    pub(super) async fn new(access: Access, route: Route, progress: Arc<Progress>) -> anyhow::Result<Self> {
        let inner = connect(&access, &route, 0).await?;
        Ok(Self { access, route, progress, inner: Mutex::new(inner) })
    }

    pub(super) fn into_kube(self) -> kube::Client {
        let shared = Arc::new(self);
        let service = tower::service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Carries out a request, unless it would resume a watch that must list again instead.
    async fn answer(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let Some(Resumption { version, question }) = Resumption::of(&request) else {
            return self.ask(request).await;
        };
        let found = self.ask(question).await?;
        if !found.status().is_success() {
            return Ok(found);
        }
        let found = rewind::version(&found.into_body().collect().await?.to_bytes());
        // Measured only now, because the answer may have taken long.
        let interrupted = kind(request.uri().path()).and_then(|kind| self.progress.failing(kind));
        let reason = match (found, interrupted) {
            (Some(found), _) if found < version => {
                warn!(
                    "{}: the API server went back from version {version} to {found}, as after a restored backup: \
                     listing again",
                    request.uri().path()
                );
                "the server returned to an older state"
            }
            (_, Some(interrupted)) if interrupted > self.access.times.resume => {
                "the watch was interrupted for too long"
            }
            _ => return self.ask(request).await,
        };
        Ok(rewind::gone(reason).map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }

    /// Carries out a request, and repeats it with fresh credentials if the server does not accept the current ones.
    async fn ask(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let again = again(&request);
        let kind = kind(request.uri().path());
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let mut inner = self.current();
        let mut outcome = self.send(&inner, request).await;
        if matches!(&outcome, Ok(response) if response.status() == StatusCode::UNAUTHORIZED) {
            self.renew(inner.number).await;
            if let Some(again) = again {
                inner = self.current();
                outcome = self.send(&inner, again).await;
            }
        }
        let is_of_no_use = match &outcome {
            Ok(response) => response.status().is_server_error(),
            Err(_) => true,
        };
        if is_of_no_use {
            if self.current().number == inner.number {
                self.route.rotate();
            }
            self.renew(inner.number).await;
        }
        if let (Some(kind), true, Ok(response)) = (kind, is_watch, &outcome)
            && response.status().is_success()
            && let Some(interrupted) = self.progress.succeed(kind)
        {
            info!("{kind}: watched again after {:.1} s", interrupted.as_secs_f32());
        }
        let patience = if is_watch { WATCH_SILENCE } else { self.access.times.answer };
        let progress = Arc::clone(&self.progress);
        Ok(outcome.map_err(|error| self.explained(&inner.server, &*error))?.map(|body| {
            let noted = body.map_frame(move |frame| {
                if let Some(kind) = kind {
                    progress.hear(kind);
                }
                frame
            });
            TimeoutBody::new(patience, noted).boxed_unsync()
        }))
    }

    async fn send(&self, inner: &Inner, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let patience = self.access.times.answer;
        let (began, method) = (Instant::now(), request.method().clone());
        let outcome = match tokio::time::timeout(patience, inner.service.clone().oneshot(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32()).into()),
        };
        if let Some(requests) = &self.access.requests {
            let code = outcome.as_ref().ok().map(|response| response.status().as_u16());
            requests.count(method.as_str(), &self.route.host(), code, began.elapsed());
        }
        outcome
    }

    /// The error with the address of the server, and with advice if that address may be the cause.
    fn explained(&self, server: &str, error: &(dyn std::error::Error + 'static)) -> BoxError {
        let is_environments = self.access.kubeconfig.is_none() && self.access.server.is_none();
        let advice = if is_environments && !self.route.is_served_by_us() { ADVICE } else { "" };
        format!("{server}: {}{advice}", fault::chain(error)).into()
    }

    /// Makes new connections from the current files and environment. If these cannot be read, the old connections stay,
    /// because a file may be about to be replaced.
    async fn renew(&self, number: u64) {
        let fresh = connect(&self.access, &self.route, number + 1).await;
        let mut inner = self.lock();
        match fresh {
            Ok(fresh) if inner.number == number => *inner = fresh,
            Ok(_) => {}
            Err(error) => debug!("the access to the API server cannot be renewed: {error:#}"),
        }
    }

    fn current(&self) -> Inner {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing can panic in the middle of a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(access: &Access, route: &Route, number: u64) -> anyhow::Result<Inner> {
    let config = access::read(access).await?;
    route.set_server(&config.cluster_url);
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let (times, connector) = (access.times.clone(), Connector::new(route.clone(), access.times.connect));
    let building = tokio::task::spawn_blocking(move || transport::build(&config, connector, &times));
    Ok(Inner { number, server, service: building.await.context("the thread for credentials failed")?? })
}

/// The same request again; `None` if it cannot be sent twice.
fn again(request: &Request<Body>) -> Option<Request<Body>> {
    if request.method() != Method::GET {
        return None;
    }
    let mut again = Request::get(request.uri()).body(Body::empty()).ok()?;
    again.headers_mut().clone_from(request.headers());
    Some(again)
}

fn kind(path: &str) -> Option<Kind> {
    Some(match path.rsplit('/').next()? {
        "services" => Kind::Service,
        "endpointslices" => Kind::EndpointSlice,
        "nodes" => Kind::Node,
        "servicecidrs" => Kind::ServiceCidr,
        _ => return None,
    })
}
