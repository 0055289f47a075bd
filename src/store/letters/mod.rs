//! `ingest.dead_letters` for an operator: look, select, settle (contract, section 8).

mod change;
mod filter;

use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};
use diesel::{QueryResult, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::{Fault, Store};
use crate::record::{Header, Record, Topic};

pub use change::{Held, Retried, hold};
pub use filter::{Filter, LetterState};

/// A dead letter without its bytes.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Head {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The topic's name in Kafka, with the prefix.
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    #[serde(rename = "offset")]
    pub record_offset: i64,
    /// RFC 3339; `None` if the record's timestamp cannot be written so.
    #[diesel(sql_type = Nullable<Text>)]
    #[serde(rename = "timestamp")]
    pub record_timestamp: Option<String>,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Text)]
    pub message: String,
    #[diesel(sql_type = Text)]
    pub created_at: String,
    #[diesel(sql_type = BigInt)]
    pub age_seconds: i64,
    #[diesel(sql_type = Nullable<Text>)]
    pub resolved_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub resolution: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub note: Option<String>,
    #[diesel(sql_type = Integer)]
    pub tries: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub last_tried_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub published_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub unpublishable: Option<String>,
}

impl Head {
    /// For example `clone.ready/3@4711`.
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.record_offset)
    }

    /// `unresolved`, or how it was resolved.
    pub fn state(&self) -> &str {
        match (&self.resolved_at, &self.resolution) {
            (None, _) => "unresolved",
            (Some(_), Some(resolution)) => resolution,
            (Some(_), None) => "resolved",
        }
    }
}

/// A dead letter with its bytes.
#[derive(QueryableByName, Clone, Debug)]
pub struct Letter {
    /// The letter without its bytes.
    #[diesel(embed)]
    pub head: Head,
    /// Milliseconds since 1970.
    #[diesel(sql_type = BigInt)]
    pub millis: i64,
    /// The record's key.
    #[diesel(sql_type = Nullable<Binary>)]
    pub key: Option<Vec<u8>>,
    /// The record's value.
    #[diesel(sql_type = Nullable<Binary>)]
    pub value: Option<Vec<u8>>,
    #[diesel(sql_type = Array<Nullable<Binary>>)]
    headers: Vec<Option<Vec<u8>>>,
}

impl Letter {
    /// The record's headers.
    pub fn headers(&self) -> Vec<Header> {
        let name_and_value = |parts: &[Option<Vec<u8>>]| match parts {
            [name, value] => Some(Header { name: name.clone().unwrap_or_default(), value: value.clone() }),
            _ => None,
        };
        self.headers.chunks(2).filter_map(name_and_value).collect()
    }

    /// The record as it was read; `None` if its topic is none of the five with this prefix.
    pub fn record(&self, topic_prefix: &str) -> Option<Record> {
        Some(Record {
            topic: Topic::from_name(self.head.topic.strip_prefix(topic_prefix)?)?,
            partition: self.head.partition,
            offset: self.head.record_offset,
            timestamp: self.millis,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers(),
        })
    }
}

/// Number of letters of a topic with one reason.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LetterKind {
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

/// The unresolved letters of one topic, reason and message.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LetterGroup {
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Text)]
    pub message: String,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    #[diesel(sql_type = Text)]
    pub first_at: String,
    #[diesel(sql_type = Text)]
    pub latest_at: String,
    #[diesel(sql_type = BigInt)]
    pub example_id: i64,
}

/// The letters that are not published yet.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Backlog {
    #[diesel(sql_type = BigInt)]
    pub unpublished: i64,
    #[diesel(sql_type = BigInt)]
    pub unpublishable: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub oldest_unpublished_seconds: Option<i64>,
}

/// A partition that its limit has stopped, or that is near it.
#[derive(QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct InARow {
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Integer)]
    pub partition: i32,
    #[diesel(sql_type = BigInt)]
    pub dead_in_a_row: i64,
    #[diesel(sql_type = Bool)]
    pub stopped: bool,
}

/// A letter's id, and the memory that its record takes.
#[derive(QueryableByName, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Selected {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

/// RFC 3339; PostgreSQL shows infinite times and years beyond 9999 in another form.
macro_rules! time {
    ($column:literal) => {
        concat!("to_char(", $column, ", 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
    };
}

const HEAD: &str = concat!(
    "l.id, l.topic, l.partition, l.record_offset, l.reason, l.message, l.resolution, l.note, l.tries, l.unpublishable, ",
    time!("l.record_timestamp"),
    " AS record_timestamp, ",
    time!("l.created_at"),
    " AS created_at, ",
    time!("l.resolved_at"),
    " AS resolved_at, ",
    time!("l.last_tried_at"),
    " AS last_tried_at, ",
    time!("l.published_at"),
    " AS published_at, extract(epoch FROM now() AT TIME ZONE 'utc' - l.created_at)::bigint AS age_seconds"
);

/// The size of a record. Rows older than the column `bytes` give their lengths.
const BYTES: &str =
    "COALESCE(l.bytes, COALESCE(octet_length(l.value), 0) + COALESCE(octet_length(l.key), 0)
        + (SELECT COALESCE(sum(64 + COALESCE(octet_length(part), 0)), 0) FROM unnest(l.headers) AS part))::bigint";

/// The unresolved letters by topic, reason and message, the most frequent first; at most `most` groups.
pub async fn groups(connection: &mut AsyncPgConnection, most: i64) -> QueryResult<Vec<LetterGroup>> {
    let query = diesel::sql_query(concat!(
        "SELECT topic, reason, message, count(*) AS count, ",
        time!("min(created_at)"),
        " AS first_at, ",
        time!("max(created_at)"),
        " AS latest_at, max(id) AS example_id
         FROM ingest.dead_letters WHERE resolved_at IS NULL
         GROUP BY topic, reason, message ORDER BY count(*) DESC, topic, reason, message LIMIT $1"
    ));
    query.bind::<BigInt, _>(most).load(connection).await
}

impl Store {
    /// Letters without their bytes, ordered by id.
    pub async fn list_letters(&self, filter: &Filter) -> Result<Vec<Head>, Fault> {
        let head = format!("SELECT {HEAD} FROM ingest.dead_letters l");
        let tail = format!("ORDER BY l.id {}", filter.limited());
        Ok(filter.of(&head, &tail).load(&mut self.connection().await?).await?)
    }

    /// Number of letters by topic and reason, regardless of the filter's limit.
    pub async fn letter_kinds(&self, filter: &Filter) -> Result<Vec<LetterKind>, Fault> {
        let query = filter.of(
            "SELECT l.topic, l.reason, count(*) AS count FROM ingest.dead_letters l",
            "GROUP BY l.topic, l.reason ORDER BY count(*) DESC, l.topic, l.reason",
        );
        Ok(query.load(&mut self.connection().await?).await?)
    }

    /// As [`groups`].
    pub async fn letter_groups(&self, most: i64) -> Result<Vec<LetterGroup>, Fault> {
        Ok(groups(&mut *self.connection().await?, most).await?)
    }

    /// Numbers of letters that are not published yet.
    pub async fn letter_backlog(&self) -> Result<Backlog, Fault> {
        let query = diesel::sql_query(
            "SELECT count(*) AS unpublished, count(unpublishable) AS unpublishable,
                    extract(epoch FROM now() AT TIME ZONE 'utc' - min(created_at))::bigint AS oldest_unpublished_seconds
             FROM ingest.dead_letters WHERE published_at IS NULL",
        );
        Ok(query.get_result(&mut self.connection().await?).await?)
    }

    /// The group's partitions that are stopped, or have at least `least` unusable records in a row.
    pub async fn partitions_in_a_row(&self, group: &str, least: i64) -> Result<Vec<InARow>, Fault> {
        let query = diesel::sql_query(
            "SELECT topic, partition, dead_in_a_row::bigint AS dead_in_a_row, stopped_at IS NOT NULL AS stopped
             FROM ingest.consumer_offsets
             WHERE group_id = $1 AND (stopped_at IS NOT NULL OR dead_in_a_row >= $2) ORDER BY topic, partition",
        );
        let query = query.bind::<Text, _>(group).bind::<BigInt, _>(least);
        Ok(query.load(&mut self.connection().await?).await?)
    }

    /// The letters that the filter selects, ordered by id.
    pub async fn select_letters(&self, filter: &Filter) -> Result<Vec<Selected>, Fault> {
        let head = format!("SELECT l.id, {BYTES} AS bytes FROM ingest.dead_letters l");
        let tail = format!("ORDER BY l.id {}", filter.limited());
        Ok(filter.of(&head, &tail).load(&mut self.connection().await?).await?)
    }

    /// Letters with their bytes, ordered by id.
    pub async fn load_letters(&self, ids: &[i64]) -> Result<Vec<Letter>, Fault> {
        let query = diesel::sql_query(format!(
            "SELECT {HEAD}, (extract(epoch FROM l.record_timestamp) * 1000)::bigint AS millis, l.key, l.value, l.headers
             FROM ingest.dead_letters l WHERE l.id = ANY ($1) ORDER BY l.id"
        ));
        Ok(query.bind::<Array<BigInt>, _>(ids).load(&mut self.connection().await?).await?)
    }

    /// The ids that no letter has.
    pub async fn unknown_letters(&self, ids: &[i64]) -> Result<Vec<i64>, Fault> {
        let query = diesel::sql_query(
            "SELECT u.id FROM unnest($1) AS u (id)
             WHERE NOT EXISTS (SELECT FROM ingest.dead_letters l WHERE l.id = u.id) ORDER BY u.id",
        );
        let unknown: Vec<Id> =
            query.bind::<Array<BigInt>, _>(ids).load(&mut self.connection().await?).await?;
        Ok(unknown.into_iter().map(|id| id.id).collect())
    }
}
