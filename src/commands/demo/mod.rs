//! `demo`: everything at once, on an embedded broker and a throw-away PostgreSQL.
//!
//! - `postgres`: the throw-away server; `view`: the progress; `tables`: the rows at the end.

mod postgres;
mod tables;
mod view;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::Utc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::view::ProgressView;
use crate::config::Settings;
use crate::daemon;
use crate::kafka;
use crate::kafka::embedded::Broker;
use crate::kafka::send::Sender;
use crate::output::say;
use crate::record::Outgoing;
use crate::store::overview::Overview;
use crate::store::{Store, connect, migrate};
use crate::traffic::{Scenario, traffic};

/// The options of `demo`.
#[allow(missing_docs, reason = "the flags of the command")]
pub struct DemoOptions {
    pub calls: u64,
    pub seed: u64,
    pub keep: bool,
    pub disorder: bool,
}

/// Partitions of each topic.
const PARTITIONS: i32 = 2;
/// Records per send.
const CHUNK: usize = 250;
/// Maximum number of records sent and not yet consumed: the embedded broker keeps only its latest ones.
const AHEAD: u64 = 2000;
/// Time between two questions to the database for the progress.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Time for the signal of Ctrl-C to arrive after PostgreSQL has ended.
const CTRL_C_WAIT: Duration = Duration::from_secs(1);
/// Time without progress after which the demo fails.
const NO_PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// Seconds that half of the voices live, from their event on.
const SHORT_TTL: i32 = 3;
/// `EXPIRY_INTERVAL` of the demo's daemon.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(2);
/// The daemon's consumer group, whose offsets are counted.
const GROUP: &str = "voiceclone-events";
/// Mean time between two calls, in milliseconds; less where they would not fit into [`SPAN_MS`].
const SPACING_MS: i64 = 1000;
/// Maximum time from the first call to the last, in milliseconds: half a day, within which only voices with a short life
/// expire.
const SPAN_MS: i64 = 43_200_000;
/// Approximate duration of the last call, in milliseconds.
const LAST_CALL_MS: i64 = 300_000;

/// Runs the demo: starts broker and PostgreSQL, migrates, sends, consumes and expires, and shows the tables.
/// Leaves nothing behind.
pub async fn run(settings: &Settings, options: DemoOptions, cancel: CancellationToken) -> anyhow::Result<()> {
    say("Starting a PostgreSQL and a broker of their own ...");
    let builder = postgres::builder()?;
    let started = spawn_blocking(move || builder.start()).await;
    let postgres = match started {
        Ok(postgres) => postgres,
        Err(_) if interrupted(&cancel).await => return Ok(()),
        Err(error) => {
            let why = match error.try_into_panic() {
                Ok(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            bail!("PostgreSQL could not be started: {}", why.trim());
        }
    };
    let mut result = show(settings, &options, &postgres.connection_uri(), &cancel).await;
    if result.is_err() && interrupted(&cancel).await {
        result = Ok(());
    }
    spawn_blocking(move || drop(postgres)).await.context("PostgreSQL could not be stopped")?;
    if result.is_ok() {
        say("Broker and database are gone; nothing is left behind.");
    }
    result
}

/// Whether an error is due to Ctrl-C: a terminal sends it to PostgreSQL, too, which may end before this program receives
/// the signal.
async fn interrupted(cancel: &CancellationToken) -> bool {
    let interrupted = tokio::time::timeout(CTRL_C_WAIT, cancel.cancelled()).await.is_ok();
    if interrupted {
        say("Interrupted.");
    }
    interrupted
}

async fn show(
    settings: &Settings,
    options: &DemoOptions,
    url: &str,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let broker = Broker::start(&kafka::topic_names(settings), PARTITIONS)?;
    let settings = Settings {
        database_url: url.to_owned(),
        kafka_bootstrap_servers: broker.servers(),
        kafka_group_id: GROUP.to_owned(),
        expiry_interval: EXPIRY_INTERVAL,
        http_addr: if options.keep { Some(free_address()?) } else { None },
        ..settings.clone()
    };
    let store = Store::new(connect::pool(&settings)?);
    tokio::select! {
        reachable = wait_until_reachable(&store) => reachable?,
        () = cancel.cancelled() => bail!("interrupted"),
    }
    let migrations = migrate::up(url, None).await?;
    say(format!("The database is migrated ({}).", migrations.join(", ")));
    say(format!("Look at it while it runs: psql '{url}'"));
    if let Some(address) = settings.http_addr {
        say(format!("Its page: http://{address}/"));
    }

    let stop = cancel.child_token();
    let (daemon_settings, token) = (settings.clone(), stop.clone());
    let mut daemon = tokio::spawn(async move { daemon::run(&daemon_settings, false, token).await });
    let mut shown = follow(&settings, options, &store, &mut daemon, cancel).await;
    if shown.is_ok() {
        shown = tables::show(&settings, &store, cancel).await;
    }
    stop.cancel();
    // `follow` returned the error of a daemon that ended by itself
    if !daemon.is_finished() {
        daemon.await??;
    }
    drop(broker);
    shown
}

/// An address with a free port.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port for the page")?;
    Ok(listener.local_addr()?)
}

/// Waits for the first connection, which the server takes a moment after its start.
async fn wait_until_reachable(store: &Store) -> anyhow::Result<()> {
    let started = Instant::now();
    while let Err(fault) = store.reach().await {
        if started.elapsed() > NO_PROGRESS_LIMIT {
            bail!("PostgreSQL was started, but cannot be reached: {fault}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// Sends the traffic and shows the progress until all records are consumed, all short-lived voices expired and
/// everything published, or until `cancel`.
async fn follow(
    settings: &Settings,
    options: &DemoOptions,
    store: &Store,
    daemon: &mut JoinHandle<anyhow::Result<()>>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let sender = Sender::new(settings)?;
    let mut records = traffic(&traffic_plan(options)).map(|sent| sent.record).peekable();
    let mut sent = 0_u64;
    let mut view = ProgressView::new();
    let mut last = (0, Overview::default());
    let mut changed = Instant::now();
    let mut interval = tokio::time::interval(POLL_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = cancel.cancelled() => return Ok(()),
            ended = &mut *daemon => {
                ended??;
                bail!("the daemon has ended unexpectedly");
            }
        }
        let now = match store.overview(&settings.kafka_group_id).await {
            Ok(now) => now,
            Err(fault) => bail!("the database cannot be queried: {fault}"),
        };
        let consumed = u64::try_from(now.consumed).unwrap_or_default();
        view.update(sent, &now);
        let waiting = now.overdue + now.outbox + now.unpublished;
        if records.peek().is_none() && consumed == sent && waiting == 0 {
            view.finish(sent, &now);
            return Ok(());
        }
        if last != (sent, now.clone()) {
            (last, changed) = ((sent, now), Instant::now());
        } else if changed.elapsed() > NO_PROGRESS_LIMIT {
            bail!(
                "nothing has happened for {} s, {consumed} of {sent} records are consumed: try again with \
                 RUST_LOG=info, which says why",
                NO_PROGRESS_LIMIT.as_secs()
            );
        }
        while sent.saturating_sub(consumed) < AHEAD {
            let chunk: Vec<Outgoing> = records.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            if let Some(error) = sender.send_all(&chunk).await.into_iter().find_map(Result::err) {
                bail!("the embedded broker did not take a record: {error}");
            }
            sent += chunk.len() as u64;
        }
    }
}

/// Calls that have just ended. Half of their voices have already reached the end of their TTL.
fn traffic_plan(options: &DemoOptions) -> Scenario {
    let calls = i64::try_from(options.calls).unwrap_or(i64::MAX).max(1);
    let spacing_ms = (SPAN_MS / calls).clamp(1, SPACING_MS);
    let start = Utc::now().timestamp_millis() - spacing_ms.saturating_mul(calls).min(SPAN_MS) - LAST_CALL_MS;
    Scenario {
        calls: options.calls,
        seed: options.seed,
        disorder: options.disorder,
        start,
        spacing_ms,
        ttl_seconds: Some(SHORT_TTL),
    }
}
