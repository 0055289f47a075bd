//! The database queries of `status`. Each is one statement over one connection, and its answer is plain data. Times
//! are RFC 3339 in UTC, ages are seconds. Raw SQL where Diesel has no words: PostgreSQL's catalogs, the columns of a JSON
//! array, and the age of the oldest of some rows.

mod cache;

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use serde::Serialize;
use uuid::Uuid;

pub use self::cache::{Cache, cache};
use super::sql::{now_utc, rfc3339_micros};
use crate::schema::ingest::{consumer_offsets, instances, pauses, skips};

/// Maximum number of kinds of dead letters listed.
pub const KINDS: i64 = 50;

/// Timeout of each query, as PostgreSQL reads it.
const PATIENCE: &str = "SET statement_timeout = '5s'";

/// A stored position of the group.
#[derive(Queryable, Selectable, Clone, Debug, PartialEq)]
#[diesel(table_name = consumer_offsets, check_for_backend(Pg))]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Stored {
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    pub dead_in_a_row: i64,
    pub topic_id: Option<Uuid>,
    #[diesel(select_expression = rfc3339_micros(consumer_offsets::stopped_at))]
    pub stopped_at: Option<String>,
    /// The column `updated_at`.
    #[diesel(select_expression = rfc3339_micros(consumer_offsets::updated_at).assume_not_null())]
    pub moved_at: String,
    /// Seconds since `updated_at`.
    #[diesel(select_expression = sql(&age("updated_at")))]
    #[diesel(select_expression_type = SqlLiteral<Double>)]
    pub idle_seconds: f64,
}

/// A row of `ingest.pauses` that is in force.
#[derive(Queryable, Selectable, Clone, Debug, PartialEq)]
#[diesel(table_name = pauses, check_for_backend(Pg))]
pub struct Pause {
    /// The topic without prefix; empty for all.
    pub topic: String,
    /// Start of the pause.
    #[diesel(select_expression = rfc3339_micros(pauses::paused_at).assume_not_null())]
    pub paused_at: String,
    /// End of the pause; `None` until `resume`.
    #[diesel(select_expression = rfc3339_micros(pauses::until))]
    pub until: Option<String>,
}

/// A row of `ingest.skips`.
#[derive(Queryable, Selectable, Clone, Debug, PartialEq)]
#[diesel(table_name = skips, check_for_backend(Pg))]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Skipped {
    pub topic: String,
    pub partition: i32,
    pub from_offset: i64,
    pub to_offset: Option<i64>,
    pub note: String,
    #[diesel(select_expression = rfc3339_micros(skips::skipped_at).assume_not_null())]
    pub skipped_at: String,
    /// `skip`, or why the log had lost the offsets.
    pub cause: String,
    /// Seconds since `skipped_at`.
    #[diesel(select_expression = sql(&age("skipped_at")))]
    #[diesel(select_expression_type = SqlLiteral<Double>)]
    pub age_seconds: f64,
}

/// A row of `ingest.instances`.
#[derive(Queryable, Selectable, Serialize, Clone, Debug, PartialEq)]
#[diesel(table_name = instances, check_for_backend(Pg))]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Instance {
    pub id: Uuid,
    pub host: String,
    /// The `id` of the group's member that it is.
    #[diesel(select_expression = instances::member_id)]
    pub member: Option<String>,
    pub version: String,
    #[diesel(select_expression = rfc3339_micros(instances::started_at).assume_not_null())]
    pub started_at: String,
    #[diesel(select_expression = rfc3339_micros(instances::beat_at).assume_not_null())]
    pub beat_at: String,
    /// Seconds since `beat_at`.
    #[diesel(select_expression = sql(&age("beat_at")))]
    #[diesel(select_expression_type = SqlLiteral<Double>)]
    pub silent_seconds: f64,
}

/// What a partition waits for, as its instance reports.
#[derive(QueryableByName, Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of `/readyz`")]
pub struct ReportedWait {
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = Text)]
    pub waits_for: String,
    #[diesel(sql_type = Text)]
    pub reason: String,
    /// Seconds since the instance's heartbeat.
    #[diesel(sql_type = Double)]
    pub silent_seconds: f64,
}

/// Numbers of dead letters.
#[derive(QueryableByName, Clone, Debug, Default, PartialEq)]
pub struct Letters {
    /// Unresolved letters.
    #[diesel(sql_type = BigInt)]
    pub unresolved: i64,
    /// Unresolved letters newer than an hour.
    #[diesel(sql_type = BigInt)]
    pub recent: i64,
    /// Letters to be published.
    #[diesel(sql_type = BigInt)]
    pub unpublished: i64,
    /// Letters to be published that the broker refuses because of what they contain.
    #[diesel(sql_type = BigInt)]
    pub unpublishable: i64,
    /// Age of the oldest letter that is to be published.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest_unpublished_seconds: Option<f64>,
}

/// `clone.expired` events that are not published yet.
#[derive(QueryableByName, Serialize, Clone, Debug, Default, PartialEq)]
pub struct Outbox {
    /// Number of events.
    #[diesel(sql_type = BigInt)]
    pub events: i64,
    /// Age of the oldest event; `None` if there is none.
    #[diesel(sql_type = Nullable<Double>)]
    pub oldest_seconds: Option<f64>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A column as RFC 3339.
fn time(column: &str) -> String {
    format!(r#"to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
}

/// The seconds since the time in a column.
fn age(column: &str) -> String {
    format!("extract(epoch FROM (clock_timestamp() AT TIME ZONE 'utc') - {column})::double precision")
}

/// Sets the timeout of this session's queries.
pub async fn bound(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute(PATIENCE).await
}

/// Number of connections to this database.
pub async fn connections(connection: &mut AsyncPgConnection) -> QueryResult<i64> {
    let found: Count =
        sql_query("SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = current_database()")
            .get_result(connection)
            .await?;
    Ok(found.count)
}

/// The stored positions of a group.
pub async fn positions(connection: &mut AsyncPgConnection, group: &str) -> QueryResult<Vec<Stored>> {
    let stored = consumer_offsets::table.filter(consumer_offsets::group_id.eq(group));
    stored.select(Stored::as_select()).load(connection).await
}

/// The pauses of a group that are in force.
pub async fn pauses(connection: &mut AsyncPgConnection, group: &str) -> QueryResult<Vec<Pause>> {
    pauses::table
        .filter(pauses::group_id.eq(group))
        .filter(pauses::until.is_null().or(pauses::until.gt(now_utc().nullable())))
        .order(pauses::topic)
        .select(Pause::as_select())
        .load(connection)
        .await
}

/// All skips and losses of a group, the newest first.
pub async fn skips(connection: &mut AsyncPgConnection, group: &str) -> QueryResult<Vec<Skipped>> {
    let skipped = skips::table.filter(skips::group_id.eq(group)).order(skips::id.desc());
    skipped.select(Skipped::as_select()).load(connection).await
}

/// The instances of a group.
pub async fn instances(connection: &mut AsyncPgConnection, group: &str) -> QueryResult<Vec<Instance>> {
    let running =
        instances::table.filter(instances::group_id.eq(group)).order((instances::started_at, instances::id));
    running.select(Instance::as_select()).load(connection).await
}

/// What the partitions of a group wait for, the latest heartbeats last.
pub async fn waits(connection: &mut AsyncPgConnection, group: &str) -> QueryResult<Vec<ReportedWait>> {
    let silent = age("i.beat_at");
    sql_query(format!(
        "SELECT w.topic, w.partition, w.waits_for, w.reason, {silent} AS silent_seconds
         FROM ingest.instances i, jsonb_to_recordset(i.waiting)
              AS w(topic text, partition integer, waits_for text, reason text)
         WHERE i.group_id = $1 ORDER BY i.beat_at"
    ))
    .bind::<Text, _>(group)
    .load(connection)
    .await
}

/// Numbers of dead letters.
pub async fn letters(connection: &mut AsyncPgConnection) -> QueryResult<Letters> {
    let oldest = age("min(created_at) FILTER (WHERE published_at IS NULL)");
    sql_query(format!(
        "SELECT count(*) FILTER (WHERE resolved_at IS NULL) AS unresolved,
                count(*) FILTER (WHERE resolved_at IS NULL
                                   AND created_at > (now() AT TIME ZONE 'utc') - INTERVAL '1 hour') AS recent,
                count(*) FILTER (WHERE published_at IS NULL) AS unpublished,
                count(*) FILTER (WHERE published_at IS NULL AND unpublishable IS NOT NULL) AS unpublishable,
                {oldest} AS oldest_unpublished_seconds
         FROM ingest.dead_letters WHERE resolved_at IS NULL OR published_at IS NULL"
    ))
    .get_result(connection)
    .await
}

/// The events that are not published yet.
pub async fn outbox(connection: &mut AsyncPgConnection) -> QueryResult<Outbox> {
    let oldest = age("min(created_at)");
    sql_query(format!(
        "SELECT COALESCE(sum(cardinality(ids)), 0)::bigint AS events, {oldest} AS oldest_seconds FROM ingest.outbox"
    ))
    .get_result(connection)
    .await
}
