//! Expiry of the voice cache (contract, section 5): rows past their time get `deleted_at`, and their
//! events wait in the outbox, both in one small transaction.

use std::time::Duration;

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use serde_json::json;
use uuid::Uuid;

use super::unnest::{Column, Statement, Unnest, from_timestamp};
use super::{Fault, Store};
use crate::event::Time;
use crate::identity::uid;

/// A cache row that has just expired. Another tool's tables may hold nulls where ours cannot.
#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Nullable<Text>)]
    caller_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    cloned_voice_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    clone_created_at: Option<PgTimestamp>,
    #[diesel(sql_type = Timestamp)]
    ttl_expires_at: PgTimestamp,
    #[diesel(sql_type = Nullable<Integer>)]
    reuse_count: Option<i32>,
    #[diesel(sql_type = Nullable<Timestamp>)]
    last_used_at: Option<PgTimestamp>,
    #[diesel(sql_type = Timestamp)]
    deleted_at: PgTimestamp,
}

struct InsertExpired;

impl Statement for InsertExpired {
    const HEAD: &'static str =
        "INSERT INTO ingest.outbox (event_id, key, value, event_time) SELECT * FROM unnest(";
    const TAIL: &'static str = ") ON CONFLICT DO NOTHING";
    type Row = ();
}

impl Store {
    /// Expires up to so many rows, the longest overdue first; rows that another instance has in hand are
    /// left to it. Rows that expired longer ago than `max_age` are deleted without an event. Returns how
    /// many rows expired: fewer than `most` means that none is left.
    pub async fn expire(&self, most: i64, max_age: Option<Duration>) -> Result<usize, Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<usize, Fault, _>(async |connection| {
                let rows: Vec<Row> = diesel::sql_query(
                    "WITH due AS (
                        SELECT id FROM public.voice_clone_cache
                        WHERE deleted_at IS NULL AND ttl_expires_at < now() AT TIME ZONE 'utc'
                        ORDER BY ttl_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                     UPDATE public.voice_clone_cache c SET deleted_at = now() AT TIME ZONE 'utc'
                     FROM due WHERE c.id = due.id
                     RETURNING c.id, c.caller_id, c.cloned_voice_id, c.clone_created_at, c.ttl_expires_at,
                               c.reuse_count, c.last_used_at, c.deleted_at",
                )
                .bind::<BigInt, _>(most)
                .load(connection)
                .await?;
                let count = rows.len();
                let age_limit = max_age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
                let told: Vec<(Uuid, Option<String>, Vec<u8>, String)> = rows
                    .into_iter()
                    .filter(|row| {
                        age_limit.is_none_or(|limit| row.deleted_at.0 - row.ttl_expires_at.0 <= limit)
                    })
                    .map(event)
                    .collect();
                if !told.is_empty() {
                    Unnest::<InsertExpired>::new(vec![
                        Column::Uuids(told.iter().map(|event| event.0).collect()),
                        Column::Bytes(
                            told.iter().map(|event| event.1.as_deref().map(str::as_bytes)).collect(),
                        ),
                        Column::Bytes(told.iter().map(|event| Some(event.2.as_slice())).collect()),
                        Column::texts(told.iter().map(|event| &event.3)),
                    ])
                    .execute(connection)
                    .await?;
                }
                Ok(count)
            })
            .await
    }
}

/// The event of an expired row: id, key, value, time.
fn event(row: Row) -> (Uuid, Option<String>, Vec<u8>, String) {
    let time = |timestamp: PgTimestamp| from_timestamp(timestamp).to_string();
    let ttl_expires_at: Time = from_timestamp(row.ttl_expires_at);
    let event_id =
        uid("clone.expired", &[&row.id.hyphenated().to_string(), &ttl_expires_at.micros().to_string()]);
    let expired_at = time(row.deleted_at);
    let value = json!({
        "event_id": event_id,
        "caller_id": row.caller_id,
        "cloned_voice_id": row.cloned_voice_id,
        "clone_created_at": row.clone_created_at.map(time),
        "ttl_expires_at": ttl_expires_at.to_string(),
        "expired_at": expired_at,
        "reuse_count": row.reuse_count,
        "last_used_at": row.last_used_at.map(time),
    });
    (event_id, row.caller_id, value.to_string().into_bytes(), expired_at)
}
