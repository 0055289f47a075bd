//! Sends records.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use super::quiet::Quiet;
use super::{client_config, headers};
use crate::config::Settings;
use crate::record::Outgoing;

/// Time that the broker may take for a record in the producer's queue, and time that a record may wait for room in the
/// queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the producer's configuration.
pub(super) fn producer_config(settings: &Settings) -> ClientConfig {
    let mut config = client_config(settings);
    config.set("enable.idempotence", "true");
    // By default a producer creates missing topics.
    config.set("allow.auto.create.topics", "false");
    config.set("message.timeout.ms", PATIENCE.as_millis().to_string());
    // A dead letter is at most the largest record that is read, with more headers.
    config.set("message.max.bytes", (settings.record_max_bytes.saturating_mul(2) + 1_048_576).to_string());
    config.set("queue.buffering.max.kbytes", "65536");
    if !settings.kafka_properties.contains_key("linger.ms") {
        config.set("linger.ms", "5");
    }
    config
}

/// Maximum duration of [`Sender::send_all`]: the wait for the queue, the wait for the broker, and a second, the
/// interval at which librdkafka looks for overdue records.
pub const SEND_MAX: Duration = Duration::from_secs(21);

/// A record that the broker did not acknowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendError {
    /// The topic and the client's error text.
    pub text: String,
    /// Whether the broker refuses the record, or its batch, for what it is: invalid, or larger than
    /// `max.message.bytes`.
    pub refused: bool,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a retry cannot help unless the topic's configuration changes.
fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::MessageBatchTooLarge
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::PolicyViolation
        )
    )
}

/// Sends records and reports which of them the broker has acknowledged.
#[derive(Clone)]
pub struct Sender {
    config: ClientConfig,
    producer: Arc<Mutex<FutureProducer<Quiet>>>,
    topic_prefix: String,
}

impl Sender {
    /// Creates a producer from the settings.
    pub fn new(settings: &Settings) -> anyhow::Result<Sender> {
        let config = producer_config(settings);
        let producer =
            config.create_with_context(Quiet).context("the Kafka producer could not be created")?;
        let producer = Arc::new(Mutex::new(producer));
        Ok(Sender { config, producer, topic_prefix: settings.topic_prefix.clone() })
    }

    fn producer(&self) -> MutexGuard<'_, FutureProducer<Quiet>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a record; returns when the broker has acknowledged it.
    pub async fn send(&self, outgoing: &Outgoing) -> Result<(), SendError> {
        self.deliver(outgoing, None).await.map(drop)
    }

    /// Sends a record to a partition, and returns its offset once the broker has acknowledged it.
    pub async fn send_to(&self, outgoing: &Outgoing, partition: i32) -> Result<i64, SendError> {
        self.deliver(outgoing, Some(partition)).await.map(|delivery| delivery.offset)
    }

    async fn deliver(&self, outgoing: &Outgoing, partition: Option<i32>) -> Result<Delivery, SendError> {
        let topic = format!("{}{}", self.topic_prefix, outgoing.topic);
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic);
        if !outgoing.headers.is_empty() {
            record = record.headers(headers::write(&outgoing.headers));
        }
        record.partition = partition;
        record.key = outgoing.key.as_deref();
        record.payload = outgoing.value.as_deref();
        record.timestamp = outgoing.timestamp;
        let producer = self.producer().clone();
        producer.send(record, Timeout::After(PATIENCE)).await.map_err(|(error, _)| SendError {
            text: format!("{topic}: {error}"),
            refused: is_refusal(&error),
        })
    }

    /// Sends records concurrently, and returns their outcomes in order. Returns within [`SEND_MAX`].
    ///
    /// If the broker accepts none of them for a reason other than the records, a new producer sends later ones: the old
    /// one may have lost the brokers or failed for good.
    pub async fn send_all(&self, outgoing: &[Outgoing]) -> Vec<Result<(), SendError>> {
        let outcomes = join_all(outgoing.iter().map(|outgoing| self.send(outgoing))).await;
        let is_lost = |outcome: &Result<(), SendError>| outcome.as_ref().is_err_and(|error| !error.refused);
        if !outcomes.is_empty() && outcomes.iter().all(is_lost) {
            match self.config.create_with_context(Quiet) {
                Ok(new) => {
                    let old = std::mem::replace(&mut *self.producer(), new);
                    // Dropping the producer waits for records in flight.
                    tokio::task::spawn_blocking(move || drop(old));
                }
                Err(error) => tracing::error!(%error, "no new producer could be created"),
            }
        }
        outcomes
    }

    /// Waits for at most `patience` until the broker has acknowledged everything. Blocks.
    pub fn flush(&self, patience: Duration) {
        let producer = self.producer().clone();
        if let Err(error) = producer.flush(patience) {
            tracing::warn!(%error, "some records may not have been sent");
        }
    }
}
