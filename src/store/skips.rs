//! `ingest.skips`: the offsets that were passed over, for good: by `skip`, or because the log had lost them.

use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::offsets::Partition;
use super::{Fault, Store};

/// The outcome of a skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The offsets from this one on were passed over.
    Done {
        /// The first offset passed over.
        from_offset: i64,
    },
    /// The group has no stored offset of the partition.
    Unknown,
    /// `DEAD_LETTER_LIMIT` stopped the partition.
    Stopped,
    /// The stored offset is not before the wanted one.
    NotBefore {
        /// The stored offset.
        next_offset: i64,
    },
}

#[derive(diesel::QueryableByName)]
struct StoredOffset {
    #[diesel(sql_type = BigInt)]
    next_offset: i64,
    #[diesel(sql_type = Bool)]
    stopped: bool,
}

/// A range of offsets that was passed over.
#[derive(diesel::QueryableByName, serde::Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct PassedOver {
    #[diesel(sql_type = BigInt)]
    pub from_offset: i64,
    #[diesel(sql_type = BigInt)]
    pub to_offset: i64,
    #[diesel(sql_type = Text)]
    pub note: String,
    /// RFC 3339
    #[diesel(sql_type = Text)]
    pub skipped_at: String,
    /// `skip`, or `removed` where retention or a deletion of records had removed them.
    #[diesel(sql_type = Text)]
    pub cause: String,
}

impl Store {
    /// The group's latest row that passed over this offset. Those of recreated topics are about other records.
    pub async fn passed_over(
        &self,
        group: &str,
        partition: &Partition,
        offset: i64,
    ) -> Result<Option<PassedOver>, Fault> {
        let skips: Vec<PassedOver> = diesel::sql_query(
            "SELECT from_offset, to_offset, note, to_char(skipped_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS skipped_at,
                    cause
             FROM ingest.skips
             WHERE group_id = $1 AND topic = $2 AND partition = $3 AND $4 >= from_offset AND $4 < to_offset
             ORDER BY id DESC LIMIT 1",
        )
        .bind::<Text, _>(group)
        .bind::<Text, _>(&partition.0)
        .bind::<Integer, _>(partition.1)
        .bind::<BigInt, _>(offset)
        .load(&mut self.connection().await?)
        .await?;
        Ok(skips.into_iter().next())
    }

    /// Moves a partition's stored offset forward, and records the skipped range and the reason. The running daemons
    /// notice the other offset, and go on from it.
    pub async fn skip(
        &self,
        group: &str,
        partition: &Partition,
        to_offset: i64,
        note: &str,
    ) -> Result<Skip, Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<Skip, Fault, _>(async |connection| {
                let stored: Vec<StoredOffset> = diesel::sql_query(
                    "SELECT next_offset, stopped_at IS NOT NULL AS stopped FROM ingest.consumer_offsets
                     WHERE group_id = $1 AND topic = $2 AND partition = $3 FOR UPDATE",
                )
                .bind::<Text, _>(group)
                .bind::<Text, _>(&partition.0)
                .bind::<Integer, _>(partition.1)
                .load(connection)
                .await?;
                let Some(StoredOffset { next_offset, stopped }) = stored.into_iter().next() else {
                    return Ok(Skip::Unknown);
                };
                if stopped {
                    return Ok(Skip::Stopped);
                }
                if next_offset >= to_offset {
                    return Ok(Skip::NotBefore { next_offset });
                }
                diesel::sql_query(
                    "WITH moved AS (
                        UPDATE ingest.consumer_offsets
                        SET next_offset = $5, updated_at = now() AT TIME ZONE 'utc'
                        WHERE group_id = $1 AND topic = $2 AND partition = $3)
                     INSERT INTO ingest.skips (group_id, topic, partition, from_offset, to_offset, note)
                     VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind::<Text, _>(group)
                .bind::<Text, _>(&partition.0)
                .bind::<Integer, _>(partition.1)
                .bind::<BigInt, _>(next_offset)
                .bind::<BigInt, _>(to_offset)
                .bind::<Text, _>(note)
                .execute(connection)
                .await?;
                Ok(Skip::Done { from_offset: next_offset })
            })
            .await
    }
}
