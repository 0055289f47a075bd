//! The problems of single partitions.

use super::{by_topic, critical, info, named, warning};
use crate::record::TopicPartition;
use crate::status::facts::Facts;
use crate::status::problems::Code;
use crate::status::{PartitionState, PartitionStatus, Problem, partitions, waits};

pub(super) fn problems(
    facts: &Facts,
    partitions: &[(TopicPartition, PartitionStatus)],
    is_down: bool,
    found: &mut Vec<Problem>,
) {
    let in_state = |state: PartitionState| {
        let keys = partitions.iter().filter(move |(_, partition)| partition.state == Some(state));
        keys.map(|(key, _)| *key).collect::<Vec<_>>()
    };
    let mut leaderless = in_state(PartitionState::NoLeader);
    leaderless.retain(|key| facts.is_leaderless(*key));
    for (topic, list) in by_topic(leaderless) {
        let what = format!("{} without a leader", named(facts, topic, &list));
        let fix = format!(
            "start the brokers that hold the replicas: kafka-topics.sh --describe --topic {}",
            facts.name(topic)
        );
        found.push(critical(Code::NoLeader, what, fix));
    }
    for (key, partition) in partitions {
        let Some(stored) = facts.position(1, *key) else { continue };
        let place = format!("{} partition {}", partition.topic, key.partition);
        let accept = format!(
            "voiceclone-events dead-letters accept --topic {} --partition {}",
            key.topic, key.partition
        );
        let count = stored.dead_in_a_row;
        if stored.stopped_at.is_some() {
            let what =
                format!("{place} is stopped by DEAD_LETTER_LIMIT after {count} unusable records in a row");
            let stopped = critical(Code::PartitionStopped, what, accept);
            found.push(Problem { since: stored.stopped_at.clone(), ..stopped });
        } else if count > 0 && count >= facts.dead_letter_limit / 2 {
            let limit = facts.dead_letter_limit;
            let what = format!(
                "{place} has {count} unusable records in a row, and DEAD_LETTER_LIMIT is {limit} where this was asked"
            );
            let fix = "stop their producer, or raise DEAD_LETTER_LIMIT";
            found.push(warning(Code::NearDeadLetterLimit, what, fix));
        }
        if partition.state == Some(PartitionState::OffsetLost)
            && let (Some(low), Some(end)) = (partition.low, partition.end)
        {
            let next = stored.next_offset;
            let what = if next < low {
                format!(
                    "{place}: the log begins at {low}, and offsets {next} to {} were not consumed",
                    low - 1
                )
            } else {
                format!("{place}: the log ends at {end}, before the stored offset {next}")
            };
            let fix = "the daemon goes on with the first record there is; raise retention.ms of the topic";
            found.push(critical(Code::OffsetsLost, what, fix));
        }
    }
    found.extend(waits::problems(facts, partitions));
    let stalled = partitions.iter().filter(|(key, partition)| {
        partition.state == Some(PartitionState::Stalled) && !waits::is_reported(facts, *key, partition)
    });
    for (topic, list) in by_topic(stalled.map(|(key, _)| *key).collect()) {
        let what = format!("records wait in {}, and nothing moves", named(facts, topic, &list));
        let since = partitions.iter().filter(|(key, _)| list.contains(&key.partition) && key.topic == topic);
        let since = since.filter_map(|(_, partition)| partition.moved_at.clone()).min();
        let fix = "/readyz of the daemon says what they wait for; see its log";
        found.push(Problem { since, ..critical(Code::Stalled, what, fix) });
    }
    if !is_down {
        for (topic, list) in by_topic(in_state(PartitionState::Unassigned)) {
            let what = format!("no member of the group has {}", named(facts, topic, &list));
            let fix = "wait for the group to rebalance; where it stays so, restart the instances";
            found.push(warning(Code::Unassigned, what, fix));
        }
        let catching_up = partitions.iter().filter(|(_, partition)| {
            partition.state == Some(PartitionState::CatchingUp) && partition.waits_for.is_none()
        });
        for (topic, list) in by_topic(catching_up.map(|(key, _)| *key).collect()) {
            // without a batch between the looks there is no rate to judge by; a minute without one is a stall
            let shrinks = partitions::shrinks_by(facts, topic).is_none_or(|by| by > 0);
            if shrinks || !partitions::moves(facts, topic) {
                continue;
            }
            let what =
                format!("records wait in {}, and they do not become fewer", named(facts, topic, &list));
            let fix = "start more instances, up to the number of partitions; see docs/performance.md";
            found.push(warning(Code::LagNotShrinking, what, fix));
        }
    }
    let unknown = partitions
        .iter()
        .filter(|(_, partition)| partition.lag_records > Some(0) && partition.lag_seconds.is_none());
    for (topic, list) in by_topic(unknown.map(|(key, _)| *key).collect()) {
        let what = format!(
            "the age of the oldest record that waits in {} is not known: it was not read within 1 s, has no timestamp, \
             or 32 other partitions are further behind",
            named(facts, topic, &list)
        );
        found.push(info(Code::LagSecondsUnknown, what, "run it again; it takes the right to read the topic"));
    }
}
