//! The spans of a batch (`traces`): one for the batch, one for each transaction that is tried.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Ingest;
use super::outcome::{BatchReport, Outcome};
use crate::record::{Record, TopicPartition};
use crate::store::Fault;
use crate::store::dead_letters::DeadLetter;
use crate::store::write::{Counts, Written};
use crate::traces;

/// The attribute of a batch's span that counts its `retry` events.
pub(super) const RETRIES: &str = "voiceclone.retries";

impl Ingest {
    /// Returns an ingest for one batch, with the batch's span.
    #[must_use]
    pub fn for_batch(&self, records: &[Record]) -> Ingest {
        Ingest { span: traces::process(&self.span, records), ..self.clone() }
    }

    /// Adds the counts of rows to the span.
    pub(super) fn count_rows(&self, written: &Written) {
        let sum = |of: fn(&Counts) -> u64| written.counts.values().map(of).sum();
        self.span.count("voiceclone.rows.inserted", sum(|counts| counts.made));
        self.span.count("voiceclone.rows.updated", sum(|counts| counts.changed));
        self.span.count("voiceclone.rows.unchanged", sum(|counts| counts.left_alone));
        self.span.count("voiceclone.dead_letters", written.unusable);
    }

    /// Adds an event for each of these dead letters.
    pub(super) fn note_dead_letters(&self, dead_letters: &[DeadLetter<'_>]) {
        if self.span.is_some() {
            for letter in dead_letters {
                self.span.dead_letter(&letter.topic_name, letter.record, letter.unusable.reason.name());
            }
        }
    }
}

/// The rest of a batch's span, which depends on when the consumer tries the records again.
pub struct Ending {
    span: traces::Span,
    causes: BTreeMap<TopicPartition, &'static str>,
    fenced: bool,
}

impl BatchReport {
    /// Returns the rest of the batch's span; `None` where traces are off.
    pub fn ending(&self) -> Option<Ending> {
        if !self.span.is_some() {
            return None;
        }
        let cause = |(key, outcome): (&TopicPartition, &Outcome)| match outcome {
            Outcome::Waits { wait, .. } => Some((*key, wait.cause())),
            Outcome::Landed(_) | Outcome::Fenced => None,
        };
        Some(Ending {
            span: self.span.clone(),
            causes: self.outcomes.iter().filter_map(cause).collect(),
            fenced: self.outcomes.values().any(|outcome| *outcome == Outcome::Fenced),
        })
    }
}

impl Ending {
    /// Ends the span. `pause_of` is the time until a partition is tried again; `None` if this process does not.
    pub fn end(self, pause_of: impl Fn(TopicPartition) -> Option<Duration>) {
        let pauses = self.causes.iter().filter_map(|(key, cause)| Some((*cause, pause_of(*key)?)));
        let retries = note_retries(&self.span, pauses);
        self.span.count(RETRIES, retries);
        let failure = self.causes.into_values().next().or(self.fenced.then_some("fenced"));
        failure.into_iter().for_each(|failure| self.span.failed(failure));
        self.span.end();
    }
}

/// Adds an event for each cause, with the shortest pause of its partitions. Returns the number of events.
pub(super) fn note_retries(
    span: &traces::Span,
    pauses: impl Iterator<Item = (&'static str, Duration)>,
) -> u64 {
    let mut causes: BTreeMap<&'static str, Duration> = BTreeMap::new();
    for (cause, pause) in pauses {
        let shortest = causes.entry(cause).or_insert(pause);
        *shortest = pause.min(*shortest);
    }
    causes.iter().for_each(|(cause, pause)| span.retry(cause, *pause));
    causes.len() as u64
}

/// Ends the span of a transaction.
pub(super) fn end<T>(span: &traces::Span, done: &Result<T, Fault>) {
    if let Err(fault) = done {
        span.failed(fault.name());
    }
    span.end();
}
