//! `ingest.consumer_offsets` (contract, section 7): the next offset of each partition, and the fence.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::unnest::{Column, Statement, Unnest};
use super::{Fault, Store};
use crate::schema::ingest::consumer_offsets;

/// A topic's name in Kafka, with the prefix, and a partition.
pub type Partition = (String, i32);

/// A row of [`Store::positions`]: topic, partition, next offset, dead in a row, topic id, and whether it is stopped.
type StoredRow = (String, i32, i64, i64, Option<Uuid>, bool);

/// The stored position of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset to read next.
    pub next_offset: i64,
    /// Unusable records since the last usable one.
    pub dead_in_a_row: i64,
    /// The id of the topic that the offset belongs to; `None` if it is not known.
    pub topic_id: Option<Uuid>,
    /// Whether `DEAD_LETTER_LIMIT` was reached: nothing more is read until `dead-letters accept`.
    pub stopped: bool,
}

impl Position {
    /// The first position of a partition.
    pub fn at(next_offset: i64, topic_id: Option<Uuid>) -> Position {
        Position { next_offset, dead_in_a_row: 0, topic_id, stopped: false }
    }
}

/// Advances a partition from the position that is expected in the database to a new one.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The consumer group.
    pub group: String,
    /// The partition.
    pub partition: Partition,
    /// The position that must be stored, or nothing is written. It includes the count, so that a process with an
    /// older one does not undo `dead-letters accept`, and the topic id, so that no batch of a deleted topic advances
    /// the recreated one.
    pub expected: Position,
    /// The position to store.
    pub to: Position,
}

/// Raw SQL, as every batch runs it: one cached statement for all partitions.
struct AdvanceOffsets;

impl Statement for AdvanceOffsets {
    const HEAD: &'static str = "WITH advanced AS (
            UPDATE ingest.consumer_offsets o
            SET next_offset = u.next_offset, dead_in_a_row = u.dead_in_a_row,
                stopped_at = CASE WHEN u.stopped THEN now() AT TIME ZONE 'utc' END,
                updated_at = now() AT TIME ZONE 'utc'
            FROM ";
    const TAIL: &'static str =
        " AS u (group_id, topic, partition, expected_offset, expected_dead, expected_topic_id,
                    next_offset, dead_in_a_row, stopped)
            WHERE o.group_id = u.group_id AND o.topic = u.topic AND o.partition = u.partition
              AND o.next_offset = u.expected_offset AND o.dead_in_a_row = u.expected_dead
              AND o.stopped_at IS NULL
              AND COALESCE(o.topic_id, '00000000-0000-0000-0000-000000000000') = u.expected_topic_id
            RETURNING 1)
        SELECT count(*) FROM advanced";
    type Row = BigInt;
}

/// The fence: advances every partition, or fails if one is not at its expected position.
pub(super) async fn advance(connection: &AsyncPgConnection, advances: &[Advance]) -> Result<(), Fault> {
    if advances.is_empty() {
        return Ok(());
    }
    let statement = Unnest::<AdvanceOffsets>::new(vec![
        Column::texts(advances.iter().map(|advance| &advance.group)),
        Column::texts(advances.iter().map(|advance| &advance.partition.0)),
        Column::Integers(advances.iter().map(|advance| Some(advance.partition.1)).collect()),
        Column::BigInts(advances.iter().map(|advance| advance.expected.next_offset).collect()),
        Column::BigInts(advances.iter().map(|advance| advance.expected.dead_in_a_row).collect()),
        Column::Uuids(advances.iter().map(|advance| advance.expected.topic_id.unwrap_or_default()).collect()),
        Column::BigInts(advances.iter().map(|advance| advance.to.next_offset).collect()),
        Column::BigInts(advances.iter().map(|advance| advance.to.dead_in_a_row).collect()),
        Column::Booleans(advances.iter().map(|advance| advance.to.stopped).collect()),
    ]);
    let advanced: i64 = statement.get_result(&mut &*connection).await?;
    if usize::try_from(advanced) == Ok(advances.len()) { Ok(()) } else { Err(Fault::Fenced) }
}

impl Store {
    /// The stored positions of a group.
    pub async fn positions(&self, group: &str) -> Result<BTreeMap<Partition, Position>, Fault> {
        let mut connection = self.connection().await?;
        let rows: Vec<StoredRow> = consumer_offsets::table
            .filter(consumer_offsets::group_id.eq(group))
            .select((
                consumer_offsets::topic,
                consumer_offsets::partition,
                consumer_offsets::next_offset,
                consumer_offsets::dead_in_a_row,
                consumer_offsets::topic_id,
                consumer_offsets::stopped_at.is_not_null(),
            ))
            .load(&mut connection)
            .await?;
        let stored = |(topic, partition, next_offset, dead_in_a_row, topic_id, stopped): StoredRow| {
            ((topic, partition), Position { next_offset, dead_in_a_row, topic_id, stopped })
        };
        Ok(rows.into_iter().map(stored).collect())
    }

    /// Stores first positions, or replaces those at the expected offsets. Records which of these the logs had lost. Returns the partitions whose position was
    /// stored, and not those that hold another one.
    pub async fn set_positions(
        &self,
        group: &str,
        changes: &[PositionChange],
    ) -> Result<BTreeSet<Partition>, Fault> {
        let mut connection = self.connection().await?;
        // Raw SQL: Diesel has neither `unnest` as a table nor changes of data in WITH.
        let rows: Vec<StoredPartition> = diesel::sql_query(
            "WITH wanted AS (
                SELECT * FROM unnest($2, $3, $4, $5, $6, $7, $8, $9)
                    AS w (topic, partition, expected, next_offset, dead_in_a_row, topic_id, cause, note)),
             inserted AS (
                INSERT INTO ingest.consumer_offsets
                    (group_id, topic, partition, next_offset, dead_in_a_row, topic_id)
                SELECT $1, topic, partition, next_offset, dead_in_a_row, topic_id
                FROM wanted WHERE expected IS NULL
                ON CONFLICT DO NOTHING RETURNING topic, partition),
             updated AS (
                UPDATE ingest.consumer_offsets o
                SET next_offset = w.next_offset, dead_in_a_row = w.dead_in_a_row, topic_id = w.topic_id,
                    updated_at = now() AT TIME ZONE 'utc'
                FROM wanted w
                WHERE o.group_id = $1 AND o.topic = w.topic AND o.partition = w.partition
                  AND o.next_offset = w.expected
                RETURNING o.topic, o.partition),
             lost AS (
                INSERT INTO ingest.skips (group_id, topic, partition, from_offset, to_offset, note, cause)
                SELECT $1, topic, partition, w.expected, CASE WHEN w.cause = 'removed' THEN w.next_offset END, w.note,
                       w.cause
                FROM updated JOIN wanted w USING (topic, partition) WHERE w.cause IS NOT NULL)
             SELECT topic, partition FROM inserted UNION ALL SELECT topic, partition FROM updated",
        )
        .bind::<Text, _>(group)
        .bind::<Array<Text>, _>(changes.iter().map(|change| &change.partition.0).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(changes.iter().map(|change| change.partition.1).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(changes.iter().map(|change| change.expected).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changes.iter().map(|change| change.to.next_offset).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changes.iter().map(|change| change.to.dead_in_a_row).collect::<Vec<_>>())
        .bind::<Array<Nullable<SqlUuid>>, _>(
            changes.iter().map(|change| change.to.topic_id).collect::<Vec<_>>(),
        )
        .bind::<Array<Nullable<Text>>, _>(
            changes.iter().map(|change| change.lost.map(LostOffset::cause)).collect::<Vec<_>>(),
        )
        .bind::<Array<Nullable<Text>>, _>(
            changes.iter().map(|change| change.lost.map(LostOffset::reason)).collect::<Vec<_>>(),
        )
        .load(&mut connection)
        .await?;
        Ok(rows.into_iter().map(|row| (row.topic, row.partition)).collect())
    }
}

/// A position that is stored outside of a batch. A stored stop remains.
#[derive(Clone, Debug)]
pub struct PositionChange {
    /// The partition.
    pub partition: Partition,
    /// The offset that must be stored; `None` if there must be none.
    pub expected: Option<i64>,
    /// The position to store.
    pub to: Position,
    /// Why it replaces another one, if the log no longer has that one.
    pub lost: Option<LostOffset>,
}

/// Why a log no longer has a stored offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostOffset {
    /// Retention or a deletion of records: the log begins after it.
    Removed,
    /// The topic is another one, or its log ends before it.
    Recreated,
}

impl LostOffset {
    /// The value of `ingest.skips.cause`.
    fn cause(self) -> &'static str {
        match self {
            LostOffset::Removed => "removed",
            LostOffset::Recreated => "recreated",
        }
    }

    /// The reason for a person.
    pub fn reason(self) -> &'static str {
        match self {
            LostOffset::Removed => "retention or a deletion of records had removed them",
            LostOffset::Recreated => "the topic was recreated, or its log was truncated",
        }
    }
}

#[derive(diesel::QueryableByName)]
#[diesel(table_name = consumer_offsets)]
struct StoredPartition {
    topic: String,
    partition: i32,
}
