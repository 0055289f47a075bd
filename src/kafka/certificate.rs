//! What is wrong with a broker's certificate. librdkafka says only that it cannot be verified, so this asks OpenSSL,
//! with the same authorities and the same name.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;

use super::reason::Kind;
use crate::config::Settings;

/// How long the connection and each answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// OpenSSL's `X509_V_ERR_CERT_HAS_EXPIRED`, `.._HOSTNAME_MISMATCH` and `.._IP_ADDRESS_MISMATCH`.
const EXPIRED: i32 = 10;
const NAME_MISMATCHES: [i32; 2] = [62, 64];

/// The kind of fault of the certificate of a server (`host:port`), and OpenSSL's words for it; `None` where it cannot
/// be found out. Blocks.
pub(super) fn fault(settings: &Settings, server: &str) -> Option<(Kind, String)> {
    let faults = faults(settings, server)
        .inspect_err(|error| {
            tracing::debug!(error = format!("{error:#}"), server, "the certificate was not seen")
        })
        .ok()?;
    let kind = |code: i32| match code {
        EXPIRED => Kind::ExpiredCertificate,
        code if NAME_MISMATCHES.contains(&code) => Kind::WrongHostName,
        _ => Kind::UntrustedCertificate,
    };
    faults.into_iter().map(|(code, words)| (kind(code), words)).max_by_key(|(kind, _)| *kind)
}

type Faults = Vec<(i32, String)>;

fn faults(settings: &Settings, server: &str) -> anyhow::Result<Faults> {
    let property = |name: &str| settings.kafka_properties.get(name).map(String::as_str);
    let (host, _) = server.rsplit_once(':').context("no port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = server.to_socket_addrs()?.next().context("no address")?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;

    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    if let Some(path) = property("ssl.ca.location").filter(|path| *path != "probe") {
        builder.set_ca_file(path)?;
    }
    for certificate in property("ssl.ca.pem").map(authorities).transpose()?.unwrap_or_default() {
        builder.cert_store_mut().add_cert(certificate)?;
    }
    let found: Arc<Mutex<Faults>> = Arc::default();
    let seen = found.clone();
    // each fault is noted and the next one looked for; nothing is ever sent over this connection
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_good, context| {
        if !is_good {
            let fault = context.error();
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((fault.as_raw(), fault.error_string().to_owned()));
        }
        true
    });
    let checks_name = property("ssl.endpoint.identification.algorithm") != Some("none");
    let connect = builder.build().configure()?.verify_hostname(checks_name);
    let _ = connect.connect(host, stream);
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *found))
}

fn authorities(pem: &str) -> Result<Vec<X509>, ErrorStack> {
    X509::stack_from_pem(pem.replace("\\n", "\n").as_bytes())
}
