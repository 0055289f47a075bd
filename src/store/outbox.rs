//! `ingest.outbox` (contract, section 5): `clone.expired` events from the expiry until the broker has them, a chunk
//! of them in each row. Waiting rows are found by their presence, not by a sequence, so a row that is committed late
//! is never skipped.
//!
//! A chunk is claimed, sent outside of any transaction, and settled. Only one instance has the claim. If it dies,
//! another one claims the chunk once the lease is over.

use std::collections::HashSet;

use diesel::dsl::sql;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Timestamp, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use uuid::Uuid;

use super::claim::{LEASE, RETRY_AT, milliseconds};
use super::unnest::from_timestamp;
use super::{Fault, Store};
use crate::identity::uid;
use crate::schema::ingest::outbox;

/// A `clone.expired` event.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The event's id, also its `ce_id`.
    pub event_id: Uuid,
    /// The caller.
    pub key: Option<String>,
    /// The event as JSON, the same bytes at each retry.
    pub value: Vec<u8>,
    /// The event's `ce_time`.
    pub event_time: String,
    /// The trace context of the run that expired the row, the same at each retry; `None` if it had none.
    pub traceparent: Option<String>,
}

/// The value of a `clone.expired` event, with its fields in the order in which they are written. Another tool's
/// tables may hold nulls where ours cannot.
#[derive(Serialize)]
struct ExpiredValue<'a> {
    caller_id: Option<&'a str>,
    clone_created_at: Option<String>,
    cloned_voice_id: Option<String>,
    event_id: Uuid,
    expired_at: &'a str,
    last_used_at: Option<String>,
    reuse_count: Option<i32>,
    ttl_expires_at: String,
}

/// A row of the outbox: each position of the arrays is one event. For Diesel any element of an array may be null, and
/// any row may have no claim: the types of those that cannot are given.
#[derive(QueryableByName)]
#[diesel(table_name = outbox)]
struct OutboxChunk {
    id: i64,
    #[diesel(sql_type = SqlUuid)]
    publish_claim: Uuid,
    expired_at: PgTimestamp,
    #[diesel(sql_type = Array<SqlUuid>)]
    ids: Vec<Uuid>,
    of_events: bool,
    caller_ids: Vec<Option<String>>,
    cloned_voice_ids: Vec<Option<String>>,
    clone_created_ats: Vec<Option<PgTimestamp>>,
    #[diesel(sql_type = Array<Timestamp>)]
    ttl_expires_ats: Vec<PgTimestamp>,
    reuse_counts: Vec<Option<i32>>,
    last_used_ats: Vec<Option<PgTimestamp>>,
    traceparent: Option<String>,
}

impl OutboxChunk {
    /// The events of the chunk, in its order. A CHECK of the table keeps the arrays equally long.
    fn events(self) -> impl Iterator<Item = Expired> {
        let text = |timestamp: PgTimestamp| from_timestamp(timestamp).to_string();
        let (event_time, traceparent) = (text(self.expired_at), self.traceparent);
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
            let value = ExpiredValue {
                caller_id: key.as_deref(),
                clone_created_at: created.next().flatten().map(text),
                cloned_voice_id: voices.next().flatten(),
                event_id,
                expired_at: &event_time,
                last_used_at: used.next().flatten().map(text),
                reuse_count: counts.next().flatten(),
                ttl_expires_at: text(ttl_expires_at),
            };
            // serde_json cannot refuse any of these values
            let value = serde_json::to_vec(&value).unwrap_or_default();
            Expired { event_id, key, value, event_time: event_time.clone(), traceparent: traceparent.clone() }
        })
    }
}

/// Keeps only the events of a chunk at these 1-based positions. Raw SQL: Diesel has no `unnest` with ordinality.
const KEEP: &str = "UPDATE ingest.outbox o
    SET (ids, caller_ids, cloned_voice_ids, clone_created_ats, ttl_expires_ats, reuse_counts, last_used_ats) = (
        SELECT array_agg(id), array_agg(caller_id), array_agg(cloned_voice_id), array_agg(clone_created_at),
               array_agg(ttl_expires_at), array_agg(reuse_count), array_agg(last_used_at)
        FROM unnest(o.ids, o.caller_ids, o.cloned_voice_ids, o.clone_created_ats, o.ttl_expires_ats,
                    o.reuse_counts, o.last_used_ats)
             WITH ORDINALITY AS u (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
                                   reuse_count, last_used_at, place)
        WHERE place = ANY ($2))
    WHERE o.id = $1 AND o.publish_claim = $3";

/// All rows get one claim: a subquery that depends on no row is evaluated once. Raw SQL: Diesel has no WITH.
const CLAIM: &str = "WITH due AS (
        SELECT id FROM ingest.outbox WHERE publish_at <= now() AT TIME ZONE 'utc'
        ORDER BY publish_at, id LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE ingest.outbox o
    SET publish_claim = (SELECT gen_random_uuid()),
        publish_at = now() AT TIME ZONE 'utc' + $2 * interval '1 millisecond'
    FROM due WHERE o.id = due.id
    RETURNING o.id, o.publish_claim, o.expired_at, o.ids, o.of_events, o.caller_ids, o.cloned_voice_ids,
              o.clone_created_ats, o.ttl_expires_ats, o.reuse_counts, o.last_used_ats, o.traceparent";

/// The events that this instance has claimed for publishing.
#[derive(Debug, Default)]
pub struct ClaimedEvents {
    claim: Uuid,
    /// The chunks: id and size, in the order of the events.
    chunks: Vec<(i64, usize)>,
    /// The events, in order within each chunk.
    pub events: Vec<Expired>,
}

impl Store {
    /// Claims at most `max_chunks` chunks of waiting events. For [`LEASE`] no other instance takes them.
    pub async fn claim_expired(&self, max_chunks: i64) -> Result<ClaimedEvents, Fault> {
        let mut connection = self.connection().await?;
        let mut chunks: Vec<OutboxChunk> = diesel::sql_query(CLAIM)
            .bind::<BigInt, _>(max_chunks)
            .bind::<BigInt, _>(milliseconds(LEASE))
            .load(&mut connection)
            .await?;
        chunks.sort_by_key(|chunk| chunk.id);
        Ok(ClaimedEvents {
            claim: chunks.as_slice().first().map(|chunk| chunk.publish_claim).unwrap_or_default(),
            chunks: chunks.iter().map(|chunk| (chunk.id, chunk.ids.len())).collect(),
            events: chunks.into_iter().flat_map(OutboxChunk::events).collect(),
        })
    }

    /// Removes the events at these positions of the claim, which the broker has. The others are retried after a
    /// growing pause. A chunk that another instance has claimed after the lease is left to it.
    pub async fn settle_expired(
        &self,
        claimed: &ClaimedEvents,
        published: &HashSet<usize>,
    ) -> Result<(), Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<(), Fault, _>(async |connection| settle(connection, claimed, published).await)
            .await
    }
}

async fn settle(
    connection: &mut AsyncPgConnection,
    claimed: &ClaimedEvents,
    published: &HashSet<usize>,
) -> Result<(), Fault> {
    let (mut whole, mut others, mut first) = (Vec::new(), Vec::new(), 0);
    for (id, size) in &claimed.chunks {
        let remaining: Vec<i64> = (1..)
            .zip(first..first + size)
            .filter(|(_, at)| !published.contains(at))
            .map(|(n, _)| n)
            .collect();
        first += size;
        if remaining.is_empty() {
            whole.push(*id);
            continue;
        }
        others.push(*id);
        if remaining.len() < *size {
            diesel::sql_query(KEEP)
                .bind::<BigInt, _>(id)
                .bind::<Array<BigInt>, _>(&remaining)
                .bind::<SqlUuid, _>(claimed.claim)
                .execute(connection)
                .await?;
        }
    }
    let claimed_rows =
        |ids| outbox::table.filter(outbox::id.eq_any(ids)).filter(outbox::publish_claim.eq(claimed.claim));
    if !whole.is_empty() {
        diesel::delete(claimed_rows(whole)).execute(connection).await?;
    }
    if !others.is_empty() {
        diesel::update(claimed_rows(others))
            .set((
                outbox::publish_claim.eq(None::<Uuid>),
                outbox::publish_tries.eq(outbox::publish_tries + 1),
                outbox::publish_at.eq(sql::<Timestamp>(RETRY_AT)),
            ))
            .execute(connection)
            .await?;
    }
    Ok(())
}
