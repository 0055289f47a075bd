//! Kafka: the only module that uses rdkafka.

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

pub use self::admin::{answered, query_client};
use crate::config::Settings;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Record, Topic};

/// Maximum bytes of records held for one batch, besides its last record, and of records fetched ahead.
pub const BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Returns the names, with prefix, of every topic that is read or written.
pub fn topic_names(settings: &Settings) -> Vec<String> {
    let read = Topic::ALL.iter().map(|topic| topic.name());
    read.chain([EXPIRED_TOPIC, DEAD_LETTER_TOPIC]).map(|name| settings.topic_name(name)).collect()
}

/// Returns the configuration of every client: the settings' servers and properties.
fn client_config(settings: &Settings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.kafka_bootstrap_servers);
    config.set("client.id", "voiceclone-events");
    // New and recreated topics must be noticed soon.
    config.set("topic.metadata.refresh.interval.ms", "10000");
    for (property, value) in &settings.kafka_properties {
        config.set(property, value);
    }
    config
}

/// Returns the configuration of every consumer. None commits or resets offsets by itself, as the database stores them.
fn consumer_config(settings: &Settings) -> ClientConfig {
    let mut config = client_config(settings);
    // librdkafka fetches more while its queue holds less than this, so the queue may hold twice as much; each small
    // record takes some hundred bytes more. A larger record is fetched alone.
    let ahead = BATCH_MAX_BYTES;
    let largest = settings.record_max_bytes.max(16 * 1024 * 1024);
    let defaults = [
        ("fetch.wait.max.ms", "50".to_owned()),
        ("queued.max.messages.kbytes", (ahead / 1024).to_string()),
        // When the queue is full, librdkafka checks again after this time; its default of 1 s would leave the queue
        // empty most of the time.
        ("fetch.queue.backoff.ms", "10".to_owned()),
        ("fetch.message.max.bytes", "1048576".to_owned()),
        ("fetch.max.bytes", ahead.to_string()),
        // Also the maximum size of an uncompressed batch; librdkafka reads nothing in a partition after a larger one.
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

/// Converts a message to a record; `None` if its topic is not one of the five.
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
