//! Expiry of the voice cache (contract, section 5). Rows past their time get `deleted_at`, and their events are
//! queued in the outbox, both in one small transaction.

use std::time::Duration;

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamp};
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use super::{Fault, Store};

/// Progress of an expiry run: `ttl_expires_at` of the last row that it expired.
///
/// A chunk begins there; otherwise it would walk over everything that expired before. Rows behind it (locked by
/// another instance, or changed at that moment) are left to the next run, which begins at the start.
#[derive(Debug)]
pub struct ExpiryCursor {
    from: PgTimestamp,
    traceparent: Option<String>,
}

impl Default for ExpiryCursor {
    fn default() -> ExpiryCursor {
        ExpiryCursor { from: PgTimestamp(i64::MIN), traceparent: None } // PostgreSQL's -infinity
    }
}

impl ExpiryCursor {
    /// Begins a run whose events are published with this `traceparent`.
    pub fn traced(traceparent: Option<String>) -> ExpiryCursor {
        ExpiryCursor { traceparent, ..ExpiryCursor::default() }
    }
}

/// The outcome of a chunk.
#[derive(diesel::QueryableByName)]
struct ExpiredChunk {
    #[diesel(sql_type = BigInt)]
    due: i64,
    #[diesel(sql_type = BigInt)]
    expired: i64,
    #[diesel(sql_type = Nullable<Timestamp>)]
    reached: Option<PgTimestamp>,
}

/// The rows that `due` has locked cannot change, but they are updated as they were when the statement began: a row
/// that was changed before it was locked is not found. The conditions are repeated because a `ctid` is unique only
/// within one table, and another tool's table may be partitioned. `IS TRUE` keeps the index out of it.
///
/// All rows of a chunk get the same `deleted_at`. The age is computed from seconds, as times may be infinite.
///
/// Raw SQL: Diesel has no WITH.
const EXPIRE: &str = "WITH due AS (
        SELECT ctid FROM public.voice_clone_cache
        WHERE deleted_at IS NULL AND ttl_expires_at < now() AT TIME ZONE 'utc' AND ttl_expires_at >= $1
        ORDER BY ttl_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED),
    expired AS (
        UPDATE public.voice_clone_cache SET deleted_at = now() AT TIME ZONE 'utc'
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM due))
          AND (deleted_at IS NULL AND ttl_expires_at < now() AT TIME ZONE 'utc') IS TRUE
        RETURNING id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at, reuse_count, last_used_at,
                  deleted_at),
    queued AS (
        INSERT INTO ingest.outbox (expired_at, ids, caller_ids, cloned_voice_ids, clone_created_ats,
                                   ttl_expires_ats, reuse_counts, last_used_ats, traceparent)
        SELECT max(deleted_at), array_agg(id), array_agg(caller_id), array_agg(cloned_voice_id),
               array_agg(clone_created_at), array_agg(ttl_expires_at), array_agg(reuse_count),
               array_agg(last_used_at), $4
        FROM expired
        WHERE $3 IS NULL
           OR (extract(epoch FROM deleted_at) - extract(epoch FROM ttl_expires_at)) * 1000000 <= $3
        HAVING count(*) > 0)
    SELECT (SELECT count(*) FROM due) AS due, count(*) AS expired, max(ttl_expires_at) AS reached FROM expired";

impl Store {
    /// Expires at most `most` rows, the longest overdue first, from `cursor` on. Rows locked by another instance are
    /// left to it. Rows that expired longer ago than `max_age` are deleted without an event. Returns the number of
    /// expired rows, and whether there may be more.
    pub async fn expire(
        &self,
        cursor: &mut ExpiryCursor,
        most: i64,
        max_age: Option<Duration>,
    ) -> Result<(usize, bool), Fault> {
        let max_age = max_age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let (from, traceparent) = (cursor.from, cursor.traceparent.clone());
        let mut connection = self.connection().await?;
        let chunk = connection
            .transaction::<ExpiredChunk, Fault, _>(async |connection| {
                // With stale statistics PostgreSQL expects few rows. For each chunk it would then read and sort all
                // due rows instead of following the index.
                connection.batch_execute("SET LOCAL enable_sort TO off").await?;
                let chunk = diesel::sql_query(EXPIRE)
                    .bind::<Timestamp, _>(from)
                    .bind::<BigInt, _>(most)
                    .bind::<Nullable<BigInt>, _>(max_age)
                    .bind::<Nullable<Text>, _>(traceparent)
                    .get_result(connection)
                    .await?;
                Ok(chunk)
            })
            .await?;
        if let Some(last) = chunk.reached {
            cursor.from = last;
        }
        Ok((usize::try_from(chunk.expired).unwrap_or(0), chunk.due >= most))
    }
}
