//! `run`: what runs beside what. The consumer, the expiry, the publisher and the readiness watch are tasks
//! of their own that share nothing but the database; one cancellation token ends them all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::Settings;
use crate::http::{self, Probe, Readiness};
use crate::ingest::{Ingest, pause_for, pauses, persist};
use crate::kafka;
use crate::kafka::consume::{End, Live};
use crate::kafka::send::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Sender};
use crate::record::{Header, Outgoing};
use crate::store::dead_letters::Unpublished;
use crate::store::expiry::Reached;
use crate::store::outbox::Expired;
use crate::store::write::Mode;
use crate::store::{Fault, Store, connect, fault, migrate};

/// Rows that one transaction of the expiry takes: 5,000 are hardly quicker, and delay the consuming beside it.
const EXPIRY_CHUNK: i64 = 2000;

/// Such chunks of events that one transaction of the publisher takes.
const PUBLISHED_CHUNKS: i64 = 2;

/// Dead letters that one transaction of the publisher takes.
const DEAD_LETTERS: i64 = 1000;

/// Bytes of dead letters that one transaction of the publisher takes, beside its first.
const DEAD_LETTER_BYTES: i64 = 16 * 1024 * 1024;

/// How often the publisher looks for what other instances left behind.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// How often readiness is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The consumer must have ended by then after it was asked to; the contract gives the whole 10 s.
const END_WITHIN: Duration = Duration::from_millis(7500);

/// The other tasks must have ended by then after the consumer: time for what is being published to be noted as such.
const TASKS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs the daemon until `cancel`. An error is one that only a person can mend.
pub async fn run(settings: &Settings, bring_up: bool, cancel: CancellationToken) -> anyhow::Result<()> {
    let store = Store::new(connect::pool(settings)?);
    let (assigned_sender, assigned) = watch::channel(false);
    let (ready_sender, ready) = watch::channel(Readiness::default());
    let tasks = TaskTracker::new();
    if let Some(address) = settings.http_addr {
        let handle = http::install_metrics()?;
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("HTTP_ADDR {address} cannot be listened on: give another one"))?;
        tasks.spawn(http::serve(listener, Probe { handle, ready }, cancel.clone()));
    }
    tasks.spawn(watch_readiness(settings.clone(), store.clone(), assigned, ready_sender, cancel.clone()));

    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(END_WITHIN).await;
    };
    let result = tokio::select! {
        result = work(settings, bring_up, store, assigned_sender, &tasks, &cancel) => result,
        () = overdue => {
            warn!("the consumer did not end in time; what was not committed will be read again");
            Ok(())
        }
    };
    cancel.cancel();
    tasks.close();
    if tokio::time::timeout(TASKS_END_WITHIN, tasks.wait()).await.is_err() {
        warn!("not every task ended in time");
    }
    result
}

async fn work(
    settings: &Settings,
    bring_up: bool,
    store: Store,
    assigned: watch::Sender<bool>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(()) = persist("reaching PostgreSQL", cancel, || store.reach()).await else {
        return Ok(());
    };
    if bring_up && !bring_schema_up(settings, &store, cancel).await? {
        return Ok(());
    }
    let Some(state) = persist("reading the schema's state", cancel, || store.schema_state()).await else {
        return Ok(());
    };
    if !state.pending.is_empty() {
        bail!(
            "the database's schema is behind, it lacks {}: run `voiceclone-events migrate up`, or `run --migrate`",
            state.pending.join(", ")
        );
    }
    let sender = Sender::new(settings)?;
    let poke = Arc::new(Notify::new());
    tasks.spawn(expire(settings.clone(), store.clone(), poke.clone(), cancel.clone()));
    tasks.spawn(publish(store.clone(), sender, poke, cancel.clone()));
    let ingest = Ingest {
        store,
        limits: settings.limits(),
        topic_prefix: settings.topic_prefix.clone(),
        group: Some(settings.kafka_group_id.clone()),
        dead_letter_limit: settings.dead_letter_limit,
        mode: Mode::Live,
    };
    info!(group = settings.kafka_group_id, "consuming");
    loop {
        let live = Live::join(settings, ingest.clone(), assigned.clone(), cancel.clone()).await?;
        match live.run().await {
            End::Cancelled => {
                info!("ended in good order");
                return Ok(());
            }
            End::TopicMadeAnew => warn!("a topic was made anew: a new consumer goes on"),
            End::BrokersLost => {
                warn!("the brokers are there and the consumer has lost them: a new consumer goes on");
            }
            End::DeadLetterLimit(topic, partition) => bail!(
                "{} records of {topic} partition {partition} could not be used, one after the other \
                 (DEAD_LETTER_LIMIT): look at ingest.dead_letters, mend the producer, then run \
                 `voiceclone-events dead-letters accept --topic {} --partition {partition}` and start again",
                settings.dead_letter_limit,
                topic.strip_prefix(&settings.topic_prefix).unwrap_or(&topic)
            ),
        }
    }
}

/// Migrates, waiting out an outage; `false` when cancelled before.
async fn bring_schema_up(
    settings: &Settings,
    store: &Store,
    cancel: &CancellationToken,
) -> anyhow::Result<bool> {
    for pause in pauses() {
        let error = match migrate::up(&settings.database_url, None).await {
            Ok(done) => {
                info!(migrations = ?done, "the database's schema is current");
                return Ok(true);
            }
            Err(error) => error,
        };
        // An error while PostgreSQL can be reached is one for a person, unless it was gone for a moment.
        if !fault::passes(&error) && store.reach().await.is_ok() {
            return Err(error);
        }
        warn!(
            error = format!("{error:#}"),
            pause_ms = pause.as_millis(),
            "migrating failed and is tried again"
        );
        if !pause_for(pause, cancel).await {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Expires cache rows every `EXPIRY_INTERVAL`, in small transactions.
async fn expire(settings: Settings, store: Store, poke: Arc<Notify>, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(settings.expiry_interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        let mut total = 0;
        let mut reached = Reached::default();
        while !cancel.is_cancelled() {
            match store.expire(&mut reached, EXPIRY_CHUNK, settings.expired_event_max_age).await {
                Ok((count, more)) => {
                    total += count;
                    poke.notify_one();
                    if !more {
                        break;
                    }
                }
                Err(fault) => {
                    warn!(%fault, "an expiry run failed; what it did not reach, the next one will");
                    break;
                }
            }
        }
        if total > 0 {
            info!(rows = total, "cache rows have expired");
            metrics::counter!("voiceclone_expired_total").increment(total as u64);
        }
    }
}

/// Publishes what waits, expiries and dead letters side by side, whichever instance made it. Ends between two rounds:
/// what the broker has is not published again.
async fn publish(store: Store, sender: Sender, poke: Arc<Notify>, cancel: CancellationToken) {
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

/// Keeps `/readyz` told.
async fn watch_readiness(
    settings: Settings,
    store: Store,
    assigned: watch::Receiver<bool>,
    ready: watch::Sender<Readiness>,
    cancel: CancellationToken,
) {
    let mut client = None;
    loop {
        let (asking, settings) = (client.take(), settings.clone());
        let broker = tokio::task::spawn_blocking(move || kafka::answered(&settings, asking));
        let schema = tokio::time::timeout(Duration::from_secs(2), store.schema_state());
        let (broker, schema) = tokio::join!(broker, schema);
        client = broker.unwrap_or(None);
        let readiness = Readiness {
            database: matches!(schema, Ok(Ok(_))),
            schema: matches!(schema, Ok(Ok(state)) if state.pending.is_empty()),
            broker: client.is_some(),
            assigned: *assigned.borrow(),
        };
        if *ready.borrow() != readiness {
            info!(ready = readiness.ready(), ?readiness, "readiness has changed");
            ready.send_replace(readiness);
        }
        if !pause_for(WATCH_EVERY, &cancel).await {
            return;
        }
    }
}
