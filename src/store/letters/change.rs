//! Changes that operators make to dead letters. Each statement takes few letters, and locks them in the order of
//! their ids, so that two operators cannot deadlock. Raw SQL where that order takes a WITH, which Diesel does not have.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::super::connect;
use super::super::sql::{coalesce, concat_ws, now_utc};
use super::super::{Fault, Store};
use crate::event::Unusable;
use crate::schema::ingest::dead_letters;

/// First key of the advisory lock of a `fix`, beside the letter's id (`fix ` in ASCII).
const FIXING: i32 = 0x6669_7820;

/// The outcome of a retried letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// The letter's id.
    pub id: i64,
    /// Number of earlier tries.
    pub tries: i32,
    /// Why its record still cannot be used; `None` if it landed.
    pub unusable: Option<Unusable>,
}

/// Keeps other `fix` commands from a letter. The lock ends with the session.
pub struct Held {
    _session: AsyncPgConnection,
}

/// Waits until nobody else fixes this letter, and locks it in a session of its own: no transaction stays open while
/// the broker is waited for.
pub async fn hold(database_url: &str, id: i64) -> Result<Held, Fault> {
    let session = connect::connect(database_url).await;
    let mut session = session.map_err(|error| Fault::Unavailable(error.to_string()))?;
    // Raw SQL: it names no table.
    diesel::sql_query("SELECT pg_advisory_lock($1, hashint8($2))")
        .bind::<Integer, _>(FIXING)
        .bind::<BigInt, _>(id)
        .execute(&mut session)
        .await?;
    Ok(Held { _session: session })
}

impl Store {
    /// Resolves a letter whose corrected record the broker has. A letter that somebody else has resolved in the
    /// meantime is fixed all the same.
    pub async fn settle_fix(&self, id: i64, note: &str) -> Result<(), Fault> {
        diesel::update(dead_letters::table.find(id))
            .set((
                dead_letters::resolved_at.eq(coalesce(dead_letters::resolved_at, now_utc().nullable())),
                dead_letters::resolution.eq("fixed"),
                dead_letters::note.eq(concat_ws("; ", dead_letters::note, note).nullable()),
            ))
            .execute(&mut self.connection().await?)
            .await?;
        Ok(())
    }

    /// Notes the outcome of retried letters. Their records have landed before, which resolved the letters as
    /// `replayed`. Letters that somebody else has resolved in the meantime stay so.
    pub async fn settle_retries(&self, retried: &[Retried]) -> Result<(), Fault> {
        let ids: Vec<i64> = retried.iter().map(|letter| letter.id).collect();
        let tries: Vec<i32> = retried.iter().map(|letter| letter.tries.saturating_add(1)).collect();
        let reasons: Vec<Option<&str>> = retried
            .iter()
            .map(|letter| letter.unusable.as_ref().map(|unusable| unusable.reason.name()))
            .collect();
        let messages: Vec<Option<&str>> = retried
            .iter()
            .map(|letter| letter.unusable.as_ref().map(|unusable| unusable.message.as_str()))
            .collect();
        diesel::sql_query(
            "WITH locked AS (SELECT id FROM ingest.dead_letters WHERE id = ANY ($1) ORDER BY id FOR UPDATE)
             UPDATE ingest.dead_letters l
             SET tries = GREATEST(l.tries, u.tries), last_tried_at = now() AT TIME ZONE 'utc',
                 reason = CASE WHEN l.resolved_at IS NULL THEN COALESCE(u.reason, l.reason) ELSE l.reason END,
                 message = CASE WHEN l.resolved_at IS NULL THEN COALESCE(u.message, l.message) ELSE l.message END,
                 resolved_at = CASE WHEN u.reason IS NULL THEN COALESCE(l.resolved_at, now() AT TIME ZONE 'utc')
                               ELSE l.resolved_at END,
                 resolution = CASE WHEN u.reason IS NULL AND (l.resolution = 'replayed' OR l.resolved_at IS NULL)
                              THEN 'retried' ELSE l.resolution END
             FROM unnest($1, $2, $3, $4) AS u (id, tries, reason, message), locked
             WHERE l.id = u.id AND l.id = locked.id",
        )
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Integer>, _>(tries)
        .bind::<Array<Nullable<Text>>, _>(reasons)
        .bind::<Array<Nullable<Text>>, _>(messages)
        .execute(&mut self.connection().await?)
        .await?;
        Ok(())
    }

    /// Resolves letters with a note, and returns how many. Letters that are resolved already stay as they are.
    pub async fn discard_letters(&self, ids: &[i64], note: &str) -> Result<usize, Fault> {
        let discarded = diesel::sql_query(
            "WITH locked AS (
                SELECT id FROM ingest.dead_letters WHERE id = ANY ($1) AND resolved_at IS NULL ORDER BY id FOR UPDATE)
             UPDATE ingest.dead_letters l
             SET resolved_at = now() AT TIME ZONE 'utc', resolution = 'discarded', note = $2
             FROM locked WHERE l.id = locked.id",
        )
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Text, _>(note)
        .execute(&mut self.connection().await?)
        .await?;
        Ok(discarded)
    }

    /// Deletes the letters that are resolved and published, and returns how many.
    pub async fn delete_letters(&self, ids: &[i64]) -> Result<usize, Fault> {
        let deleted = diesel::sql_query(
            "WITH locked AS (
                SELECT id FROM ingest.dead_letters
                WHERE id = ANY ($1) AND resolved_at IS NOT NULL AND published_at IS NOT NULL ORDER BY id FOR UPDATE)
             DELETE FROM ingest.dead_letters l USING locked WHERE l.id = locked.id",
        )
        .bind::<Array<BigInt>, _>(ids)
        .execute(&mut self.connection().await?)
        .await?;
        Ok(deleted)
    }
}
