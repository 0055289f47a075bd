//! The database's part of the metrics: one statement, every part of it bounded. Raw SQL: Diesel has no WITH.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Double, Text};
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use super::{Fault, Store};
use crate::event::Reason;

/// Maximum number of rows that a count reads. A greater count is shown as this number.
const COUNTED: i64 = 100_000;

/// Number of cache rows that are looked at: those that became due last. The expiry takes the oldest first.
const CAME_DUE_LAST: i64 = 20_000;

/// The values. Ages are in seconds, and 0 if there is nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Unresolved dead letters, by reason.
    pub unresolved: Vec<(Reason, i64)>,
    /// Dead letters that the broker refuses because of what they contain.
    pub unpublishable: i64,
    /// The other dead letters to be published, and the age of the oldest.
    pub letters: (i64, f64),
    /// `clone.expired` events to be published, and the age of the oldest.
    pub outbox: (i64, f64),
    /// Cache rows past their time, and how long the first of them is overdue.
    pub overdue: (i64, f64),
}

#[derive(diesel::QueryableByName)]
struct SampleRow {
    #[diesel(sql_type = Array<Text>)]
    reasons: Vec<String>,
    #[diesel(sql_type = Array<BigInt>)]
    unresolved: Vec<i64>,
    #[diesel(sql_type = BigInt)]
    unpublishable: i64,
    #[diesel(sql_type = BigInt)]
    letters: i64,
    #[diesel(sql_type = Double)]
    letters_seconds: f64,
    #[diesel(sql_type = BigInt)]
    outbox: i64,
    #[diesel(sql_type = Double)]
    outbox_seconds: f64,
    #[diesel(sql_type = BigInt)]
    overdue: i64,
    #[diesel(sql_type = Double)]
    overdue_seconds: f64,
}

const ASK: &str = "WITH
    unresolved AS (
        SELECT reason, count(*) AS count
        FROM (SELECT reason FROM ingest.dead_letters WHERE resolved_at IS NULL LIMIT $1) AS l GROUP BY reason),
    letters AS (
        SELECT count(*) FILTER (WHERE unpublishable IS NOT NULL) AS unpublishable,
               count(*) FILTER (WHERE unpublishable IS NULL) AS count,
               min(created_at) FILTER (WHERE unpublishable IS NULL) AS first_at
        FROM (SELECT created_at, unpublishable FROM ingest.dead_letters WHERE published_at IS NULL LIMIT $1) AS l),
    outbox AS (
        SELECT COALESCE(sum(cardinality(ids)), 0)::bigint AS count, min(created_at) AS first_at
        FROM (SELECT ids, created_at FROM ingest.outbox LIMIT $1) AS o),
    overdue AS (
        SELECT count(*) AS count, min(ttl_expires_at) AS first_at
        FROM (SELECT ttl_expires_at, deleted_at FROM public.voice_clone_cache
              WHERE ttl_expires_at < now() AT TIME ZONE 'utc' ORDER BY ttl_expires_at DESC LIMIT $2) AS c
        WHERE deleted_at IS NULL),
    clock AS (SELECT now() AT TIME ZONE 'utc' AS time)
    SELECT ARRAY(SELECT reason::text FROM unresolved ORDER BY reason) AS reasons,
           ARRAY(SELECT count FROM unresolved ORDER BY reason) AS unresolved,
           l.unpublishable, l.count AS letters,
           GREATEST(COALESCE(extract(epoch FROM time - l.first_at), 0), 0)::double precision AS letters_seconds,
           o.count AS outbox,
           GREATEST(COALESCE(extract(epoch FROM time - o.first_at), 0), 0)::double precision AS outbox_seconds,
           d.count AS overdue,
           GREATEST(COALESCE(extract(epoch FROM time - d.first_at), 0), 0)::double precision AS overdue_seconds
    FROM letters l, outbox o, overdue d, clock";

impl Store {
    /// Asks for the values. The server gives up after `patience`.
    pub async fn samples(&self, patience: Duration) -> Result<Samples, Fault> {
        let mut connection = self.connection().await?;
        let limit = format!("SET LOCAL statement_timeout = '{}ms'", patience.as_millis());
        let row: SampleRow = connection
            .transaction::<SampleRow, Fault, _>(async |connection| {
                connection.batch_execute(&limit).await?;
                let query =
                    diesel::sql_query(ASK).bind::<BigInt, _>(COUNTED).bind::<BigInt, _>(CAME_DUE_LAST);
                Ok(query.get_result(connection).await?)
            })
            .await?;
        let of = |reason: &Reason| {
            let place = row.reasons.iter().position(|name| name == reason.name());
            place.and_then(|place| row.unresolved.get(place)).copied().unwrap_or(0)
        };
        Ok(Samples {
            unresolved: Reason::ALL.iter().map(|reason| (*reason, of(reason))).collect(),
            unpublishable: row.unpublishable,
            letters: (row.letters, row.letters_seconds),
            outbox: (row.outbox, row.outbox_seconds),
            overdue: (row.overdue, row.overdue_seconds),
        })
    }
}
