//! Long-running statements, and what they wait for. Raw SQL: PostgreSQL's catalogs are not in `schema.rs`.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tracing::warn;

use super::connect::connect;
use super::{Fault, Store};

/// A statement that takes longer is logged.
pub const LONG: Duration = Duration::from_secs(5);

/// A long-running statement.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct LongStatement {
    /// The first word of the statement.
    #[diesel(sql_type = Text)]
    pub statement: String,
    /// Seconds since it was sent.
    #[diesel(sql_type = BigInt)]
    pub seconds: i64,
    /// `wait_event_type` and `wait_event` of `pg_stat_activity`: `IPC SyncRep`, `Lock relation`; empty while it
    /// executes.
    #[diesel(sql_type = Text)]
    pub waits_for: String,
    /// The sessions that block the statement: process, role and application of each.
    #[diesel(sql_type = Text)]
    pub blocked_by: String,
}

impl LongStatement {
    /// Logs the statement, with the number of other long-running ones.
    pub fn report(&self, others: usize) {
        let waits_for = if self.waits_for.is_empty() { "nothing: it works" } else { &self.waits_for };
        let hint = if waits_for.ends_with("SyncRep") {
            ": no standby of synchronous_standby_names confirms it"
        } else if waits_for.starts_with("Lock") {
            ": another session holds a lock"
        } else {
            ""
        };
        warn!(
            statement = self.statement,
            seconds = self.seconds,
            waits_for,
            blocked_by = self.blocked_by,
            others,
            "PostgreSQL has not finished a statement{hint}"
        );
    }
}

/// Waits for the work of a server process. The first of its statements that takes long is logged, if there is a
/// connection to ask on.
pub(super) async fn watched<T>(url: &str, backend: i32, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(LONG, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                let Ok(mut connection) = connect(url).await else { continue };
                if let Ok(statements) = long(&mut connection, vec![backend], LONG).await
                    && let [statement, ..] = statements.as_slice()
                {
                    statement.report(0);
                    drop(connection);
                    return work.await;
                }
            }
        }
    }
}

impl Store {
    /// The statements of this process that have been running for longer than `time`. Asks the server only if a
    /// connection has been in use for that long.
    pub async fn waiting(&self, time: Duration) -> Result<Vec<LongStatement>, Fault> {
        let backends = self.pool.in_use_for(time);
        if backends.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection().await?;
        Ok(long(&mut connection, backends, time).await?)
    }
}

/// The statements of these server processes that have been running for longer than `time`.
async fn long(
    connection: &mut AsyncPgConnection,
    backends: Vec<i32>,
    time: Duration,
) -> diesel::QueryResult<Vec<LongStatement>> {
    let statements = diesel::sql_query(
            "SELECT upper(split_part(ltrim(a.query), ' ', 1)) AS statement,
                    extract(epoch FROM clock_timestamp() - a.query_start)::bigint AS seconds,
                    concat_ws(' ', a.wait_event_type, a.wait_event) AS waits_for,
                    COALESCE((SELECT string_agg(format('process %s, role %s, application %s', b.pid, b.usename,
                                                       b.application_name), '; ')
                              FROM pg_catalog.pg_stat_activity b
                              WHERE b.pid = ANY(pg_blocking_pids(a.pid))), '') AS blocked_by
             FROM pg_catalog.pg_stat_activity a
             WHERE a.pid = ANY($1) AND a.pid <> pg_backend_pid() AND a.state = 'active'
                   AND a.query_start < clock_timestamp() - $2 * interval '1 ms'
             ORDER BY a.query_start",
        );
    let milliseconds = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    statements.bind::<Array<Integer>, _>(backends).bind::<Integer, _>(milliseconds).load(connection).await
}
