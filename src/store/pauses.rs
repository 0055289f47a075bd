//! `ingest.pauses`: the topics that `pause` has paused.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamp};
use diesel_async::RunQueryDsl;

use super::unnest::from_timestamp;
use super::{Fault, Store};
use crate::event::Time;
use crate::record::Topic;

#[derive(diesel::QueryableByName)]
struct Paused {
    #[diesel(sql_type = Text)]
    topic: String,
}

#[derive(diesel::QueryableByName)]
struct Until {
    #[diesel(sql_type = Nullable<Timestamp>)]
    until: Option<PgTimestamp>,
}

/// The name of a topic in the table; empty for all topics.
fn name(topic: Option<Topic>) -> &'static str {
    topic.map_or("", Topic::name)
}

impl Store {
    /// Pauses a topic, or all of them, for a time or without an end. Returns the end in RFC 3339.
    pub async fn pause(
        &self,
        group: &str,
        topic: Option<Topic>,
        time: Option<Duration>,
    ) -> Result<Option<String>, Fault> {
        let micros = time.map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
        let mut connection = self.connection().await?;
        let row: Until = diesel::sql_query(
            "INSERT INTO ingest.pauses (group_id, topic, until)
             VALUES ($1, $2, (now() AT TIME ZONE 'utc') + $3 * INTERVAL '1 microsecond')
             ON CONFLICT (group_id, topic) DO UPDATE
             SET until = EXCLUDED.until, paused_at = now() AT TIME ZONE 'utc'
             RETURNING until",
        )
        .bind::<Text, _>(group)
        .bind::<Text, _>(name(topic))
        .bind::<Nullable<BigInt>, _>(micros)
        .get_result(&mut connection)
        .await?;
        Ok(row.until.map(|until: PgTimestamp| Time::to_string(&from_timestamp(until))))
    }

    /// Ends the pause of a topic, or all pauses. Returns the topics; "all topics" stands for a pause of all.
    pub async fn resume(&self, group: &str, topic: Option<Topic>) -> Result<Vec<String>, Fault> {
        let mut connection = self.connection().await?;
        let rows: Vec<Paused> = diesel::sql_query(
            "DELETE FROM ingest.pauses WHERE group_id = $1 AND ($2 = '' OR topic = $2) RETURNING topic",
        )
        .bind::<Text, _>(group)
        .bind::<Text, _>(name(topic))
        .load(&mut connection)
        .await?;
        let name_of = |row: Paused| if row.topic.is_empty() { "all topics".to_owned() } else { row.topic };
        Ok(rows.into_iter().map(name_of).collect())
    }

    /// The topics that are paused now. An empty name in the table stands for all of them.
    pub async fn paused_topics(&self, group: &str) -> Result<BTreeSet<Topic>, Fault> {
        let mut connection = self.connection().await?;
        let paused: Vec<Paused> = diesel::sql_query(
            "SELECT topic FROM ingest.pauses
             WHERE group_id = $1 AND (until IS NULL OR until > now() AT TIME ZONE 'utc')",
        )
        .bind::<Text, _>(group)
        .load(&mut connection)
        .await?;
        if paused.iter().any(|paused| paused.topic.is_empty()) {
            return Ok(Topic::ALL.into_iter().collect());
        }
        Ok(paused.iter().filter_map(|paused| Topic::from_name(&paused.topic)).collect())
    }
}
