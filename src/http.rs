//! `/healthz`, `/readyz`, `/metrics`, `/status.json` and the page at `/`. They have no password, so each client's use
//! is bounded: a maximum number of connections, one request on each, a short head, no body, and an end to every wait.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::consumer::Waiting;
use crate::page;
use crate::page::history::History;
use crate::shared::Shared;
use crate::status::Document;

/// Upkeep of the histograms. Without it, their values would pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// Time for answers in flight when the program ends.
const GRACE: Duration = Duration::from_secs(1);
/// Maximum number of connections at a time. Others wait until one of these ends.
const CONNECTIONS: usize = 64;
/// Maximum duration of a connection, from its first byte to the last of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a request's head.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Allows only the program's own style sheet, script and answers, and no frame around it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The conditions of `/readyz`: ready where all hold (contract, section 7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Conditions {
    /// The database's schema is current.
    pub schema: bool,
    /// The database takes writes.
    pub database: bool,
    /// The brokers answer.
    pub broker: bool,
    /// This instance is a member of the group, with or without partitions.
    pub member: bool,
    /// Every partition of this instance makes progress.
    pub progress: bool,
}

impl Conditions {
    /// The conditions with their names.
    pub fn named(&self) -> [(&'static str, bool); 5] {
        [
            ("schema", self.schema),
            ("database", self.database),
            ("broker", self.broker),
            ("member", self.member),
            ("progress", self.progress),
        ]
    }

    /// Whether every condition holds.
    pub fn all(&self) -> bool {
        self.named().iter().all(|(_, holds)| *holds)
    }
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Readiness {
    /// The conditions.
    #[serde(flatten)]
    pub conditions: Conditions,
    /// The waiting partitions, and what they wait for.
    pub waiting: Vec<Waiting>,
}

/// The state from which the server answers.
#[derive(Clone)]
pub struct Probe {
    /// Renders the metrics.
    pub handle: PrometheusHandle,
    /// The conditions as they are now.
    pub ready: watch::Receiver<Readiness>,
    /// The document of `status`, computed once for all clients.
    pub status: Shared<Document>,
    /// The data of the page's plots.
    pub history: History,
}

/// Answers until `cancel`, and then for at most a second.
pub async fn serve(listener: TcpListener, state: Probe, cancel: CancellationToken) {
    let handle = state.handle.clone();
    let upkeep = async {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            handle.run_upkeep();
        }
    };
    let connections = TaskTracker::new();
    tokio::select! {
        () = accept(listener, router(state), &connections) => {}
        () = upkeep => {}
        () = cancel.cancelled() => {}
    }
    connections.close();
    let _ = tokio::time::timeout(GRACE, connections.wait()).await;
}

/// Accepts connections for as long as it is polled.
async fn accept(listener: TcpListener, router: Router, connections: &TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // never closed
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // such as no file descriptor left: it may pass
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(GRACE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            // the end of one client's connection is no error of the server
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

fn router(state: Probe) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status.json", get(status))
        .route("/", get(page))
        .route("/page.css", get(async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)))
        .route(
            "/page.js",
            get(async || ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], page::SCRIPT)),
        )
        .layer(axum::middleware::map_response(with_headers))
        .with_state(state)
}

/// Adds the headers that restrict what a browser may do with an answer.
async fn with_headers(mut answer: Response<Body>) -> Response<Body> {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn readyz(State(probe): State<Probe>) -> impl IntoResponse {
    let now = probe.ready.borrow().clone();
    let status = if now.conditions.all() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // booleans, texts and numbers always serialize
    let body = serde_json::to_string(&now).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

async fn status(State(probe): State<Probe>) -> impl IntoResponse {
    let json = [(header::CONTENT_TYPE, "application/json")];
    match probe.status.get().await {
        Some(made) => (StatusCode::OK, json, serde_json::to_string(&*made.result).unwrap_or_default()),
        None => {
            let error = r#"{"error":"PostgreSQL or Kafka take long to answer: ask again in some seconds"}"#;
            (StatusCode::SERVICE_UNAVAILABLE, json, error.to_owned())
        }
    }
}

async fn page(State(probe): State<Probe>) -> impl IntoResponse {
    let made = probe.status.get().await;
    let (status, page) = match page::render(made.as_ref(), &probe.history) {
        Ok(page) => (StatusCode::OK, page),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page)
}

async fn metrics(State(probe): State<Probe>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        crate::metrics::render(&probe.handle),
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    struct Server {
        addr: SocketAddr,
        ready: watch::Sender<Readiness>,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn server() -> Server {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || metrics::counter!("records_total").increment(3));
        let (sender, ready) = watch::channel(Readiness::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let status = Shared::new(|| std::future::ready(None));
        let probe = Probe { handle, ready, status, history: History::default() };
        let task = tokio::spawn(serve(listener, probe, cancel.clone()));
        Server { addr, ready: sender, cancel, task }
    }

    async fn ask(server: &Server, method: &'static str, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", server.addr);
        tokio::task::spawn_blocking(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut answer =
                if method == "GET" { agent.get(&url).call() } else { agent.post(&url).send("x") }.unwrap();
            (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
        })
        .await
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_alive_at_once_and_ready_only_when_every_condition_holds() {
        let server = server().await;
        assert_eq!(ask(&server, "GET", "/healthz").await, (200, "ok".to_owned()));
        let (status, body) = ask(&server, "GET", "/readyz").await;
        assert_eq!(
            (status, body.as_str()),
            (
                503,
                r#"{"schema":false,"database":false,"broker":false,"member":false,"progress":false,"waiting":[]}"#
            )
        );
        let all = Conditions { schema: true, database: true, broker: true, member: true, progress: true };
        let waiting = vec![Waiting {
            topic: "clone.ready".into(),
            partition: 3,
            waits_for: "no_leader",
            reason: "no broker leads it".into(),
            for_seconds: Some(61),
            stalled: true,
        }];
        for conditions in [
            Conditions { schema: false, ..all },
            Conditions { database: false, ..all },
            Conditions { broker: false, ..all },
            Conditions { member: false, ..all },
            Conditions { progress: false, ..all },
        ] {
            server.ready.send_replace(Readiness { conditions, waiting: waiting.clone() });
            let (status, body) = ask(&server, "GET", "/readyz").await;
            assert_eq!(status, 503, "{conditions:?}");
            assert!(
                body.contains(r#""topic":"clone.ready","partition":3,"waits_for":"no_leader""#),
                "{body}"
            );
        }
        server.ready.send_replace(Readiness { conditions: all, waiting: Vec::new() });
        assert_eq!(ask(&server, "GET", "/readyz").await.0, 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_shows_metrics_and_nothing_else() {
        let server = server().await;
        let (status, body) = ask(&server, "GET", "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("records_total 3"), "{body}");
        assert_eq!(ask(&server, "GET", "/else").await.0, 404);
        assert_eq!(ask(&server, "POST", "/healthz").await.0, 405);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_an_answer_of_the_servers_there_is_a_page_and_no_document() {
        let server = server().await;
        let (status, body) = ask(&server, "GET", "/status.json").await;
        assert_eq!(status, 503);
        assert!(body.contains("ask again"), "{body}");
        let (status, body) = ask(&server, "GET", "/").await;
        assert_eq!(status, 200);
        assert!(body.contains("NOT KNOWN YET"), "{body}");
        for path in ["/page.css", "/page.js"] {
            assert_eq!(ask(&server, "GET", path).await.0, 200, "{path}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_ends_soon_even_if_a_client_stays() {
        let server = server().await;
        let stays = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        stays.writable().await.unwrap();
        stays.try_write(b"GET /healthz HT").unwrap();
        server.cancel.cancel();
        tokio::time::timeout(GRACE * 3, server.task).await.unwrap().unwrap();
    }
}
