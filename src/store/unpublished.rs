//! Publishing of dead letters (contract, section 6): they are claimed, sent outside of any transaction, and settled,
//! as in the outbox.

use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::claim::{LEASE, RETRY_AT, milliseconds};
use super::{Fault, Store};
use crate::record::Header;
use crate::schema::ingest::dead_letters;

/// A dead letter that this instance has claimed for publishing.
#[derive(diesel::QueryableByName, Debug)]
#[diesel(table_name = dead_letters)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Unpublished {
    pub id: i64,
    #[diesel(sql_type = SqlUuid)]
    publish_claim: Uuid,
    pub topic: String,
    pub partition: i32,
    pub record_offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    headers: Vec<Option<Vec<u8>>>,
    pub reason: String,
    pub message: String,
}

impl Unpublished {
    /// Takes the record's headers out of the letter.
    pub fn take_headers(&mut self) -> Vec<Header> {
        let mut parts = std::mem::take(&mut self.headers).into_iter();
        let mut headers = Vec::with_capacity(parts.len() / 2);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            headers.push(Header { name: name.unwrap_or_default(), value });
        }
        headers
    }
}

/// The letters that this instance has claimed for publishing.
#[derive(Debug, Default)]
pub struct ClaimedLetters {
    claim: Uuid,
    /// The letters, the longest waiting first.
    pub letters: Vec<Unpublished>,
}

impl ClaimedLetters {
    /// Splits off the letters, which are sent while the claim is kept.
    pub fn split(self) -> (Claim, Vec<Unpublished>) {
        (Claim(self.claim), self.letters)
    }
}

/// A claim of letters.
#[derive(Clone, Copy, Debug)]
pub struct Claim(Uuid);

/// The outcome of sending a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The broker has it.
    Published,
    /// The letter is retried after a growing pause.
    Failed,
    /// The broker refuses the record itself, in these words. The letter is retried after a day.
    Unpublishable(String),
}

/// Bytes are counted before a value is read: from the column `bytes`, or in a row older than the column from the
/// lengths, for which only headers are read. Raw SQL: Diesel has no WITH.
const CLAIM: &str = "WITH due AS (
        SELECT id, publish_at, COALESCE(bytes, COALESCE(octet_length(value), 0) + COALESCE(octet_length(key), 0)
                   + (SELECT COALESCE(sum(64 + COALESCE(octet_length(part), 0)), 0) FROM unnest(headers) AS part)) AS bytes
        FROM ingest.dead_letters
        WHERE published_at IS NULL AND publish_at <= now() AT TIME ZONE 'utc'
        ORDER BY publish_at, id LIMIT $1 FOR UPDATE SKIP LOCKED),
    counted AS (
        SELECT id, row_number() OVER turn AS turn, sum(bytes) OVER turn AS total FROM due
        WINDOW turn AS (ORDER BY publish_at, id ROWS UNBOUNDED PRECEDING))
    UPDATE ingest.dead_letters l
    SET publish_claim = (SELECT gen_random_uuid()),
        publish_at = now() AT TIME ZONE 'utc' + $3 * interval '1 millisecond'
    FROM counted c
    WHERE l.id = c.id AND (c.total <= $2 OR c.turn = 1)
    RETURNING l.id, l.publish_claim, l.topic, l.partition, l.record_offset, l.key, l.value, l.headers, l.reason, l.message";

impl Store {
    /// Claims at most `max` unpublished letters, and at most `max_bytes` beside the first. For [`LEASE`] no other
    /// instance takes them.
    pub async fn claim_dead_letters(&self, max: i64, max_bytes: i64) -> Result<ClaimedLetters, Fault> {
        let mut connection = self.connection().await?;
        let mut letters: Vec<Unpublished> = diesel::sql_query(CLAIM)
            .bind::<BigInt, _>(max)
            .bind::<BigInt, _>(max_bytes)
            .bind::<BigInt, _>(milliseconds(LEASE))
            .load(&mut connection)
            .await?;
        letters.sort_by_key(|letter| letter.id);
        let claim = letters.as_slice().first().map(|letter| letter.publish_claim).unwrap_or_default();
        Ok(ClaimedLetters { claim, letters })
    }

    /// Notes the outcome of sent letters. A letter that another instance has claimed after the lease is left to it.
    pub async fn settle_dead_letters(&self, claim: Claim, fates: &[(i64, Fate)]) -> Result<(), Fault> {
        let ids: Vec<i64> = fates.iter().map(|(id, _)| *id).collect();
        let published: Vec<bool> = fates.iter().map(|(_, fate)| *fate == Fate::Published).collect();
        let refusals: Vec<Option<&str>> = fates
            .iter()
            .map(|(_, fate)| match fate {
                Fate::Unpublishable(words) => Some(words.as_str()),
                Fate::Published | Fate::Failed => None,
            })
            .collect();
        let mut connection = self.connection().await?;
        // Raw SQL: Diesel has no `unnest` as a table.
        diesel::sql_query(format!(
            "UPDATE ingest.dead_letters l
             SET published_at = CASE WHEN u.published THEN now() AT TIME ZONE 'utc' END,
                 unpublishable = CASE WHEN NOT u.published THEN COALESCE(u.refusal, l.unpublishable) END,
                 publish_claim = NULL,
                 publish_tries = publish_tries + (NOT u.published)::integer,
                 publish_at = CASE WHEN COALESCE(u.refusal, l.unpublishable) IS NULL THEN {RETRY_AT}
                              ELSE now() AT TIME ZONE 'utc' + interval '1 day' END
             FROM unnest($1, $2, $3) AS u (id, published, refusal)
             WHERE l.id = u.id AND l.publish_claim = $4"
        ))
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Bool>, _>(published)
        .bind::<Array<Nullable<Text>>, _>(refusals)
        .bind::<SqlUuid, _>(claim.0)
        .execute(&mut connection)
        .await?;
        Ok(())
    }
}
