//! The problems that instances report: the reasons why their partitions wait.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::judge::{CHECK, critical, named, warning};
use super::problems::Code;
use super::{PartitionState, PartitionStatus, Problem};
use crate::record::{Topic, TopicPartition};

/// Whether a partition's wait is a problem of its own. Other problems cover partitions that are stopped, paused,
/// unassigned, lost or without a leader.
pub(super) fn is_reported(facts: &Facts, key: TopicPartition, partition: &PartitionStatus) -> bool {
    let waits = partition.reason.is_some() && !facts.is_leaderless(key);
    let reported_otherwise = [
        PartitionState::StoppedByLimit,
        PartitionState::OffsetLost,
        PartitionState::Paused,
        PartitionState::Unassigned,
    ];
    waits && partition.state.is_none_or(|state| !reported_otherwise.contains(&state))
}

/// The problems; one for all partitions of a topic that wait for the same reason.
pub(super) fn problems(facts: &Facts, partitions: &[(TopicPartition, PartitionStatus)]) -> Vec<Problem> {
    let mut groups: BTreeMap<(Topic, WaitCause, &str), Vec<i32>> = BTreeMap::new();
    for (key, partition) in partitions.iter().filter(|(key, partition)| is_reported(facts, *key, partition)) {
        let kind = match partition.state {
            Some(PartitionState::Drift) => WaitCause::Drift,
            Some(PartitionState::Unreadable) => WaitCause::Unreadable,
            Some(PartitionState::NoLeader) => WaitCause::NoLeader,
            Some(PartitionState::Stalled) => WaitCause::Stalled,
            _ => WaitCause::Other,
        };
        let reason = partition.reason.as_deref().unwrap_or_default();
        groups.entry((key.topic, kind, reason)).or_default().push(key.partition);
    }
    let problem = |((topic, kind, reason), list): ((Topic, WaitCause, &str), Vec<i32>)| {
        let waits = if list.len() == 1 { "waits" } else { "wait" };
        let what = format!("{} {waits}: {reason}", named(facts, topic, &list));
        let first = list.first().copied().unwrap_or_default();
        match kind {
            WaitCause::Drift => critical(Code::Drift, what, CHECK),
            WaitCause::Unreadable => {
                let fix = format!(
                    "{CHECK} names a missing right; where none is missing: voiceclone-events skip --topic {topic} \
                     --partition {first} --to OFFSET --note TEXT"
                );
                critical(Code::Unreadable, what, fix)
            }
            WaitCause::NoLeader => {
                let fix = format!(
                    "look whether the leader runs: kafka-topics.sh --describe --topic {}",
                    facts.name(topic)
                );
                critical(Code::NoLeader, what, fix)
            }
            WaitCause::Stalled => critical(Code::Stalled, what, CHECK),
            WaitCause::Other => warning(Code::Waits, what, CHECK),
        }
    };
    groups.into_iter().map(problem).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WaitCause {
    Drift,
    Unreadable,
    NoLeader,
    Stalled,
    Other,
}
