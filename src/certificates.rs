//! Certificates of servers and of this client: their errors, and their ends.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use openssl::asn1::Asn1Time;
use openssl::ssl::{SslConnectorBuilder, SslVerifyMode};
use openssl::x509::{X509, X509Ref};

/// A certificate that ends within this time is reported.
pub const SOON: TimeDelta = TimeDelta::days(14);

/// Timeout of the connection, and of each answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A certificate and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Who presents it: `the broker kafka:9093`.
    pub whose: String,
    /// The end of its validity.
    pub ends: DateTime<Utc>,
}

impl Certificate {
    /// Returns `None` if the end is not a valid time.
    pub(crate) fn new(whose: impl Into<String>, certificate: &X509Ref) -> Option<Certificate> {
        let remaining = Asn1Time::days_from_now(0).ok()?.diff(certificate.not_after()).ok()?;
        let remaining = TimeDelta::try_days(remaining.days.into())?
            .checked_add(&TimeDelta::seconds(remaining.secs.into()))?;
        Some(Certificate { whose: whose.into(), ends: Utc::now().checked_add_signed(remaining)? })
    }

    /// Whether somebody should renew it now.
    pub fn ends_soon(&self, now: DateTime<Utc>) -> bool {
        self.ends - now <= SOON
    }

    /// The end in words: `ends at 2026-12-02T10:00:00Z, in 5 days`.
    pub fn end(&self, now: DateTime<Utc>) -> String {
        let at = self.ends.to_rfc3339_opts(SecondsFormat::Secs, true);
        match (self.ends - now).num_days() {
            _ if self.ends <= now => format!("ended at {at}"),
            0 => format!("ends at {at}, within a day"),
            1 => format!("ends at {at}, in a day"),
            days => format!("ends at {at}, in {days} days"),
        }
    }
}

/// The certificate that a server presented, and its errors.
#[derive(Default)]
pub(crate) struct PresentedCertificate {
    /// OpenSSL's error numbers and texts.
    pub faults: Vec<(i32, String)>,
    pub certificate: Option<X509>,
}

/// Connects to the first address. Blocks.
pub(crate) fn connect(address: impl ToSocketAddrs) -> anyhow::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().context("no address")?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Runs the TLS handshake until the server presents its certificate, and sends nothing over the connection. Blocks.
pub(crate) fn look(
    mut builder: SslConnectorBuilder,
    stream: TcpStream,
    host: &str,
    checks_name: bool,
) -> anyhow::Result<PresentedCertificate> {
    let seen: Arc<Mutex<PresentedCertificate>> = Arc::default();
    let noted = seen.clone();
    // each error is noted, and verification continues
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_good, context| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_good {
            let fault = context.error();
            noted.faults.push((fault.as_raw(), fault.error_string().to_owned()));
        }
        // depth 0 is the server's own certificate; those of the authorities that signed it come before
        if context.error_depth() == 0 {
            noted.certificate = context.current_cert().map(X509Ref::to_owned);
        }
        true
    });
    let connect = builder.build().configure()?.verify_hostname(checks_name);
    // a server that requires a client certificate ends the handshake here, after it has presented its own
    let _ = connect.connect(host, stream);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *seen))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_soon_from_14_days_before_it() {
        let now = Utc::now();
        let ending =
            |remaining: TimeDelta| Certificate { whose: "the broker".to_owned(), ends: now + remaining };
        for (remaining, soon, words) in [
            (TimeDelta::days(15), false, ", in 15 days"),
            (TimeDelta::days(14), true, ", in 14 days"),
            (TimeDelta::hours(30), true, ", in a day"),
            (TimeDelta::hours(3), true, ", within a day"),
            (TimeDelta::zero(), true, "ended at "),
            (-TimeDelta::days(3), true, "ended at "),
        ] {
            let certificate = ending(remaining);
            assert_eq!(certificate.ends_soon(now), soon, "{remaining}");
            assert!(certificate.end(now).contains(words), "{remaining}: {}", certificate.end(now));
        }
    }
}
