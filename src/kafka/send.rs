//! Sending records.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use rdkafka::message::{Header as SentHeader, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;

use super::client_config;
use crate::config::Settings;
use crate::record::Outgoing;

/// The topic of the dead letters, without prefix.
pub const DEAD_LETTER_TOPIC: &str = "voiceclone.dead-letters";

/// The topic of the expiries, without prefix.
pub const EXPIRED_TOPIC: &str = "clone.expired";

/// How long the broker may take for a record.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends records and knows which of them the broker has.
#[derive(Clone)]
pub struct Sender {
    producer: FutureProducer,
    topic_prefix: String,
}

impl Sender {
    /// A producer with the settings' properties.
    pub fn new(settings: &Settings) -> anyhow::Result<Sender> {
        let mut config = client_config(settings);
        config.set("enable.idempotence", "true");
        config.set("message.timeout.ms", PATIENCE.as_millis().to_string());
        // A dead letter is the largest record that is read, and its headers.
        config
            .set("message.max.bytes", (settings.record_max_bytes.saturating_mul(2) + 1_048_576).to_string());
        config.set("queue.buffering.max.kbytes", "65536");
        if !settings.kafka_properties.contains_key("linger.ms") {
            config.set("linger.ms", "5");
        }
        let producer = config.create().context("the Kafka producer could not be made")?;
        Ok(Sender { producer, topic_prefix: settings.topic_prefix.clone() })
    }

    /// Sends a record; done when the broker has it.
    pub async fn send(&self, outgoing: &Outgoing) -> Result<(), String> {
        let topic = format!("{}{}", self.topic_prefix, outgoing.topic);
        let headers = outgoing.headers.iter().fold(OwnedHeaders::new(), |headers, header| {
            headers.insert(SentHeader { key: &header.name, value: header.value.as_ref() })
        });
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic);
        if !outgoing.headers.is_empty() {
            record = record.headers(headers);
        }
        record.key = outgoing.key.as_deref();
        record.payload = outgoing.value.as_deref();
        record.timestamp = outgoing.timestamp;
        match self.producer.send(record, Timeout::After(PATIENCE)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(format!("{topic}: {error}")),
        }
    }

    /// Sends records side by side; each with its outcome, in their order.
    pub async fn send_all(&self, outgoing: &[Outgoing]) -> Vec<Result<(), String>> {
        join_all(outgoing.iter().map(|outgoing| self.send(outgoing))).await
    }

    /// Waits until the broker has everything, at most this long. Blocks.
    pub fn flush(&self, patience: Duration) {
        if let Err(error) = self.producer.flush(patience) {
            tracing::warn!(%error, "some records may not have been sent");
        }
    }
}
