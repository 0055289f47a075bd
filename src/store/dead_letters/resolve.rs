//! Resolving the letters of records that landed, with as few queries as possible.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Timestamp};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{DeadLetter, record_timestamp};
use crate::plan::Source;
use crate::record::{Record, Topic};
use crate::schema::ingest::dead_letters as t;
use crate::store::Fault;
use crate::store::sql::now_utc;
use crate::store::unnest::{Column, Statement, Unnest};

/// What this process knows of the letters of each partition, so that partitions without letters cost no query.
///
/// A record that lands can have a letter only if its offset was read before: by this process (`read_to`), or by
/// another one whose letters are in the table (`highest`). Beyond both, another process may read ahead of this one,
/// such as a replay with other settings. For that the table is queried every [`QUERY_EVERY`].
#[derive(Debug, Default)]
pub struct KnownLetters(Mutex<HashMap<(Topic, i32), PartitionLetters>>);

#[derive(Clone, Copy, Debug)]
struct PartitionLetters {
    /// The highest offset with a letter; `i64::MIN` if there is none.
    highest: i64,
    /// The offset after the last record that this process wrote.
    read_to: i64,
    queried_at: Instant,
}

/// How often the table is queried although no letter is known in the range.
pub(super) const QUERY_EVERY: Duration = Duration::from_secs(30);

impl PartitionLetters {
    /// Whether a record at this offset or a later one may have a letter.
    fn may_have(&self, first_offset: i64, now: Instant) -> bool {
        first_offset < self.read_to
            || first_offset <= self.highest
            || now.saturating_duration_since(self.queried_at) >= QUERY_EVERY
    }
}

impl KnownLetters {
    fn locked(&self) -> MutexGuard<'_, HashMap<(Topic, i32), PartitionLetters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes letters that are being written. If their transaction fails, the table is only queried more often.
    pub(super) fn note(&self, dead_letters: &[DeadLetter<'_>]) {
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

    /// The ranges that may hold letters. All ranges count as read from here on.
    pub(super) fn ranges_to_query(
        &self,
        ranges: BTreeMap<(Topic, i32), (i64, i64)>,
        now: Instant,
    ) -> Vec<OffsetRange> {
        let mut known = self.locked();
        let mut to_query = Vec::new();
        for ((topic, partition), (first, last)) in ranges {
            let entry = known.get_mut(&(topic, partition));
            if entry.as_ref().is_none_or(|known| known.may_have(first, now)) {
                to_query.push(OffsetRange { topic, partition, first, last });
            }
            if let Some(known) = entry {
                known.read_to = last.saturating_add(1);
            }
        }
        to_query
    }

    pub(super) fn note_highest(&self, range: &OffsetRange, highest: Option<i64>, now: Instant) {
        let highest = highest.unwrap_or(i64::MIN);
        let entry = PartitionLetters { highest, read_to: range.last.saturating_add(1), queried_at: now };
        self.locked()
            .entry((range.topic, range.partition))
            .and_modify(|known| *known = PartitionLetters { highest: highest.max(known.highest), ..entry })
            .or_insert(entry);
    }
}

/// A range of offsets, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetRange {
    pub topic: Topic,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
}

/// The open letters of ranges of offsets, and the highest offset of any letter of the partition. Returns at least one
/// row for each range. Raw SQL, as batches run it: one cached statement for all ranges.
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
type FoundLetter = (i64, Option<i64>, Option<i64>, Option<PgTimestamp>, Option<i64>);

/// Resolves the letters of the records that landed: those of the batch that are not among its dead letters.
pub(super) async fn resolve(
    connection: &AsyncPgConnection,
    known: &KnownLetters,
    source: &Source<'_>,
    dead_letters: &[DeadLetter<'_>],
    always_query: bool,
) -> Result<(), Fault> {
    let mut ranges: BTreeMap<(Topic, i32), (i64, i64)> = BTreeMap::new();
    for record in &source.records {
        let range = ranges.entry((record.topic, record.partition)).or_insert((record.offset, record.offset));
        *range = (range.0.min(record.offset), range.1.max(record.offset));
    }
    let now = Instant::now();
    let to_query: Vec<OffsetRange> = if always_query {
        ranges
            .into_iter()
            .map(|((topic, partition), (first, last))| OffsetRange { topic, partition, first, last })
            .collect()
    } else {
        known.ranges_to_query(ranges, now)
    };
    if to_query.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        to_query.iter().map(|range| format!("{}{}", source.topic_prefix, range.topic)).collect();
    let query = Unnest::<LookForLetters>::new(vec![
        Column::BigInts((0..).take(to_query.len()).collect()),
        Column::texts(names.iter()),
        Column::Integers(to_query.iter().map(|range| Some(range.partition)).collect()),
        Column::BigInts(to_query.iter().map(|range| range.first).collect()),
        Column::BigInts(to_query.iter().map(|range| range.last).collect()),
    ]);
    let found: Vec<FoundLetter> = query.load(&mut &*connection).await?;
    let mut open: HashMap<(Topic, i32, i64, i64), i64> = HashMap::new();
    for (place, id, offset, timestamp, highest) in found {
        let Some(range) = usize::try_from(place).ok().and_then(|place| to_query.get(place)) else { continue };
        if !always_query {
            known.note_highest(range, highest, now);
        }
        if let (Some(id), Some(offset), Some(PgTimestamp(at))) = (id, offset, timestamp) {
            open.insert((range.topic, range.partition, offset, at), id);
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
    diesel::update(t::table.filter(t::id.eq_any(ids).and(t::resolved_at.is_null())))
        .set((t::resolved_at.eq(now_utc().nullable()), t::resolution.eq("replayed")))
        .execute(&mut &*connection)
        .await?;
    Ok(())
}
