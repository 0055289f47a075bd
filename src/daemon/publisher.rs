//! The publisher task: sends `clone.expired` events and dead letters to Kafka, regardless of the instance that stored
//! them.
//!
//! A round claims rows, sends them, and settles the claim. Each database transaction is short: none waits for the broker.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::kafka::send::{SEND_MAX, SendError, Sender};
use crate::metrics;
use crate::outage;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Header, Outgoing};
use crate::retry::retry;
use crate::store::claim::LEASE;
use crate::store::outbox::Expired;
use crate::store::unpublished::{Fate, Unpublished};
use crate::store::{Fault, Store};
use crate::traces;

/// Maximum number of outbox chunks in one round.
const CHUNKS: i64 = 2;

/// Maximum number of dead letters in one round.
const DEAD_LETTERS: i64 = 1000;

/// Maximum bytes of dead letters in one round, beside its first letter. They are in memory twice while they are sent.
const DEAD_LETTER_BYTES: i64 = 4 * 1024 * 1024;

/// How often the publisher looks for rows that other instances left behind.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// A letter is sent alone only while a round is younger than this, so that the round ends within its lease.
const ALONE_UNTIL: Duration = Duration::from_secs(LEASE.as_secs() - SEND_MAX.as_secs() - 10);

/// Publishes expired events and dead letters side by side, regardless of the instance that made them. Ends between
/// two rounds, so that no record that the broker has is published again.
pub(super) async fn publish(store: Store, sender: Sender, poke: Arc<Notify>, cancel: CancellationToken) {
    let expired = async {
        let mut failures = 0;
        while !cancel.is_cancelled() {
            let round = publish_expired(&store, &sender).await;
            if let Some(pause) = report(EXPIRED_TOPIC, round, &mut failures) {
                wait_for_more(pause, poke.notified(), &cancel).await;
            }
        }
    };
    let dead_letters = async {
        let mut failures = 0;
        while !cancel.is_cancelled() {
            let round = publish_dead_letters(&store, &sender).await;
            if let Some(pause) = report(DEAD_LETTER_TOPIC, round, &mut failures) {
                wait_for_more(pause, std::future::pending(), &cancel).await;
            }
        }
    };
    futures_util::join!(expired, dead_letters);
}

/// The outcome of a round.
#[derive(Debug, Default)]
struct Round {
    claimed: usize,
    published: usize,
    /// One of the reasons why the broker does not have the others.
    problem: Option<String>,
}

/// Counts and logs the outcome of a round. Returns the pause before the next one, or none if there may be more.
/// `failures` counts consecutive rounds that failed in the database.
fn report(topic: &'static str, round: Result<Round, Fault>, failures: &mut u32) -> Option<Duration> {
    let Round { claimed, published, problem } = match round {
        Ok(round) => round,
        Err(fault) => {
            let pause = PUBLISH_EVERY.saturating_mul(1 << (*failures).min(3));
            *failures += 1;
            outage::failed("PostgreSQL", &format!("publishing to {topic} failed: {fault}"));
            return Some(pause);
        }
    };
    *failures = 0;
    metrics::PUBLISHED.add(&[topic], published as u64);
    metrics::PUBLISH_FAILURES.add(&[topic], claimed.saturating_sub(published) as u64);
    if published < claimed {
        let problem = problem.unwrap_or_default();
        let waiting = claimed - published;
        let reason =
            format!("not everything could be published, {waiting} records are kept and retried: {problem}");
        outage::failed(topic, &reason);
    } else if claimed > 0 {
        outage::recovered(topic);
    }
    // Records that the broker did not take are due at a time of their own.
    (claimed == 0).then_some(PUBLISH_EVERY)
}

async fn wait_for_more(pause: Duration, poked: impl Future<Output = ()>, cancel: &CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
        () = poked => {}
    }
}

async fn publish_expired(store: &Store, sender: &Sender) -> Result<Round, Fault> {
    let begin = Instant::now();
    let claimed = store.claim_expired(CHUNKS).await?;
    if claimed.events.is_empty() {
        return Ok(Round::default());
    }
    let outgoing: Vec<Outgoing> = claimed.events.iter().map(expired).collect();
    let span = traces::send(EXPIRED_TOPIC, &outgoing);
    let outcomes = sender.send_all(&outgoing).await;
    let problem = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).map(SendError::to_string);
    let places = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_ok());
    let published: HashSet<usize> = places.map(|(place, _)| place).collect();
    end(&span, published.len(), outgoing.len());
    settle(begin, || store.settle_expired(&claimed, &published)).await;
    Ok(Round { claimed: claimed.events.len(), published: published.len(), problem })
}

async fn publish_dead_letters(store: &Store, sender: &Sender) -> Result<Round, Fault> {
    let begin = Instant::now();
    let (claim, letters) = store.claim_dead_letters(DEAD_LETTERS, DEAD_LETTER_BYTES).await?.split();
    if letters.is_empty() {
        return Ok(Round::default());
    }
    let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
    let outgoing: Vec<Outgoing> = letters.into_iter().map(dead_letter).collect();
    let span = traces::send(DEAD_LETTER_TOPIC, &outgoing);
    let mut fates: Vec<(i64, Fate)> = Vec::with_capacity(ids.len());
    let mut problem = None;
    for ((id, outgoing), outcome) in ids.iter().zip(&outgoing).zip(sender.send_all(&outgoing).await) {
        let sent = match outcome {
            // The producer fails a whole batch together, so each record is judged alone.
            Err(error) if error.refused && ids.len() > 1 => alone(sender, outgoing, begin).await,
            outcome => outcome,
        };
        if let Err(error) = &sent {
            problem.get_or_insert_with(|| error.text.clone());
        }
        fates.push((
            *id,
            match sent {
                Ok(()) => Fate::Published,
                Err(error) if error.refused => Fate::Unpublishable(error.text),
                Err(_) => Fate::Failed,
            },
        ));
    }
    let published = fates.iter().filter(|(_, fate)| *fate == Fate::Published).count();
    end(&span, published, ids.len());
    settle(begin, || store.settle_dead_letters(claim, &fates)).await;
    Ok(Round { claimed: ids.len(), published, problem })
}

/// Ends the span of a round.
fn end(span: &traces::Span, published: usize, claimed: usize) {
    span.count("voiceclone.published", published as u64);
    if published < claimed {
        span.failed("not_published");
    }
    span.end();
}

/// Sends a record in a batch of its own, unless that could outlast the lease.
async fn alone(sender: &Sender, outgoing: &Outgoing, begin: Instant) -> Result<(), SendError> {
    if begin.elapsed() > ALONE_UNTIL {
        let text = "no time was left to send it in a batch of its own".to_owned();
        return Err(SendError { text, refused: false });
    }
    sender.send(outgoing).await
}

/// Notes what the broker has, and retries while the lease lasts: records that are not noted are published again.
async fn settle<F: Future<Output = Result<(), Fault>>>(begin: Instant, attempt: impl FnMut() -> F) {
    let remaining = LEASE.saturating_sub(begin.elapsed());
    let never = CancellationToken::new();
    let settled = retry("noting what was published", &never, attempt);
    if tokio::time::timeout(remaining, settled).await.is_err() {
        warn!("published records could not be noted in time, and are published again");
    }
}

fn expired(event: &Expired) -> Outgoing {
    let mut headers = vec![
        Header::new("ce_specversion", "1.0"),
        Header::new("ce_id", event.event_id.hyphenated().to_string()),
        Header::new("ce_source", "voiceclone-events"),
        Header::new("ce_type", EXPIRED_TOPIC),
        Header::new("ce_time", event.event_time.as_str()),
        Header::new("content-type", "application/json"),
    ];
    headers.extend(event.traceparent.as_deref().map(|context| Header::new(traces::HEADER, context)));
    Outgoing {
        topic: EXPIRED_TOPIC,
        key: event.key.clone().map(String::into_bytes),
        value: Some(event.value.clone()),
        headers,
        timestamp: None,
    }
}

fn dead_letter(mut letter: Unpublished) -> Outgoing {
    let mut headers = letter.take_headers();
    for (name, value) in [
        ("topic", letter.topic),
        ("partition", letter.partition.to_string()),
        ("offset", letter.record_offset.to_string()),
        ("exception.class.name", letter.reason),
        ("exception.message", letter.message),
    ] {
        headers.push(Header::new(format!("__connect.errors.{name}"), value));
    }
    Outgoing { topic: DEAD_LETTER_TOPIC, key: letter.key, value: letter.value, headers, timestamp: None }
}
