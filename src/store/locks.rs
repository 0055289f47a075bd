//! Holders of locks on the tables, for the log of a write that waited for one in vain. Raw SQL: PostgreSQL's catalogs
//! are not in `schema.rs`.

use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use super::{Fault, Store};

#[derive(diesel::QueryableByName)]
struct Holder {
    #[diesel(sql_type = Text)]
    holder: String,
}

impl Store {
    /// Other sessions that hold a lock against writes on a table of this program: `process 4711 (psql, idle in
    /// transaction) on call_log`.
    pub async fn lock_holders(&self) -> Result<Vec<String>, Fault> {
        let mut connection = self.connection().await?;
        let holders: Vec<Holder> = diesel::sql_query(
            "SELECT format('process %s (%s, %s) on %s', l.pid,
                           COALESCE(NULLIF(a.application_name, ''), 'no application name'),
                           COALESCE(a.state, 'in an unknown state'), string_agg(c.relname, ', ' ORDER BY c.relname))
                    AS holder
             FROM pg_catalog.pg_locks l
             JOIN pg_catalog.pg_class c ON c.oid = l.relation
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
             WHERE l.granted AND l.locktype = 'relation' AND n.nspname IN ('public', 'ingest') AND c.relkind IN ('r', 'p')
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
               AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
             GROUP BY l.pid, a.application_name, a.state
             ORDER BY l.pid LIMIT 5",
        )
        .load(&mut connection)
        .await?;
        Ok(holders.into_iter().map(|row| row.holder).collect())
    }
}
