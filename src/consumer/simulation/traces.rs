//! Compares the simulated client with a real librdkafka: `traces/` lists operations on a real cluster and its members,
//! and the events that each member reported. `partitions::traces::record` (ignored) records them.

use std::collections::BTreeMap;

use super::Millis;
use super::client::{Client, Release};
use super::group::Member;
use super::kafka::Kafka;
use crate::kafka::group::GroupEvent;
use crate::record::{Topic, TopicPartition};

const TOPICS: [(Topic, i32); 5] = [
    (Topic::CloneReady, 2),
    (Topic::CloneFailed, 1),
    (Topic::CloneTransfer, 1),
    (Topic::CallLifecycle, 1),
    (Topic::CallerVoiceMapping, 1),
];

/// `max.poll.interval.ms` of the recorded members.
const MAX_POLL_INTERVAL: Millis = 10_000;

/// The operations and their events, by line of the trace.
type Steps = Vec<(String, Vec<String>)>;

fn steps(trace: &str) -> Steps {
    let mut steps = Steps::new();
    for line in trace.lines() {
        if let Some(what) = line.strip_prefix("do ") {
            steps.push((what.to_owned(), Vec::new()));
        } else if let Some(event) = line.strip_prefix("got ") {
            steps.last_mut().expect("a step").1.push(event.to_owned());
        }
    }
    steps
}

struct Replay {
    kafka: Kafka,
    clients: BTreeMap<usize, Client>,
    now: Millis,
    got: Vec<String>,
}

impl Replay {
    fn perform(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        let key = |at: usize| {
            let (topic, partition) = words[at].split_once('/').unwrap();
            TopicPartition::new(Topic::from_name(topic).unwrap(), partition.parse().unwrap())
        };
        match words[0] {
            "join" => drop(self.clients.insert(number(1), Client::default())),
            "leave" => {
                self.clients.remove(&number(1));
                self.kafka.group.members.remove(&(number(1), 0));
                self.kafka.group.changed = true;
            }
            "read" => {
                let client = self.clients.get_mut(&number(1)).unwrap();
                client.assign(&[(key(2), words[3].parse().unwrap())]).unwrap();
            }
            "stop" => self.clients.get_mut(&number(1)).unwrap().unassign(&[key(2)]),
            "pause" => self.clients.get_mut(&number(1)).unwrap().pause(&[key(2)], true),
            "resume" => {
                let client = self.clients.get_mut(&number(1)).unwrap();
                client.unassign(&[key(2)]);
                client.assign(&[(key(2), words[3].parse().unwrap())]).unwrap();
            }
            "silent" => self.be_silent(number(1), number(2) as Millis * 1000),
            other => {
                let log = self.kafka.logs.get_mut(&key(1)).unwrap();
                match other {
                    "produce" => log.entries.extend(vec![true; number(2)]),
                    "commit" => log.entries.extend((0..=number(2)).map(|at| at < number(2))),
                    "abort" => log.entries.extend(vec![false; number(2) + 1]),
                    "delete" => log.low = number(2) as i64,
                    "leaderless" => log.leaderless = true,
                    "led" => log.leaderless = false,
                    other => panic!("{other}"),
                }
            }
        }
    }

    /// Does not poll a member for some time: beyond `max.poll.interval.ms` it leaves the group.
    fn be_silent(&mut self, number: usize, time: Millis) {
        self.settle(Some(number));
        if time > MAX_POLL_INTERVAL {
            let client = self.clients.get_mut(&number).unwrap();
            let partitions = client.given.iter().copied().collect();
            self.kafka.group.members.remove(&(number, 0));
            self.kafka.group.changed = true;
            client.take_away(Release { partitions, then: None }, true, self.now);
            client.member = false;
        }
        self.settle(Some(number));
    }

    /// Runs until nothing changes; `without` is not polled.
    fn settle(&mut self, without: Option<usize>) {
        for _ in 0..50 {
            self.now += 1000;
            self.join_those_outside();
            if self.kafka.group.changed
                && self.clients.values().all(|client| !client.member || client.unanswered.is_none())
            {
                let partitions = self.kafka.partitions();
                for change in self.kafka.group.rebalance(&partitions) {
                    let client = self.clients.get_mut(&change.member.0).unwrap();
                    if change.revoked.is_empty() {
                        client.give(change.added, self.now);
                    } else {
                        let release = Release { partitions: change.revoked, then: Some(change.added) };
                        client.take_away(release, false, self.now);
                    }
                }
            }
            let numbers: Vec<usize> = self.clients.keys().copied().collect();
            for number in numbers.into_iter().filter(|number| Some(*number) != without) {
                self.take(number);
            }
        }
    }

    fn join_those_outside(&mut self) {
        for (number, client) in &mut self.clients {
            if !client.member && client.unanswered.is_none() {
                client.member = true;
                self.kafka.group.members.insert((*number, 0), Member::default());
                self.kafka.group.changed = true;
            }
        }
    }

    fn take(&mut self, number: usize) {
        let client = self.clients.get_mut(&number).unwrap();
        client.fetch(&self.kafka, self.now);
        while let Some(event) = client.next_event() {
            let text = match event {
                GroupEvent::Record(record) => {
                    format!("record {} {}", record.topic_partition(), record.offset)
                }
                GroupEvent::EndOfPartition { partition, offset } => format!("end {partition} {offset}"),
                GroupEvent::OffsetOutOfRange { partition } => format!("out_of_range {partition}"),
                GroupEvent::PartitionFailed { partition, reason, .. } => {
                    format!("failed {partition} {reason}")
                }
                GroupEvent::Assigned(partitions) => {
                    client.answer_assignment();
                    format!("assigned {}", partitions.len())
                }
                GroupEvent::Revoked { partitions, lost } => {
                    let release = client.answer_revocation().unwrap_or_default();
                    if let Some(member) = self.kafka.group.members.get_mut(&(number, 0)) {
                        member.owned.retain(|key| !release.partitions.contains(key));
                        self.kafka.group.changed = true;
                    }
                    if let Some(then) = release.then {
                        client.give(then, self.now);
                    }
                    format!("revoked {} lost={lost}", partitions.len())
                }
                other => format!("{other:?}"),
            };
            self.got.push(format!("{number} {text}"));
        }
    }
}

/// Groups the events to compare: those of each partition in order, and the changes of each member's assignment in
/// order. Rounds without a change are left out, as their number depends on which member joined first.
fn in_order(events: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in
        events.iter().filter(|event| !event.contains("client_failed") && !event.ends_with("assigned 0"))
    {
        let words: Vec<&str> = event.split(' ').collect();
        let of = words[2..].iter().find(|word| word.contains('/')).copied().unwrap_or("the assignment");
        by.entry(format!("{} {of}", words[0])).or_default().push(event.clone());
    }
    by
}

fn replay(trace: &str) {
    let mut replay = Replay { kafka: Kafka::new(&TOPICS), clients: BTreeMap::new(), now: 0, got: Vec::new() };
    let steps = steps(trace);
    assert!(steps.iter().any(|(_, events)| !events.is_empty()), "nothing was recorded");
    for (number, (what, events)) in steps.iter().enumerate() {
        replay.perform(what);
        replay.settle(None);
        let got = std::mem::take(&mut replay.got);
        assert_eq!(in_order(&got), in_order(events), "step {number}, `{what}`: simulated, then recorded");
    }
}

#[test]
fn offsets_out_of_range_and_ends_come_as_from_a_real_client() {
    replay(include_str!("traces/offset_out_of_range.txt"));
}

#[test]
fn a_partition_without_a_leader_is_as_silent_as_with_a_real_client() {
    replay(include_str!("traces/no_leader.txt"));
}

#[test]
fn members_that_come_go_and_are_silent_are_rebalanced_as_real_ones() {
    replay(include_str!("traces/rebalances.txt"));
}
