//! The certificates of brokers and of this client. librdkafka only reports that a broker's certificate cannot be
//! verified, so this module asks OpenSSL, with the same authorities and the same host name.

use anyhow::Context as _;
use openssl::error::ErrorStack;
use openssl::pkcs12::Pkcs12;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;

use super::reason::Kind;
use crate::certificates::{self, Certificate, PresentedCertificate};
use crate::config::Settings;

/// OpenSSL's `X509_V_ERR_CERT_HAS_EXPIRED`, `.._HOSTNAME_MISMATCH` and `.._IP_ADDRESS_MISMATCH`.
const EXPIRED: i32 = 10;
const NAME_MISMATCHES: [i32; 2] = [62, 64];

/// Returns the kind of problem with the certificate of a server (`host:port`), and OpenSSL's text; `None` if it cannot
/// be determined. Blocks.
pub(super) fn problem(settings: &Settings, server: &str) -> Option<(Kind, String)> {
    let kind = |code: i32| match code {
        EXPIRED => Kind::ExpiredCertificate,
        code if NAME_MISMATCHES.contains(&code) => Kind::WrongHostName,
        _ => Kind::UntrustedCertificate,
    };
    let faults = presented(settings, server)?.faults;
    faults.into_iter().map(|(code, words)| (kind(code), words)).max_by_key(|(kind, _)| *kind)
}

/// Returns the visible certificates of the servers of `KAFKA_BOOTSTRAP_SERVERS` and of this client; none without TLS.
/// Blocks for a few seconds per server.
pub fn certificates(settings: &Settings) -> Vec<Certificate> {
    let protocol = settings.kafka_properties.get("security.protocol").map(|name| name.trim().to_lowercase());
    if !protocol.is_some_and(|name| name.ends_with("ssl")) {
        return Vec::new();
    }
    let servers = settings.kafka_bootstrap_servers.split(',').map(str::trim).filter(|name| !name.is_empty());
    let of_servers = servers.filter_map(|server| {
        let address = server.split_once("://").map_or(server, |(_, address)| address);
        let shown = presented(settings, address)?.certificate?;
        Certificate::new(format!("the broker {address}"), &shown)
    });
    let own = client_certificate(settings)
        .inspect_err(|error| {
            tracing::debug!(error = format!("{error:#}"), "this client's certificate could not be read")
        })
        .ok()
        .flatten()
        .and_then(|own| Certificate::new("this client of Kafka", &own));
    of_servers.chain(own).collect()
}

fn property<'s>(settings: &'s Settings, name: &str) -> Option<&'s str> {
    settings.kafka_properties.get(name).map(String::as_str)
}

/// Returns the certificate that the server presents; `None` if it cannot be read.
fn presented(settings: &Settings, server: &str) -> Option<PresentedCertificate> {
    let read = || {
        let (host, _) = server.rsplit_once(':').context("no port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        if let Some(path) = property(settings, "ssl.ca.location").filter(|path| *path != "probe") {
            builder.set_ca_file(path)?;
        }
        let pem = property(settings, "ssl.ca.pem");
        for certificate in pem.map(parse_pem).transpose()?.unwrap_or_default() {
            builder.cert_store_mut().add_cert(certificate)?;
        }
        let checks_name = property(settings, "ssl.endpoint.identification.algorithm") != Some("none");
        certificates::look(builder, certificates::connect(server)?, host, checks_name)
    };
    read()
        .inspect_err(|error| {
            tracing::debug!(error = format!("{error:#}"), server, "the certificate was not seen")
        })
        .ok()
}

/// Returns this client's certificate, the first of its chain.
fn client_certificate(settings: &Settings) -> anyhow::Result<Option<X509>> {
    let pem =
        match (property(settings, "ssl.certificate.location"), property(settings, "ssl.certificate.pem")) {
            (Some(path), _) => std::fs::read_to_string(path)?,
            (None, Some(pem)) => pem.to_owned(),
            (None, None) => {
                let Some(path) = property(settings, "ssl.keystore.location") else { return Ok(None) };
                let password = property(settings, "ssl.keystore.password").unwrap_or_default();
                return Ok(Pkcs12::from_der(&std::fs::read(path)?)?.parse2(password)?.cert);
            }
        };
    Ok(parse_pem(&pem)?.into_iter().next())
}

/// Parses PEM, also if its lines are separated by `\n` written as two characters, as in an environment variable.
fn parse_pem(pem: &str) -> Result<Vec<X509>, ErrorStack> {
    X509::stack_from_pem(pem.replace("\\n", "\n").as_bytes())
}
