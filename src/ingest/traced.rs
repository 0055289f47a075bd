//! The spans of a batch (`traces`): one for the batch, one for each transaction that is tried.

use std::collections::BTreeSet;
use std::time::Duration;

use super::outcome::{Outcome, Wait};
use super::{Ingest, Outcomes};
use crate::record::Record;
use crate::store::Fault;
use crate::store::dead_letters::DeadLetter;
use crate::store::write::{Counts, Written};
use crate::traces;

impl Ingest {
    /// Returns an ingest for one batch, with the batch's span.
    #[must_use]
    pub fn for_batch(&self, records: &[Record]) -> Ingest {
        Ingest { span: traces::process(&self.span, records), ..self.clone() }
    }

    /// Ends the span of a batch whose records landed as far as `outcomes` says.
    pub(super) fn end_span(&self, outcomes: &Outcomes, written: &Written) {
        if self.span.is_some() {
            let waits: Vec<&Wait> = outcomes.values().filter_map(wait).collect();
            let retries = self.note_retries(&waits, None);
            self.count_rows(written, retries);
            let failure = match waits.first() {
                Some(wait) => Some(wait.cause()),
                None => outcomes.values().any(|outcome| *outcome == Outcome::Fenced).then_some("fenced"),
            };
            failure.into_iter().for_each(|failure| self.span.failed(failure));
            self.span.end();
        }
    }

    /// Adds the counts to the span.
    pub(super) fn count_rows(&self, written: &Written, retries: u64) {
        let sum = |of: fn(&Counts) -> u64| written.counts.values().map(of).sum();
        self.span.count("voiceclone.rows.inserted", sum(|counts| counts.made));
        self.span.count("voiceclone.rows.updated", sum(|counts| counts.changed));
        self.span.count("voiceclone.rows.unchanged", sum(|counts| counts.left_alone));
        self.span.count("voiceclone.dead_letters", written.unusable);
        self.span.count("voiceclone.retries", retries);
    }

    /// Adds an event for each cause of these waits. Returns the number of events.
    pub(super) fn note_retries(&self, waits: &[&Wait], pause: Option<Duration>) -> u64 {
        let causes: BTreeSet<&'static str> = waits.iter().map(|wait| wait.cause()).collect();
        causes.iter().for_each(|cause| self.span.retry(cause, pause));
        causes.len() as u64
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

fn wait(outcome: &Outcome) -> Option<&Wait> {
    match outcome {
        Outcome::Waits { wait, .. } => Some(wait),
        Outcome::Landed(_) | Outcome::Fenced => None,
    }
}

/// Ends the span of a transaction.
pub(super) fn end<T>(span: &traces::Span, done: &Result<T, Fault>) {
    if let Err(fault) = done {
        span.failed(fault.name());
    }
    span.end();
}
