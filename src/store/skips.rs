//! `ingest.skips`: the offsets that were passed over, for good: by `skip`, or because the log had lost them.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};

use super::offsets::Partition;
use super::sql::{now_utc, rfc3339};
use super::{Fault, Store};
use crate::schema::ingest::{consumer_offsets, skips};

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

/// A range of offsets that was passed over.
#[derive(Queryable, Selectable, serde::Serialize, Clone, Debug, PartialEq, Eq)]
#[diesel(table_name = skips, check_for_backend(Pg))]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct PassedOver {
    pub from_offset: i64,
    #[diesel(select_expression = skips::to_offset.assume_not_null())]
    pub to_offset: i64,
    pub note: String,
    /// RFC 3339
    #[diesel(select_expression = rfc3339(skips::skipped_at).assume_not_null())]
    pub skipped_at: String,
    /// `skip`, or `removed` where retention or a deletion of records had removed them.
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
        let (topic, partition) = partition;
        Ok(skips::table
            .filter(skips::group_id.eq(group).and(skips::topic.eq(topic)).and(skips::partition.eq(partition)))
            .filter(skips::from_offset.le(offset).and(skips::to_offset.gt(offset)))
            .order(skips::id.desc())
            .select(PassedOver::as_select())
            .first(&mut self.connection().await?)
            .await
            .optional()?)
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
        let row = || consumer_offsets::table.find((group, &partition.0, partition.1));
        let mut connection = self.connection().await?;
        connection
            .transaction::<Skip, Fault, _>(async |connection| {
                let stored: Option<(i64, bool)> = row()
                    .select((consumer_offsets::next_offset, consumer_offsets::stopped_at.is_not_null()))
                    .for_update()
                    .get_result(connection)
                    .await
                    .optional()?;
                let Some((next_offset, stopped)) = stored else {
                    return Ok(Skip::Unknown);
                };
                if stopped {
                    return Ok(Skip::Stopped);
                }
                if next_offset >= to_offset {
                    return Ok(Skip::NotBefore { next_offset });
                }
                diesel::update(row())
                    .set((
                        consumer_offsets::next_offset.eq(to_offset),
                        consumer_offsets::updated_at.eq(now_utc()),
                    ))
                    .execute(connection)
                    .await?;
                diesel::insert_into(skips::table)
                    .values((
                        skips::group_id.eq(group),
                        skips::topic.eq(&partition.0),
                        skips::partition.eq(partition.1),
                        skips::from_offset.eq(next_offset),
                        skips::to_offset.eq(to_offset),
                        skips::note.eq(note),
                    ))
                    .execute(connection)
                    .await?;
                Ok(Skip::Done { from_offset: next_offset })
            })
            .await
    }
}
