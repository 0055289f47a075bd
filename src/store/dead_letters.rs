//! `ingest.dead_letters` (contract, section 6): records that could not be used, as they came. How they are published
//! is in `unpublished`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamp};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::unnest::{Column, Statement, Unnest};
use super::{Fault, Store};
use crate::event::{Reason, Unusable};
use crate::plan::Source;
use crate::record::{Header, Record, Topic};

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

/// The dead letters of one partition and reason in a batch, for a line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The topic as Kafka has it.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Offset of the first of them.
    pub first_offset: i64,
    /// Offset of the last of them.
    pub last_offset: i64,
    /// Their reason.
    pub reason: Reason,
    /// How many they are.
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

/// Each row has its headers as the text of an array: slices of one array for all rows would take time in the square of
/// their number.
///
/// A letter that a retry or a replay had resolved is open again, with the new reason. Others stay as they are.
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

/// A record's timestamp as PostgreSQL can hold it: what is far out of its range becomes its range's end.
fn record_timestamp(millis: i64) -> PgTimestamp {
    const EPOCH_DIFFERENCE: i64 = 946_684_800_000;
    // years -4000 to 200000
    PgTimestamp((millis.clamp(-188_000_000_000_000, 6_200_000_000_000_000) - EPOCH_DIFFERENCE) * 1000)
}

/// `bytea[]` as PostgreSQL reads it from text: name, value, name, value, ...; a null value is NULL.
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

/// Writes what a batch says of dead letters: those that are new, and those that are resolved as their record landed.
/// Returns how many are new.
pub(super) async fn write(
    connection: &AsyncPgConnection,
    known: &KnownLetters,
    source: &Source<'_>,
    dead_letters: &[DeadLetter<'_>],
    always_look: bool,
) -> Result<u64, Fault> {
    let inserted = insert(connection, dead_letters).await?;
    known.note(dead_letters);
    resolve(connection, known, source, dead_letters, always_look).await?;
    Ok(inserted)
}

/// In one order, so that two writers of the same letters do not wait for each other.
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

/// What this process knows of the letters of each partition, so that records which have none cost nothing.
///
/// A record that lands can have a letter where it was read before: by this process (`read_to`), or by whoever made the
/// letters that are in the table (`highest`). Beyond both there is only what another process reads ahead of this one,
/// as a replay with other settings may; for that the table is asked again every [`ASK_EVERY`].
#[derive(Debug, Default)]
pub(super) struct KnownLetters(Mutex<HashMap<(Topic, i32), Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    /// The highest offset that has a letter; none is below all.
    highest: i64,
    /// The offset behind the last record that this process wrote.
    read_to: i64,
    asked_at: Instant,
}

/// How often the table is asked although nothing says that it has a letter.
const ASK_EVERY: Duration = Duration::from_secs(30);

impl Known {
    /// Whether a record of this offset or a later one may have a letter.
    fn may_have(&self, first_offset: i64, now: Instant) -> bool {
        first_offset < self.read_to
            || first_offset <= self.highest
            || now.saturating_duration_since(self.asked_at) >= ASK_EVERY
    }
}

impl KnownLetters {
    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<(Topic, i32), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Letters that are being written. If their transaction does not land, the table is only asked more often.
    fn note(&self, dead_letters: &[DeadLetter<'_>]) {
        if dead_letters.is_empty() {
            return;
        }
        let mut known = self.locked();
        for DeadLetter { record, .. } in dead_letters {
            if let Some(known) = known.get_mut(&(record.topic, record.partition)) {
                known.highest = known.highest.max(record.offset);
            }
        }
    }

    /// Of these ranges those that may hold letters. Each is taken for read from here on.
    fn worth_asking(&self, ranges: BTreeMap<(Topic, i32), (i64, i64)>, now: Instant) -> Vec<Asked> {
        let mut known = self.locked();
        let mut asked = Vec::new();
        for ((topic, partition), (first, last)) in ranges {
            let entry = known.get_mut(&(topic, partition));
            if entry.as_ref().is_none_or(|known| known.may_have(first, now)) {
                asked.push(Asked { topic, partition, first, last });
            }
            if let Some(known) = entry {
                known.read_to = last.saturating_add(1);
            }
        }
        asked
    }

    fn learn(&self, asked: &Asked, highest: Option<i64>, now: Instant) {
        let highest = highest.unwrap_or(i64::MIN);
        let entry = Known { highest, read_to: asked.last.saturating_add(1), asked_at: now };
        self.locked()
            .entry((asked.topic, asked.partition))
            .and_modify(|known| *known = Known { highest: highest.max(known.highest), ..entry })
            .or_insert(entry);
    }
}

/// A range of offsets, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    topic: Topic,
    partition: i32,
    first: i64,
    last: i64,
}

/// The open letters of ranges of offsets, and the highest offset of any letter of the partition: at least one row a
/// range.
struct LookForLetters;

impl Statement for LookForLetters {
    const HEAD: &'static str = "SELECT u.place, l.id, l.record_offset, l.record_timestamp,
            (SELECT max(m.record_offset) FROM ingest.dead_letters m
             WHERE m.topic = u.topic AND m.partition = u.partition)
        FROM ";
    const TAIL: &'static str = " AS u (place, topic, partition, first, last)
        LEFT JOIN ingest.dead_letters l
            ON l.topic = u.topic AND l.partition = u.partition AND l.record_offset BETWEEN u.first AND u.last
               AND l.resolved_at IS NULL";
    type Row = (BigInt, Nullable<BigInt>, Nullable<BigInt>, Nullable<Timestamp>, Nullable<BigInt>);
}

/// A row of [`LookForLetters`].
type Found = (i64, Option<i64>, Option<i64>, Option<PgTimestamp>, Option<i64>);

/// Resolves the letters of records that landed: those of the batch that are not among its dead letters.
async fn resolve(
    connection: &AsyncPgConnection,
    known: &KnownLetters,
    source: &Source<'_>,
    dead_letters: &[DeadLetter<'_>],
    always_look: bool,
) -> Result<(), Fault> {
    let mut ranges: BTreeMap<(Topic, i32), (i64, i64)> = BTreeMap::new();
    for record in &source.records {
        let range = ranges.entry((record.topic, record.partition)).or_insert((record.offset, record.offset));
        *range = (range.0.min(record.offset), range.1.max(record.offset));
    }
    let now = Instant::now();
    let asked = if always_look {
        ranges
            .into_iter()
            .map(|((topic, partition), (first, last))| Asked { topic, partition, first, last })
            .collect()
    } else {
        known.worth_asking(ranges, now)
    };
    if asked.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        asked.iter().map(|asked| format!("{}{}", source.topic_prefix, asked.topic)).collect();
    let look = Unnest::<LookForLetters>::new(vec![
        Column::BigInts((0..).take(asked.len()).collect()),
        Column::texts(names.iter()),
        Column::Integers(asked.iter().map(|asked| Some(asked.partition)).collect()),
        Column::BigInts(asked.iter().map(|asked| asked.first).collect()),
        Column::BigInts(asked.iter().map(|asked| asked.last).collect()),
    ]);
    let found: Vec<Found> = look.load(&mut &*connection).await?;
    let mut open: HashMap<(Topic, i32, i64, i64), i64> = HashMap::new();
    for (place, id, offset, timestamp, highest) in found {
        let Some(asked) = usize::try_from(place).ok().and_then(|place| asked.get(place)) else { continue };
        if !always_look {
            known.learn(asked, highest, now);
        }
        if let (Some(id), Some(offset), Some(PgTimestamp(at))) = (id, offset, timestamp) {
            open.insert((asked.topic, asked.partition, offset, at), id);
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let place = |record: &Record| {
        let PgTimestamp(at) = record_timestamp(record.timestamp);
        (record.topic, record.partition, record.offset, at)
    };
    let dead: HashSet<_> = dead_letters.iter().map(|letter| place(letter.record)).collect();
    let landed = source.records.iter().copied().map(place).filter(|place| !dead.contains(place));
    let mut ids: Vec<i64> = landed.filter_map(|place| open.get(&place).copied()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    ids.sort_unstable();
    diesel::sql_query(
        "UPDATE ingest.dead_letters SET resolved_at = now() AT TIME ZONE 'utc', resolution = 'replayed'
         WHERE id = ANY ($1) AND resolved_at IS NULL",
    )
    .bind::<Array<BigInt>, _>(ids)
    .execute(&mut &*connection)
    .await?;
    Ok(())
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64) -> Record {
        Record {
            topic: Topic::CloneReady,
            partition,
            offset,
            timestamp: 0,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    fn letter(record: &Record, reason: Reason) -> DeadLetter<'_> {
        DeadLetter { topic_name: "p.clone.ready".into(), record, unusable: Unusable::new(reason, "message") }
    }

    #[test]
    fn a_batch_has_one_summary_for_each_partition_and_reason() {
        let records = [record(0, 7), record(0, 9), record(1, 3), record(0, 8)];
        let reasons = [Reason::Tombstone, Reason::Tombstone, Reason::Tombstone, Reason::InvalidJson];
        let letters: Vec<_> =
            records.iter().zip(reasons).map(|(record, reason)| letter(record, reason)).collect();
        let lines: Vec<String> = summaries(&letters).iter().map(Summary::to_string).collect();
        assert_eq!(
            lines,
            [
                "1 record of p.clone.ready/0 between offsets 8 and 8: invalid_json",
                "2 records of p.clone.ready/0 between offsets 7 and 9: tombstone",
                "1 record of p.clone.ready/1 between offsets 3 and 3: tombstone",
            ]
        );
        assert!(summaries(&[]).is_empty());
    }

    #[test]
    fn headers_are_written_as_postgresql_reads_an_array_of_bytes() {
        let headers = [
            Header::new("a", b"\0\xff".as_slice()),
            Header { name: Vec::new(), value: None },
            Header::new(b"\xfe".as_slice(), ""),
        ];
        assert_eq!(array_text(&headers), r#"{"\\x61","\\x00ff","\\x",NULL,"\\xfe","\\x"}"#);
        assert_eq!(array_text(&[]), "{}");
    }

    #[test]
    fn the_table_is_asked_only_for_offsets_that_may_have_a_letter() {
        let known = KnownLetters::default();
        let start = Instant::now();
        let range = |first, last| BTreeMap::from([((Topic::CloneReady, 0), (first, last))]);
        let ask = |first, last, now| !known.worth_asking(range(first, last), now).is_empty();
        assert!(ask(10, 19, start), "nothing is known yet");
        let asked = Asked { topic: Topic::CloneReady, partition: 0, first: 10, last: 19 };
        known.learn(&asked, Some(25), start);
        assert!(ask(20, 29, start), "a letter is known there");
        assert!(!ask(30, 39, start));
        assert!(!ask(40, 49, start + ASK_EVERY / 2));
        assert!(ask(30, 39, start), "the offsets went back");
        assert!(ask(50, 59, start + ASK_EVERY), "another process may have read ahead");
        known.note(&[letter(&record(0, 70), Reason::Tombstone)]);
        assert!(ask(60, 69, start), "a letter was made");
        assert!(!ask(71, 79, start));
    }
}
