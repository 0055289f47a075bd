//! `ingest.pauses`: the topics that `pause` has paused.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::pg::data_types::PgTimestamp;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Timestamp};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;

use super::sql::now_utc;
use super::unnest::from_timestamp;
use super::{Fault, Store};
use crate::record::Topic;
use crate::schema::ingest::pauses;

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
        let end = sql::<Nullable<Timestamp>>("now() AT TIME ZONE 'utc' + ")
            .bind::<Nullable<BigInt>, _>(micros)
            .sql(" * INTERVAL '1 microsecond'");
        let until: Option<PgTimestamp> = diesel::insert_into(pauses::table)
            .values((pauses::group_id.eq(group), pauses::topic.eq(name(topic)), pauses::until.eq(end)))
            .on_conflict((pauses::group_id, pauses::topic))
            .do_update()
            .set((pauses::until.eq(excluded(pauses::until)), pauses::paused_at.eq(now_utc())))
            .returning(pauses::until)
            .get_result(&mut connection)
            .await?;
        Ok(until.map(|until| from_timestamp(until).to_string()))
    }

    /// Ends the pause of a topic, or all pauses. Returns the topics; "all topics" stands for a pause of all.
    pub async fn resume(&self, group: &str, topic: Option<Topic>) -> Result<Vec<String>, Fault> {
        let mut connection = self.connection().await?;
        let mut ended = diesel::delete(pauses::table.filter(pauses::group_id.eq(group))).into_boxed();
        if let Some(topic) = topic {
            ended = ended.filter(pauses::topic.eq(topic.name()));
        }
        let ended: Vec<String> = ended.returning(pauses::topic).load(&mut connection).await?;
        let shown = |topic: String| if topic.is_empty() { "all topics".to_owned() } else { topic };
        Ok(ended.into_iter().map(shown).collect())
    }

    /// The topics that are paused now. An empty name in the table stands for all of them.
    pub async fn paused_topics(&self, group: &str) -> Result<BTreeSet<Topic>, Fault> {
        let mut connection = self.connection().await?;
        let paused: Vec<String> = pauses::table
            .filter(pauses::group_id.eq(group))
            .filter(pauses::until.is_null().or(pauses::until.gt(now_utc().nullable())))
            .select(pauses::topic)
            .load(&mut connection)
            .await?;
        if paused.iter().any(String::is_empty) {
            return Ok(Topic::ALL.into_iter().collect());
        }
        Ok(paused.iter().filter_map(|name| Topic::from_name(name)).collect())
    }
}
