//! Connections to PostgreSQL: the choice of a server of the URL, and the check that its sessions can be used.

mod certificates;
mod pool;
mod remedy;
mod session;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio_postgres::config::{Config, Host, SslMode};

use crate::database_url::{self, CONNECT_TIMEOUT, ParsedUrl, ServerAddress, tls};
pub use certificates::certificates;
pub(super) use pool::pg_backend_pid;
pub use pool::{Pool, Pooled, pool, waiting_pool};
pub use remedy::remedy;
use session::{Fit, ServerFacts, Trial, Wire};

use crate::config::SettingError;

/// How long TLS and the login may take once a server is reached.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection. The texts are the server's and the driver's, with host and port; neither quotes the URL
/// or the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Retrying cannot help: a person must act.
    #[error("{0}")]
    Person(String),
    /// Retrying may help.
    #[error("{0}")]
    Away(String),
}

/// A connection, its server, and the server's facts.
struct Opened {
    connection: AsyncPgConnection,
    place: String,
    facts: ServerFacts,
}

/// Opens one connection, its time zone UTC and, where the role may choose, its messages in English. A pooler that
/// mixes sessions up is refused before anything is set in a session.
pub async fn connect(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let target = database_url::parse(url)
        .map_err(|problem| ConnectionError::InvalidConnectionUrl(problem.to_string()))?;
    match open(&target, &Trial::default()).await {
        Ok(opened) => Ok(opened.connection),
        Err(refusal) => Err(ConnectionError::BadConnection(refusal.to_string())),
    }
}

/// As [`connect`], but refuses a database that the daemon cannot work with.
pub async fn look_over(url: &str) -> Result<AsyncPgConnection, ConnectError> {
    let target = database_url::parse(url)
        .map_err(|problem| ConnectError::Person(format!("DATABASE_URL {problem}")))?;
    let mut opened = open(&target, &Trial::default()).await?;
    match encoding_problem(&mut opened.connection).await {
        Ok(None) => Ok(opened.connection),
        Ok(Some(problem)) => Err(ConnectError::Person(problem)),
        Err(error) => Err(ConnectError::Away(format!("{}: {error}", opened.place))),
    }
}

/// Checks for a pooler that mixes sessions up. [`ConnectError::Person`] has the remedy.
pub async fn pooler(url: &str) -> Result<(), ConnectError> {
    let target = database_url::parse(url)
        .map_err(|problem| ConnectError::Person(format!("DATABASE_URL {problem}")))?;
    open(&target, &Trial::default()).await.map(drop)
}

/// The problem of a database whose encoding is not UTF8, and the remedy.
pub async fn encoding_problem(connection: &mut AsyncPgConnection) -> diesel::QueryResult<Option<String>> {
    let query = diesel::dsl::sql::<diesel::sql_types::Text>("current_setting('server_encoding')");
    let encoding: String = diesel::select(query).get_result(connection).await?;
    if encoding == "UTF8" {
        return Ok(None);
    }
    Ok(Some(format!(
        "the database's encoding is {encoding}, and events hold any character of Unicode: make another database with \
         CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, move what this one holds with pg_dump, and name it \
         in DATABASE_URL"
    )))
}

/// Checks the files that the URL names, before anything is contacted.
pub fn check_files(url: &str) -> Result<(), SettingError> {
    let error = |problem: String, remedy: &str| Err(SettingError::new("DATABASE_URL", problem, remedy));
    let target = match database_url::parse(url) {
        Ok(target) => target,
        Err(database_url::UrlProblem { problem, remedy }) => return error(problem, &remedy),
    };
    if let Err(why) = target.tls.connector() {
        return error(
            format!("names a file that cannot be used ({why:#})"),
            "correct sslrootcert, sslcert or sslkey",
        );
    }
    match target.passfile.map(std::fs::read_to_string) {
        Some(Err(why)) => {
            error(format!("names a passfile that cannot be read ({why})"), "correct passfile, or remove it")
        }
        _ => Ok(()),
    }
}

/// Opens a connection to the first server that satisfies `target_session_attrs`. Holds the `trial` unless it was
/// passed.
async fn open(target: &ParsedUrl, trial: &Trial) -> Result<Opened, ConnectError> {
    let (mut reasons, mut second_best) = (Vec::new(), None);
    let mut chosen = None;
    for place in addresses(target, &mut reasons).await {
        match reach(target, &place).await {
            Err(reason) => reasons.push(format!("{place}: {reason}")),
            Ok((wire, facts)) => match target.attrs.fit(&facts) {
                Fit::Good => {
                    chosen = Some((place, wire, facts));
                    break;
                }
                Fit::SecondBest => second_best = second_best.or(Some((place, wire, facts))),
                Fit::Bad(reason) => reasons.push(format!("{place}: {reason}")),
            },
        }
    }
    let Some((place, mut wire, facts)) = chosen.or(second_best) else {
        return Err(ConnectError::Away(reasons.join("; ")));
    };
    let name = place.to_string();
    trial.hold(&mut wire, target, &place, facts.backend).await?;
    let set_up = async {
        let mut connection = wire.into_diesel().await.map_err(|error| error.to_string())?;
        session::set_up(&mut connection).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(connection)
    };
    match tokio::time::timeout(LOGIN_TIMEOUT, set_up).await {
        Ok(Ok(connection)) => Ok(Opened { connection, place: name, facts }),
        Ok(Err(reason)) => Err(ConnectError::Away(format!("{name}: {reason}"))),
        Err(_) => Err(ConnectError::Away(format!("{name}: {}", silence(LOGIN_TIMEOUT)))),
    }
}

/// All addresses of all hosts, in order. A host without an address adds to `reasons`.
async fn addresses(target: &ParsedUrl, reasons: &mut Vec<String>) -> Vec<ServerAddress> {
    let mut all = Vec::new();
    for place in &target.places {
        let Host::Tcp(name) = &place.host else {
            all.push(place.clone());
            continue;
        };
        if place.address.is_some() {
            all.push(place.clone());
            continue;
        }
        let found = tokio::net::lookup_host((name.as_str(), place.port));
        match tokio::time::timeout(CONNECT_TIMEOUT, found).await {
            Ok(Ok(found)) => {
                let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                found.dedup();
                all.extend(
                    found
                        .into_iter()
                        .map(|address| ServerAddress { address: Some(address), ..place.clone() }),
                );
            }
            Ok(Err(error)) => reasons.push(format!("{place}: {error}")),
            Err(_) => reasons.push(format!("{place}: no answer to the lookup of the host's address")),
        }
    }
    if target.shuffled {
        use std::hash::{BuildHasher as _, RandomState};
        let random = RandomState::new();
        all.sort_by_cached_key(|place| random.hash_one(place.to_string()));
    }
    all
}

/// Connects to one address, and asks the server for its facts.
async fn reach(target: &ParsedUrl, place: &ServerAddress) -> Result<(Wire, ServerFacts), String> {
    let mut config = target.config.clone();
    match (&place.host, place.address) {
        (Host::Tcp(name), Some(address)) => config.host(name).hostaddr(address),
        (Host::Tcp(name), None) => config.host(name),
        (Host::Unix(path), _) => config.host_path(path),
    };
    config.port(place.port);
    if let (None, Some(path)) = (config.get_password(), &target.passfile)
        && let Some(password) = password_from(path, &config, place)
    {
        config.password(password);
    }
    let limit =
        config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT).saturating_add(LOGIN_TIMEOUT);
    let attempt = async {
        let mut wire = log_in(target, &config).await?;
        let facts = ServerFacts::ask(&mut wire).await?;
        Ok((wire, facts))
    };
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err(silence(limit)))
}

/// `sslmode` means what it means to libpq. `allow` and `prefer` (the default) use TLS if the server offers it, and go
/// on without it otherwise. `require` insists on it. `verify-ca` and `verify-full` check the certificate. `require`
/// with an `sslrootcert` is `verify-ca`. Without an `sslrootcert` the system's authorities are trusted.
async fn log_in(target: &ParsedUrl, config: &Config) -> Result<Wire, String> {
    let local = config.get_hosts().iter().any(|host| !matches!(host, Host::Tcp(_)));
    let mode = if local { SslMode::Disable } else { target.tls.driver_mode() };
    if mode == SslMode::Disable {
        return log_in_plain(config).await.map_err(explain);
    }
    let connector = target.tls.connector().map_err(|error| format!("{error:#}"))?;
    match config.clone().ssl_mode(mode).connect(connector).await {
        Ok((client, connection)) => Ok(Wire::Tls(client, connection)),
        // the server may still take a connection without TLS
        Err(error) if target.tls.may_go_without() && tls::was_refused(&error) => {
            log_in_plain(config).await.map_err(|_| explain(error))
        }
        Err(error) => Err(explain(error)),
    }
}

async fn log_in_plain(config: &Config) -> Result<Wire, tokio_postgres::Error> {
    let connected = config.clone().ssl_mode(SslMode::Disable).connect(tokio_postgres::NoTls).await;
    connected.map(|(client, connection)| Wire::Plain(client, connection))
}

/// The server's own reason, with the remedy if its words do not suggest one.
fn explain(error: tokio_postgres::Error) -> String {
    let mut text = causes(&error);
    // a pooler's words, which are always English
    if text.contains("unsupported startup parameter") {
        text.push_str(
            " (a pooler said so: remove that parameter from DATABASE_URL, or name it in the pooler's \
             ignore_startup_parameters)",
        );
    }
    text
}

fn silence(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// The password from a file in libpq's format (`host:port:database:user:password`).
fn password_from(path: &Path, config: &Config, place: &ServerAddress) -> Option<String> {
    let host = match &place.host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let user = config.get_user().unwrap_or_default();
    let wanted =
        [host, place.port.to_string(), config.get_dbname().unwrap_or(user).to_owned(), user.to_owned()];
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (mut fields, mut escaped) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\\' if !escaped => escaped = true,
                ':' if !escaped && fields.len() < 5 => fields.push(String::new()),
                c => {
                    escaped = false;
                    fields.last_mut()?.push(c);
                }
            }
        }
        let password = (fields.len() == 5).then(|| fields.pop())??;
        fields.iter().zip(&wanted).all(|(field, wanted)| field == "*" || field == wanted).then_some(password)
    })
}

/// An error with all its causes, as `tokio-postgres` itself says little more than "db error", and the server's
/// SQLSTATE: a server that refuses a login says so in its own language.
fn causes(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    if let Some(code) = error.code() {
        text = format!("{text} (SQLSTATE {})", code.code());
    }
    text
}
