//! The queries of `report` over the views of schema `analytics`: one statement each, all in one read-only snapshot. Raw
//! SQL: the views are not in `schema.rs`.

mod limit;

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Bool, Double, Nullable, Text, Timestamp};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use serde::Serialize;

use self::limit::{QUERY_LIMIT, Unreported, timed};
use super::unnest::timestamp;
use crate::event::Time;

/// The views that `report` reads.
const VIEWS: [&str; 4] = ["clones", "calls", "handovers", "voices"];

/// Maximum number of error kinds listed.
const KINDS: i64 = 50;

/// An hour or a day in which anything happened. Times are RFC 3339 in UTC.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Period {
    /// Start of the period.
    #[diesel(sql_type = Text)]
    pub at: String,
    /// Attempts to clone a voice.
    #[diesel(sql_type = BigInt)]
    pub clones: i64,
    /// Failed attempts.
    #[diesel(sql_type = BigInt)]
    pub clones_failed: i64,
    /// Median latency of the successful attempts, in milliseconds.
    #[diesel(sql_type = Nullable<Double>)]
    pub p50_ms: Option<f64>,
    /// 95th percentile of that latency.
    #[diesel(sql_type = Nullable<Double>)]
    pub p95_ms: Option<f64>,
    /// Transfers from the greeting to the agent.
    #[diesel(sql_type = BigInt)]
    pub handovers: i64,
    /// Transfers whose voice was cloned earlier.
    #[diesel(sql_type = BigInt)]
    pub from_cache: i64,
    /// Calls of any kind, by the timestamp of their first record.
    #[diesel(sql_type = BigInt)]
    pub calls: i64,
    /// Failed calls.
    #[diesel(sql_type = BigInt)]
    pub calls_failed: i64,
    /// Total duration of the calls.
    #[diesel(sql_type = BigInt)]
    pub call_seconds: i64,
}

/// How far the greetings got. Each step counts greetings.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Funnel {
    /// Greetings that a clone or a transfer names.
    #[diesel(sql_type = BigInt)]
    pub greetings: i64,
    /// Greetings with a voice, cloned or from the cache.
    #[diesel(sql_type = BigInt)]
    pub with_voice: i64,
    /// Greetings handed over to the agent.
    #[diesel(sql_type = BigInt)]
    pub handed_over: i64,
    /// Greetings whose agent's call is in the log.
    #[diesel(sql_type = BigInt)]
    pub agent_calls: i64,
    /// Greetings whose agent's call was completed.
    #[diesel(sql_type = BigInt)]
    pub completed: i64,
}

/// Transfers, and how long the callers waited for them.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Handovers {
    /// All transfers.
    #[diesel(sql_type = BigInt)]
    pub handovers: i64,
    /// Transfers whose voice was cloned earlier.
    #[diesel(sql_type = BigInt)]
    pub from_cache: i64,
    /// Median of the seconds from the greeting's start to the transfer.
    #[diesel(sql_type = Nullable<Double>)]
    pub p50_seconds: Option<f64>,
    /// 95th percentile of these seconds.
    #[diesel(sql_type = Nullable<Double>)]
    pub p95_seconds: Option<f64>,
}

/// The cached voices that were usable at any moment since the start of the report.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Voices {
    /// All of these voices.
    #[diesel(sql_type = BigInt)]
    pub voices: i64,
    /// Voices never used.
    #[diesel(sql_type = BigInt)]
    pub unused: i64,
    /// Voices used more than once.
    #[diesel(sql_type = BigInt)]
    pub reused: i64,
    /// Uses of the most used voice.
    #[diesel(sql_type = BigInt)]
    pub most_uses: i64,
    /// Voices live now.
    #[diesel(sql_type = BigInt)]
    pub live: i64,
    /// Voices live now that expire within an hour.
    #[diesel(sql_type = BigInt)]
    pub expiring: i64,
}

/// Failed attempts with one kind of error.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq)]
pub struct FailureShare {
    /// The error's text, with `#` for each number.
    #[diesel(sql_type = Text)]
    pub error: String,
    /// Number of attempts.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    /// Time of the latest attempt.
    #[diesel(sql_type = Text)]
    pub latest_at: String,
}

/// Calls of one kind.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq)]
pub struct Calls {
    /// `greeting` or `agent`; `None` if no clone or transfer names the call.
    #[diesel(sql_type = Nullable<Text>)]
    pub kind: Option<String>,
    /// Number of calls.
    #[diesel(sql_type = BigInt)]
    pub calls: i64,
    /// Calls with status `completed`.
    #[diesel(sql_type = BigInt)]
    pub completed: i64,
    /// Calls with status `failed`.
    #[diesel(sql_type = BigInt)]
    pub failed: i64,
    /// Mean duration in seconds of the calls that have one.
    #[diesel(sql_type = Nullable<Double>)]
    pub average_seconds: Option<f64>,
    /// 95th percentile of the duration.
    #[diesel(sql_type = Nullable<Double>)]
    pub p95_seconds: Option<f64>,
    /// The longest duration.
    #[diesel(sql_type = Nullable<Double>)]
    pub longest_seconds: Option<f64>,
}

/// Callers. Calls of agents do not count, as each of them follows a greeting.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Callers {
    /// Callers with a call.
    #[diesel(sql_type = BigInt)]
    pub callers: i64,
    /// Callers with more than one call.
    #[diesel(sql_type = BigInt)]
    pub returned: i64,
}

/// The report on the time from `since` up to, but not including, `until`.
#[derive(Serialize, Clone, Debug, Default, PartialEq)]
pub struct CallReport {
    /// Start of the report, RFC 3339.
    pub since: String,
    /// End of the report, RFC 3339.
    pub until: String,
    /// Length of the periods: `hour` or `day`.
    pub step: &'static str,
    /// Periods in which anything happened, the earliest first.
    pub periods: Vec<Period>,
    /// How far the greetings got.
    pub funnel: Funnel,
    /// Transfers.
    pub handovers: Handovers,
    /// The cache.
    pub voices: Voices,
    /// Failed clones, the most frequent kind first.
    pub failures: Vec<FailureShare>,
    /// Calls by kind.
    pub calls: Vec<Calls>,
    /// Callers.
    pub callers: Callers,
}

#[derive(QueryableByName)]
struct Readable {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Bool)]
    readable: bool,
}

/// Why the views cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingView {
    /// The view does not exist.
    #[error("the database has no view analytics.{0}: run `voiceclone-events migrate up` first")]
    View(&'static str),
    /// The role may not read the view.
    #[error(
        "this role may not read analytics.{0}: run roles.sql as the owner of the tables, and GRANT voiceclone_reader \
         to the role"
    )]
    Right(&'static str),
}

/// The first view that this role cannot read.
pub async fn lacking(connection: &mut AsyncPgConnection) -> QueryResult<Option<MissingView>> {
    let found: Vec<Readable> = sql_query(
        "SELECT c.relname::text AS name,
                has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'analytics'",
    )
    .load(connection)
    .await?;
    let lack = |view: &'static str| match found.iter().find(|found| found.name == view) {
        None => Some(MissingView::View(view)),
        Some(Readable { readable: false, .. }) => Some(MissingView::Right(view)),
        Some(_) => None,
    };
    Ok(VIEWS.into_iter().find_map(lack))
}

/// The whole report; `step` is `hour` or `day`. Each query is limited to [`QUERY_LIMIT`].
pub async fn report(
    connection: &mut AsyncPgConnection,
    since: Time,
    until: Time,
    step: &'static str,
) -> Result<CallReport, Unreported> {
    let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
    let limit = format!("SET LOCAL statement_timeout = {}", QUERY_LIMIT.as_millis());
    connection.batch_execute(&format!("{begin}; {limit}")).await?;
    let times = [timestamp(since), timestamp(until)];
    let report = CallReport {
        since: since.to_string(),
        until: until.to_string(),
        step,
        periods: timed(periods(connection, times, step)).await?,
        funnel: timed(one(connection, times, FUNNEL)).await?,
        handovers: timed(one(connection, times, HANDOVERS)).await?,
        voices: timed(one(connection, times, VOICES)).await?,
        failures: timed(all(connection, times, &format!("{FAILURES} LIMIT {KINDS}"))).await?,
        calls: timed(all(connection, times, CALLS)).await?,
        callers: timed(one(connection, times, CALLERS)).await?,
    };
    connection.batch_execute("COMMIT").await?;
    Ok(report)
}

async fn one<T>(
    connection: &mut AsyncPgConnection,
    [since, until]: [PgTimestamp; 2],
    sql: &str,
) -> QueryResult<T>
where
    T: QueryableByName<diesel::pg::Pg> + Send + 'static,
{
    sql_query(sql).bind::<Timestamp, _>(since).bind::<Timestamp, _>(until).get_result(connection).await
}

async fn all<T>(
    connection: &mut AsyncPgConnection,
    [since, until]: [PgTimestamp; 2],
    sql: &str,
) -> QueryResult<Vec<T>>
where
    T: QueryableByName<diesel::pg::Pg> + Send + 'static,
{
    sql_query(sql).bind::<Timestamp, _>(since).bind::<Timestamp, _>(until).load(connection).await
}

async fn periods(
    connection: &mut AsyncPgConnection,
    [since, until]: [PgTimestamp; 2],
    step: &str,
) -> QueryResult<Vec<Period>> {
    sql_query(
        "SELECT to_char(at, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS at,
                COALESCE(clones, 0) AS clones, COALESCE(clones_failed, 0) AS clones_failed, p50_ms, p95_ms,
                COALESCE(handovers, 0) AS handovers, COALESCE(from_cache, 0) AS from_cache,
                COALESCE(calls, 0) AS calls, COALESCE(calls_failed, 0) AS calls_failed,
                COALESCE(call_seconds, 0) AS call_seconds
         FROM (
             SELECT date_trunc($3, event_at) AS at, count(*) AS clones,
                    count(*) FILTER (WHERE outcome = 'failed') AS clones_failed,
                    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_ms,
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms
             FROM analytics.clones WHERE event_at >= $1 AND event_at < $2 GROUP BY 1
         ) c
         FULL JOIN (
             SELECT date_trunc($3, transferred_at) AS at, count(*) AS handovers,
                    count(*) FILTER (WHERE from_cache) AS from_cache
             FROM analytics.handovers WHERE transferred_at >= $1 AND transferred_at < $2 GROUP BY 1
         ) h USING (at)
         FULL JOIN (
             SELECT date_trunc($3, created_at) AS at, count(*) AS calls,
                    count(*) FILTER (WHERE status = 'failed') AS calls_failed,
                    sum(duration_seconds)::bigint AS call_seconds
             FROM analytics.calls WHERE created_at >= $1 AND created_at < $2 GROUP BY 1
         ) l USING (at)
         ORDER BY at",
    )
    .bind::<Timestamp, _>(since)
    .bind::<Timestamp, _>(until)
    .bind::<Text, _>(step)
    .load(connection)
    .await
}

const FUNNEL: &str = "
    WITH greetings AS MATERIALIZED (
        SELECT call_id FROM analytics.calls WHERE kind = 'greeting' AND created_at >= $1 AND created_at < $2
    ), cloned AS (
        SELECT DISTINCT greeting_call_id FROM analytics.clones
        WHERE outcome = 'success' AND greeting_call_id IN (SELECT call_id FROM greetings)
    ), handed AS (
        SELECT greeting_call_id, bool_or(outcome IS NOT NULL) AS known, bool_or(outcome = 'completed') AS completed
        FROM analytics.handovers WHERE greeting_call_id IN (SELECT call_id FROM greetings) GROUP BY 1
    )
    SELECT count(*) AS greetings,
           count(*) FILTER (WHERE c.greeting_call_id IS NOT NULL OR h.greeting_call_id IS NOT NULL) AS with_voice,
           count(h.greeting_call_id) AS handed_over, count(*) FILTER (WHERE h.known) AS agent_calls,
           count(*) FILTER (WHERE h.completed) AS completed
    FROM greetings g
    LEFT JOIN cloned c ON c.greeting_call_id = g.call_id
    LEFT JOIN handed h ON h.greeting_call_id = g.call_id";

const HANDOVERS: &str = "
    SELECT count(*) AS handovers, count(*) FILTER (WHERE from_cache) AS from_cache,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds::double precision) AS p50_seconds,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds::double precision) AS p95_seconds
    FROM analytics.handovers WHERE transferred_at >= $1 AND transferred_at < $2";

const VOICES: &str = "
    SELECT count(*) AS voices, count(*) FILTER (WHERE uses = 0) AS unused, count(*) FILTER (WHERE uses > 1) AS reused,
           COALESCE(max(uses), 0) AS most_uses, count(*) FILTER (WHERE live) AS live,
           count(*) FILTER (WHERE live AND ttl_expires_at < now() AT TIME ZONE 'utc' + INTERVAL '1 hour') AS expiring
    FROM analytics.voices WHERE ttl_expires_at >= $1 AND clone_created_at < $2";

const FAILURES: &str = "
    SELECT error_kind AS error, count(*) AS count,
           to_char(max(event_at), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS latest_at
    FROM analytics.clones WHERE outcome = 'failed' AND event_at >= $1 AND event_at < $2
    GROUP BY error_kind ORDER BY count DESC, error_kind COLLATE \"C\"";

const CALLS: &str = "
    SELECT kind, count(*) AS calls, count(*) FILTER (WHERE status = 'completed') AS completed,
           count(*) FILTER (WHERE status = 'failed') AS failed, avg(duration_seconds)::double precision AS average_seconds,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) AS p95_seconds,
           max(duration_seconds)::double precision AS longest_seconds
    FROM analytics.calls WHERE created_at >= $1 AND created_at < $2
    GROUP BY kind ORDER BY kind DESC NULLS LAST";

const CALLERS: &str = "
    SELECT count(*) AS callers, count(*) FILTER (WHERE calls > 1) AS returned
    FROM (SELECT count(*) AS calls FROM analytics.calls
          WHERE kind IS DISTINCT FROM 'agent' AND caller_id IS NOT NULL AND created_at >= $1 AND created_at < $2
          GROUP BY caller_id) c";
