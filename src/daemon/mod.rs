//! `run`: what runs beside what. The consumer, the expiry, the publisher and the readiness watch are tasks
//! of their own that share nothing but the database; one cancellation token ends them all.

mod expiry;
mod publisher;
mod readiness;
mod start;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::Settings;
use crate::http::{self, Probe, Readiness};
use crate::ingest::Ingest;
use crate::kafka::consume::{End, Live};
use crate::kafka::send::Sender;
use crate::store::write::Mode;
use crate::store::{Pool, Store, connect};

/// The consumer must have ended by then after it was asked to; the contract gives the whole 10 s.
const END_WITHIN: Duration = Duration::from_millis(7500);

/// The other tasks must have ended by then after the consumer: time for what is being published to be noted as such.
const TASKS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs the daemon until `cancel`. An error is one that only a person can mend.
pub async fn run(settings: &Settings, bring_up: bool, cancel: CancellationToken) -> anyhow::Result<()> {
    let pool = connect::waiting_pool(settings)?;
    let store = Store::new(pool.clone());
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
    tasks.spawn(readiness::watch_readiness(
        settings.clone(),
        store.clone(),
        assigned,
        ready_sender,
        cancel.clone(),
    ));

    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(END_WITHIN).await;
    };
    let result = tokio::select! {
        result = work(settings, bring_up, pool, store, assigned_sender, &tasks, &cancel) => result,
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
    pool: Pool,
    store: Store,
    assigned: watch::Sender<bool>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    // over one connection, before the pool takes all that the role may have
    if !start::prepare_database(settings, bring_up, cancel).await? {
        return Ok(());
    }
    pool.fill();
    tasks.spawn(waits::watch_waits(store.clone(), cancel.clone()));
    let sender = Sender::new(settings)?;
    let poke = Arc::new(Notify::new());
    tasks.spawn(expiry::expire(settings.clone(), store.clone(), poke.clone(), cancel.clone()));
    tasks.spawn(publisher::publish(store.clone(), sender, poke, cancel.clone()));
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
