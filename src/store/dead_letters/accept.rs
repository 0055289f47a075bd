//! `dead-letters accept`: restarts partitions that `DEAD_LETTER_LIMIT` stopped.

use diesel::sql_types::{BigInt, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;

use crate::schema::ingest::consumer_offsets;
use crate::store::{Fault, Store};

/// A partition that goes on after `dead-letters accept`.
#[derive(diesel::QueryableByName, serde::Serialize, Clone, Debug, PartialEq, Eq)]
#[diesel(table_name = consumer_offsets)]
pub struct Accepted {
    /// The topic's name in Kafka, with the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Number of unusable records in a row until now.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

impl Store {
    /// Restarts stopped partitions: clears their stop, sets their counts of unusable records in a row to 0, and
    /// returns them by topic and partition. The running daemons compare their positions with the stored ones every
    /// two seconds.
    pub async fn accept_dead_letters(
        &self,
        group: &str,
        topic: Option<&str>,
        partition: Option<i32>,
    ) -> Result<Vec<Accepted>, Fault> {
        let mut connection = self.connection().await?;
        // Raw SQL: the count from before the change needs a change of data in WITH, which Diesel does not have.
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
