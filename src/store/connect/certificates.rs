//! The certificates of PostgreSQL's servers and of this client.

use std::io::{Read as _, Write as _};

use anyhow::Context as _;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use tokio_postgres::config::{Host, SslNegotiation};

use crate::certificates::{self, Certificate};
use crate::database_url::tls::{self, TlsMode};
use crate::database_url::{self, ParsedUrl, ServerAddress};

/// PostgreSQL's SSLRequest: the length of the message, and its number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The certificates of the servers of `DATABASE_URL` and of this client, as far as they can be seen. Returns none if
/// TLS is not requested, as no connection depends on them then. Blocks for some seconds per server.
pub fn certificates(url: &str) -> Vec<Certificate> {
    let Ok(target) = database_url::parse(url) else { return Vec::new() };
    if target.tls.mode == TlsMode::Disable || target.tls.may_go_without() {
        return Vec::new();
    }
    let of_server = |place: &ServerAddress| {
        let seen = of_server(&target, place).inspect_err(|error| {
            tracing::debug!(error = format!("{error:#}"), %place, "the certificate was not seen");
        });
        let shown = seen.ok()??;
        Certificate::new(format!("the PostgreSQL server {place}"), &shown)
    };
    let own = target.tls.client.as_ref().and_then(|(path, _)| {
        let own = tls::certificates("sslcert", path).ok()?;
        Certificate::new("this client of PostgreSQL", own.first()?)
    });
    target.places.iter().filter_map(of_server).chain(own).collect()
}

/// Returns `None` if the server offers no TLS.
fn of_server(target: &ParsedUrl, place: &ServerAddress) -> anyhow::Result<Option<X509>> {
    let Host::Tcp(host) = &place.host else { return Ok(None) };
    let mut stream = match place.address {
        Some(address) => certificates::connect((address, place.port))?,
        None => certificates::connect((host.as_str(), place.port))?,
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    if target.config.get_ssl_negotiation() == SslNegotiation::Direct {
        postgres_openssl::set_postgresql_alpn(&mut builder)?;
    } else {
        stream.write_all(&SSL_REQUEST)?;
        let mut answer = [0];
        stream.read_exact(&mut answer).context("the answer to SSLRequest")?;
        if answer != *b"S" {
            return Ok(None);
        }
    }
    // trust is decided by the connections, not here
    Ok(certificates::look(builder, stream, host, false)?.certificate)
}
