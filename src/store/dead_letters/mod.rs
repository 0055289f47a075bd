//! `ingest.dead_letters` (contract, section 6): unusable records, byte for byte. `unpublished` publishes them.

mod accept;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

pub use accept::Accepted;
pub(super) use resolve::KnownLetters;

use super::Fault;
use super::unnest::{Column, Statement, Unnest};
use crate::event::{Reason, Unusable};
use crate::plan::Source;
use crate::record::{Header, Record};

/// A record with the reason why it cannot be used.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// The topic's name in Kafka, with the prefix.
    pub topic_name: String,
    /// The record.
    pub record: &'a Record,
    /// Why the record cannot be used.
    pub unusable: Unusable,
}

/// The dead letters of one partition and reason in a batch, for a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The topic's name in Kafka, with the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Offset of the first letter.
    pub first_offset: i64,
    /// Offset of the last letter.
    pub last_offset: i64,
    /// The reason.
    pub reason: Reason,
    /// Number of letters.
    pub count: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { topic, partition, first_offset, last_offset, reason, count } = self;
        let records = if *count == 1 { "record" } else { "records" };
        write!(
            f,
            "{count} {records} of {topic}/{partition} between offsets {first_offset} and {last_offset}: {reason}"
        )
    }
}

/// The dead letters of a batch by topic, partition and reason.
pub fn summaries(dead_letters: &[DeadLetter<'_>]) -> Vec<Summary> {
    let mut found: BTreeMap<(&str, i32, Reason), Summary> = BTreeMap::new();
    for letter in dead_letters {
        let (topic, record, reason) = (letter.topic_name.as_str(), letter.record, letter.unusable.reason);
        let summary = found.entry((topic, record.partition, reason)).or_insert_with(|| Summary {
            topic: topic.to_owned(),
            partition: record.partition,
            first_offset: record.offset,
            last_offset: record.offset,
            reason,
            count: 0,
        });
        summary.first_offset = summary.first_offset.min(record.offset);
        summary.last_offset = summary.last_offset.max(record.offset);
        summary.count += 1;
    }
    found.into_values().collect()
}

/// Headers are the text of an array in each row: slicing one array for all rows would take quadratic time.
///
/// A letter that a retry or a replay had resolved is reopened with the new reason. Others stay as they are.
///
/// Raw SQL, as batches run it: one cached statement for all letters.
struct InsertDeadLetters;

impl Statement for InsertDeadLetters {
    const HEAD: &'static str = "WITH inserted AS (
        INSERT INTO ingest.dead_letters AS t
            (topic, partition, record_offset, record_timestamp, key, value, reason, message, bytes, headers)
        SELECT u.topic, u.partition, u.record_offset, u.record_timestamp, u.key, u.value, u.reason, u.message,
               u.bytes, u.headers::bytea[]
        FROM ";
    const TAIL: &'static str = " AS u (topic, partition, record_offset, record_timestamp, key, value, reason,
                message, bytes, headers)
        ON CONFLICT (topic, partition, record_offset, record_timestamp) DO UPDATE
        SET resolved_at = NULL, resolution = NULL, note = NULL, reason = excluded.reason, message = excluded.message,
            tries = t.tries + 1, last_tried_at = now() AT TIME ZONE 'utc'
        WHERE t.resolution IN ('retried', 'replayed')
        RETURNING (xmax = 0) AS is_new)
        SELECT count(*) FILTER (WHERE is_new) FROM inserted";
    type Row = BigInt;
}

/// A record's timestamp, clamped to the range of PostgreSQL.
fn record_timestamp(millis: i64) -> PgTimestamp {
    const EPOCH_DIFFERENCE: i64 = 946_684_800_000;
    // years -4000 to 200000
    PgTimestamp((millis.clamp(-188_000_000_000_000, 6_200_000_000_000_000) - EPOCH_DIFFERENCE) * 1000)
}

/// The headers as PostgreSQL's text form of `bytea[]`: name, value, name, value, ...; a null value is NULL.
fn array_text(headers: &[Header]) -> String {
    let bytes: usize = headers.iter().map(Header::bytes).sum();
    let mut text = String::with_capacity(2 + 2 * bytes + 14 * headers.len());
    text.push('{');
    for (position, header) in headers.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        push_bytes(&mut text, &header.name);
        text.push(',');
        match &header.value {
            None => text.push_str("NULL"),
            Some(value) => push_bytes(&mut text, value),
        }
    }
    text.push('}');
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    text.push_str("\"\\\\x");
    for byte in bytes {
        // writing to a String cannot fail
        let _ = write!(text, "{byte:02x}");
    }
    text.push('"');
}

/// Writes the dead letters of a batch, and resolves the letters of its records that landed. Returns the number of new
/// letters.
pub(super) async fn write(
    connection: &AsyncPgConnection,
    known: &KnownLetters,
    source: &Source<'_>,
    dead_letters: &[DeadLetter<'_>],
    always_query: bool,
) -> Result<u64, Fault> {
    let inserted = insert(connection, dead_letters).await?;
    known.note(dead_letters);
    resolve::resolve(connection, known, source, dead_letters, always_query).await?;
    Ok(inserted)
}

/// Inserts in one order, so that two writers of the same letters cannot deadlock.
async fn insert(connection: &AsyncPgConnection, dead_letters: &[DeadLetter<'_>]) -> Result<u64, Fault> {
    if dead_letters.is_empty() {
        return Ok(0);
    }
    let mut letters: Vec<&DeadLetter<'_>> = dead_letters.iter().collect();
    letters.sort_by_key(|letter| (letter.record.topic, letter.record.partition, letter.record.offset));
    let records = || letters.iter().map(|letter| letter.record);
    let bytes = |record: &Record| i64::try_from(record.size()).unwrap_or(i64::MAX);
    let statement = Unnest::<InsertDeadLetters>::new(vec![
        Column::texts(letters.iter().map(|letter| &letter.topic_name)),
        Column::Integers(records().map(|record| Some(record.partition)).collect()),
        Column::BigInts(records().map(|record| record.offset).collect()),
        Column::Times(records().map(|record| Some(record_timestamp(record.timestamp))).collect()),
        Column::Bytes(records().map(|record| record.key.as_deref()).collect()),
        Column::Bytes(records().map(|record| record.value.as_deref()).collect()),
        Column::texts(letters.iter().map(|letter| letter.unusable.reason.name())),
        Column::texts(letters.iter().map(|letter| &letter.unusable.message)),
        Column::BigInts(records().map(bytes).collect()),
        Column::Strings(records().map(|record| Some(array_text(&record.headers))).collect()),
    ]);
    let inserted: i64 = statement.get_result(&mut &*connection).await?;
    Ok(u64::try_from(inserted).unwrap_or(0))
}
