//! Kafka: the only place that knows rdkafka.

pub mod consume;
pub mod embedded;
pub mod headers;
pub mod range;
pub mod send;
mod topic_ids;

use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{ClientConfig, TopicPartitionList};

use self::send::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC};
use crate::config::{SettingError, Settings};
use crate::record::{Record, Topic};

/// Bytes of records that are held for one batch at most, beside its last record; and fetched ahead.
const BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

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
        ("receive.message.max.bytes", (2 * largest + 1024).max(256 * 1024 * 1024).to_string()),
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

/// Finds properties that librdkafka does not know or values that it does not take, without connecting.
/// The error names the environment variable.
pub fn check_properties(settings: &Settings) -> Result<(), SettingError> {
    for (property, value) in &settings.kafka_properties {
        let mut config = ClientConfig::new();
        config.set(property, value);
        if config.create_native_config().is_err() {
            let variable = format!("KAFKA_{}", property.replace('.', "_").to_uppercase());
            let problem = format!("is no property {property} with a value that librdkafka takes");
            return Err(SettingError::new(variable, problem, "correct it or unset it"));
        }
    }
    Ok(())
}

/// Asks the brokers for a sign of life, by this client or else a new one, and gives back the client where one answers
/// within 2 s. One that got no answer may never get one again, where another does. Blocks.
pub fn answered(settings: &Settings, client: Option<BaseConsumer>) -> Option<BaseConsumer> {
    let client = match client {
        Some(client) => client,
        None => asking_client(settings)
            .inspect_err(|error| tracing::error!(error = format!("{error:#}"), "the brokers cannot be asked"))
            .ok()?,
    };
    client.client().fetch_metadata(None, Duration::from_secs(2)).is_ok().then_some(client)
}

/// A client that only asks.
pub fn asking_client(settings: &Settings) -> anyhow::Result<BaseConsumer> {
    client_config(settings).create().context("the Kafka client could not be made")
}

/// What the brokers say about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicState {
    /// It has this many partitions.
    Partitions(usize),
    /// There is none of that name.
    Missing,
    /// Not told, and why: such as a lack of permission.
    Refused(String),
}

/// The state of each of these topics (names with their prefix), in their order; makes none of them.
/// Blocks, for `patience` at most a question.
pub fn topic_states(
    settings: &Settings,
    names: &[String],
    patience: Duration,
) -> anyhow::Result<Vec<TopicState>> {
    let client = asking_client(settings)?;
    let all = client.fetch_metadata(None, patience).with_context(|| {
        format!("no broker of KAFKA_BOOTSTRAP_SERVERS ({}) answers", settings.kafka_bootstrap_servers)
    })?;
    let state = |topic: &MetadataTopic| match topic.error().map(RDKafkaErrorCode::from) {
        None => TopicState::Partitions(topic.partitions().len()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            TopicState::Missing
        }
        Some(code) => TopicState::Refused(code.to_string()),
    };
    let find = |metadata: &Metadata, name: &str| {
        metadata.topics().iter().find(|topic| topic.name() == name).map(state)
    };
    let told = names.iter().map(|name| match find(&all, name) {
        Some(state) => state,
        // The list leaves out what this client may not see; asked by name, the broker says so. A consumer's
        // question makes no topic.
        None => match client.fetch_metadata(Some(name), patience) {
            Ok(metadata) => find(&metadata, name).unwrap_or(TopicState::Missing),
            Err(error) => TopicState::Refused(error.to_string()),
        },
    });
    Ok(told.collect())
}

/// Whether this client may use its consumer group: asks for the group's offset of this topic (with prefix), and
/// neither joins nor changes anything. Blocks, for `patience` at most.
pub fn group_usable(settings: &Settings, topic: &str, patience: Duration) -> anyhow::Result<()> {
    let mut config = consumer_config(settings);
    config.set("group.id", &settings.kafka_group_id);
    let consumer: BaseConsumer = config.create().context("the Kafka consumer could not be made")?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let told =
        consumer.committed_offsets(asked, patience).context("the group's coordinator does not answer")?;
    for element in told.elements() {
        element.error().context("the group's offsets may not be read")?;
    }
    Ok(())
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
