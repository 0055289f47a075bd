//! TLS as libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` request it. `tokio-postgres` leaves it to its
//! caller.

use anyhow::Context as _;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;

use super::UrlProblem;
use super::parameters::one_of;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The TLS settings: how far to trust a server, and the certificate to show it.
#[derive(Clone)]
pub(crate) struct Tls {
    pub mode: TlsMode,
    /// A file of certificate authorities; `None` means the system's.
    pub root: Option<String>,
    /// The files of the client's certificate and of its key.
    pub client: Option<(String, String)>,
    /// `sslpassword`, the password of the key.
    password: Option<String>,
    name_is_sent: bool,
    versions: (Option<SslVersion>, Option<SslVersion>),
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.mode)
    }
}

impl Tls {
    /// From the URL's parameters. `local` means that all servers are reached over Unix sockets, which have no TLS,
    /// whatever the parameters say.
    pub fn new<'v>(get: &impl Fn(&str) -> Option<&'v str>, local: bool) -> Result<Tls, UrlProblem> {
        let root = get("sslrootcert").map(str::to_owned);
        let name = if get("sslmode").is_some() { "sslmode" } else { "ssl" };
        let given = match get("sslmode").or(get("ssl")) {
            None => None,
            Some(text) => Some(mode(name, text).ok_or_else(|| {
                UrlProblem::new(
                    format!("has an {name} that libpq does not know"),
                    format!("give {name} disable, allow, prefer, require, verify-ca or verify-full"),
                )
            })?),
        };
        // to libpq, `system` means the system's authorities and at least a full check
        let is_system = root.as_deref() == Some("system");
        let mode = match given {
            None if is_system => TlsMode::VerifyFull,
            Some(weaker) if is_system && weaker != TlsMode::VerifyFull => {
                return Err(UrlProblem::new(
                    "has sslrootcert=system with a weaker sslmode",
                    "give sslmode verify-full",
                ));
            }
            Some(TlsMode::Require) if root.is_some() => TlsMode::VerifyCa,
            mode => mode.unwrap_or(TlsMode::Prefer),
        };
        let mut client = match (get("sslcert"), get("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.to_owned(), key.to_owned())),
            (None, None) => None,
            _ => {
                return Err(UrlProblem::new(
                    "has one of sslcert and sslkey without the other",
                    "give both, or neither",
                ));
            }
        };
        if one_of("sslcertmode", get("sslcertmode"), &["allow", "disable", "require"])? == "disable" {
            client = None;
        }
        let version = |name: &str| {
            let names = ["", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
            one_of(name, get(name), &names).map(|name| match name {
                "TLSv1" => Some(SslVersion::TLS1),
                "TLSv1.1" => Some(SslVersion::TLS1_1),
                "TLSv1.2" => Some(SslVersion::TLS1_2),
                "TLSv1.3" => Some(SslVersion::TLS1_3),
                _ => None,
            })
        };
        Ok(Tls {
            mode: if local { TlsMode::Disable } else { mode },
            root: root.filter(|_| !is_system),
            client,
            password: get("sslpassword").map(str::to_owned),
            name_is_sent: one_of("sslsni", get("sslsni"), &["1", "0"])? == "1",
            versions: (version("ssl_min_protocol_version")?, version("ssl_max_protocol_version")?),
        })
    }

    /// Whether a connection without TLS will do if TLS cannot be had.
    pub fn may_go_without(&self) -> bool {
        matches!(self.mode, TlsMode::Allow | TlsMode::Prefer)
    }

    /// The mode of the driver.
    pub fn driver_mode(&self) -> SslMode {
        match self.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Allow | TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        }
    }

    /// Reads the files. They are read for each connection, as certificates are renewed.
    pub fn connector(&self) -> anyhow::Result<MakeTlsConnector> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).context("OpenSSL")?;
        postgres_openssl::set_postgresql_alpn(&mut builder).context("OpenSSL")?;
        let (least, most) = self.versions;
        if least.is_some() {
            builder.set_min_proto_version(least).context("ssl_min_protocol_version")?;
        }
        builder.set_max_proto_version(most).context("ssl_max_protocol_version")?;
        let (verify_name, send_name) = (self.mode == TlsMode::VerifyFull, self.name_is_sent);
        if !matches!(self.mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
            builder.set_verify(SslVerifyMode::NONE);
        } else if let Some(path) = &self.root {
            // in place of the system's authorities, not beside them
            let mut store = X509StoreBuilder::new().context("OpenSSL")?;
            for authority in certificates("sslrootcert", path)? {
                store.add_cert(authority).with_context(|| format!("sslrootcert: {path}"))?;
            }
            builder.set_cert_store(store.build());
        }
        if let Some((certificate, key)) = &self.client {
            show_certificate(&mut builder, certificate, key, self.password.as_deref().unwrap_or_default())?;
        }
        let mut tls = MakeTlsConnector::new(builder.build());
        tls.set_callback(move |connection, _| {
            connection.set_verify_hostname(verify_name);
            connection.set_use_server_name_indication(send_name);
            Ok(())
        });
        Ok(tls)
    }
}

fn show_certificate(
    builder: &mut SslConnectorBuilder,
    certificate: &str,
    key: &str,
    password: &str,
) -> anyhow::Result<()> {
    let mut chain = certificates("sslcert", certificate)?.into_iter();
    let own = chain.next().with_context(|| format!("sslcert: {certificate} holds no PEM certificate"))?;
    builder.set_certificate(&own).with_context(|| format!("sslcert: {certificate}"))?;
    for authority in chain {
        builder.add_extra_chain_cert(authority).with_context(|| format!("sslcert: {certificate}"))?;
    }
    let pem = std::fs::read(key).with_context(|| format!("sslkey: {key} cannot be read"))?;
    // with a password callback of its own, OpenSSL does not ask for one on the terminal
    let read = PKey::private_key_from_pem_passphrase(&pem, password.as_bytes()).map_err(|_| {
        anyhow::anyhow!("sslkey: {key} holds no PEM key, or one that sslpassword does not open")
    })?;
    builder.set_private_key(&read).with_context(|| format!("sslkey: {key}"))?;
    builder.check_private_key().with_context(|| format!("sslkey: {key} is not the key of {certificate}"))
}

/// The certificates in a file; at least one.
pub(crate) fn certificates(parameter: &str, path: &str) -> anyhow::Result<Vec<X509>> {
    let pem = std::fs::read(path).with_context(|| format!("{parameter}: {path} cannot be read"))?;
    X509::stack_from_pem(&pem)
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .with_context(|| format!("{parameter}: {path} holds no PEM certificate"))
}

fn mode(name: &str, text: &str) -> Option<TlsMode> {
    Some(match text {
        "false" if name == "ssl" => TlsMode::Disable,
        "true" if name == "ssl" => TlsMode::Require,
        "disable" => TlsMode::Disable,
        "allow" => TlsMode::Allow,
        "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

/// Whether TLS failed, or `pg_hba.conf` has no entry for a connection with it.
pub(crate) fn was_refused(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || error.to_string().starts_with("error performing TLS handshake")
}
