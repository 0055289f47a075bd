//! Retries with growing pauses, jitter and cancellation.

use std::time::Duration;

use crate::outage;
use crate::store::Fault;
use backon::BackoffBuilder;
use tokio_util::sync::CancellationToken;

/// Endless growing pauses: 50 ms to 5 s, each with up to as much again of jitter.
pub fn pauses() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Sleeps. Returns `false` if it was cancelled first.
pub async fn pause_for(pause: Duration, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        () = cancel.cancelled() => false,
    }
}

/// Retries an operation, with growing pauses, until it succeeds. Returns `None` if it was cancelled first.
pub async fn retry<T, F: Future<Output = Result<T, Fault>>>(
    what: &str,
    cancel: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<T> {
    for pause in pauses() {
        match attempt().await {
            Ok(value) => {
                outage::recovered("PostgreSQL");
                return Some(value);
            }
            Err(fault) => outage::failed("PostgreSQL", &format!("{what} failed: {fault}")),
        }
        if !pause_for(pause, cancel).await {
            return None;
        }
    }
    None
}
