//! A stage for the daemon: topics, a group and a database that no other test touches.

use std::time::Duration;

use super::daemon::Daemon;
use super::kafka::{Kafka, Record, Send};
use super::postgres::Database;
use super::wait::eventually;
use super::{tables, unique};
use crate::model;
use crate::model::Input;
use voiceclone_events::record::Outgoing;

/// The daemon's defaults (the contract's section 8): seconds, bytes.
pub const CACHE_TTL: i64 = 86_400;
/// See [`CACHE_TTL`].
pub const RECORD_MAX_BYTES: usize = 8 * 1024 * 1024;

/// The topics that the daemon reads.
pub const TOPICS: [&str; 5] =
    ["clone.ready", "clone.failed", "clone.transfer", "call.lifecycle", "caller.voice_mapping"];

/// All topics of a scene: the daemon writes the last two.
pub const OWN_TOPICS: [&str; 7] = [
    "clone.ready",
    "clone.failed",
    "clone.transfer",
    "call.lifecycle",
    "caller.voice_mapping",
    "clone.expired",
    "voiceclone.dead-letters",
];

/// The settings of every topic.
pub const CONFIGS: &[(&str, &str)] = &[("max.message.bytes", "10485760")];

/// Topics with a prefix of their own, a group, an empty database.
pub struct Scene {
    /// The client of the broker.
    pub kafka: Kafka,
    /// The address of the broker.
    pub servers: String,
    /// The database, not yet migrated.
    pub database: Database,
    /// `TOPIC_PREFIX`.
    pub prefix: String,
    /// `KAFKA_GROUP_ID`.
    pub group: String,
}

impl Scene {
    /// Creates the topics with `partitions` each, and an empty database.
    pub fn new(kafka: &Kafka, partitions: i32) -> Scene {
        Scene::on(kafka, Database::new(), partitions)
    }

    /// The same in an existing database.
    pub fn on(kafka: &Kafka, database: Database, partitions: i32) -> Scene {
        Scene::with(kafka, database, |kafka, topic| kafka.create_topic(topic, partitions, CONFIGS))
    }

    /// As [`Scene::new`], with the replicas of each partition that `brokers` gives for a topic (without prefix).
    pub fn placed(kafka: &Kafka, brokers: impl Fn(&str) -> Vec<Vec<i32>>) -> Scene {
        Scene::placed_on(kafka, Database::new(), brokers)
    }

    /// The same in an existing database.
    pub fn placed_on(kafka: &Kafka, database: Database, brokers: impl Fn(&str) -> Vec<Vec<i32>>) -> Scene {
        let name = |topic: &str| OWN_TOPICS.into_iter().find(|name| topic.ends_with(name)).unwrap();
        Scene::with(kafka, database, |kafka, topic| {
            let brokers = brokers(name(topic));
            kafka.create_topic_on(topic, &brokers.iter().map(Vec::as_slice).collect::<Vec<_>>(), CONFIGS);
        })
    }

    fn with(kafka: &Kafka, database: Database, create: impl Fn(&Kafka, &str)) -> Scene {
        let prefix = format!("{}.", unique("t"));
        let kafka = Kafka::at(&kafka.servers);
        for topic in OWN_TOPICS {
            create(&kafka, &format!("{prefix}{topic}"));
        }
        Scene { servers: kafka.servers.clone(), kafka, database, prefix, group: unique("group") }
    }

    /// Compacts the topic of the mappings, as `check` asks for. From then on the broker takes no record without a key
    /// there.
    pub fn compact_mappings(&self) {
        let settings = [("cleanup.policy", "compact"), ("max.message.bytes", "10485760")];
        self.kafka.set_topic_settings(&self.topic("caller.voice_mapping"), &settings);
    }

    /// The name of a topic, with its prefix.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The variables of a daemon or command on this stage.
    pub fn variables<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut variables = vec![
            ("DATABASE_URL", self.database.url()),
            ("KAFKA_BOOTSTRAP_SERVERS", self.servers.as_str()),
            ("KAFKA_GROUP_ID", self.group.as_str()),
            ("TOPIC_PREFIX", self.prefix.as_str()),
        ];
        variables.extend_from_slice(more);
        variables
    }

    /// Starts `run --migrate`.
    pub fn daemon(&self, more: &[(&str, &str)]) -> Daemon {
        Daemon::start(&["run", "--migrate"], &self.variables(more))
    }

    /// Sends the traffic of `simulate`.
    pub fn send(&self, records: impl IntoIterator<Item = Outgoing>) {
        self.kafka.send_all(records.into_iter().map(|record| sendable(&self.prefix, record)));
    }

    /// Sends one value to a topic.
    pub fn publish(&self, topic: &str, value: &str) {
        self.kafka.send(Send::to(&self.topic(topic)).value(value));
    }

    /// All records of the five topics, as they are in the log.
    pub fn log(&self) -> Vec<Record> {
        TOPICS.iter().flat_map(|topic| self.kafka.read_all(&self.topic(topic))).collect()
    }

    /// The records of a log, for the model.
    pub fn inputs(&self, log: &[Record]) -> Vec<Input> {
        log.iter()
            .map(|record| Input {
                topic: record.topic.strip_prefix(&self.prefix).unwrap().to_owned(),
                key: record.key.clone(),
                value: record.value.clone(),
                headers: record.headers.clone(),
                timestamp: record.timestamp.unwrap(),
            })
            .collect()
    }

    /// Waits until the database has taken everything that the topics hold.
    pub fn wait_until_consumed(&self, deadline: Duration) {
        let sql = format!(
            "SELECT COALESCE(sum(next_offset), 0) FROM ingest.consumer_offsets WHERE group_id = '{}'",
            self.group
        );
        let topics: Vec<String> = TOPICS.iter().map(|topic| self.topic(topic)).collect();
        let wanted: i64 =
            topics.iter().flat_map(|topic| self.kafka.watermarks(topic)).map(|(_, (_, high))| high).sum();
        eventually(deadline, &format!("{wanted} records to be consumed"), || {
            if self
                .database
                .value("SELECT COALESCE(to_regclass('ingest.consumer_offsets')::text, '')")
                .is_empty()
            {
                return Err("not migrated".to_owned());
            }
            let seen = self.database.value(&sql);
            if seen == wanted.to_string() { Ok(()) } else { Err(seen) }
        });
    }

    /// Waits until the daemon has begun to write calls.
    pub fn wait_until_some_calls(&self, deadline: Duration) {
        eventually(deadline, "some rows of call_log", || {
            let there = self.database.value("SELECT COALESCE(to_regclass('public.call_log')::text, '')");
            if there.is_empty() {
                return Err("not migrated".to_owned());
            }
            let seen = self.database.value("SELECT count(*) FROM call_log");
            if seen == "0" { Err(seen) } else { Ok(()) }
        });
    }

    /// Waits until all is consumed, and compares the tables and dead letters with the model's.
    pub fn assert_as_the_model_says(&self, deadline: Duration) {
        self.wait_until_consumed(deadline);
        let log = self.log();
        let inputs = self.inputs(&log);
        let folded = model::fold(&inputs, CACHE_TTL, RECORD_MAX_BYTES);
        let seen = tables::read_with_ids(&self.database);
        let difference =
            model::explained_difference(&folded.tables, &seen, &inputs, CACHE_TTL, RECORD_MAX_BYTES);
        if let Some(difference) = difference {
            panic!("{difference}");
        }
        let letters = tables::dead_letters(&self.database);
        assert_eq!(letters.len(), folded.unusable.len(), "as many dead letters as unusable records");
        for (index, reasons) in &folded.unusable {
            let record = &log[*index];
            let letter = letters
                .iter()
                .find(|letter| {
                    (&letter.topic, letter.partition, letter.record_offset)
                        == (&record.topic, record.partition, record.offset)
                })
                .unwrap_or_else(|| panic!("no dead letter for {record:?}"));
            assert!(reasons.contains(letter.reason.as_str()), "{letter:?}: {reasons:?}");
            assert_eq!((&letter.key, &letter.value), (&record.key, &record.value), "the original bytes");
            let headers: Vec<Option<Vec<u8>>> = record
                .headers
                .iter()
                .flat_map(|(name, value)| [Some(name.clone().into_bytes()), value.clone()])
                .collect();
            assert_eq!(letter.headers, headers, "the original headers");
        }
    }
}

/// A record of the program's own traffic, to be sent to the topic with this prefix.
pub fn sendable(prefix: &str, record: Outgoing) -> Send {
    let mut send = Send::to(&format!("{prefix}{}", record.topic));
    if let Some(key) = record.key {
        send = send.key(key);
    }
    if let Some(value) = record.value {
        send = send.value(value);
    }
    for header in record.headers {
        let name = String::from_utf8(header.name).unwrap();
        send = match header.value {
            Some(value) => send.header(&name, value),
            None => send.null_header(&name),
        };
    }
    match record.timestamp {
        Some(timestamp) => send.timestamp(timestamp),
        None => send,
    }
}
