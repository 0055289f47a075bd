//! Long-running statements, and what they wait for. Raw SQL: PostgreSQL's catalogs are not in `schema.rs`.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Integer, Text};
use diesel_async::RunQueryDsl;

use super::{Fault, Store};

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

impl Store {
    /// The statements of this process that have been running for longer than `time`. Asks the server only if a
    /// connection has been in use for that long.
    pub async fn waiting(&self, time: Duration) -> Result<Vec<LongStatement>, Fault> {
        let backends = self.pool.in_use_for(time);
        if backends.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection().await?;
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
        Ok(statements
            .bind::<Array<Integer>, _>(backends)
            .bind::<Integer, _>(milliseconds)
            .load(&mut *connection)
            .await?)
    }
}
