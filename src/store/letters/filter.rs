//! The filter of the dead-letter commands.

use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamp};

use super::super::unnest::timestamp;
use crate::event::{Reason, Time};

/// Selects dead letters. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ranges of ids, both ends included; empty means all.
    pub ids: Vec<(i64, i64)>,
    /// The topic's name in Kafka, with the prefix.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// A range of offsets, both ends included.
    pub offsets: Option<(i64, i64)>,
    /// Why the record could not be used.
    pub reason: Option<Reason>,
    /// A text that the message contains; `%` matches any text.
    pub message_like: Option<String>,
    /// Letters made at this time or later.
    pub since: Option<Time>,
    /// Letters made before this time.
    pub until: Option<Time>,
    /// Whether the letters are resolved.
    pub state: LetterState,
    /// Only letters that the broker has.
    pub published: bool,
    /// Maximum number of letters, in the order of their ids.
    pub limit: Option<i64>,
}

/// Whether letters are resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LetterState {
    #[default]
    Unresolved,
    Resolved,
    All,
}

/// The condition of a letter `l`, over the values that [`Filter::of`] binds.
const CONDITION: &str = "
    (cardinality($1) = 0 OR EXISTS (SELECT FROM unnest($1, $2) AS r (first, last) WHERE l.id BETWEEN r.first AND r.last))
    AND ($3 IS NULL OR l.topic = $3)
    AND ($4 IS NULL OR l.partition = $4)
    AND ($5 IS NULL OR l.record_offset BETWEEN $5 AND $6)
    AND ($7 IS NULL OR l.reason = $7)
    AND ($8 IS NULL OR l.message ILIKE $8)
    AND ($9 IS NULL OR l.created_at >= $9)
    AND ($10 IS NULL OR l.created_at < $10)";

impl Filter {
    /// Builds a query from `head`, the filter's condition and `tail`.
    pub(super) fn of(&self, head: &str, tail: &str) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let state = match self.state {
            LetterState::Unresolved => " AND l.resolved_at IS NULL",
            LetterState::Resolved => " AND l.resolved_at IS NOT NULL",
            LetterState::All => "",
        };
        let published = if self.published { " AND l.published_at IS NOT NULL" } else { "" };
        let sql = format!("{head} WHERE {CONDITION}{state}{published} {tail}");
        let (first, last): (Vec<i64>, Vec<i64>) = self.ids.iter().copied().unzip();
        let time = |time: Option<Time>| time.map(timestamp);
        diesel::sql_query(sql)
            .into_boxed()
            .bind::<Array<BigInt>, Vec<i64>>(first)
            .bind::<Array<BigInt>, Vec<i64>>(last)
            .bind::<Nullable<Text>, Option<String>>(self.topic.clone())
            .bind::<Nullable<Integer>, Option<i32>>(self.partition)
            .bind::<Nullable<BigInt>, Option<i64>>(self.offsets.map(|(first, _)| first))
            .bind::<Nullable<BigInt>, Option<i64>>(self.offsets.map(|(_, last)| last))
            .bind::<Nullable<Text>, Option<&'static str>>(self.reason.map(Reason::name))
            .bind::<Nullable<Text>, Option<String>>(self.message_like.as_deref().map(pattern))
            .bind::<Nullable<Timestamp>, Option<PgTimestamp>>(time(self.since))
            .bind::<Nullable<Timestamp>, Option<PgTimestamp>>(time(self.until))
    }

    /// The `LIMIT` clause, which follows an ORDER BY.
    pub(super) fn limited(&self) -> String {
        self.limit.map_or_else(String::new, |limit| format!("LIMIT {limit}"))
    }
}

/// A pattern of `ILIKE` in which only `%` is special, as names of fields contain `_`.
fn pattern(text: &str) -> String {
    format!("%{}%", text.replace('\\', "\\\\").replace('_', "\\_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_matches_anywhere_and_an_underscore_is_itself() {
        assert_eq!(pattern("caller_id"), r"%caller\_id%");
        assert_eq!(pattern("caller%missing"), "%caller%missing%");
    }
}
