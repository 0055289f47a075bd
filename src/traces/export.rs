//! Sends spans: an HTTP client for the exporter, and the count of what the collector did not take.
//!
//! The SDK exports on a plain thread, where a client that needs tokio panics, so this one blocks. Its TLS is OpenSSL,
//! as for PostgreSQL and Kafka.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::config::TraceSettings;
use crate::metrics;
use crate::outage;

/// The collector in the log.
pub(super) const COLLECTOR: &str = "the trace collector";

/// Maximum size of an answer that is read. A collector answers with some bytes.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

/// The reason of the last failure, as the exporter's own error does not tell it.
type Failure = Arc<Mutex<Option<String>>>;

/// A client that blocks.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    failure: Failure,
}

impl Client {
    /// Creates a client. Reads the files of certificates.
    pub fn new(traces: &TraceSettings) -> anyhow::Result<Client> {
        let roots = match &traces.certificate {
            Some(file) => RootCerts::new_with_certs(&certificates(file)?),
            None => RootCerts::PlatformVerifier,
        };
        let own = match &traces.client {
            Some((certificate, key)) => {
                Some(ClientCert::new_with_certs(&certificates(certificate)?, private_key(key)?))
            }
            None => None,
        };
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).client_cert(own);
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(traces.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls.build());
        Ok(Client { agent: config.build().new_agent(), failure: Failure::default() })
    }

    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let (parts, mut body) = self.agent.run(Request::from_parts(parts, &body[..]))?.into_parts();
        // only the status counts
        let answer = body.with_config().limit(ANSWER_MAX_BYTES).read_to_vec().unwrap_or_default();
        Ok(Response::from_parts(parts, answer.into()))
    }
}

/// What `#[async_trait]` makes of the method.
impl HttpClient for Client {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            self.send(request).map_err(|error| {
                note(&self.failure, Some(error.to_string()));
                HttpError::from(error)
            })
        })
    }
}

fn note(failure: &Failure, reason: Option<String>) -> Option<String> {
    std::mem::replace(&mut *failure.lock().unwrap_or_else(PoisonError::into_inner), reason)
}

/// An exporter whose failures are counted, and logged as those of other servers are.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    failure: Failure,
}

impl<E> Counted<E> {
    pub fn new(exporter: E, failure: Failure) -> Counted<E> {
        Counted { exporter, failure }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let reason = note(&self.failure, None);
        match &result {
            Ok(()) => outage::recovered(COLLECTOR),
            Err(error) => {
                metrics::TRACE_EXPORT_FAILURES.add(&[], 1);
                let reason = reason.unwrap_or_else(|| error.to_string());
                outage::failed(COLLECTOR, &format!("spans are lost: {reason}"));
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let items = pem(file)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let found: Vec<Certificate<'static>> = items.collect();
    if found.is_empty() {
        bail!("{}, which is named for traces, has no certificate in PEM", file.display());
    }
    Ok(found)
}

fn private_key(file: &Path) -> anyhow::Result<PrivateKey<'static>> {
    let found = pem(file)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.with_context(|| format!("{}, which is named for traces, has no private key in PEM", file.display()))
}

fn pem(file: &Path) -> anyhow::Result<Vec<PemItem<'static>>> {
    let why = || format!("{}, which is named for traces, cannot be read", file.display());
    let bytes = std::fs::read(file).with_context(why)?;
    parse_pem(&bytes).collect::<Result<_, _>>().with_context(why)
}
