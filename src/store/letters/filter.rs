//! The filter of the dead-letter commands.

use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool};

use super::super::unnest::timestamp;
use crate::event::{Reason, Time};
use crate::schema::ingest::dead_letters as t;

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

/// A condition on a dead letter.
type Condition<'a> = Box<dyn BoxableExpression<t::table, Pg, SqlType = Bool> + 'a>;

impl Filter {
    /// The conditions, joined by AND.
    pub(super) fn condition(&self) -> Condition<'_> {
        let mut all: Vec<Condition<'_>> = Vec::new();
        if !self.ids.is_empty() {
            let (first, last): (Vec<i64>, Vec<i64>) = self.ids.iter().copied().unzip();
            // Two values in all: an OR of thousands of ranges would have more than PostgreSQL takes.
            let in_a_range = sql::<Bool>("EXISTS (SELECT FROM unnest(")
                .bind::<Array<BigInt>, _>(first)
                .sql(", ")
                .bind::<Array<BigInt>, _>(last)
                .sql(") AS r (first, last) WHERE dead_letters.id BETWEEN r.first AND r.last)");
            all.push(Box::new(in_a_range));
        }
        if let Some(topic) = &self.topic {
            all.push(Box::new(t::topic.eq(topic)));
        }
        if let Some(partition) = self.partition {
            all.push(Box::new(t::partition.eq(partition)));
        }
        if let Some((first, last)) = self.offsets {
            all.push(Box::new(t::record_offset.between(first, last)));
        }
        if let Some(reason) = self.reason {
            all.push(Box::new(t::reason.eq(reason.name())));
        }
        if let Some(text) = &self.message_like {
            all.push(Box::new(t::message.ilike(pattern(text))));
        }
        if let Some(since) = self.since {
            all.push(Box::new(t::created_at.ge(timestamp(since))));
        }
        if let Some(until) = self.until {
            all.push(Box::new(t::created_at.lt(timestamp(until))));
        }
        match self.state {
            LetterState::Unresolved => all.push(Box::new(t::resolved_at.is_null())),
            LetterState::Resolved => all.push(Box::new(t::resolved_at.is_not_null())),
            LetterState::All => {}
        }
        if self.published {
            all.push(Box::new(t::published_at.is_not_null()));
        }
        let joined = all.into_iter().reduce(|joined, condition| Box::new(joined.and(condition)));
        joined.unwrap_or_else(|| Box::new(true.into_sql::<Bool>()))
    }

    /// The letters in the order of their ids, as many as the filter allows.
    pub(super) fn letters(&self) -> t::BoxedQuery<'_, Pg> {
        let letters = t::table.filter(self.condition()).order(t::id).into_boxed();
        match self.limit {
            Some(limit) => letters.limit(limit),
            None => letters,
        }
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
