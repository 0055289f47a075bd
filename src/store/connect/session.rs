//! One session: the facts of its server, the check that one process serves it throughout, and its settings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::ConnectionResult;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::{Either, select};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, SimpleQueryMessage, Socket};

use super::{ConnectError, causes, reach};
use crate::database_url::{Attrs, ParsedUrl, ServerAddress};

/// How long a transaction may wait for this program, unless the server has another limit: well above the time that a
/// broker may take for records published within one.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);
/// Timeout of a query before the session is used.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Rounds of the pooler trial. One round finds an idle pooler; the others find one that other clients keep busy.
const ROUNDS: u32 = 6;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(15);

/// A connection that is not Diesel's yet, as Diesel begins with a SET.
pub(super) enum Wire {
    Plain(Client, Connection<Socket, NoTlsStream>),
    Tls(Client, Connection<Socket, postgres_openssl::TlsStream<Socket>>),
}

impl Wire {
    /// Returns the values of the last row of a query, or none if there is no row.
    pub async fn ask(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let answer = async {
            match self {
                Wire::Plain(client, connection) => drive(client, connection, sql).await,
                Wire::Tls(client, connection) => drive(client, connection, sql).await,
            }
        };
        let messages = match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| causes(&error))?,
            Err(_) => return Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        let mut values = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                values = (0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect();
            }
        }
        Ok(values)
    }

    pub async fn into_diesel(self) -> ConnectionResult<AsyncPgConnection> {
        match self {
            Wire::Plain(client, connection) => {
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            Wire::Tls(client, connection) => {
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        }
    }
}

async fn drive<S>(
    client: &Client,
    connection: &mut Connection<Socket, S>,
    sql: &str,
) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>
where
    S: tokio_postgres::tls::TlsStream + Unpin,
{
    let question = std::pin::pin!(client.simple_query(sql));
    match select(question, connection).await {
        Either::Left((answer, _)) => answer,
        // the connection has ended: its last answer or its error can be read
        Either::Right((_, question)) => question.await,
    }
}

/// A server's facts, as asked on a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerFacts {
    /// The process that serves the session.
    pub backend: i32,
    pub in_recovery: bool,
    pub read_only: bool,
    /// Differs after a failover, a restart or a restored backup.
    pub server: String,
}

impl ServerFacts {
    pub async fn ask(wire: &mut Wire) -> Result<ServerFacts, String> {
        let values = wire
            .ask(
                "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only'),
                        concat_ws(' ', host(inet_server_addr()), inet_server_port(), pg_postmaster_start_time())",
            )
            .await?;
        let [backend, in_recovery, read_only, server] = values.as_slice() else {
            return Err("the server does not answer as PostgreSQL does".to_owned());
        };
        Ok(ServerFacts {
            backend: backend.parse().map_err(|_| "the server does not say its process id".to_owned())?,
            in_recovery: in_recovery == "t",
            read_only: read_only == "on",
            server: server.clone(),
        })
    }

    fn why_no_writes(&self) -> &'static str {
        if self.in_recovery {
            "it takes no writes, as it is a standby"
        } else {
            "it takes no writes, as default_transaction_read_only is on"
        }
    }
}

/// Whether a server satisfies `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Good,
    /// Used if no server is good.
    SecondBest,
    Bad(&'static str),
}

impl Attrs {
    pub(super) fn fit(self, facts: &ServerFacts) -> Fit {
        match self {
            Attrs::Any => Fit::Good,
            Attrs::Unset if facts.read_only => Fit::SecondBest,
            Attrs::PreferStandby if !facts.in_recovery => Fit::SecondBest,
            Attrs::ReadWrite if facts.read_only => Fit::Bad(facts.why_no_writes()),
            Attrs::ReadOnly if !facts.read_only => {
                Fit::Bad("it takes writes, and target_session_attrs is read-only")
            }
            Attrs::Primary if facts.in_recovery => Fit::Bad("it is a standby"),
            Attrs::Standby if !facts.in_recovery => Fit::Bad("it is no standby"),
            _ => Fit::Good,
        }
    }

    /// Whether a session that turns read-only is no longer good.
    pub fn wants_writes(self) -> bool {
        matches!(self, Attrs::Unset | Attrs::Any | Attrs::ReadWrite | Attrs::Primary)
    }
}

/// Whether each session is known to have a server process of its own.
#[derive(Debug, Default)]
pub(super) struct Trial {
    passed: AtomicBool,
    /// One trial at a time, as each takes one more connection.
    running: tokio::sync::Mutex<()>,
    /// The processes of the open sessions.
    backends: std::sync::Mutex<Vec<i32>>,
}

impl Trial {
    /// Requires a new trial, as there is a doubt or no session is left.
    pub fn doubt(&self) {
        self.passed.store(false, Ordering::Relaxed);
    }

    fn backends(&self) -> std::sync::MutexGuard<'_, Vec<i32>> {
        self.backends.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn note_open(&self, backend: i32) {
        self.backends().push(backend);
    }

    pub fn note_closed(&self, backend: i32) {
        let mut backends = self.backends();
        if let Some(at) = backends.iter().position(|open| *open == backend) {
            backends.swap_remove(at);
        }
        if backends.is_empty() {
            // a pooler that was restarted may be configured differently
            self.doubt();
        }
    }

    /// Detects a pooler that gives each transaction or statement another server process. Sets nothing in the session.
    ///
    /// Such a pooler serves two clients by one process, and one client by several. The processes of both connections
    /// are therefore compared while the second has a transaction open, and again after it.
    pub async fn hold(
        &self,
        wire: &mut Wire,
        target: &ParsedUrl,
        place: &ServerAddress,
        backend: i32,
    ) -> Result<(), ConnectError> {
        let _running = self.running.lock().await;
        let is_shared = self.backends().contains(&backend);
        if self.passed.load(Ordering::Relaxed) && !is_shared {
            return Ok(());
        }
        let mut second = reach(target, place).await;
        for _ in 0..2 {
            if !second.as_ref().is_err_and(|reason| is_limit(reason)) {
                break;
            }
            tokio::time::sleep(BETWEEN_ROUNDS * 10).await;
            second = reach(target, place).await;
        }
        match second {
            Ok((mut second, _)) => {
                compare(wire, &mut second, &place.to_string(), &backend.to_string()).await?;
            }
            // the role may have one connection only
            Err(reason) if is_limit(&reason) => tracing::warn!(
                "whether {place} is a pooler that mixes sessions up was not tried, as there is no second connection: \
                 {reason}"
            ),
            Err(reason) => return Err(ConnectError::Away(format!("{place}: {reason}"))),
        }
        self.passed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a connection was refused because there are too many: by PostgreSQL, or by a pooler in its own words.
fn is_limit(reason: &str) -> bool {
    let limits = ["SQLSTATE 53300", "no more connections allowed"];
    limits.iter().any(|limit| reason.contains(limit))
}

async fn compare(
    first: &mut Wire,
    second: &mut Wire,
    place: &str,
    backend: &str,
) -> Result<(), ConnectError> {
    const WHO: &str = "SELECT pg_backend_pid()";
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
        // One after the other: where a pooler has one process only, the transaction would hold up the first session.
        if ask(first, WHO, place).await? != backend
            || ask(second, &format!("BEGIN; {WHO}"), place).await? == backend
            || ask(first, WHO, place).await? != backend
            || ask(second, &format!("COMMIT; {WHO}"), place).await? == backend
        {
            return Err(ConnectError::Person(pooler(
                place,
                "two sessions were served by one server process, or one session by several",
            )));
        }
    }
    Ok(())
}

async fn ask(wire: &mut Wire, sql: &str, place: &str) -> Result<String, ConnectError> {
    match wire.ask(sql).await {
        Ok(values) => Ok(values.into_iter().next().unwrap_or_default()),
        // PgBouncer's words
        Err(reason) if reason.contains("statement pooling mode") => {
            Err(ConnectError::Person(pooler(place, &reason)))
        }
        Err(reason) => Err(ConnectError::Away(format!("{place}: {reason}"))),
    }
}

/// The problem of a pooler in transaction or statement mode, and the remedy.
pub(super) fn pooler(place: &str, evidence: &str) -> String {
    format!(
        "{place} is a connection pooler that gives each transaction another session of PostgreSQL ({evidence}): set \
         pool_mode=session for this database and user in the pooler, or name PostgreSQL itself in DATABASE_URL"
    )
}

/// Sets the time zone to UTC, and the settings that the daemon's statements rely on.
pub(super) async fn set_up(connection: &mut AsyncPgConnection) -> diesel::QueryResult<()> {
    // Error texts are read (`store::fault`), so they must be in English. PostgreSQL lets superusers choose the
    // language, and from version 15 on also the roles that they allow. Asking first keeps refusals out of the
    // server's log.
    let english =
        "SELECT set_config('lc_messages', 'C', false) WHERE has_parameter_privilege('lc_messages', 'SET')";
    if let Err(error) = connection.batch_execute(english).await {
        tracing::debug!(%error, "the server's messages stay in its own language");
    }
    // A session that waited for a lock must see what its holder wrote, even if the role has another default
    // isolation. Rows are looked up by their keys: a plan that is cached while a table is small would read all of it
    // when it has grown. JIT compilation takes longer than the statement. A process that is halted, or whose host is
    // lost, in the middle of a transaction must not keep its locks.
    let session = format!(
        "SET default_transaction_isolation TO 'read committed';
         SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off;
         SET jit TO off;
         SELECT set_config('idle_in_transaction_session_timeout', '{}', false)
         WHERE current_setting('idle_in_transaction_session_timeout') = '0'",
        IDLE_IN_TRANSACTION.as_millis()
    );
    connection.batch_execute(&session).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_session_attrs_means_what_it_means_to_libpq() {
        let server = |in_recovery, read_only| ServerFacts {
            backend: 1,
            in_recovery,
            read_only,
            server: String::new(),
        };
        let (primary, standby, halted) = (server(false, false), server(true, true), server(false, true));
        let fits = |attrs: Attrs| [&primary, &standby, &halted].map(|facts| attrs.fit(facts) == Fit::Good);
        assert_eq!(fits(Attrs::Any), [true, true, true]);
        assert_eq!(fits(Attrs::ReadWrite), [true, false, false]);
        assert_eq!(fits(Attrs::ReadOnly), [false, true, true]);
        assert_eq!(fits(Attrs::Primary), [true, false, true]);
        assert_eq!(fits(Attrs::Standby), [false, true, false]);
        assert_eq!(fits(Attrs::PreferStandby), [false, true, false]);
        assert_eq!(Attrs::PreferStandby.fit(&primary), Fit::SecondBest);
        // without it: of several servers one that takes writes, and a single server as it is
        assert_eq!(fits(Attrs::Unset), [true, false, false]);
        assert_eq!(Attrs::Unset.fit(&standby), Fit::SecondBest);
    }
}
