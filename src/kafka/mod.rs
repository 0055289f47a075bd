//! Kafka: the only place that knows rdkafka.

pub mod admin;
pub mod brokers;
pub mod certificate;
pub mod embedded;
pub mod group;
pub mod group_state;
pub mod headers;
pub mod operations;
pub mod peek;
pub mod properties;
mod queue;
pub mod quiet;
pub mod range;
pub mod reason;
pub mod send;
mod statistics;
pub mod tail;
mod topic_ids;

use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};

pub use self::admin::{answered, asking_client};
use self::send::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC};
use crate::config::Settings;
use crate::record::{Record, Topic};

/// Bytes of records that are held for one batch at most, beside its last record; and fetched ahead.
pub const BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Every topic that is read or written, named as Kafka has it.
pub fn topic_names(settings: &Settings) -> Vec<String> {
    let read = Topic::ALL.iter().map(|topic| topic.name());
    read.chain([EXPIRED_TOPIC, DEAD_LETTER_TOPIC]).map(|name| settings.topic_name(name)).collect()
}

/// What every client is made with: the settings' servers and properties.
fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.kafka_bootstrap_servers);
    config.set("client.id", "voiceclone-events");
    // A topic that is made later, or anew, is to be seen soon.
    config.set("topic.metadata.refresh.interval.ms", "10000");
    for (property, value) in &settings.kafka_properties {
        config.set(property, value);
    }
    config
}

/// What consumers have in common; none commits or resets by itself, as the database holds the offsets.
fn consumer_config(settings: &Settings) -> ClientConfig {
    let mut config = client_config(settings);
    // What is fetched ahead: librdkafka asks for more while it holds less than this, so that it may hold this
    // twice; each small record takes some hundred bytes more. One that is larger comes by itself.
    let ahead = BATCH_MAX_BYTES;
    let largest = settings.record_max_bytes.max(16 * 1024 * 1024);
    let defaults = [
        ("fetch.wait.max.ms", "50".to_owned()),
        ("queued.max.messages.kbytes", (ahead / 1024).to_string()),
        // Once it holds so much, it looks again this soon; its default of 1 s would leave it empty for most of that.
        ("fetch.queue.backoff.ms", "10".to_owned()),
        ("fetch.message.max.bytes", "1048576".to_owned()),
        ("fetch.max.bytes", ahead.to_string()),
        // Also the most that a compressed batch may unpack to; librdkafka reads no further in the partition behind a
        // larger one.
        ("receive.message.max.bytes", (2 * largest + 1024).max(64 * 1024 * 1024).to_string()),
    ];
    for (property, value) in defaults {
        if !settings.kafka_properties.contains_key(property) {
            config.set(property, value);
        }
    }
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    config.set("isolation.level", "read_committed");
    config.set("allow.auto.create.topics", "false");
    config.set("partition.assignment.strategy", "cooperative-sticky");
    config
}

/// A message as a record. `None` where its topic is none of ours.
fn record(message: &BorrowedMessage<'_>, topic_prefix: &str) -> Option<Record> {
    let topic = message.topic().strip_prefix(topic_prefix).and_then(Topic::from_name)?;
    Some(Record {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp: match message.timestamp() {
            Timestamp::NotAvailable => -1,
            Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) => millis,
        },
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers::read(message),
    })
}
