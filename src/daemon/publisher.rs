//! The publisher task: sends `clone.expired` events and dead letters to Kafka, whichever instance stored them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::kafka::send::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Sender};
use crate::record::{Header, Outgoing};
use crate::store::dead_letters::Unpublished;
use crate::store::outbox::Expired;
use crate::store::{Fault, Store};

/// Outbox chunks in one transaction of the publisher.
const PUBLISHED_CHUNKS: i64 = 2;

/// Maximum number of dead letters in one transaction of the publisher.
const DEAD_LETTERS: i64 = 1000;

/// Maximum bytes of dead letters in one transaction of the publisher, beside its first letter.
const DEAD_LETTER_BYTES: i64 = 16 * 1024 * 1024;

/// How often the publisher looks for what other instances left behind.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Publishes what waits, expiries and dead letters side by side, whichever instance made it. Ends between two rounds:
/// what the broker has is not published again.
pub(super) async fn publish(store: Store, sender: Sender, poke: Arc<Notify>, cancel: CancellationToken) {
    let expired = async {
        while !cancel.is_cancelled() {
            let sent = store
                .publish_expired(PUBLISHED_CHUNKS, |events: &[Expired]| {
                    let sender = sender.clone();
                    Box::pin(async move { send_expired(&sender, events).await })
                })
                .await;
            rest(sent, EXPIRED_TOPIC, poke.notified(), &cancel).await;
        }
    };
    let dead_letters = async {
        while !cancel.is_cancelled() {
            let sent = store
                .publish_dead_letters(DEAD_LETTERS, DEAD_LETTER_BYTES, |letters: &[Unpublished]| {
                    let sender = sender.clone();
                    Box::pin(async move { send_dead_letters(&sender, letters).await })
                })
                .await;
            rest(sent, DEAD_LETTER_TOPIC, std::future::pending(), &cancel).await;
        }
    };
    futures_util::join!(expired, dead_letters);
}

/// Goes on at once while there is more, else waits for the next look.
async fn rest(
    sent: Result<(usize, usize), Fault>,
    topic: &'static str,
    poked: impl Future<Output = ()>,
    cancel: &CancellationToken,
) {
    match sent {
        Ok((waiting, published)) => {
            metrics::counter!("voiceclone_published_total", "topic" => topic).increment(published as u64);
            if waiting == published && waiting > 0 {
                return;
            }
            if published < waiting {
                warn!(
                    topic,
                    waiting, published, "not everything could be published; the rest is kept and tried again"
                );
            }
        }
        Err(fault) => warn!(%fault, topic, "publishing failed and is tried again"),
    }
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(PUBLISH_EVERY) => {}
        () = poked => {}
    }
}

async fn send_expired(sender: &Sender, events: &[Expired]) -> Vec<usize> {
    let header =
        |name: &str, value: &str| Header { name: name.into(), value: Some(value.as_bytes().to_vec()) };
    let outgoing: Vec<Outgoing> = events
        .iter()
        .map(|event| Outgoing {
            topic: EXPIRED_TOPIC,
            key: event.key.clone().map(String::into_bytes),
            value: Some(event.value.clone()),
            headers: vec![
                header("ce_specversion", "1.0"),
                header("ce_id", &event.event_id.hyphenated().to_string()),
                header("ce_source", "voiceclone-events"),
                header("ce_type", EXPIRED_TOPIC),
                header("ce_time", &event.event_time),
                header("content-type", "application/json"),
            ],
            timestamp: None,
        })
        .collect();
    sent(0..events.len(), sender.send_all(&outgoing).await)
}

async fn send_dead_letters(sender: &Sender, letters: &[Unpublished]) -> Vec<i64> {
    let outgoing: Vec<Outgoing> = letters
        .iter()
        .map(|letter| {
            let mut headers = letter.headers();
            for (name, value) in [
                ("topic", letter.topic.clone()),
                ("partition", letter.partition.to_string()),
                ("offset", letter.record_offset.to_string()),
                ("exception.class.name", letter.reason.clone()),
                ("exception.message", letter.message.clone()),
            ] {
                headers.push(Header {
                    name: format!("__connect.errors.{name}"),
                    value: Some(value.into_bytes()),
                });
            }
            Outgoing {
                topic: DEAD_LETTER_TOPIC,
                key: letter.key.clone(),
                value: letter.value.clone(),
                headers,
                timestamp: None,
            }
        })
        .collect();
    sent(letters.iter().map(|letter| letter.id), sender.send_all(&outgoing).await)
}

/// Those (by id, or by place) that the broker has; one of the errors is logged for all.
fn sent<Id>(ids: impl Iterator<Item = Id>, outcomes: Vec<Result<(), String>>) -> Vec<Id> {
    if let Some(problem) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        error!(problem, "the broker did not take a record");
    }
    ids.zip(outcomes).filter_map(|(id, outcome)| outcome.is_ok().then_some(id)).collect()
}
