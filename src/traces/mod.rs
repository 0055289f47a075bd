//! Traces: spans of batches, rounds and runs, sent over OTLP (contract, section 8). Unless an endpoint is set, no span is
//! made, nothing is connected, and no thread runs.
//!
//! ```text
//! mod      -> starts and ends the sending
//! span     -> a span, or nothing where traces are off
//! model    -> the spans of the daemon: names, kinds, attributes, links
//! export   -> the HTTP client, and the count of what the collector did not take
//! links    -> pure: the choice of links
//! context  -> pure: a `traceparent` as bytes and as a context
//! ```

mod context;
mod export;
mod links;
mod model;
mod span;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use self::export::{Client, Counted};
use crate::config::{Settings, TraceSettings};
use crate::outage;

pub use self::context::HEADER;
pub use self::model::{expire, process, root, send, write};
pub use self::span::Span;

/// The name of the service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has another.
const SERVICE: &str = "voiceclone-events";

/// Maximum time for the last spans to be sent.
pub const END_WITHIN: Duration = Duration::from_secs(1);

/// State of the spans of this process. A process sends its traces to one place, as it writes one log.
struct Active {
    tracer: SdkTracer,
    max_links: usize,
    topic_prefix: String,
    group: String,
    client_id: String,
    /// Attributes of the database's server.
    database: Vec<KeyValue>,
}

static ACTIVE: OnceLock<Active> = OnceLock::new();

/// The sending of spans.
#[derive(Default)]
pub struct Sending(Option<SdkTracerProvider>);

/// Starts the sending if an endpoint is set. Connects to nobody.
pub fn start(settings: &Settings) -> anyhow::Result<Sending> {
    let Some(traces) = &settings.traces else { return Ok(Sending::default()) };
    let provider = provider(traces)?;
    let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
    let client_id = settings.kafka_properties.get("client.id").map_or(SERVICE, String::as_str);
    let started = ACTIVE.set(Active {
        tracer: provider.tracer_with_scope(scope),
        max_links: traces.max_links,
        topic_prefix: settings.topic_prefix.clone(),
        group: settings.kafka_group_id.clone(),
        client_id: client_id.to_owned(),
        database: model::database(&settings.database_url),
    });
    started.map_err(|_| anyhow::anyhow!("this is a bug: traces were started twice"))?;
    outage::locate(export::COLLECTOR, traces.server.clone());
    Ok(Sending(Some(provider)))
}

fn provider(traces: &TraceSettings) -> anyhow::Result<SdkTracerProvider> {
    let client = Client::new(traces)?;
    let failure = client.failure();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(&traces.url)
        .with_timeout(traces.timeout)
        .build()
        .context("traces cannot be sent")?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(Counted::new(exporter, failure))
        .with_resource(resource())
        // the choice of links has its own limit, and the SDK drops what is above in silence
        .with_max_links_per_span(u32::try_from(traces.max_links).unwrap_or(u32::MAX))
        .build())
}

/// The service, by the variables or by its own name.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    let given = builder().build();
    let name = given.get(&"service.name".into());
    // the SDK's name for a service without one
    let is_named = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    if is_named { given } else { builder().with_service_name(SERVICE).build() }
}

impl Sending {
    /// Sends the last spans, for at most `within`. A collector that does not answer must not delay the end.
    pub async fn end(self, within: Duration) {
        let Some(provider) = self.0 else { return };
        let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within));
        if !matches!(tokio::time::timeout(within, sent).await, Ok(Ok(Ok(())))) {
            tracing::debug!("the last spans may not have been sent");
        }
    }
}

/// Runs a command's work and sends its spans.
pub async fn during<T>(
    settings: &Settings,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let sending = start(settings)?;
    let result = work.await;
    sending.end(END_WITHIN).await;
    result
}
