//! What Kafka hands over and takes back: topics, headers, records. Plain data, nothing decoded.

use std::fmt;

/// One of the five topics that the daemon reads (contract, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `clone.ready`
    CloneReady,
    /// `clone.failed`
    CloneFailed,
    /// `clone.transfer`
    CloneTransfer,
    /// `call.lifecycle`
    CallLifecycle,
    /// `caller.voice_mapping`, compacted
    CallerVoiceMapping,
}

impl Topic {
    /// All five, in the order of the contract.
    pub const ALL: [Topic; 5] = [
        Topic::CloneReady,
        Topic::CloneFailed,
        Topic::CloneTransfer,
        Topic::CallLifecycle,
        Topic::CallerVoiceMapping,
    ];

    /// The name without `TOPIC_PREFIX`; also what CloudEvents' `type` must be.
    pub fn name(self) -> &'static str {
        match self {
            Topic::CloneReady => "clone.ready",
            Topic::CloneFailed => "clone.failed",
            Topic::CloneTransfer => "clone.transfer",
            Topic::CallLifecycle => "call.lifecycle",
            Topic::CallerVoiceMapping => "caller.voice_mapping",
        }
    }

    /// The topic of that name (without prefix).
    pub fn from_name(name: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A partition of one of the five topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// This partition of this topic.
    pub fn new(topic: Topic, partition: i32) -> TopicPartition {
        TopicPartition { topic, partition }
    }
}

/// `clone.ready/3`, without `TOPIC_PREFIX`.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One header: names repeat and keep their order, a value may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, case-sensitive.
    pub name: String,
    /// The value's bytes, `None` for null.
    pub value: Option<Vec<u8>>,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which of the five topics.
    pub topic: Topic,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The record's own timestamp in milliseconds since 1970; -1 where it has none.
    pub timestamp: i64,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The partition that the record comes from.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    /// Bytes that the record holds, for the limits on memory.
    pub fn size(&self) -> usize {
        let headers = |h: &Header| h.name.len() + h.value.as_ref().map_or(0, Vec::len);
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + self.headers.iter().map(headers).sum::<usize>()
    }
}

/// A record to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic's name, without prefix.
    pub topic: &'static str,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970; `None` takes the moment of sending.
    pub timestamp: Option<i64>,
}
