//! Log lines about partitions that wait: one when a trouble begins, one a minute while it lasts, and one when it ends,
//! each for all partitions with the same trouble.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Trouble;
use super::partition::TroubleKind;
use crate::record::TopicPartition;

/// Minimum time between two lines about the same trouble.
pub(super) const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of partitions named in a line.
const MAX_NAMES: usize = 5;

/// The ongoing troubles that were logged.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    logged: BTreeMap<(TroubleKind, String), LoggedTrouble>,
}

#[derive(Debug)]
struct LoggedTrouble {
    since: Instant,
    last: Instant,
    partitions: Vec<TopicPartition>,
}

/// A log line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TroubleLine {
    /// The trouble began, or continues.
    Waits { kind: TroubleKind, text: String, partitions: Vec<TopicPartition>, lasted: Duration },
    /// The trouble of these partitions ended.
    Over { text: String, partitions: Vec<TopicPartition>, lasted: Duration },
}

impl Troubles {
    /// Compares the partitions that wait with those logged before. Returns the lines to log.
    pub fn compare<'t>(
        &mut self,
        waiting: impl Iterator<Item = (TopicPartition, &'t Trouble)>,
        now: Instant,
    ) -> Vec<TroubleLine> {
        let mut current: BTreeMap<(TroubleKind, String), Vec<TopicPartition>> = BTreeMap::new();
        for (partition, trouble) in waiting {
            current.entry((trouble.kind, trouble.text.clone())).or_default().push(partition);
        }
        let mut lines = Vec::new();
        self.logged.retain(|key, logged| {
            let lasts = current.contains_key(key);
            if !lasts {
                let lasted = now.saturating_duration_since(logged.since);
                let partitions = std::mem::take(&mut logged.partitions);
                lines.push(TroubleLine::Over { text: key.1.clone(), partitions, lasted });
            }
            lasts
        });
        for ((kind, text), partitions) in current {
            let logged = self.logged.entry((kind, text.clone()));
            let is_new = matches!(logged, std::collections::btree_map::Entry::Vacant(_));
            let logged = logged.or_insert(LoggedTrouble { since: now, last: now, partitions: Vec::new() });
            logged.partitions.clone_from(&partitions);
            if is_new || now.saturating_duration_since(logged.last) >= LINE_INTERVAL {
                logged.last = now;
                let lasted = now.saturating_duration_since(logged.since);
                lines.push(TroubleLine::Waits { kind, text, partitions, lasted });
            }
        }
        lines
    }
}

impl TroubleLine {
    /// Logs the line.
    pub fn log(&self, topic_prefix: &str) {
        match self {
            TroubleLine::Waits { kind, text, partitions, lasted } => warn!(
                partitions = names(partitions, topic_prefix),
                count = partitions.len(),
                waits_for = kind.name(),
                for_seconds = lasted.as_secs(),
                "partitions wait, and the others go on: {text}"
            ),
            TroubleLine::Over { text, partitions, lasted } => info!(
                partitions = names(partitions, topic_prefix),
                count = partitions.len(),
                for_seconds = lasted.as_secs(),
                "partitions no longer wait for this: {text}"
            ),
        }
    }
}

/// Formats `clone.ready/0, clone.ready/3 and 12 more`, with the topics' names in Kafka.
pub(super) fn names(partitions: &[TopicPartition], topic_prefix: &str) -> String {
    let mut names = String::new();
    for (number, partition) in partitions.iter().take(MAX_NAMES).enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let _ = write!(names, "{comma}{topic_prefix}{partition}");
    }
    if partitions.len() > MAX_NAMES {
        let _ = write!(names, " and {} more", partitions.len() - MAX_NAMES);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(Topic::CloneReady, number)
    }

    #[test]
    fn a_trouble_is_logged_when_it_begins_each_minute_and_when_it_ends() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        let trouble = Trouble { kind: TroubleKind::Drift, text: "call_log".into() };
        let seconds = Duration::from_secs;
        let mut lines = Vec::new();
        for second in 0..=130 {
            lines.extend(troubles.compare([(partition(0), &trouble)].into_iter(), start + seconds(second)));
        }
        let waits = |lasted| TroubleLine::Waits {
            kind: TroubleKind::Drift,
            text: "call_log".into(),
            partitions: vec![partition(0)],
            lasted: seconds(lasted),
        };
        assert_eq!(lines, [waits(0), waits(60), waits(120)]);
        let over = troubles.compare(std::iter::empty(), start + seconds(131));
        let partitions = vec![partition(0)];
        assert_eq!(over, [TroubleLine::Over { text: "call_log".into(), partitions, lasted: seconds(131) }]);
    }

    #[test]
    fn many_partitions_with_one_trouble_make_one_line_with_some_names_and_the_count() {
        let trouble = Trouble { kind: TroubleKind::NoLeader, text: "no broker leads it".into() };
        let all: Vec<TopicPartition> = (0..40).map(partition).collect();
        let waiting = all.iter().map(|partition| (*partition, &trouble));
        assert_eq!(Troubles::default().compare(waiting, Instant::now()).len(), 1);
        let some = "t.clone.ready/0, t.clone.ready/1, t.clone.ready/2, t.clone.ready/3, t.clone.ready/4";
        assert_eq!(names(&all, "t."), format!("{some} and 35 more"));
    }
}
