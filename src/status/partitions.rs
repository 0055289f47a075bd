//! Lag and state of each partition, and of each topic.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::{PartitionState, PartitionStatus, TopicSum};
use crate::record::{Topic, TopicPartition};

/// A partition keeps up if its oldest waiting record is younger, or if its lag is consumed in less time.
pub(crate) const KEEPS_UP_SECONDS: f64 = 10.0;

/// A partition is stalled if records wait and its stored offset has not moved for longer.
const STALLED_SECONDS: f64 = 60.0;

/// The same, while its member moves other partitions and does not report that this one waits: after an outage, each has
/// to wait for its turn.
const TURN_SECONDS: f64 = 600.0;

/// A partition whose stored offset moved within this time has just moved.
const JUST_MOVED_SECONDS: f64 = 10.0;

/// The two looks at offsets and ends.
const FIRST: usize = 0;
const SECOND: usize = 1;

/// The partitions that the brokers know; without brokers, those that the database knows.
pub fn known(facts: &Facts) -> BTreeSet<TopicPartition> {
    match (&facts.brokers, &facts.database) {
        (Ok(cluster), _) => cluster.leaders.keys().copied().collect(),
        (Err(_), Ok(answers)) => {
            answers.positions.iter().flatten().flat_map(BTreeMap::keys).copied().collect()
        }
        (Err(_), Err(_)) => BTreeSet::new(),
    }
}

/// The offset of the oldest waiting record: the stored offset, or the first of the log where none is stored or the log
/// begins later.
fn start(facts: &Facts, look: usize, partition: TopicPartition) -> Option<i64> {
    let low = facts.log(look, partition)?.low;
    let stored = facts.position(look, partition);
    facts.knows_positions(look).then(|| stored.map_or(low, |stored| stored.next_offset.max(low)))
}

/// The number of offsets between the stored one and the end of the log.
pub fn lag(facts: &Facts, look: usize, partition: TopicPartition) -> Option<i64> {
    Some((facts.log(look, partition)?.high - start(facts, look, partition)?).max(0))
}

/// The `most` partitions that are furthest behind, each with the offset of its oldest waiting record.
pub fn furthest_behind(facts: &Facts, most: usize) -> BTreeMap<TopicPartition, i64> {
    let behind = |partition: TopicPartition| lag(facts, SECOND, partition).filter(|lag| *lag > 0);
    let mut found: Vec<(i64, TopicPartition)> =
        known(facts).into_iter().filter_map(|partition| Some((behind(partition)?, partition))).collect();
    found.sort_by_key(|(lag, partition)| (-lag, *partition));
    let place = |(_, partition): (i64, TopicPartition)| Some((partition, start(facts, SECOND, partition)?));
    found.into_iter().take(most).filter_map(place).collect()
}

/// Seconds since the timestamp of the oldest waiting record; never negative.
fn lag_seconds(facts: &Facts, partition: TopicPartition) -> Option<f64> {
    if lag(facts, SECOND, partition)? == 0 {
        return Some(0.0);
    }
    let at = facts.brokers.as_ref().ok()?.waiting.get(&partition)?;
    #[allow(clippy::cast_precision_loss, reason = "the age of a record in milliseconds")]
    let seconds = (facts.checked_at - at).max(0) as f64 / 1000.0;
    Some(seconds)
}

/// The number of offsets that the group advanced between the looks.
fn moved(facts: &Facts, partition: TopicPartition) -> Option<i64> {
    if !facts.knows_positions(FIRST) || !facts.knows_positions(SECOND) {
        return None;
    }
    let next = |look| start(facts, look, partition);
    Some((next(SECOND)? - next(FIRST)?).max(0))
}

#[allow(clippy::cast_precision_loss, reason = "records in some seconds")]
fn per_second(facts: &Facts, records: i64) -> f64 {
    records as f64 / facts.between.as_secs_f64().max(0.001)
}

/// The topics that `pause` holds.
pub fn paused(facts: &Facts) -> BTreeSet<Topic> {
    let pauses = facts.database.as_ref().map(|answers| answers.pauses.as_slice()).unwrap_or_default();
    if pauses.iter().any(|pause| pause.topic.is_empty()) {
        return Topic::ALL.into_iter().collect();
    }
    pauses.iter().filter_map(|pause| Topic::from_name(&pause.topic)).collect()
}

/// The member that each partition is assigned to; `None` where the members are not known.
fn assignments(facts: &Facts) -> Option<BTreeMap<TopicPartition, String>> {
    let members = facts.brokers.as_ref().ok()?.members.as_ref().ok()?;
    let of = |member: &crate::kafka::group_state::Member| {
        member.partitions.iter().map(|partition| (*partition, member.id.clone())).collect::<Vec<_>>()
    };
    Some(members.iter().flat_map(of).collect())
}

/// All known partitions with lag and state.
pub fn partitions(facts: &Facts) -> Vec<(TopicPartition, PartitionStatus)> {
    let (members, paused) = (assignments(facts), paused(facts));
    let cluster = facts.brokers.as_ref().ok();
    known(facts)
        .into_iter()
        .map(|key| {
            let log = facts.log(SECOND, key);
            let stored = facts.position(SECOND, key);
            let committed = cluster.and_then(|cluster| cluster.committed.as_ref().ok());
            let member = members.as_ref().and_then(|members| members.get(&key)).cloned();
            let is_free = members.is_some() && member.is_none();
            let wait = facts.wait(key).filter(|_| !is_free);
            let partition = PartitionStatus {
                topic: facts.name(key.topic),
                partition: key.partition,
                low: log.map(|log| log.low),
                end: log.map(|log| log.high),
                next_offset: stored.map(|stored| stored.next_offset),
                committed_offset: committed.and_then(|committed| committed.get(&key)).copied(),
                lag_records: lag(facts, SECOND, key),
                lag_seconds: lag_seconds(facts, key),
                moved_at: stored.map(|stored| stored.moved_at.clone()),
                dead_in_a_row: stored.map(|stored| stored.dead_in_a_row),
                member,
                state: state(facts, key, is_free, paused.contains(&key.topic)),
                waits_for: wait.map(|wait| wait.waits_for.clone()),
                reason: wait.map(|wait| wait.reason.clone()).filter(|reason| !reason.is_empty()),
            };
            (key, partition)
        })
        .collect()
}

/// The state of a partition; `None` where too little is known.
fn state(facts: &Facts, key: TopicPartition, is_free: bool, is_paused: bool) -> Option<PartitionState> {
    let stored = facts.position(SECOND, key);
    if facts.is_leaderless(key) {
        return Some(PartitionState::NoLeader);
    }
    if stored.is_some_and(|stored| stored.stopped_at.is_some()) {
        return Some(PartitionState::StoppedByLimit);
    }
    if let (Some(stored), Some(log)) = (stored, facts.log(SECOND, key))
        && (stored.next_offset < log.low || stored.next_offset > log.high)
    {
        return Some(PartitionState::OffsetLost);
    }
    if is_paused {
        return Some(PartitionState::Paused);
    }
    if is_free {
        return Some(PartitionState::Unassigned);
    }
    match facts.wait(key).map(|wait| wait.waits_for.as_str()) {
        Some("no_leader") => return Some(PartitionState::NoLeader),
        Some("unreadable") => return Some(PartitionState::Unreadable),
        Some("drift") => return Some(PartitionState::Drift),
        _ => {}
    }
    let lag = lag(facts, SECOND, key)?;
    let moved = moved(facts, key);
    let consumed_soon = moved.is_some_and(|moved| within(facts, lag, moved, KEEPS_UP_SECONDS));
    let is_young = lag_seconds(facts, key).is_some_and(|seconds| seconds < KEEPS_UP_SECONDS);
    if lag == 0 || consumed_soon || is_young {
        return Some(PartitionState::Ok);
    }
    let waits = facts.wait(key).is_some();
    let patience = if !waits && member_moves(facts, key) { TURN_SECONDS } else { STALLED_SECONDS };
    // the first record for a long time may have come just now
    let is_fresh = lag_seconds(facts, key).is_some_and(|seconds| seconds <= STALLED_SECONDS);
    let is_still =
        moved == Some(0) && !is_fresh && stored.is_some_and(|stored| stored.idle_seconds > patience);
    Some(if is_still { PartitionState::Stalled } else { PartitionState::CatchingUp })
}

/// Whether the member that has a partition has just moved another of its partitions. Its batches may take longer than the
/// time between the looks.
fn member_moves(facts: &Facts, key: TopicPartition) -> bool {
    let members = facts.brokers.as_ref().ok().and_then(|cluster| cluster.members.as_ref().ok());
    let owner = members.into_iter().flatten().find(|member| member.partitions.contains(&key));
    let stored = |other: &TopicPartition| facts.position(SECOND, *other);
    let is_recent = |other| stored(other).is_some_and(|stored| stored.idle_seconds < JUST_MOVED_SECONDS);
    owner.is_some_and(|owner| {
        owner.partitions.iter().any(|other| moved(facts, *other) > Some(0) || is_recent(other))
    })
}

/// Whether a stored offset of the topic moved between the looks, so that its rate is known.
pub fn moves(facts: &Facts, topic: Topic) -> bool {
    known(facts).into_iter().any(|key| key.topic == topic && moved(facts, key) > Some(0))
}

/// Whether a lag is consumed within `seconds` at the rate between the looks.
#[allow(clippy::cast_precision_loss, reason = "records in some seconds")]
fn within(facts: &Facts, lag: i64, moved: i64, seconds: f64) -> bool {
    moved > 0 && lag as f64 <= per_second(facts, moved) * seconds
}

/// The decrease in the lag of a topic between the looks.
pub fn shrinks_by(facts: &Facts, topic: Topic) -> Option<i64> {
    let sum = |look| -> Option<i64> {
        known(facts).into_iter().filter(|key| key.topic == topic).map(|key| lag(facts, look, key)).sum()
    };
    Some(sum(FIRST)? - sum(SECOND)?)
}

/// The sums of the partitions by topic.
pub fn topics(facts: &Facts, partitions: &[(TopicPartition, PartitionStatus)]) -> Vec<TopicSum> {
    let sum_of = |topic: Topic| {
        let of_topic: Vec<&(TopicPartition, PartitionStatus)> =
            partitions.iter().filter(|(key, _)| key.topic == topic).collect();
        if of_topic.is_empty() {
            return None;
        }
        let lag_records: Option<i64> = of_topic.iter().map(|(_, partition)| partition.lag_records).sum();
        let seconds = of_topic.iter().filter_map(|(_, partition)| partition.lag_seconds).reduce(f64::max);
        let is_known = of_topic
            .iter()
            .all(|(_, partition)| partition.lag_records == Some(0) || partition.lag_seconds.is_some());
        let waiting = facts.brokers.as_ref().ok().map(|cluster| &cluster.waiting);
        let oldest = of_topic.iter().filter_map(|(key, _)| waiting?.get(key)).min();
        let moved: Option<i64> = of_topic.iter().map(|(key, _)| moved(facts, *key)).sum();
        let shrinks_by = shrinks_by(facts, topic).filter(|by| *by > 0);
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let eta = lag_records
            .filter(|lag| *lag > 0)
            .zip(shrinks_by)
            .map(|(lag, by)| lag as f64 / per_second(facts, by));
        Some(TopicSum {
            topic: facts.name(topic),
            partitions: of_topic.len(),
            lag_records,
            // The ages of the partitions furthest behind are known: their maximum is a fair answer even if others are not.
            lag_seconds: seconds.filter(|seconds| is_known || *seconds > 0.0),
            oldest_waiting_at: oldest.and_then(|at| written(*at)),
            records_per_second: moved.map(|moved| per_second(facts, moved)),
            eta_seconds: eta,
        })
    };
    Topic::ALL.into_iter().filter_map(sum_of).collect()
}

/// Milliseconds since 1970 as RFC 3339.
pub fn written(millis: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_millis(millis)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}
