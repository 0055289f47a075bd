//! `ingest.dead_letters` for an operator: look, select, settle (contract, section 8).

mod change;
mod filter;

use std::collections::HashSet;

use diesel::dsl::{count, count_star, max, min, sql};
use diesel::expression::SqlLiteral;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use super::sql::rfc3339;
use super::{Fault, Store};
use crate::record::{Header, Record, Topic};
use crate::schema::ingest::{consumer_offsets, dead_letters as t};

pub use change::{Held, Retried, hold};
pub use filter::{Filter, LetterState};

/// A dead letter without its bytes.
#[derive(Queryable, Selectable, Serialize, Clone, Debug, PartialEq, Eq)]
#[diesel(table_name = t, check_for_backend(Pg))]
#[allow(missing_docs, reason = "the fields are the table's columns")]
pub struct Head {
    pub id: i64,
    /// The topic's name in Kafka, with the prefix.
    pub topic: String,
    pub partition: i32,
    #[serde(rename = "offset")]
    pub record_offset: i64,
    /// RFC 3339; `None` if the record's timestamp cannot be written so.
    #[diesel(select_expression = rfc3339(t::record_timestamp))]
    #[serde(rename = "timestamp")]
    pub record_timestamp: Option<String>,
    pub reason: String,
    pub message: String,
    #[diesel(select_expression = rfc3339(t::created_at).assume_not_null())]
    pub created_at: String,
    #[diesel(select_expression = sql("extract(epoch FROM now() AT TIME ZONE 'utc' - dead_letters.created_at)::bigint"))]
    #[diesel(select_expression_type = SqlLiteral<BigInt>)]
    pub age_seconds: i64,
    #[diesel(select_expression = rfc3339(t::resolved_at))]
    pub resolved_at: Option<String>,
    pub resolution: Option<String>,
    pub note: Option<String>,
    pub tries: i32,
    #[diesel(select_expression = rfc3339(t::last_tried_at))]
    pub last_tried_at: Option<String>,
    #[diesel(select_expression = rfc3339(t::published_at))]
    pub published_at: Option<String>,
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
#[derive(Queryable, Selectable, Clone, Debug)]
#[diesel(table_name = t, check_for_backend(Pg))]
pub struct Letter {
    /// The letter without its bytes.
    #[diesel(embed)]
    pub head: Head,
    /// Milliseconds since 1970.
    #[diesel(select_expression = sql("(extract(epoch FROM dead_letters.record_timestamp) * 1000)::bigint"))]
    #[diesel(select_expression_type = SqlLiteral<BigInt>)]
    pub millis: i64,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
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
#[derive(Queryable, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LetterKind {
    pub topic: String,
    pub reason: String,
    pub count: i64,
}

/// The unresolved letters of one topic, reason and message.
#[derive(Queryable, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct LetterGroup {
    pub topic: String,
    pub reason: String,
    pub message: String,
    pub count: i64,
    pub first_at: String,
    pub latest_at: String,
    pub example_id: i64,
}

/// The letters that are not published yet.
#[derive(Queryable, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Backlog {
    pub unpublished: i64,
    pub unpublishable: i64,
    pub oldest_unpublished_seconds: Option<i64>,
}

/// A partition that its limit has stopped, or that is near it.
#[derive(Queryable, Serialize, Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct InARow {
    pub topic: String,
    pub partition: i32,
    pub dead_in_a_row: i64,
    pub stopped: bool,
}

/// A letter's id, and the memory that its record takes.
#[derive(Queryable, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Selected {
    pub id: i64,
    pub bytes: i64,
}

/// The size of a record. Rows older than the column `bytes` give their lengths.
const BYTES: &str = "COALESCE(bytes, COALESCE(octet_length(value), 0) + COALESCE(octet_length(key), 0)
    + (SELECT COALESCE(sum(64 + COALESCE(octet_length(part), 0)), 0) FROM unnest(headers) AS part))::bigint";

/// The unresolved letters by topic, reason and message, the most frequent first; at most `most` groups.
pub async fn groups(connection: &mut AsyncPgConnection, most: i64) -> QueryResult<Vec<LetterGroup>> {
    t::table
        .filter(t::resolved_at.is_null())
        .group_by((t::topic, t::reason, t::message))
        .order((count_star().desc(), t::topic, t::reason, t::message))
        .limit(most)
        .select((
            t::topic,
            t::reason,
            t::message,
            count_star(),
            rfc3339(min(t::created_at)).assume_not_null(),
            rfc3339(max(t::created_at)).assume_not_null(),
            max(t::id).assume_not_null(),
        ))
        .load(connection)
        .await
}

impl Store {
    /// Letters without their bytes, ordered by id.
    pub async fn list_letters(&self, filter: &Filter) -> Result<Vec<Head>, Fault> {
        Ok(filter.letters().select(Head::as_select()).load(&mut self.connection().await?).await?)
    }

    /// Number of letters by topic and reason, regardless of the filter's limit.
    pub async fn letter_kinds(&self, filter: &Filter) -> Result<Vec<LetterKind>, Fault> {
        let kinds = t::table
            .filter(filter.condition())
            .group_by((t::topic, t::reason))
            .order((count_star().desc(), t::topic, t::reason))
            .select((t::topic, t::reason, count_star()));
        Ok(kinds.load(&mut self.connection().await?).await?)
    }

    /// As [`groups`].
    pub async fn letter_groups(&self, most: i64) -> Result<Vec<LetterGroup>, Fault> {
        Ok(groups(&mut *self.connection().await?, most).await?)
    }

    /// Numbers of letters that are not published yet.
    pub async fn letter_backlog(&self) -> Result<Backlog, Fault> {
        let oldest =
            sql::<Nullable<BigInt>>("extract(epoch FROM now() AT TIME ZONE 'utc' - min(created_at))::bigint");
        let backlog = t::table.filter(t::published_at.is_null()).select((
            count_star(),
            count(t::unpublishable),
            oldest,
        ));
        Ok(backlog.get_result(&mut self.connection().await?).await?)
    }

    /// The group's partitions that are stopped, or have at least `least` unusable records in a row.
    pub async fn partitions_in_a_row(&self, group: &str, least: i64) -> Result<Vec<InARow>, Fault> {
        use consumer_offsets::{dead_in_a_row, group_id, partition, stopped_at, topic};
        let partitions = consumer_offsets::table
            .filter(group_id.eq(group).and(stopped_at.is_not_null().or(dead_in_a_row.ge(least))))
            .order((topic, partition))
            .select((topic, partition, dead_in_a_row, stopped_at.is_not_null()));
        Ok(partitions.load(&mut self.connection().await?).await?)
    }

    /// The letters that the filter selects, ordered by id.
    pub async fn select_letters(&self, filter: &Filter) -> Result<Vec<Selected>, Fault> {
        let selected = filter.letters().select((t::id, sql::<BigInt>(BYTES)));
        Ok(selected.load(&mut self.connection().await?).await?)
    }

    /// Letters with their bytes, ordered by id.
    pub async fn load_letters(&self, ids: &[i64]) -> Result<Vec<Letter>, Fault> {
        let letters = t::table.filter(t::id.eq_any(ids)).order(t::id).select(Letter::as_select());
        Ok(letters.load(&mut self.connection().await?).await?)
    }

    /// The ids that no letter has, in their order.
    pub async fn unknown_letters(&self, ids: &[i64]) -> Result<Vec<i64>, Fault> {
        let known = t::table.filter(t::id.eq_any(ids)).select(t::id);
        let known: HashSet<i64> =
            known.load::<i64>(&mut self.connection().await?).await?.into_iter().collect();
        let mut unknown: Vec<i64> = ids.iter().copied().filter(|id| !known.contains(id)).collect();
        unknown.sort_unstable();
        Ok(unknown)
    }
}
