//! Plain data of Kafka: topics, partitions, headers, records.

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
    /// All five topics, in the order of the contract.
    pub const ALL: [Topic; 5] = [
        Topic::CloneReady,
        Topic::CloneFailed,
        Topic::CloneTransfer,
        Topic::CallLifecycle,
        Topic::CallerVoiceMapping,
    ];

    /// Returns the name without `TOPIC_PREFIX`, which is also the `type` of CloudEvents.
    pub fn name(self) -> &'static str {
        match self {
            Topic::CloneReady => "clone.ready",
            Topic::CloneFailed => "clone.failed",
            Topic::CloneTransfer => "clone.transfer",
            Topic::CallLifecycle => "call.lifecycle",
            Topic::CallerVoiceMapping => "caller.voice_mapping",
        }
    }

    /// Parses a name without prefix.
    pub fn from_name(name: &str) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The topic of dead letters, without prefix.
pub const DEAD_LETTER_TOPIC: &str = "voiceclone.dead-letters";

/// The topic of expired clones, without prefix.
pub const EXPIRED_TOPIC: &str = "clone.expired";

/// A partition of one of the five topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Combines a topic and a partition's number.
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

/// A header. Names may repeat and keep their order; a value may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name's bytes, case-sensitive. Kafka's protocol requires UTF-8, but brokers do not check it.
    pub name: Vec<u8>,
    /// The value's bytes, `None` for null.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// Creates a header.
    pub fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Header {
        Header { name: name.into(), value: Some(value.into()) }
    }

    /// Returns the bytes of name and value.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic.
    pub topic: Topic,
    /// The partition of the topic.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The record's own timestamp in milliseconds since 1970; -1 if it has none.
    pub timestamp: i64,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// Returns the partition of the record.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    /// Returns the bytes of key, header names and header values, which the contract limits together.
    pub fn key_and_header_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.headers.iter().map(Header::bytes).sum::<usize>()
    }

    /// Estimates the memory of the record in bytes, for the limits on memory. An empty header takes some, too.
    pub fn size(&self) -> usize {
        let header = |header: &Header| {
            size_of::<Header>() + allocated(header.name.len()) + optional(header.value.as_ref())
        };
        size_of::<Record>()
            + optional(self.key.as_ref())
            + optional(self.value.as_ref())
            + self.headers.iter().map(header).sum::<usize>()
    }
}

/// Returns the memory of an allocation. The allocator of glibc adds 8 bytes and rounds up to 16; a size of 0 allocates
/// nothing.
fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

fn optional(bytes: Option<&Vec<u8>>) -> usize {
    bytes.map_or(0, |bytes| allocated(bytes.len()))
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
    /// Milliseconds since 1970; `None` for the time of sending.
    pub timestamp: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_header_counts_as_the_memory_that_it_takes() {
        let record = |headers: Vec<Header>| Record {
            topic: Topic::CloneReady,
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: Some(vec![0; 1000]),
            headers,
        };
        let none = record(Vec::new());
        assert!((1000..1200).contains(&none.size()), "{}", none.size());
        let many = record(vec![Header { name: Vec::new(), value: None }; 100_000]);
        assert!(many.size() >= 100_000 * size_of::<Header>(), "{}", many.size());
        assert_eq!(many.key_and_header_bytes(), 0);
        let named = record(vec![Header::new("name", "value"); 1000]);
        assert_eq!(named.key_and_header_bytes(), 9000);
        assert!(named.size() >= none.size() + 1000 * (size_of::<Header>() + 2 * 32));
    }
}
