//! Gauges that are polled, not counted where things happen: those of the process, the pool and the database.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC};
use crate::retry::pause_for;
use crate::store::samples::Samples;
use crate::store::{Pool, Store};

/// How often the process and the pool are polled.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often the database is polled. After a failure it is polled with the process.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// Timeout of the database's answer. An older answer would look like a new one.
const ANSWER: Duration = Duration::from_secs(2);

/// Keeps these gauges up to date.
pub(super) async fn sample(store: Store, pool: Pool, cancel: CancellationToken) {
    let mut answered: Option<Instant> = None;
    loop {
        metrics::process();
        show_pool(&pool);
        if pool.is_filled() && answered.is_none_or(|answered| answered.elapsed() >= ASK_EVERY) {
            answered = ask(&store).await.then(Instant::now);
        }
        if !pause_for(LOOK_EVERY, &cancel).await {
            return;
        }
    }
}

fn show_pool(pool: &Pool) {
    let state = pool.statistics();
    metrics::CONNECTIONS.set_count(&["idle"], state.idle_connections.into());
    metrics::CONNECTIONS
        .set_count(&["used"], state.connections.saturating_sub(state.idle_connections).into());
    metrics::CONNECTIONS_MAX.set_count(&[], pool.max_size().into());
    let history = state.statistics;
    metrics::POOL_WAIT.set(&[], history.get_wait_time.as_secs_f64());
    metrics::POOL_TIMEOUTS.count_is(&[], history.get_timed_out);
    metrics::CONNECTIONS_CREATED.count_is(&[], history.connections_created);
    for (cause, count) in [
        ("broken", history.connections_closed_broken),
        ("invalid", history.connections_closed_invalid),
        ("max_lifetime", history.connections_closed_max_lifetime),
        ("idle_timeout", history.connections_closed_idle_timeout),
    ] {
        metrics::CONNECTIONS_CLOSED.count_is(&[cause], count);
    }
}

/// Returns whether the database answered.
async fn ask(store: &Store) -> bool {
    match tokio::time::timeout(ANSWER, store.samples(ANSWER)).await {
        Ok(Ok(samples)) => {
            metrics::DATABASE_UP.set_count(&[], 1);
            show(&samples);
            true
        }
        failed => {
            debug!(?failed, "the database did not answer the question for the metrics");
            metrics::DATABASE_UP.set_count(&[], 0);
            metrics::DATABASE_SCRAPE_ERRORS.add(&[], 1);
            for metric in [
                &metrics::DEAD_LETTERS_UNRESOLVED,
                &metrics::DEAD_LETTERS_UNPUBLISHABLE,
                &metrics::PUBLISH_BACKLOG,
                &metrics::PUBLISH_BACKLOG_AGE,
                &metrics::EXPIRY_OVERDUE_ROWS,
                &metrics::EXPIRY_OVERDUE_SECONDS,
            ] {
                metric.all_unknown();
            }
            false
        }
    }
}

fn show(samples: &Samples) {
    for (reason, count) in &samples.unresolved {
        metrics::DEAD_LETTERS_UNRESOLVED.set_count(&[reason.name()], *count);
    }
    metrics::DEAD_LETTERS_UNPUBLISHABLE.set_count(&[], samples.unpublishable);
    for (topic, (count, seconds)) in [(EXPIRED_TOPIC, samples.outbox), (DEAD_LETTER_TOPIC, samples.letters)] {
        metrics::PUBLISH_BACKLOG.set_count(&[topic], count);
        metrics::PUBLISH_BACKLOG_AGE.set(&[topic], seconds);
    }
    let (count, seconds) = samples.overdue;
    metrics::EXPIRY_OVERDUE_ROWS.set_count(&[], count);
    metrics::EXPIRY_OVERDUE_SECONDS.set(&[], seconds);
}
