//! `ingest.outbox` (contract, section 5): `clone.expired` events from the moment of the expiry until the
//! broker has them, a chunk of them in each row. What waits is found by being there, not by a sequence, so
//! a row that is committed late is never skipped.

use std::collections::HashSet;

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use futures_util::future::BoxFuture;
use serde::Serialize;
use uuid::Uuid;

use super::unnest::from_timestamp;
use super::{Fault, Store};
use crate::identity::uid;

/// A `clone.expired` event.
#[derive(Debug, Clone)]
pub struct Expired {
    /// Also `ce_id`.
    pub event_id: Uuid,
    /// The caller.
    pub key: Option<String>,
    /// The event as JSON, the same bytes at each repeat.
    pub value: Vec<u8>,
    /// `ce_time`.
    pub event_time: String,
}

/// Its value. The fields stand in the order in which they are written. Another tool's tables may hold nulls where
/// ours cannot.
#[derive(Serialize)]
struct Value<'a> {
    caller_id: Option<&'a str>,
    clone_created_at: Option<String>,
    cloned_voice_id: Option<String>,
    event_id: Uuid,
    expired_at: &'a str,
    last_used_at: Option<String>,
    reuse_count: Option<i32>,
    ttl_expires_at: String,
}

/// A row of the outbox: the values of each event at the same place in each array.
#[derive(diesel::QueryableByName)]
struct Chunk {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Timestamp)]
    expired_at: PgTimestamp,
    #[diesel(sql_type = Array<SqlUuid>)]
    ids: Vec<Uuid>,
    #[diesel(sql_type = Bool)]
    of_events: bool,
    #[diesel(sql_type = Array<Nullable<Text>>)]
    caller_ids: Vec<Option<String>>,
    #[diesel(sql_type = Array<Nullable<Text>>)]
    cloned_voice_ids: Vec<Option<String>>,
    #[diesel(sql_type = Array<Nullable<Timestamp>>)]
    clone_created_ats: Vec<Option<PgTimestamp>>,
    #[diesel(sql_type = Array<Timestamp>)]
    ttl_expires_ats: Vec<PgTimestamp>,
    #[diesel(sql_type = Array<Nullable<Integer>>)]
    reuse_counts: Vec<Option<i32>>,
    #[diesel(sql_type = Array<Nullable<Timestamp>>)]
    last_used_ats: Vec<Option<PgTimestamp>>,
}

impl Chunk {
    /// Its events, in its order. The table's check has the arrays equally long.
    fn events(self) -> impl Iterator<Item = Expired> {
        let text = |timestamp: PgTimestamp| from_timestamp(timestamp).to_string();
        let event_time = text(self.expired_at);
        let (mut callers, mut voices) = (self.caller_ids.into_iter(), self.cloned_voice_ids.into_iter());
        let (mut created, mut used) = (self.clone_created_ats.into_iter(), self.last_used_ats.into_iter());
        let mut counts = self.reuse_counts.into_iter();
        self.ids.into_iter().zip(self.ttl_expires_ats).map(move |(id, ttl_expires_at)| {
            let event_id = if self.of_events {
                id
            } else {
                let micros = from_timestamp(ttl_expires_at).micros();
                uid("clone.expired", &[&id.hyphenated().to_string(), &micros.to_string()])
            };
            let key = callers.next().flatten();
            let value = Value {
                caller_id: key.as_deref(),
                clone_created_at: created.next().flatten().map(text),
                cloned_voice_id: voices.next().flatten(),
                event_id,
                expired_at: &event_time,
                last_used_at: used.next().flatten().map(text),
                reuse_count: counts.next().flatten(),
                ttl_expires_at: text(ttl_expires_at),
            };
            // nothing of it is what serde_json could refuse
            let value = serde_json::to_vec(&value).unwrap_or_default();
            Expired { event_id, key, value, event_time: event_time.clone() }
        })
    }
}

/// Leaves of a chunk what stands at these places, counted from 1.
const KEEP: &str = "UPDATE ingest.outbox o
    SET (ids, caller_ids, cloned_voice_ids, clone_created_ats, ttl_expires_ats, reuse_counts, last_used_ats) = (
        SELECT array_agg(id), array_agg(caller_id), array_agg(cloned_voice_id), array_agg(clone_created_at),
               array_agg(ttl_expires_at), array_agg(reuse_count), array_agg(last_used_at)
        FROM unnest(o.ids, o.caller_ids, o.cloned_voice_ids, o.clone_created_ats, o.ttl_expires_ats,
                    o.reuse_counts, o.last_used_ats)
             WITH ORDINALITY AS u (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
                                   reuse_count, last_used_at, place)
        WHERE place = ANY ($2))
    WHERE o.id = $1";

impl Store {
    /// Publishes so many chunks of waiting events at most: locks them against other instances, lets `publish` say
    /// at which places of the slice stand those that the broker has, and removes those. Returns how many events
    /// there were and how many the broker has. Killed in between, they are published again.
    pub async fn publish_expired(
        &self,
        most: i64,
        publish: impl for<'r> FnOnce(&'r [Expired]) -> BoxFuture<'r, Vec<usize>> + Send,
    ) -> Result<(usize, usize), Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<(usize, usize), Fault, _>(async |connection| {
                let chunks: Vec<Chunk> = diesel::sql_query(
                    "SELECT id, expired_at, ids, of_events, caller_ids, cloned_voice_ids, clone_created_ats,
                            ttl_expires_ats, reuse_counts, last_used_ats
                     FROM ingest.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
                )
                .bind::<BigInt, _>(most)
                .load(connection)
                .await?;
                let sizes: Vec<(i64, usize)> =
                    chunks.iter().map(|chunk| (chunk.id, chunk.ids.len())).collect();
                if chunks.is_empty() {
                    return Ok((0, 0));
                }
                let events: Vec<Expired> = chunks.into_iter().flat_map(Chunk::events).collect();
                let published: HashSet<usize> = publish(&events).await.into_iter().collect();
                remove(connection, &sizes, &published).await?;
                Ok((events.len(), published.len()))
            })
            .await
    }
}

/// Removes from these chunks (their ids and sizes) the events at these places, counted through all of them. Chunks
/// of which something is left go to the end of the queue: what the broker never takes holds nobody up.
async fn remove(
    connection: &mut AsyncPgConnection,
    chunks: &[(i64, usize)],
    published: &HashSet<usize>,
) -> Result<(), Fault> {
    let (mut whole, mut others, mut first) = (Vec::new(), Vec::new(), 0);
    for (id, size) in chunks {
        let left: Vec<i64> = (1..)
            .zip(first..first + size)
            .filter(|(_, at)| !published.contains(at))
            .map(|(n, _)| n)
            .collect();
        first += size;
        if left.is_empty() {
            whole.push(*id);
            continue;
        }
        others.push(*id);
        if left.len() < *size {
            diesel::sql_query(KEEP)
                .bind::<BigInt, _>(id)
                .bind::<Array<BigInt>, _>(&left)
                .execute(connection)
                .await?;
        }
    }
    for (statement, ids) in [
        ("DELETE FROM ingest.outbox WHERE id = ANY ($1)", whole),
        ("UPDATE ingest.outbox SET id = DEFAULT WHERE id = ANY ($1)", others),
    ] {
        if !ids.is_empty() {
            diesel::sql_query(statement).bind::<Array<BigInt>, _>(ids).execute(connection).await?;
        }
    }
    Ok(())
}
