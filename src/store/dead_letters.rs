//! `ingest.dead_letters` (contract, section 6): records that could not be used, as they came.

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use futures_util::future::BoxFuture;

use super::unnest::{Column, Statement, Unnest};
use super::{Fault, Store};
use crate::event::Unusable;
use crate::record::{Header, Record};

/// A record with the reason why it cannot be used.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// The topic as Kafka has it.
    pub topic_name: String,
    /// The record.
    pub record: &'a Record,
    /// The reason.
    pub unusable: Unusable,
}

/// Headers lie one after the other in the further value; each row takes its slice.
struct InsertDeadLetters;

impl Statement for InsertDeadLetters {
    const HEAD: &'static str = "WITH inserted AS (
        INSERT INTO ingest.dead_letters
            (topic, partition, record_offset, record_timestamp, key, value, reason, message, headers)
        SELECT u.topic, u.partition, u.record_offset, u.record_timestamp, u.key, u.value, u.reason, u.message,
               CASE WHEN u.first > u.last THEN '{}' ELSE h.parts[u.first:u.last] END
        FROM ";
    const TAIL: &'static str = " AS u (topic, partition, record_offset, record_timestamp, key, value, reason,
                message, first, last),
            (SELECT ";
    const END: &'static str = " AS parts) AS h
        ON CONFLICT DO NOTHING RETURNING 1)
        SELECT count(*) FROM inserted";
    type Row = BigInt;
}

/// A record's timestamp as PostgreSQL can hold it: what is far out of its range becomes its range's end.
fn record_timestamp(millis: i64) -> PgTimestamp {
    const EPOCH_DIFFERENCE: i64 = 946_684_800_000;
    // years -4000 to 200000
    PgTimestamp((millis.clamp(-188_000_000_000_000, 6_200_000_000_000_000) - EPOCH_DIFFERENCE) * 1000)
}

/// Keeps dead letters; one that is there already stays as it is. Returns how many are new.
pub(super) async fn insert(
    connection: &AsyncPgConnection,
    dead_letters: &[DeadLetter<'_>],
) -> Result<u64, Fault> {
    if dead_letters.is_empty() {
        return Ok(0);
    }
    let mut parts: Vec<Option<&[u8]>> = Vec::new();
    let mut first = Vec::new();
    let mut last = Vec::new();
    for dead_letter in dead_letters {
        first.push(i64::try_from(parts.len()).unwrap_or(i64::MAX).saturating_add(1));
        for header in &dead_letter.record.headers {
            parts.push(Some(header.name.as_bytes()));
            parts.push(header.value.as_deref());
        }
        last.push(i64::try_from(parts.len()).unwrap_or(i64::MAX));
    }
    let records = || dead_letters.iter().map(|dead_letter| dead_letter.record);
    let statement = Unnest::<InsertDeadLetters>::with(
        vec![
            Column::texts(dead_letters.iter().map(|dead_letter| &dead_letter.topic_name)),
            Column::Integers(records().map(|record| Some(record.partition)).collect()),
            Column::BigInts(records().map(|record| record.offset).collect()),
            Column::Times(records().map(|record| Some(record_timestamp(record.timestamp))).collect()),
            Column::Bytes(records().map(|record| record.key.as_deref()).collect()),
            Column::Bytes(records().map(|record| record.value.as_deref()).collect()),
            Column::texts(dead_letters.iter().map(|dead_letter| dead_letter.unusable.reason.name())),
            Column::texts(dead_letters.iter().map(|dead_letter| &dead_letter.unusable.message)),
            Column::BigInts(first),
            Column::BigInts(last),
        ],
        Column::Bytes(parts),
    );
    let inserted: i64 = statement.get_result(&mut &*connection).await?;
    Ok(u64::try_from(inserted).unwrap_or(0))
}

/// A dead letter that is still to be published.
#[derive(diesel::QueryableByName, Debug)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Unpublished {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    pub record_offset: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    pub key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    pub value: Option<Vec<u8>>,
    #[diesel(sql_type = Array<Nullable<Binary>>)]
    headers: Vec<Option<Vec<u8>>>,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Text)]
    pub message: String,
}

impl Unpublished {
    /// The record's headers.
    pub fn headers(&self) -> Vec<Header> {
        let (pairs, _) = self.headers.as_chunks::<2>();
        pairs
            .iter()
            .map(|[name, value]| Header {
                name: String::from_utf8_lossy(name.as_deref().unwrap_or_default()).into_owned(),
                value: value.clone(),
            })
            .collect()
    }
}

/// A partition whose unusable records in a row are accepted.
#[derive(diesel::QueryableByName, serde::Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The topic as Kafka has it.
    #[diesel(sql_type = Text)]
    pub topic: String,
    /// Its partition.
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    /// How many there were in a row.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

impl Store {
    /// Lets stopped partitions go on: clears their stop, sets their counts of unusable records in a row back to 0, and
    /// returns them by topic and partition. The running daemons compare their positions with the stored ones every two
    /// seconds.
    pub async fn accept_dead_letters(
        &self,
        group: &str,
        topic: Option<&str>,
        partition: Option<i32>,
    ) -> Result<Vec<Accepted>, Fault> {
        let mut connection = self.connection().await?;
        let accepted = diesel::sql_query(
            "WITH counted AS (
                SELECT group_id, topic, partition, dead_in_a_row FROM ingest.consumer_offsets
                WHERE group_id = $1 AND stopped_at IS NOT NULL
                  AND topic = COALESCE($2, topic) AND partition = COALESCE($3, partition)
                FOR UPDATE),
             accepted AS (
                UPDATE ingest.consumer_offsets o
                SET dead_in_a_row = 0, stopped_at = NULL, updated_at = now() AT TIME ZONE 'utc'
                FROM counted c
                WHERE (o.group_id, o.topic, o.partition) = (c.group_id, c.topic, c.partition)
                RETURNING o.topic, o.partition, c.dead_in_a_row AS count)
             SELECT topic, partition, count FROM accepted ORDER BY topic, partition",
        )
        .bind::<Text, _>(group)
        .bind::<Nullable<Text>, _>(topic)
        .bind::<Nullable<Integer>, _>(partition)
        .load(&mut connection)
        .await?;
        Ok(accepted)
    }

    /// Publishes some dead letters that are not yet: locks them against other instances, lets `publish`
    /// say which of them the broker has, and marks those; the others go to the end of the queue. Returns how many
    /// there were and how many the broker has. Killed in between, they are published again.
    pub async fn publish_dead_letters(
        &self,
        most: i64,
        most_bytes: i64,
        publish: impl for<'r> FnOnce(&'r [Unpublished]) -> BoxFuture<'r, Vec<i64>> + Send,
    ) -> Result<(usize, usize), Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<(usize, usize), Fault, _>(async |connection| {
                let waiting: Vec<Unpublished> = diesel::sql_query(
                    "WITH waiting AS (
                        SELECT id, topic, partition, record_offset, key, value, headers, reason, message,
                               row_number() OVER turn AS turn, sum(COALESCE(length(value), 0)) OVER turn AS bytes
                        FROM (SELECT * FROM ingest.dead_letters WHERE published_at IS NULL
                              ORDER BY tried_at NULLS FIRST, id LIMIT $1 FOR UPDATE SKIP LOCKED) AS locked
                        WINDOW turn AS (ORDER BY tried_at NULLS FIRST, id))
                     SELECT id, topic, partition, record_offset, key, value, headers, reason, message
                     FROM waiting WHERE bytes <= $2 OR turn = 1 ORDER BY turn",
                )
                .bind::<BigInt, _>(most)
                .bind::<BigInt, _>(most_bytes)
                .load(connection)
                .await?;
                if waiting.is_empty() {
                    return Ok((0, 0));
                }
                let published = publish(&waiting).await;
                let tried: Vec<i64> = waiting.iter().map(|letter| letter.id).collect();
                diesel::sql_query(
                    "UPDATE ingest.dead_letters
                     SET published_at = CASE WHEN id = ANY ($2) THEN now() AT TIME ZONE 'utc' END,
                         tried_at = now() AT TIME ZONE 'utc'
                     WHERE id = ANY ($1)",
                )
                .bind::<Array<BigInt>, _>(&tried)
                .bind::<Array<BigInt>, _>(&published)
                .execute(connection)
                .await?;
                Ok((waiting.len(), published.len()))
            })
            .await
    }
}
