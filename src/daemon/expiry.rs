//! The expiry task: marks cache rows past their time as deleted, every `EXPIRY_INTERVAL` (contract, section 5).

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Settings;
use crate::metrics;
use crate::record::Topic;
use crate::store::Store;
use crate::store::expiry::ExpiryCursor;
use crate::traces;

/// Maximum number of rows in one transaction of the expiry. 5,000 are hardly faster, and delay the consumer.
const EXPIRY_CHUNK: i64 = 2000;

/// Expires cache rows every `EXPIRY_INTERVAL`, in small transactions.
pub(super) async fn expire(settings: Settings, store: Store, poke: Arc<Notify>, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(settings.expiry_interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        match store.paused_topics(&settings.kafka_group_id).await {
            // A `pause` of all topics pauses the expiry, too.
            Ok(paused) if paused.len() == Topic::ALL.len() => continue,
            Ok(_) => {}
            Err(fault) => debug!(%fault, "whether the expiry is paused could not be read"),
        }
        let (begin, mut total, mut complete) = (Instant::now(), 0, false);
        let span = traces::expire();
        let mut cursor = ExpiryCursor::traced(span.traceparent());
        while !cancel.is_cancelled() {
            match store.expire(&mut cursor, EXPIRY_CHUNK, settings.expired_event_max_age).await {
                Ok((count, more)) => {
                    total += count;
                    poke.notify_one();
                    if !more {
                        complete = true;
                        break;
                    }
                }
                Err(fault) => {
                    span.failed(fault.name());
                    warn!(%fault, trace_id = span.trace_id(), "an expiry run failed; the next one does what is left");
                    break;
                }
            }
        }
        if total > 0 {
            info!(rows = total, trace_id = span.trace_id(), "cache rows have expired");
            metrics::EXPIRED.add(&[], total as u64);
        }
        span.count("voiceclone.rows.expired", total as u64);
        span.end();
        metrics::EXPIRY_DURATION.observe(&[], begin.elapsed().as_secs_f64());
        if complete {
            metrics::EXPIRY_LAST_SUCCESS.set(&[], metrics::seconds(metrics::now()));
        }
    }
}
