//! Records events of a real librdkafka, for the simulation (`src/consumer/simulation/traces`). The lines `do` of each file
//! are actions on a real cluster; the lines `got` are the events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use voiceclone_events::cli::SettingFlags;
use voiceclone_events::config::{Need, Settings};
use voiceclone_events::kafka::group::{Group, GroupEvent};
use voiceclone_events::record::{Topic, TopicPartition};

use super::*;
use crate::support::cluster::{Broker, Cluster, FIRST};
use crate::support::kafka::Transaction;
use crate::support::left_out::or_left_out;

/// Time without events after which no more are expected: a rebalance takes several heartbeats.
const SILENCE: Duration = Duration::from_secs(8);

/// The partition that lies on the second broker alone.
const AWAY: &str = "clone.failed";

struct Stage {
    cluster: &'static Cluster,
    second: Broker,
    prefix: String,
    group: String,
    members: BTreeMap<usize, Group>,
    lines: Vec<String>,
}

impl Stage {
    fn new(cluster: &'static Cluster) -> Stage {
        let second = cluster.another_broker();
        let prefix = format!("{}.", unique("trace"));
        for topic in TOPICS {
            let broker = if topic == AWAY { second.id } else { FIRST };
            let count = if topic == "clone.ready" { 2 } else { 1 };
            let places = vec![vec![broker]; count];
            let places: Vec<&[i32]> = places.iter().map(Vec::as_slice).collect();
            cluster.create_topic_on(&format!("{prefix}{topic}"), &places, &[]);
        }
        Stage { cluster, second, prefix, group: unique("trace"), members: BTreeMap::new(), lines: Vec::new() }
    }

    fn join(&mut self, number: usize) {
        let settings = [
            ("KAFKA_BOOTSTRAP_SERVERS", self.cluster.servers.as_str()),
            ("KAFKA_GROUP_ID", &self.group),
            ("TOPIC_PREFIX", &self.prefix),
        ];
        let settings = settings.into_iter().chain(IMPATIENT_MEMBER);
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let need = Need { database: false, broker: true };
        let settings = Settings::from(&SettingFlags::default(), settings, need).unwrap();
        self.members.insert(number, Group::join(&settings).unwrap());
    }

    fn perform(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        let key = |at: usize| {
            let (topic, partition) = words[at].split_once('/').unwrap();
            TopicPartition::new(Topic::from_name(topic).unwrap(), partition.parse().unwrap())
        };
        let topic = |at: usize| format!("{}{}", self.prefix, key(at).topic);
        let sends = |at: usize| {
            let send = Send::to(&topic(at)).partition(key(at).partition).value("v");
            vec![send; number(at + 1)]
        };
        match words[0] {
            "join" => self.join(number(1)),
            "leave" => drop(self.members.remove(&number(1))),
            "produce" => drop(self.cluster.send_all(sends(1))),
            "commit" => drop(self.cluster.send_in_transaction(Transaction::Commit, sends(1))),
            "abort" => drop(self.cluster.send_in_transaction(Transaction::Abort, sends(1))),
            "delete" => self.cluster.delete_records(&topic(1), key(1).partition, number(2) as i64),
            "leaderless" => {
                self.second.process.stop();
                self.cluster.wait_until_leaderless(&topic(1), 0);
            }
            "led" => self.second.process.start_again(),
            "silent" => self.take(Some(number(1)), Duration::from_secs(number(2) as u64)),
            "read" => {
                let (key, offset) = (key(2), number(3) as i64);
                self.members.get_mut(&number(1)).unwrap().assign(&[(key, offset)]).unwrap();
            }
            "stop" => self.members.get_mut(&number(1)).unwrap().unassign(&[key(2)]).unwrap(),
            "pause" => self.members[&number(1)].pause(&[key(2)]).unwrap(),
            "resume" => {
                let (key, offset) = (key(2), number(3) as i64);
                self.members.get_mut(&number(1)).unwrap().resume(&[(key, offset)]).unwrap();
            }
            other => panic!("{other}"),
        }
    }

    /// Takes events until there are none for a while. `without`: this member is not polled.
    fn take(&mut self, without: Option<usize>, patience: Duration) {
        let mut last = Instant::now();
        while last.elapsed() < patience {
            for (number, group) in &mut self.members {
                while let Some(event) = (Some(*number) != without).then(|| group.next_event()).flatten() {
                    if let Some(text) = text(&event) {
                        if without.is_none() {
                            last = Instant::now();
                        }
                        self.lines.push(format!("got {number} {text}"));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An event as the traces have it. Errors of a client as a whole are noted, and not replayed.
fn text(event: &GroupEvent) -> Option<String> {
    Some(match event {
        GroupEvent::Record(record) => format!("record {} {}", record.topic_partition(), record.offset),
        GroupEvent::EndOfPartition { partition, offset } => format!("end {partition} {offset}"),
        GroupEvent::OffsetOutOfRange { partition } => format!("out_of_range {partition}"),
        GroupEvent::PartitionFailed { partition, reason, .. } => format!("failed {partition} {reason}"),
        GroupEvent::ClientFailed { code, .. } => format!("client_failed {code:?}"),
        GroupEvent::ClientDied { code, .. } => format!("client_died {code:?}"),
        GroupEvent::Assigned(partitions) => format!("assigned {}", partitions.len()),
        GroupEvent::Revoked { partitions, lost } => format!("revoked {} lost={lost}", partitions.len()),
        GroupEvent::Statistics(_) | GroupEvent::Log { .. } => return None,
    })
}

#[test]
#[ignore = "writes the traces of the simulation, or the one named in TRACE; needs a real Kafka"]
fn record() {
    let cluster = or_left_out!(cluster());
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/consumer/simulation/traces");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if std::env::var("TRACE").is_ok_and(|name| !path.ends_with(name)) {
            continue;
        }
        let script = std::fs::read_to_string(&path).unwrap();
        let mut stage = Stage::new(cluster);
        for line in script.lines().filter(|line| !line.starts_with("got ")) {
            stage.lines.push(line.to_owned());
            if let Some(line) = line.strip_prefix("do ") {
                stage.perform(line);
                stage.take(None, SILENCE);
            }
        }
        std::fs::write(&path, stage.lines.join("\n") + "\n").unwrap();
    }
}
