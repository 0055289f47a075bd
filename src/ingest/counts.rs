//! Counts a batch in the metrics: a few sums per topic, no work per record.

use std::collections::{BTreeMap, BTreeSet};

use super::Outcomes;
use super::outcome::Outcome;
use super::prepare::Part;
use crate::event::Reason;
use crate::metrics;
use crate::record::{Record, Topic};
use crate::store::dead_letters::DeadLetter;
use crate::store::write::Written;

/// The landed records of one topic.
#[derive(Debug, Default, PartialEq, Eq)]
struct Landed {
    records: u64,
    bytes: u64,
    /// Timestamps in milliseconds since 1970; `None` if no record has one.
    oldest: Option<i64>,
    newest: Option<i64>,
}

impl Landed {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += (record.value.as_ref().map_or(0, Vec::len) + record.key_and_header_bytes()) as u64;
        if record.timestamp >= 0 {
            let oldest = self.oldest.unwrap_or(record.timestamp);
            self.oldest = Some(oldest.min(record.timestamp));
            self.newest = self.newest.max(Some(record.timestamp));
        }
    }
}

/// Counts a committed transaction, offsets included.
pub(super) fn landed(parts: &[Part<'_, '_>], dead_letters: &[DeadLetter<'_>]) {
    let mut topics: BTreeMap<Topic, Landed> = BTreeMap::new();
    for part in parts.iter().filter(|part| !part.records.is_empty()) {
        let topic = topics.entry(part.key.topic).or_default();
        part.records.iter().for_each(|record| topic.add(record));
    }
    let mut dead: BTreeMap<(Topic, Reason), u64> = BTreeMap::new();
    for letter in dead_letters {
        *dead.entry((letter.record.topic, letter.unusable.reason)).or_default() += 1;
    }
    let now = metrics::now();
    for (topic, landed) in topics {
        let name = topic.name();
        let unusable = dead.iter().filter(|((of, _), _)| *of == topic).map(|(_, count)| count).sum();
        metrics::OUTCOMES.add(&[name, "used"], landed.records.saturating_sub(unusable));
        metrics::OUTCOMES.add(&[name, "dead_letter"], unusable);
        metrics::plotted::landed(landed.records, unusable);
        metrics::BYTES.add(&[name], landed.bytes);
        if let Some(oldest) = landed.oldest {
            metrics::RECORD_AGE.observe(&[name], metrics::seconds((now - oldest).max(0)));
        }
        if let Some(newest) = landed.newest {
            metrics::newest_landed(topic, newest, now);
        }
    }
    for ((topic, reason), count) in dead {
        metrics::DEAD_LETTERS.add(&[topic.name(), reason.name()], count);
    }
}

/// Counts the rows of a committed transaction.
pub(super) fn rows(written: &Written) {
    for (table, rows) in &written.counts {
        for (change, count) in
            [("inserted", rows.made), ("updated", rows.changed), ("unchanged", rows.left_alone)]
        {
            metrics::ROWS.add(&[table, change], count);
        }
    }
}

/// Counts a write after which records wait: once for each cause.
pub(super) fn retries(outcomes: &Outcomes) {
    let causes: BTreeSet<&'static str> = outcomes
        .values()
        .filter_map(|outcome| match outcome {
            Outcome::Waits { wait, .. } => Some(wait.cause()),
            Outcome::Landed(_) | Outcome::Fenced => None,
        })
        .collect();
    causes.into_iter().for_each(|cause| metrics::WRITE_RETRIES.add(&[cause], 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_and_the_newest_record_are_those_of_the_known_timestamps() {
        let record = |timestamp| Record {
            topic: Topic::CloneReady,
            partition: 0,
            offset: 0,
            timestamp,
            key: Some(vec![0; 3]),
            value: Some(vec![0; 4]),
            headers: Vec::new(),
        };
        let mut landed = Landed::default();
        landed.add(&record(-1));
        assert_eq!(landed, Landed { records: 1, bytes: 7, oldest: None, newest: None });
        [20, 10, 30].map(record).iter().for_each(|record| landed.add(record));
        assert_eq!(landed, Landed { records: 4, bytes: 28, oldest: Some(10), newest: Some(30) });
    }
}
