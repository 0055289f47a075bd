//! Tracks whether partitions make progress (contract, section 7), with a clock for each. No I/O.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::record::TopicPartition;

/// A partition makes no progress if records have waited for this long while its stored offset did not move.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The clocks of all partitions that this process ever had. A rebalance does not stop them.
#[derive(Debug, Default)]
pub struct Progress {
    clocks: BTreeMap<TopicPartition, Clock>,
}

#[derive(Debug)]
struct Clock {
    next_offset: i64,
    /// The time since which records wait and the offset has not moved.
    since: Option<Instant>,
}

impl Progress {
    /// Updates a partition's clock. `next_offset` is stored; `end` is the offset after the last known record, `None`
    /// while it is unknown.
    pub fn observe(&mut self, partition: TopicPartition, next_offset: i64, end: Option<i64>, now: Instant) {
        let clock = self.clocks.entry(partition).or_insert(Clock { next_offset, since: None });
        if clock.next_offset != next_offset {
            *clock = Clock { next_offset, since: None };
        }
        if end.is_some_and(|end| end > next_offset) {
            clock.since.get_or_insert(now);
        } else {
            clock.since = None;
        }
    }

    /// Restarts every clock after an outage of the database.
    pub fn restart(&mut self, now: Instant) {
        for clock in self.clocks.values_mut() {
            clock.since = clock.since.map(|_| now);
        }
    }

    /// Removes a partition's clock: a stopped or paused partition need not make progress.
    pub fn rest(&mut self, partition: TopicPartition) {
        self.clocks.remove(&partition);
    }

    /// Returns how long records of the partition have waited while its stored offset did not move.
    pub fn waited(&self, partition: TopicPartition, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.clocks.get(&partition)?.since?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    const SECOND: Duration = Duration::from_secs(1);

    fn partition() -> TopicPartition {
        TopicPartition::new(Topic::CloneReady, 0)
    }

    #[test]
    fn the_clock_runs_while_records_wait_and_the_offset_does_not_move() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        progress.observe(partition(), 5, Some(9), start);
        progress.observe(partition(), 5, Some(12), start + 40 * SECOND);
        assert_eq!(progress.waited(partition(), start + 61 * SECOND), Some(61 * SECOND));
        progress.observe(partition(), 6, Some(12), start + 62 * SECOND);
        assert_eq!(progress.waited(partition(), start + 63 * SECOND), Some(SECOND));
        progress.observe(partition(), 12, Some(12), start + 70 * SECOND);
        assert_eq!(progress.waited(partition(), start + 200 * SECOND), None);
    }

    #[test]
    fn nothing_waits_while_no_end_is_known() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        progress.observe(partition(), 5, None, start);
        assert_eq!(progress.waited(partition(), start + 200 * SECOND), None);
        progress.observe(partition(), 5, Some(6), start + 200 * SECOND);
        assert_eq!(progress.waited(partition(), start + 201 * SECOND), Some(SECOND));
    }

    #[test]
    fn the_clock_starts_again_when_the_database_is_back() {
        let (mut progress, start) = (Progress::default(), Instant::now());
        progress.observe(partition(), 5, Some(9), start);
        progress.restart(start + 300 * SECOND);
        assert_eq!(progress.waited(partition(), start + 301 * SECOND), Some(SECOND));
    }
}
