//! Connections to PostgreSQL: the pool, and libpq's meaning of `sslmode` and `sslrootcert`, which
//! `tokio-postgres` leaves to its caller.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use diesel::result::{DatabaseErrorKind, Error};
use diesel::{ConnectionError, ConnectionResult, QueryResult};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::FutureExt;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres::error::SqlState;
use url::form_urlencoded;

use crate::config::Settings;

/// The connection pool.
pub type Pool = bb8::Pool<AsyncDieselConnectionManager<AsyncPgConnection>>;

/// How long a transaction may wait for this program, unless the server says otherwise: well above what a broker may
/// take for records that are published within one.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);
/// How long a caller waits for a connection, and a connection for one address of the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long TLS and the login may take on top of that.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to answer before it is used; one that does not is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// When an unused connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// When a connection whose packets nobody acknowledges is given up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// When an idle connection is first asked whether it still lives: before a NAT or firewall forgets it.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);

/// The pool: `DB_POOL_SIZE` connections and `DB_MAX_OVERFLOW` further ones at most.
///
/// It starts without a database, and connects in the background; it must be called within a tokio runtime.
/// Connections are handed out newest first, each once it has answered, and further ones that nobody has needed for
/// a minute are closed. A caller waits at most five seconds; why a connection failed goes to the log, as bb8 tells
/// the caller only of the wait.
pub fn pool(settings: &Settings) -> anyhow::Result<Pool> {
    let size = settings.db_pool_size.saturating_add(settings.db_max_overflow);
    if size == 0 {
        bail!("DB_POOL_SIZE and DB_MAX_OVERFLOW are both 0: allow at least one connection");
    }
    // what is wrong with the URL will not mend itself: say it now, not at each attempt
    Target::parse(&settings.database_url)?;
    let mut config = ManagerConfig::default();
    config.recycling_method =
        RecyclingMethod::CustomFunction(Box::new(|connection| ping(connection).boxed()));
    config.custom_setup = Box::new(|url| {
        let url = url.to_owned();
        async move { connect(&url).await }.boxed()
    });
    let manager = AsyncDieselConnectionManager::new_with_config(settings.database_url.as_str(), config);
    Ok(bb8::Pool::builder()
        .max_size(size)
        .min_idle(Some(settings.db_pool_size))
        .idle_timeout(IDLE_TIMEOUT)
        .connection_timeout(CONNECT_TIMEOUT)
        .test_on_check_out(true)
        .queue_strategy(bb8::QueueStrategy::Lifo)
        .error_sink(Box::new(LogErrors))
        .build_unchecked(manager))
}

/// A round trip with nothing in it.
async fn ping(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    match tokio::time::timeout(PING_TIMEOUT, connection.batch_execute("")).await {
        Ok(answer) => answer,
        Err(_) => {
            let silence = format!("no answer within {} s", PING_TIMEOUT.as_secs());
            Err(Error::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new(silence)))
        }
    }
}

/// Logs why a connection could not be made or had died. The messages come from the driver and the server,
/// neither of which quotes the URL or the password.
#[derive(Debug, Clone, Copy)]
struct LogErrors;

impl bb8::ErrorSink<PoolError> for LogErrors {
    fn sink(&self, error: PoolError) {
        match error {
            PoolError::ConnectionError(error) => tracing::warn!(%error, "no connection to the database"),
            PoolError::QueryError(error) => tracing::warn!(%error, "a connection to the database has died"),
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<PoolError>> {
        Box::new(*self)
    }
}

/// Opens one connection, its time zone UTC and, where the role may choose, its messages in English.
///
/// `sslmode` means what it means to libpq: `allow` and `prefer` (the default) take TLS where the server
/// offers it and go on without where it cannot be had, `require` insists on it, `verify-ca` and
/// `verify-full` check the certificate; `require` with an `sslrootcert` is `verify-ca`. Without an
/// `sslrootcert` the system's authorities are trusted. `ssl`, as asyncpg calls it, is the same as `sslmode`.
pub async fn connect(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let target = Target::parse(url).map_err(|e| ConnectionError::InvalidConnectionUrl(format!("{e:#}")))?;
    // not every address answers at once, and a server may take the connection and then say nothing
    let addresses = u32::try_from(target.config.get_hosts().len()).unwrap_or(1).max(1);
    let per_address = target.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let limit = per_address.saturating_mul(addresses).saturating_add(LOGIN_TIMEOUT);
    let mut connection = tokio::time::timeout(limit, target.open()).await.map_err(|_| {
        ConnectionError::BadConnection(format!("the server did not answer within {} s", limit.as_secs()))
    })??;
    // Error texts are read (`store::fault`), so they must be in English. PostgreSQL lets superusers choose, and
    // from version 15 on whom they let; asking first keeps refusals out of the server's log.
    let english =
        "SELECT set_config('lc_messages', 'C', false) WHERE has_parameter_privilege('lc_messages', 'SET')";
    if let Err(error) = connection.batch_execute(english).await {
        tracing::debug!(%error, "the server's messages stay in its own language");
    }
    // Whoever waited for a lock must see what its holder wrote, whatever the role's default is. Rows are looked up by
    // their keys: a plan that suits a table while it is small is kept, and would read all of it when it has grown;
    // to compile one takes longer than to run it.
    // And a process that is halted, or whose host is gone, in the middle of a transaction keeps its locks no longer.
    let session = format!(
        "SET default_transaction_isolation TO 'read committed';
         SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off;
         SET jit TO off;
         SELECT set_config('idle_in_transaction_session_timeout', '{}', false)
         WHERE current_setting('idle_in_transaction_session_timeout') = '0'",
        IDLE_IN_TRANSACTION.as_millis()
    );
    connection.batch_execute(&session).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What a database URL says: where to go, and how far to trust what answers there.
struct Target {
    config: Config,
    mode: Mode,
    /// A file of certificate authorities; `None` means the system's.
    root: Option<String>,
}

impl Target {
    fn parse(url: &str) -> anyhow::Result<Target> {
        let url = url.trim();
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            bail!("DATABASE_URL does not begin with postgresql://");
        }
        // As the driver reads it: the credentials end at the first @, and may hold a ? of their own.
        let credentials = url.find('@').unwrap_or(0);
        let query = url.get(credentials..).and_then(|rest| rest.find('?')).map(|at| at + credentials);
        let (base, query) = match query {
            Some(at) => (url.get(..at).unwrap_or(url), url.get(at + 1..).unwrap_or_default()),
            None => (url, ""),
        };

        let (mut mode, mut root) = (None, None);
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            // a + is a + here, as it is to libpq
            let plain = pair.replace('+', "%2B");
            let Some((name, value)) = form_urlencoded::parse(plain.as_bytes()).next() else { continue };
            match name.as_ref() {
                "sslmode" | "ssl" => mode = Some(parse_mode(&name, &value)?),
                "sslrootcert" if value.is_empty() => bail!("DATABASE_URL: sslrootcert names no file"),
                "sslrootcert" => root = Some(value.into_owned()),
                _ => kept.push(pair),
            }
        }

        // To libpq `system` means the authorities the system trusts, and nothing less than a full check.
        let system = root.as_deref() == Some("system");
        let mode = match mode {
            None if system => Mode::VerifyFull,
            Some(weaker) if system && weaker != Mode::VerifyFull => {
                bail!("DATABASE_URL: sslrootcert=system goes only with sslmode=verify-full")
            }
            Some(Mode::Require) if root.is_some() => Mode::VerifyCa,
            mode => mode.unwrap_or(Mode::Prefer),
        };
        let root = root.filter(|_| !system);

        let separator = if kept.is_empty() { "" } else { "?" };
        let mut config: Config = format!("{base}{separator}{}", kept.join("&"))
            .parse()
            .map_err(|e| anyhow!("DATABASE_URL cannot be read: {}", causes(&e)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            bail!("DATABASE_URL names no host");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("voiceclone-events");
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if !kept.iter().any(|pair| pair.starts_with("keepalives_idle=")) {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        // As to libpq: there is no TLS on a Unix socket, whatever is asked for.
        let local = !config.get_hosts().is_empty()
            && config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)));
        let mode = if local { Mode::Disable } else { mode };
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Allow | Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        Ok(Target { config, mode, root })
    }

    async fn open(&self) -> ConnectionResult<AsyncPgConnection> {
        if self.mode == Mode::Disable {
            return self.open_plain().await;
        }
        let tls = self.tls().map_err(|e| ConnectionError::BadConnection(format!("{e:#}")))?;
        match self.config.connect(tls).await {
            Ok((client, connection)) => {
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            // such a server may still take a connection without TLS
            Err(error) if matches!(self.mode, Mode::Allow | Mode::Prefer) && tls_refused(&error) => {
                match self.open_plain().await {
                    Ok(connection) => Ok(connection),
                    Err(_) => Err(ConnectionError::BadConnection(causes(&error))),
                }
            }
            Err(error) => Err(ConnectionError::BadConnection(causes(&error))),
        }
    }

    async fn open_plain(&self) -> ConnectionResult<AsyncPgConnection> {
        let mut config = self.config.clone();
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(|e| ConnectionError::BadConnection(causes(&e)))?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    }

    fn tls(&self) -> anyhow::Result<MakeTlsConnector> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).context("OpenSSL")?;
        postgres_openssl::set_postgresql_alpn(&mut builder).context("OpenSSL")?;
        let verify_name = self.mode == Mode::VerifyFull;
        if !matches!(self.mode, Mode::VerifyCa | Mode::VerifyFull) {
            builder.set_verify(SslVerifyMode::NONE);
        } else if let Some(path) = &self.root {
            // in place of the system's authorities, not beside them
            let pem = std::fs::read(path).with_context(|| format!("sslrootcert: cannot read {path}"))?;
            let authorities = X509::stack_from_pem(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .with_context(|| format!("sslrootcert: {path} holds no PEM certificate"))?;
            let mut store = X509StoreBuilder::new().context("OpenSSL")?;
            for authority in authorities {
                store.add_cert(authority).with_context(|| format!("sslrootcert: {path}"))?;
            }
            builder.set_cert_store(store.build());
        }
        let mut tls = MakeTlsConnector::new(builder.build());
        tls.set_callback(move |connection, _| {
            connection.set_verify_hostname(verify_name);
            Ok(())
        });
        Ok(tls)
    }
}

fn parse_mode(name: &str, value: &str) -> anyhow::Result<Mode> {
    Ok(match value {
        "disable" => Mode::Disable,
        "allow" => Mode::Allow,
        "prefer" => Mode::Prefer,
        "require" => Mode::Require,
        "verify-ca" => Mode::VerifyCa,
        "verify-full" => Mode::VerifyFull,
        // as libpq takes it in a URL
        "true" if name == "ssl" => Mode::Require,
        _ => bail!(
            "DATABASE_URL: {name} is {value:?}, but must be disable, allow, prefer, require, verify-ca or verify-full"
        ),
    })
}

/// Whether TLS failed, or `pg_hba.conf` has no place for a connection with it.
fn tls_refused(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || error.to_string().starts_with("error performing TLS handshake")
}

/// An error with all that lies behind it: `tokio-postgres` itself says little more than "db error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn mode(query: &str) -> (Mode, Option<String>) {
        let target = Target::parse(&format!("postgresql://u:p@db:5432/voice_clones{query}")).unwrap();
        (target.mode, target.root)
    }

    fn refusal(url: &str) -> String {
        format!("{:#}", Target::parse(url).err().expect("should have been refused"))
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        assert_eq!(mode(""), (Mode::Prefer, None));
        assert_eq!(mode("?sslmode=disable"), (Mode::Disable, None));
        assert_eq!(mode("?sslmode=allow"), (Mode::Allow, None));
        assert_eq!(mode("?sslmode=require"), (Mode::Require, None));
        assert_eq!(mode("?ssl=require"), (Mode::Require, None));
        assert_eq!(mode("?ssl=true"), (Mode::Require, None));
        assert_eq!(mode("?sslmode=require&sslrootcert=/ca.pem"), (Mode::VerifyCa, Some("/ca.pem".into())));
        assert_eq!(mode("?sslrootcert=%2Fa%20b%2Bc+d&sslmode=verify-full").1.unwrap(), "/a b+c+d");
        assert_eq!(mode("?sslmode=verify-full"), (Mode::VerifyFull, None));
        assert_eq!(mode("?sslrootcert=system"), (Mode::VerifyFull, None));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        let text = refusal("postgresql://u:geheim@db/x?sslmode=verify_full");
        assert!(text.contains("sslmode") && text.contains("verify_full"), "{text}");
        let text = refusal("postgresql://u:geheim@db/x?ssl=yes");
        assert!(text.contains("ssl is \"yes\""), "{text}");
        assert!(refusal("postgresql://u:geheim@db/x?sslrootcert=").contains("sslrootcert"));
        assert!(refusal("postgresql://u:geheim@db/x?sslrootcert=system&sslmode=require").contains("sslmode"));
        let text = refusal("postgresql://u:geheim@db/x?sslkey=/k");
        assert!(text.contains("sslkey"), "{text}");
        assert!(!text.contains("geheim"), "{text}");
        let text = refusal("postgresql://u:geheim@db:port/x");
        assert!(text.contains("port") && !text.contains("geheim"), "{text}");
        assert!(refusal("mysql://u:geheim@db/x").contains("postgresql://"));
        assert!(refusal("postgresql:///x").contains("host"));
    }

    #[test]
    fn the_rest_of_the_url_reaches_the_driver() {
        let url = "postgresql://us%40er:p%3Fw?1@a,b:5433/voice_clones?ssl=require&application_name=x&connect_timeout=2";
        let config = Target::parse(url).unwrap().config;
        assert_eq!(config.get_user(), Some("us@er"));
        assert_eq!(config.get_password(), Some("p?w?1".as_bytes()));
        assert_eq!(config.get_hosts().len(), 2);
        assert_eq!(config.get_dbname(), Some("voice_clones"));
        assert_eq!(config.get_application_name(), Some("x"));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn what_the_url_leaves_open_has_defaults() {
        let config = Target::parse("postgres://u@db/x").unwrap().config;
        assert_eq!(config.get_application_name(), Some("voiceclone-events"));
        assert_eq!(config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert!(config.get_keepalives());
        assert_eq!(config.get_keepalives_idle(), KEEPALIVES_IDLE);
        assert_eq!(config.get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn a_unix_socket_has_no_tls() {
        for url in
            ["postgresql://u@%2Ftmp/x?sslmode=verify-full", "postgresql://u@/x?host=/tmp&sslmode=require"]
        {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.mode, target.config.get_ssl_mode()), (Mode::Disable, SslMode::Disable));
        }
    }
}
