//! What the consumer tells the rest of the daemon.

use std::time::Instant;

/// Why consuming ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was cancelled.
    Cancelled,
    /// A topic was recreated, which the client does not follow.
    TopicRecreated(String),
    /// Another client reaches the brokers, and this one no longer does.
    BrokersLost,
    /// The client reported a fatal error.
    ClientDied {
        /// Whether another member with the same `group.instance.id` took its place.
        fenced: bool,
        /// librdkafka's words.
        reason: String,
    },
}

/// What `/readyz` and the metrics need to know of the consumer.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether this instance is a member of the group.
    pub member: bool,
    /// When something last came from the brokers.
    pub heard: Option<Instant>,
    /// When a batch last landed.
    pub landed: Option<Instant>,
    /// The partitions that wait for something or make no progress.
    pub waiting: Vec<Waiting>,
}

/// A partition that waits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    /// The topic, as Kafka has it.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The kind of trouble, or `unknown`.
    pub waits_for: &'static str,
    /// The trouble in words.
    pub reason: String,
    /// Seconds since records wait without the stored offset moving; `None` where none waits.
    pub for_seconds: Option<u64>,
    /// Whether this makes the instance unready.
    pub stalled: bool,
}
