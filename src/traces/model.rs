//! The spans of the daemon: names, kinds, attributes and links, by OpenTelemetry's conventions for messaging and
//! databases.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanKind};
use tokio_postgres::config::Host;

use super::links::{Chosen, choose};
use super::span::{Span, milliseconds};
use super::{ACTIVE, Active, context};
use crate::database_url;
use crate::record::{Outgoing, Record, Topic};

/// Starts the span of a batch: a consumer's, at the root of a trace; under `parent` an internal one. A batch without
/// records has none.
pub fn process(parent: &Span, records: &[Record]) -> Span {
    let Some(active) = ACTIVE.get().filter(|_| !records.is_empty()) else { return Span::default() };
    let (topic, partition) = destination(records);
    let topic = topic.map(|topic| active.topic_name(topic.name()));
    let mut attributes = messaging(active, "process", "process", records.len());
    if let Some(topic) = &topic {
        attributes.push(KeyValue::new("messaging.destination.name", topic.clone()));
    }
    if let Some(partition) = partition {
        attributes.push(KeyValue::new("messaging.destination.partition.id", partition.to_string()));
    }
    let contexts = records
        .iter()
        .flat_map(|record| context::of_headers(&record.headers).map(move |context| (context, record)));
    let name = topic.map_or_else(|| "process".to_owned(), |topic| format!("process {topic}"));
    let kind = if parent.is_some() {
        SpanKind::Internal
    } else {
        attributes.push(KeyValue::new("messaging.consumer.group.name", active.group.clone()));
        SpanKind::Consumer
    };
    let span = Span::begin(active, parent, kind, name, attributes);
    link(&span, active, contexts, |record| {
        vec![
            KeyValue::new("messaging.destination.name", active.topic_name(record.topic.name())),
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", record.offset),
        ]
    });
    span
}

/// Starts the span of a transaction of a batch.
pub fn write(batch: &Span, records: usize) -> Span {
    let Some(active) = ACTIVE.get().filter(|_| batch.is_some()) else { return Span::default() };
    let mut attributes = active.database.clone();
    // the conventions want no size for a single operation
    if records > 1 {
        attributes.push(KeyValue::new("db.operation.batch.size", count(records)));
    }
    Span::begin(active, batch, SpanKind::Client, "write", attributes)
}

/// Starts the span of a round of sending to a topic without prefix. Its links are the contexts in the records.
pub fn send(topic: &'static str, outgoing: &[Outgoing]) -> Span {
    let Some(active) = ACTIVE.get() else { return Span::default() };
    let topic = active.topic_name(topic);
    let mut attributes = messaging(active, "send", "send", outgoing.len());
    attributes.push(KeyValue::new("messaging.destination.name", topic.clone()));
    let name = format!("send {topic}");
    let span = Span::begin(active, &Span::default(), SpanKind::Producer, name, attributes);
    let contexts = outgoing.iter().flat_map(|record| context::of_headers(&record.headers));
    link(&span, active, contexts.map(|context| (context, ())), |()| Vec::new());
    span
}

/// Starts the span of an expiry run.
pub fn expire() -> Span {
    root("expire", None)
}

/// Starts the internal span at the root of a command's or task's trace.
pub fn root(name: &'static str, topic: Option<Topic>) -> Span {
    let Some(active) = ACTIVE.get() else { return Span::default() };
    let topic = topic.map(|topic| active.topic_name(topic.name()));
    let attributes =
        topic.map(|topic| KeyValue::new("messaging.destination.name", topic)).into_iter().collect();
    Span::begin(active, &Span::default(), SpanKind::Internal, name, attributes)
}

impl Span {
    /// Notes that records of a batch are retried after a pause for this cause, as in
    /// `voiceclone_write_retries_total{cause}`.
    pub fn retry(&self, cause: &'static str, pause: Duration) {
        self.event("retry", || {
            vec![KeyValue::new("cause", cause), KeyValue::new("pause_ms", milliseconds(pause))]
        });
    }

    /// Notes that a transaction's records are written in halves.
    pub fn halved(&self, records: usize) {
        self.event("halved", || vec![KeyValue::new("records", count(records))]);
    }

    /// Notes that a record has become a dead letter of the topic with this name.
    pub fn dead_letter(&self, topic_name: &str, record: &Record, reason: &'static str) {
        self.event("dead_letter", || {
            vec![
                KeyValue::new("topic", topic_name.to_owned()),
                KeyValue::new("partition", i64::from(record.partition)),
                KeyValue::new("offset", record.offset),
                KeyValue::new("reason", reason),
            ]
        });
    }
}

impl Active {
    fn topic_name(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }
}

fn messaging(active: &Active, name: &'static str, kind: &'static str, records: usize) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.name", name),
        KeyValue::new("messaging.operation.type", kind),
        KeyValue::new("messaging.client.id", active.client_id.clone()),
        KeyValue::new("messaging.batch.message_count", count(records)),
    ]
}

/// Adds the links to a span that is sent, and the number of those left out.
fn link<P>(
    span: &Span,
    active: &Active,
    contexts: impl Iterator<Item = (SpanContext, P)>,
    place: impl Fn(P) -> Vec<KeyValue>,
) {
    let Some(recording) = span.recording() else { return };
    let Chosen { links, left_out } = choose(contexts, active.max_links);
    for (context, from) in links {
        recording.add_link(context, place(from));
    }
    if left_out > 0 {
        span.count("voiceclone.links.left_out", left_out as u64);
    }
}

/// Returns the topic and the partition that all records have in common.
fn destination(records: &[Record]) -> (Option<Topic>, Option<i32>) {
    let Some(first) = records.first() else { return (None, None) };
    if records.iter().any(|record| record.topic != first.topic) {
        return (None, None);
    }
    let one = records.iter().all(|record| record.partition == first.partition);
    (Some(first.topic), one.then_some(first.partition))
}

/// Returns the attributes of the database. Of several servers the one in use is not known, and none is named.
pub(super) fn database(url: &str) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new("db.system.name", "postgresql")];
    let Ok(parsed) = database_url::parse(url) else { return attributes };
    if let Some(name) = parsed.config.get_dbname().or(parsed.config.get_user()) {
        attributes.push(KeyValue::new("db.namespace", name.to_owned()));
    }
    if let [server] = parsed.places.as_slice() {
        let address = match &server.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        attributes.push(KeyValue::new("server.address", address));
        attributes.push(KeyValue::new("server.port", i64::from(server.port)));
    }
    attributes
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn record(topic: Topic, partition: i32) -> Record {
        Record { topic, partition, offset: 0, timestamp: 0, key: None, value: None, headers: Vec::new() }
    }

    #[test]
    fn a_batch_names_the_topic_and_the_partition_that_all_its_records_share() {
        let (ready, failed) = (Topic::CloneReady, Topic::CloneFailed);
        let of = |records: &[(Topic, i32)]| {
            destination(
                &records.iter().map(|(topic, partition)| record(*topic, *partition)).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[(ready, 1), (ready, 1)]), (Some(ready), Some(1)));
        assert_eq!(of(&[(ready, 1), (ready, 2)]), (Some(ready), None));
        assert_eq!(of(&[(ready, 1), (failed, 1)]), (None, None));
    }

    #[test]
    fn a_database_is_named_without_user_and_password_and_its_server_only_if_there_is_one() {
        let of = |url| -> Vec<(String, String)> {
            let text = |pair: KeyValue| (pair.key.to_string(), pair.value.to_string());
            database(url).into_iter().map(text).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let system = pair("db.system.name", "postgresql");
        assert_eq!(
            of("postgresql://u:hunter2@db.example:5433/calls"),
            [
                system.clone(),
                pair("db.namespace", "calls"),
                pair("server.address", "db.example"),
                pair("server.port", "5433")
            ]
        );
        assert_eq!(of("postgresql://one,two/calls"), [system, pair("db.namespace", "calls")]);
    }

    #[test]
    fn there_is_no_span_where_traces_are_off() {
        let span = process(&Span::default(), &[record(Topic::CloneReady, 0)]);
        assert!(!span.is_some());
        assert_eq!((span.trace_id(), span.traceparent()), (None, None));
        assert!(!write(&span, 1).is_some() && !send("clone.expired", &[]).is_some() && !expire().is_some());
    }
}
