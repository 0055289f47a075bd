//! The problems that instances report: what their partitions wait for.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::judge::{CHECK, critical, named, warning};
use super::problems::Code;
use super::{Partition, Problem, State};
use crate::record::{Topic, TopicPartition};

/// Whether the reason of a partition's wait is worth a problem of its own. Another problem names a partition that is
/// stopped, paused, unassigned, lost or without a leader.
pub(super) fn is_reported(facts: &Facts, key: TopicPartition, partition: &Partition) -> bool {
    let waits = partition.reason.is_some() && !facts.is_leaderless(key);
    let reported_otherwise = [State::StoppedByLimit, State::OffsetLost, State::Paused, State::Unassigned];
    waits && partition.state.is_none_or(|state| !reported_otherwise.contains(&state))
}

/// One problem for the partitions of a topic that wait for the same.
pub(super) fn problems(facts: &Facts, partitions: &[(TopicPartition, Partition)]) -> Vec<Problem> {
    let mut groups: BTreeMap<(Topic, Kind, &str), Vec<i32>> = BTreeMap::new();
    for (key, partition) in partitions.iter().filter(|(key, partition)| is_reported(facts, *key, partition)) {
        let kind = match partition.state {
            Some(State::Drift) => Kind::Drift,
            Some(State::Unreadable) => Kind::Unreadable,
            Some(State::NoLeader) => Kind::NoLeader,
            Some(State::Stalled) => Kind::Stalled,
            _ => Kind::Other,
        };
        let reason = partition.reason.as_deref().unwrap_or_default();
        groups.entry((key.topic, kind, reason)).or_default().push(key.partition);
    }
    let problem = |((topic, kind, reason), list): ((Topic, Kind, &str), Vec<i32>)| {
        let waits = if list.len() == 1 { "waits" } else { "wait" };
        let what = format!("{} {waits}: {reason}", named(facts, topic, &list));
        let first = list.first().copied().unwrap_or_default();
        match kind {
            Kind::Drift => critical(Code::Drift, what, CHECK),
            Kind::Unreadable => {
                let fix = format!(
                    "{CHECK} names a missing right; where none is missing: voiceclone-events skip --topic {topic} \
                     --partition {first} --to OFFSET --note TEXT"
                );
                critical(Code::Unreadable, what, fix)
            }
            Kind::NoLeader => {
                let fix = format!(
                    "look whether the leader runs: kafka-topics.sh --describe --topic {}",
                    facts.name(topic)
                );
                critical(Code::NoLeader, what, fix)
            }
            Kind::Stalled => critical(Code::Stalled, what, CHECK),
            Kind::Other => warning(Code::Waits, what, CHECK),
        }
    };
    groups.into_iter().map(problem).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Drift,
    Unreadable,
    NoLeader,
    Stalled,
    Other,
}
