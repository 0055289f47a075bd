//! The rows of the voice cache. Counting them reads the whole table, so above a number of rows they are estimated.

use diesel::sql_types::{BigInt, Bool, Double, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use serde::Serialize;

use super::{PATIENCE, age, time};

/// Maximum number of cache rows that are counted. More are estimated, as counting reads them all.
const CACHE_COUNTED: f64 = 1_000_000.0;

/// Limits of counting them: of the time, as PostgreSQL without statistics does not know that they are too many, and to one
/// process, which leaves the others to consuming.
const COUNT_PATIENCE: &str = "SET statement_timeout = '700ms'; SET max_parallel_workers_per_gather TO 0";

/// Number of rows that are looked at if the cache is estimated: that many live rows, and that many that came due last. The
/// expiry takes the oldest first, so the rows that it has not reached are among these.
const CACHE_LOOKED_AT: i64 = 100_000;

/// Number of pages of the cache that are read if PostgreSQL has no statistics.
const SAMPLED_PAGES: f64 = 400.0;

/// The voice cache.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Cache {
    /// Rows that have not expired.
    #[diesel(sql_type = BigInt)]
    pub live: i64,
    /// Rows with a `deleted_at`.
    #[diesel(sql_type = BigInt)]
    pub expired: i64,
    /// Rows past their time that the expiry has not reached yet.
    #[diesel(sql_type = BigInt)]
    pub overdue: i64,
    /// How long the first of them is overdue; 0 if there is none.
    #[diesel(sql_type = Double)]
    pub overdue_seconds: f64,
    /// Whether `expired` is estimated, and also `live` and `overdue` above [`CACHE_LOOKED_AT`].
    #[diesel(sql_type = Bool)]
    pub estimated: bool,
    /// Whether there are more overdue rows than were looked at: then the first may be overdue for longer.
    #[diesel(sql_type = Bool)]
    #[serde(skip)]
    pub overdue_beyond: bool,
    /// The latest `deleted_at`; if `estimated`, of the rows that came due last.
    #[diesel(sql_type = Nullable<Text>)]
    #[serde(skip)]
    pub last_expired_at: Option<String>,
}

/// The voice cache: counted, or estimated if it has too many rows or counting takes too long.
pub async fn cache(connection: &mut AsyncPgConnection) -> QueryResult<Cache> {
    let known = cache_statistics(connection).await?;
    if known.rows <= CACHE_COUNTED {
        connection.batch_execute(COUNT_PATIENCE).await?;
        let counted = count_cache(connection).await;
        connection.batch_execute(PATIENCE).await?;
        if counted.is_ok() {
            return counted;
        }
    }
    let (rows, unexpired) = match known.unexpired {
        Some(unexpired) if known.rows > 0.0 => (known.rows, known.rows * unexpired),
        _ => sample_cache(connection, known.pages).await?,
    };
    // With stale statistics PostgreSQL would sort all rows instead of following the index.
    connection.batch_execute("SET enable_sort TO off").await?;
    let mut cache = look_at_cache(connection).await?;
    #[allow(clippy::cast_possible_truncation, reason = "an estimate of a number of rows")]
    let (rows, unexpired) = (rows.round() as i64, unexpired.round() as i64);
    cache.expired = (rows - unexpired).max(0);
    if cache.live >= CACHE_LOOKED_AT {
        cache.live = cache.live.max(unexpired - cache.overdue);
    } else if cache.overdue_beyond {
        cache.overdue = cache.overdue.max(unexpired - cache.live);
    }
    Ok(cache)
}

/// PostgreSQL's statistics of the cache.
#[derive(QueryableByName)]
struct CacheStatistics {
    /// Rows, 0 if not known.
    #[diesel(sql_type = Double)]
    rows: f64,
    /// The fraction of the rows that have no `deleted_at`.
    #[diesel(sql_type = Nullable<Double>)]
    unexpired: Option<f64>,
    #[diesel(sql_type = Double)]
    pages: f64,
}

/// The number of rows follows the present size of the table, as in PostgreSQL's own estimates.
async fn cache_statistics(connection: &mut AsyncPgConnection) -> QueryResult<CacheStatistics> {
    sql_query(
        "SELECT greatest(CASE WHEN c.relpages > 0 THEN c.reltuples * (size.pages / c.relpages) ELSE c.reltuples END,
                         0)::double precision AS rows,
                (SELECT null_frac::double precision FROM pg_catalog.pg_stats
                 WHERE schemaname = 'public' AND tablename = 'voice_clone_cache' AND attname = 'deleted_at') AS unexpired,
                size.pages
         FROM pg_catalog.pg_class c,
              (SELECT COALESCE(sum(pg_relation_size(relid)), pg_relation_size('public.voice_clone_cache'))::double precision
                      / current_setting('block_size')::double precision AS pages
               FROM pg_partition_tree('public.voice_clone_cache')) AS size
         WHERE c.oid = 'public.voice_clone_cache'::regclass",
    )
    .get_result(connection)
    .await
}

async fn count_cache(connection: &mut AsyncPgConnection) -> QueryResult<Cache> {
    let overdue = "deleted_at IS NULL AND ttl_expires_at < now() AT TIME ZONE 'utc'";
    let seconds = age(&format!("min(ttl_expires_at) FILTER (WHERE {overdue})"));
    let last = time("max(deleted_at)");
    sql_query(format!(
        "SELECT count(*) FILTER (WHERE deleted_at IS NULL AND NOT ttl_expires_at < now() AT TIME ZONE 'utc') AS live,
                count(*) FILTER (WHERE deleted_at IS NOT NULL) AS expired,
                count(*) FILTER (WHERE {overdue}) AS overdue, COALESCE({seconds}, 0) AS overdue_seconds,
                false AS estimated, false AS overdue_beyond, {last} AS last_expired_at
         FROM public.voice_clone_cache"
    ))
    .get_result(connection)
    .await
}

/// Rows of the cache, and those of them without a `deleted_at`, from a few pages.
async fn sample_cache(connection: &mut AsyncPgConnection, pages: f64) -> QueryResult<(f64, f64)> {
    #[derive(QueryableByName)]
    struct Sample {
        #[diesel(sql_type = Double)]
        rows: f64,
        #[diesel(sql_type = Double)]
        unexpired: f64,
    }
    let percent = (100.0 * SAMPLED_PAGES / pages.max(1.0)).min(100.0);
    let sample: Sample = sql_query(
        "SELECT count(*)::double precision AS rows,
                (count(*) FILTER (WHERE deleted_at IS NULL))::double precision AS unexpired
         FROM public.voice_clone_cache TABLESAMPLE SYSTEM ($1)",
    )
    .bind::<Double, _>(percent)
    .get_result(connection)
    .await?;
    Ok((sample.rows * 100.0 / percent, sample.unexpired * 100.0 / percent))
}

/// Live and overdue rows, of at most [`CACHE_LOOKED_AT`] each.
async fn look_at_cache(connection: &mut AsyncPgConnection) -> QueryResult<Cache> {
    let (seconds, last) = (age("due.first_overdue"), time("due.last_deleted"));
    sql_query(format!(
        "SELECT live.count AS live, 0::bigint AS expired, due.overdue, COALESCE({seconds}, 0) AS overdue_seconds,
                true AS estimated, COALESCE(due.count >= $1 AND due.first = due.first_overdue, false) AS overdue_beyond,
                {last} AS last_expired_at
         FROM (SELECT count(*) AS count
               FROM (SELECT FROM public.voice_clone_cache
                     WHERE deleted_at IS NULL AND ttl_expires_at >= now() AT TIME ZONE 'utc'
                     ORDER BY ttl_expires_at LIMIT $1) AS l) AS live,
              (SELECT count(*) AS count, min(ttl_expires_at) AS first, max(deleted_at) AS last_deleted,
                      count(*) FILTER (WHERE deleted_at IS NULL) AS overdue,
                      min(ttl_expires_at) FILTER (WHERE deleted_at IS NULL) AS first_overdue
               FROM (SELECT ttl_expires_at, deleted_at FROM public.voice_clone_cache
                     WHERE ttl_expires_at < now() AT TIME ZONE 'utc'
                     ORDER BY ttl_expires_at DESC LIMIT $1) AS d) AS due"
    ))
    .bind::<BigInt, _>(CACHE_LOOKED_AT)
    .get_result(connection)
    .await
}
