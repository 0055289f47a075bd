//! The tasks of `run`. The consumer, the expiry, the publisher and the readiness watch are tasks of their own that
//! share nothing but the database. One cancellation token ends them all.

mod certificates;
mod expiry;
mod history;
mod publisher;
mod readiness;
mod retention;
mod sampler;
mod start;
mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::Settings;
use crate::consumer::{Consumer, ConsumerStatus, End};
use crate::http::{self, Probe, Readiness};
use crate::ingest::Ingest;
use crate::kafka::send::Sender;
use crate::metrics;
use crate::page::history::History;
use crate::record::Topic;
use crate::retry::{pause_for, pauses};
use crate::shared::Shared;
use crate::status::{Document, judge};
use crate::store::write::Mode;
use crate::store::{Pool, Store, connect};
use crate::survey;
use crate::traces;

/// Time for the consumer to end after it was asked to. The contract allows 10 s for the whole.
const END_WITHIN: Duration = Duration::from_millis(7500);

/// Time for the other tasks to end after the consumer, so that they can note what is being published.
const TASKS_END_WITHIN: Duration = Duration::from_secs(2);

/// Time for the last spans to be sent even if the tasks took all of theirs.
const LAST_SPANS_WITHIN: Duration = Duration::from_millis(200);

/// A Kafka client that lived this long resets the pauses between clients to the shortest.
const CLIENT_LIVES: Duration = Duration::from_secs(300);

/// Runs the daemon until `cancel`. An error is one that only a person can fix.
pub async fn run(settings: &Settings, bring_up: bool, cancel: CancellationToken) -> anyhow::Result<()> {
    log_start(settings);
    let sending = traces::start(settings)?;
    let pool = connect::waiting_pool(settings)?;
    let store = Store::new(pool.clone());
    let (status_sender, status) = watch::channel(ConsumerStatus::default());
    let (ready_sender, ready) = watch::channel(Readiness::default());
    let tasks = TaskTracker::new();
    if let Some(address) = settings.http_addr {
        let handle = metrics::install()?;
        metrics::built(&settings.kafka_group_id, &settings.topic_prefix);
        metrics::DEAD_LETTER_LIMIT.set_count(&[], settings.dead_letter_limit);
        tasks.spawn(sampler::sample(store.clone(), pool.clone(), cancel.clone()));
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("HTTP_ADDR {address} cannot be bound: give another one"))?;
        let (status, history) = (shared_status(settings), History::default());
        let sampling = history::sample(status.clone(), history.clone());
        let probe = Probe { handle, ready, status, history };
        let serving = http::serve(listener, probe, cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = serving => {}
                () = sampling => {}
            }
        });
    }
    tasks.spawn(readiness::watch_readiness(
        settings.clone(),
        store.clone(),
        status,
        ready_sender,
        cancel.clone(),
    ));
    tasks.spawn(certificates::watch(settings.clone(), cancel.clone()));

    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(END_WITHIN).await;
    };
    let result = tokio::select! {
        result = work(settings, bring_up, pool, store, status_sender, &tasks, &cancel) => result,
        () = overdue => {
            warn!("the consumer did not end in time; uncommitted records will be read again");
            Ok(())
        }
    };
    cancel.cancel();
    tasks.close();
    let begin = Instant::now();
    if tokio::time::timeout(TASKS_END_WITHIN, tasks.wait()).await.is_err() {
        warn!("not every task ended in time");
    }
    let remaining = TASKS_END_WITHIN.saturating_sub(begin.elapsed());
    sending.end(remaining.clamp(LAST_SPANS_WITHIN, traces::END_WITHIN)).await;
    result
}

/// Logs the first line.
fn log_start(settings: &Settings) {
    let topics: Vec<String> = Topic::ALL.iter().map(|topic| settings.topic_name(topic)).collect();
    let effective: Vec<String> =
        settings.effective().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        topics = topics.join(", "),
        settings = effective.join(" "),
        "starting"
    );
}

/// The document of `status`, computed on request.
fn shared_status(settings: &Settings) -> Shared<Document> {
    let settings = settings.clone();
    Shared::new(move || {
        let settings = settings.clone();
        async move {
            let facts = survey::gather(&settings).await;
            facts
                .inspect_err(|error| warn!(%error, "the status could not be computed"))
                .ok()
                .as_ref()
                .map(judge)
        }
    })
}

async fn work(
    settings: &Settings,
    bring_up: bool,
    pool: Pool,
    store: Store,
    status: watch::Sender<ConsumerStatus>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    // over one connection, before the pool takes all connections that the role may have
    if !start::prepare_database(settings, bring_up, cancel).await? {
        return Ok(());
    }
    pool.fill();
    tasks.spawn(waits::watch_waits(store.clone(), cancel.clone()));
    let sender = Sender::new(settings)?;
    let poke = Arc::new(Notify::new());
    tasks.spawn(expiry::expire(settings.clone(), store.clone(), poke.clone(), cancel.clone()));
    if let Some(retention) = settings.dead_letter_retention {
        tasks.spawn(retention::delete(retention, store.clone(), cancel.clone()));
    }
    tasks.spawn(publisher::publish(store.clone(), sender, poke, cancel.clone()));
    let ingest = Ingest::new(settings, store, Some(settings.kafka_group_id.clone()), Mode::Live);
    info!(group = settings.kafka_group_id, "consuming");
    consume(settings, &ingest, &status, cancel).await
}

/// Consumes until it is cancelled, with a new Kafka client whenever the one before cannot go on.
async fn consume(
    settings: &Settings,
    ingest: &Ingest,
    status: &watch::Sender<ConsumerStatus>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut client_pauses = pauses();
    loop {
        let consumer = Consumer::join(settings, ingest.clone(), status.clone(), cancel).await?;
        let joined = Instant::now();
        match consumer.run().await {
            End::Cancelled => {
                info!("shut down cleanly");
                return Ok(());
            }
            End::TopicRecreated(topic) => {
                metrics::RESTARTS.add(&["topic_recreated"], 1);
                warn!(topic, "the topic was recreated: a new Kafka client goes on, from its earliest record");
            }
            End::BrokersLost => {
                metrics::RESTARTS.add(&["brokers_lost"], 1);
                warn!("the brokers answer other clients and not the consumer's: a new Kafka client goes on");
            }
            End::ClientDied { fenced, reason } => {
                metrics::RESTARTS.add(&["fatal"], 1);
                if joined.elapsed() > CLIENT_LIVES {
                    client_pauses = pauses();
                }
                let pause = client_pauses.next().unwrap_or_default().max(Duration::from_secs(1));
                let remedy = if fenced {
                    "another instance runs with the same KAFKA_GROUP_INSTANCE_ID: give each instance one of its own"
                } else {
                    "if this happens again, run `voiceclone-events check`"
                };
                error!(
                    reason,
                    pause_seconds = pause.as_secs(),
                    "the Kafka client failed for good; a new one goes on after a pause; {remedy}"
                );
                if !pause_for(pause, cancel).await {
                    return Ok(());
                }
            }
        }
    }
}
