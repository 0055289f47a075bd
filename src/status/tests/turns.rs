//! Partitions that wait for their turn, for their instance or for a batch to land.

use super::*;

#[test]
fn between_two_batches_a_lag_is_not_said_not_to_shrink() {
    let document = judge(&facts([Some(1_000), Some(1_000)], 43_000));
    assert_eq!((document.verdict, codes(&document)), (Verdict::CatchingUp, vec![]));
}

#[test]
fn a_record_that_came_just_now_is_not_stalled_however_long_the_partition_had_none() {
    let mut facts = facts([Some(12), Some(12)], 20);
    second(&mut facts).idle_seconds = 3_600.0;
    cluster(&mut facts).waiting.insert(KEY, NOW - 15_000);
    assert_eq!(judge(&facts).partitions[0].state, Some(PartitionState::CatchingUp));
    cluster(&mut facts).waiting.insert(KEY, NOW - 61_000);
    assert_eq!(judge(&facts).partitions[0].state, Some(PartitionState::Stalled));
}

#[test]
fn a_partition_whose_turn_has_not_come_after_an_outage_catches_up_and_one_that_waits_is_stalled() {
    const OTHER: TopicPartition = TopicPartition { topic: Topic::CloneFailed, partition: 2 };
    let mut facts = facts([Some(1_000), Some(1_000)], 43_000);
    second(&mut facts).idle_seconds = 330.0;
    cluster(&mut facts).members.as_mut().unwrap()[0].partitions.push(OTHER);
    for (look, next) in [(0, 1_000), (1, 3_000)] {
        let other = Stored { partition: 2, ..stored(next) };
        answers(&mut facts).positions[look].as_mut().unwrap().insert(OTHER, other);
        cluster(&mut facts).logs[look].insert(OTHER, Log { low: 10, high: 43_000 });
    }
    let state = |facts: &Facts| judge(facts).partitions[0].state;
    assert_eq!(state(&facts), Some(PartitionState::CatchingUp));
    let mut waits = facts.clone();
    answers(&mut waits).waits = vec![wait("unknown", "", 2.0)];
    assert_eq!(state(&waits), Some(PartitionState::Stalled));
    let mut between = facts.clone();
    let other = |facts: &mut Facts, next_offset, idle_seconds| {
        let other = answers(facts).positions[1].as_mut().unwrap().get_mut(&OTHER).unwrap();
        (other.next_offset, other.idle_seconds) = (next_offset, idle_seconds);
    };
    other(&mut between, 1_000, 5.0);
    assert_eq!(
        state(&between),
        Some(PartitionState::CatchingUp),
        "the other moved just before the first look"
    );
    other(&mut between, 1_000, 11.0);
    assert_eq!(state(&between), Some(PartitionState::Stalled));
    second(&mut facts).idle_seconds = 601.0;
    assert_eq!(state(&facts), Some(PartitionState::Stalled));
}
