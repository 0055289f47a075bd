//! Limits the number of records of a topic in one transaction, after a transaction was too slow or too large. No clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::record::Topic;

/// A limit doubles after each such period, so that a temporary slowdown of a table is forgotten.
const DOUBLES_EVERY: Duration = Duration::from_secs(60);

/// The limits of all topics.
#[derive(Debug, Default)]
pub(super) struct Sizes(BTreeMap<Topic, Limit>);

#[derive(Clone, Copy, Debug)]
struct Limit {
    records: usize,
    since: Instant,
}

impl Limit {
    fn at(self, now: Instant) -> usize {
        let doublings = now.saturating_duration_since(self.since).as_secs() / DOUBLES_EVERY.as_secs();
        u32::try_from(doublings)
            .ok()
            .and_then(|times| self.records.checked_mul(2usize.checked_pow(times)?))
            .unwrap_or(usize::MAX)
    }
}

impl Sizes {
    /// Returns the maximum number of records of a topic in one transaction.
    pub fn limit(&self, topic: Topic, now: Instant) -> usize {
        self.0.get(&topic).map_or(usize::MAX, |limit| limit.at(now))
    }

    /// Whether these numbers of records fit into one transaction.
    pub fn fit(&self, counts: &BTreeMap<Topic, usize>, now: Instant) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "a share of a limit, not a count")]
        let share = |(topic, count): (&Topic, &usize)| *count as f64 / self.limit(*topic, now) as f64;
        counts.iter().map(share).sum::<f64>() <= 1.0
    }

    /// Halves the limits after a transaction with these numbers of records was too large.
    pub fn too_large(&mut self, counts: &BTreeMap<Topic, usize>, now: Instant) {
        for (topic, count) in counts.iter().filter(|(_, count)| **count > 1) {
            let records = self.limit(*topic, now).min(*count) / 2;
            self.0.insert(*topic, Limit { records: records.max(1), since: now });
        }
    }

    /// Removes a topic's limit, when a single record was too large rather than the number of records.
    pub fn forget(&mut self, topic: Topic) {
        self.0.remove(&topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: Topic = Topic::CallLifecycle;
    const READY: Topic = Topic::CloneReady;

    #[test]
    fn a_limit_is_half_of_what_failed_and_doubles_with_time() {
        let (mut sizes, start) = (Sizes::default(), Instant::now());
        assert_eq!(sizes.limit(CALLS, start), usize::MAX);
        sizes.too_large(&BTreeMap::from([(CALLS, 3000)]), start);
        assert_eq!(sizes.limit(CALLS, start), 1500);
        sizes.too_large(&BTreeMap::from([(CALLS, 1500)]), start);
        assert_eq!(sizes.limit(CALLS, start), 750);
        assert_eq!(sizes.limit(CALLS, start + Duration::from_secs(59)), 750);
        assert_eq!(sizes.limit(CALLS, start + Duration::from_secs(125)), 3000);
        assert_eq!(sizes.limit(CALLS, start + Duration::from_secs(1_000_000)), usize::MAX);
        assert_eq!(sizes.limit(READY, start), usize::MAX, "each topic has its own");
        sizes.forget(CALLS);
        assert_eq!(sizes.limit(CALLS, start), usize::MAX);
    }

    #[test]
    fn a_single_record_leaves_no_limit_behind() {
        let (mut sizes, start) = (Sizes::default(), Instant::now());
        sizes.too_large(&BTreeMap::from([(CALLS, 1)]), start);
        assert_eq!(sizes.limit(CALLS, start), usize::MAX);
    }

    #[test]
    fn topics_share_a_transaction() {
        let (mut sizes, start) = (Sizes::default(), Instant::now());
        sizes.too_large(&BTreeMap::from([(CALLS, 200), (READY, 20)]), start);
        let fit = |calls, ready| sizes.fit(&BTreeMap::from([(CALLS, calls), (READY, ready)]), start);
        assert!(fit(50, 5) && fit(100, 0) && !fit(100, 1) && !fit(101, 0));
    }
}
