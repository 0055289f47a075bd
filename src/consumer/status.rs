//! The consumer's status for the rest of the daemon.

use std::time::Instant;

/// The reason why consuming ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was cancelled.
    Cancelled,
    /// A topic was recreated, which the client does not follow.
    TopicRecreated(String),
    /// Another client reaches the brokers, but this one does not.
    BrokersLost,
    /// The client reported a fatal error.
    ClientDied {
        /// Whether another member with the same `group.instance.id` took its place.
        fenced: bool,
        /// librdkafka's error text.
        reason: String,
    },
}

/// The consumer's status for `/readyz` and the metrics.
#[derive(Clone, Debug, Default)]
pub struct ConsumerStatus {
    /// Whether this instance is a member of the group.
    pub member: bool,
    /// The id that the group gave it.
    pub member_id: Option<String>,
    /// The time of the last message from the brokers.
    pub heard: Option<Instant>,
    /// The time when a batch last landed.
    pub landed: Option<Instant>,
    /// The partitions that wait or make no progress.
    pub waiting: Vec<Waiting>,
}

/// A partition that waits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    /// The topic's name in Kafka.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The kind of trouble, or `unknown`.
    pub waits_for: &'static str,
    /// The trouble as a text.
    pub reason: String,
    /// Seconds that records have waited while the stored offset did not move; `None` if none waits.
    pub for_seconds: Option<u64>,
    /// Whether this makes the instance unready.
    pub stalled: bool,
}
