//! The gauges of this instance's partitions: sums and maxima per topic, so that the number of gauges does not depend on
//! the number of partitions.

use std::collections::{BTreeMap, BTreeSet};

use super::{TroubleKind, ViewState, WriteId};
use crate::metrics;
use crate::record::{Record, Topic, TopicPartition};
use crate::status::partitions::KEEPS_UP_SECONDS;

/// The values of a partition that the gauges use.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PartitionGauges {
    pub topic: Topic,
    /// One of [`metrics::STATES`].
    pub state: &'static str,
    /// Records after the stored offset; 0 if unknown.
    pub lag: i64,
    /// Age of the oldest record that was received and has not landed; 0 if there is none.
    pub age: f64,
    pub dead_in_a_row: i64,
}

/// Returns the state that `status` would show for a partition of this instance.
pub(super) fn state(
    view: ViewState,
    trouble: Option<TroubleKind>,
    stalled: bool,
    lag: i64,
    age: f64,
) -> &'static str {
    match (view, trouble) {
        (ViewState::Stopped, _) => "stopped_by_limit",
        (ViewState::Paused, _) => "paused",
        (_, Some(kind @ (TroubleKind::NoLeader | TroubleKind::Unreadable | TroubleKind::Drift))) => {
            kind.name()
        }
        _ if stalled => "stalled",
        (ViewState::Consuming, None) if lag == 0 || age < KEEPS_UP_SECONDS => "ok",
        _ => "catching_up",
    }
}

/// The gauges of a topic.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    partitions: i64,
    states: BTreeMap<&'static str, i64>,
    lag: i64,
    worst_lag: i64,
    worst_age: f64,
    dead_in_a_row: i64,
}

impl Sums {
    fn add(&mut self, seen: &PartitionGauges) {
        self.partitions += 1;
        *self.states.entry(seen.state).or_default() += 1;
        self.lag += seen.lag;
        self.dead_in_a_row = self.dead_in_a_row.max(seen.dead_in_a_row);
        if !matches!(seen.state, "stopped_by_limit" | "paused") {
            self.worst_lag = self.worst_lag.max(seen.lag);
            self.worst_age = self.worst_age.max(seen.age);
        }
    }
}

/// Sets the gauges of every topic, including topics of which this instance has no partition.
pub(super) fn show(partitions: &[PartitionGauges], paused: &BTreeSet<Topic>) {
    let mut worst_age = 0.0_f64;
    for topic in Topic::ALL {
        let mut sums = Sums::default();
        partitions.iter().filter(|seen| seen.topic == topic).for_each(|seen| sums.add(seen));
        let name = topic.name();
        metrics::PARTITIONS_ASSIGNED.set_count(&[name], sums.partitions);
        metrics::LAG_RECORDS.set_count(&[name], sums.lag);
        metrics::LAG_RECORDS_MAX.set_count(&[name], sums.worst_lag);
        metrics::LAG_SECONDS.set(&[name], sums.worst_age);
        worst_age = worst_age.max(sums.worst_age);
        metrics::DEAD_IN_A_ROW.set_count(&[name], sums.dead_in_a_row);
        metrics::PAUSED.set_count(&[name], paused.contains(&topic).into());
        for state in metrics::STATES {
            metrics::PARTITIONS.set_count(&[name, state], sums.states.get(state).copied().unwrap_or(0));
        }
    }
    metrics::plotted::oldest(worst_age);
}

/// Returns the timestamp of the first record of each partition. Records are in offset order within each.
pub(super) fn first_timestamps<'r>(
    records: impl IntoIterator<Item = &'r Record>,
) -> BTreeMap<TopicPartition, i64> {
    let (mut first, mut last) = (BTreeMap::new(), None);
    for record in records {
        let key = record.topic_partition();
        // Records of one partition mostly come in long runs.
        if last.replace(key) != Some(key) {
            first.entry(key).or_insert(record.timestamp);
        }
    }
    first
}

/// The timestamps, in milliseconds since 1970, of the oldest records that were received and have not landed.
#[derive(Debug, Default)]
pub(super) struct Oldest {
    writing: BTreeMap<TopicPartition, (WriteId, i64)>,
    /// As of the last look, with the stored offset at that time: records that were not kept still wait.
    seen: BTreeMap<TopicPartition, (i64, i64)>,
}

impl Oldest {
    /// Registers the start of a write.
    pub fn write_started(&mut self, id: WriteId, records: &[Record]) {
        let first = first_timestamps(records);
        self.writing.extend(first.into_iter().map(|(key, timestamp)| (key, (id, timestamp))));
    }

    /// Registers the end of a write.
    pub fn write_ended(&mut self, id: WriteId) {
        self.writing.retain(|_, (writing, _)| *writing != id);
    }

    /// Forgets a partition that this instance no longer has or does not consume.
    pub fn forget(&mut self, key: TopicPartition) {
        self.seen.remove(&key);
    }

    /// Returns the oldest waiting record of a partition. `held` is the first record in memory that is not being
    /// written.
    pub fn look(
        &mut self,
        key: TopicPartition,
        next_offset: i64,
        held: Option<i64>,
        lag: i64,
    ) -> Option<i64> {
        let writing = self.writing.get(&key).map(|(_, timestamp)| *timestamp);
        let before = self.seen.get(&key).filter(|(offset, _)| *offset == next_offset && lag > 0);
        let found = writing.or(held).or(before.map(|(_, timestamp)| *timestamp));
        match found {
            Some(timestamp) => drop(self.seen.insert(key, (next_offset, timestamp))),
            None => drop(self.seen.remove(&key)),
        }
        found.filter(|timestamp| *timestamp >= 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64, timestamp: i64) -> Record {
        Record {
            topic: Topic::CloneReady,
            partition,
            offset,
            timestamp,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    const KEY: TopicPartition = TopicPartition { topic: Topic::CloneReady, partition: 0 };

    #[test]
    fn a_partition_has_the_state_that_status_would_name() {
        use ViewState::{Consuming, Paused, Starting, Stopped, Waiting};
        for (view, trouble, stalled, lag, age, expected) in [
            (Consuming, None, false, 0, 0.0, "ok"),
            (Consuming, None, false, 9, 9.9, "ok"),
            (Consuming, None, false, 9, 10.0, "catching_up"),
            (Consuming, None, true, 9, 61.0, "stalled"),
            (Consuming, Some(TroubleKind::NoLeader), false, 0, 0.0, "no_leader"),
            (Waiting, Some(TroubleKind::Drift), true, 9, 61.0, "drift"),
            (Waiting, Some(TroubleKind::Write), false, 9, 1.0, "catching_up"),
            (Waiting, Some(TroubleKind::Write), true, 9, 61.0, "stalled"),
            (Starting, Some(TroubleKind::Unreadable), false, 9, 0.0, "unreadable"),
            (Starting, None, false, 0, 0.0, "catching_up"),
            (Stopped, None, false, 9, 99.0, "stopped_by_limit"),
            (Paused, None, false, 9, 99.0, "paused"),
        ] {
            assert_eq!(
                state(view, trouble, stalled, lag, age),
                expected,
                "{view:?} {trouble:?} {stalled} {lag}"
            );
            assert!(metrics::STATES.contains(&expected));
        }
    }

    #[test]
    fn a_stopped_partition_counts_in_the_sum_of_the_lag_and_not_in_the_worst() {
        let seen = |state, lag, age| PartitionGauges {
            topic: Topic::CloneReady,
            state,
            lag,
            age,
            dead_in_a_row: lag,
        };
        let mut sums = Sums::default();
        sums.add(&seen("stopped_by_limit", 700, 90.0));
        sums.add(&seen("ok", 3, 0.5));
        assert_eq!((sums.partitions, sums.lag, sums.worst_lag, sums.dead_in_a_row), (2, 703, 3, 700));
        assert!((sums.worst_age - 0.5).abs() < f64::EPSILON);
        assert_eq!(sums.states, BTreeMap::from([("ok", 1), ("stopped_by_limit", 1)]));
    }

    #[test]
    fn the_oldest_record_is_the_one_being_written_then_the_one_in_memory_then_the_one_seen_last() {
        let mut oldest = Oldest::default();
        assert_eq!(oldest.look(KEY, 0, None, 0), None);
        oldest.write_started(7, &[record(0, 0, 1000), record(1, 0, 500), record(0, 1, 2000)]);
        assert_eq!(oldest.look(KEY, 0, Some(3000), 9), Some(1000));
        oldest.write_ended(7);
        assert_eq!(oldest.look(KEY, 2, Some(3000), 7), Some(3000));
        assert_eq!(oldest.look(KEY, 2, None, 7), Some(3000), "it was not kept, and still waits");
        assert_eq!(oldest.look(KEY, 3, None, 6), None, "it has landed");
        assert_eq!(oldest.look(KEY, 3, Some(-1), 6), None, "it has no timestamp");
    }

    #[test]
    fn the_first_record_of_each_partition_counts() {
        let records = [record(0, 5, 50), record(0, 6, 10), record(1, 1, 7), record(0, 7, 1)];
        let first = first_timestamps(&records);
        assert_eq!(first, BTreeMap::from([(KEY, 50), (TopicPartition::new(Topic::CloneReady, 1), 7)]));
    }
}
