//! The retention task: deletes dead letters that are resolved, published and older than `DEAD_LETTER_RETENTION`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::dead_letters::before_now;
use crate::store::Store;
use crate::store::letters::{Filter, LetterState};

/// Time between two runs.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Maximum number of letters in one transaction: rows may hold megabytes, and the consumer runs beside it.
const CHUNK: i64 = 500;

/// Deletes these letters once an hour, in small transactions.
pub(super) async fn delete(retention: Duration, store: Store, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        let mut total = 0;
        while !cancel.is_cancelled() {
            match delete_some(&store, retention).await {
                Ok(0) => break,
                Ok(count) => total += count,
                Err(fault) => {
                    warn!(%fault, "old dead letters could not be deleted; the next run does what is left");
                    break;
                }
            }
        }
        if total > 0 {
            info!(dead_letters = total, "dead letters older than DEAD_LETTER_RETENTION are deleted");
        }
    }
}

async fn delete_some(store: &Store, retention: Duration) -> Result<usize, crate::store::Fault> {
    let filter = Filter {
        until: Some(before_now(retention)),
        state: LetterState::Resolved,
        published: true,
        limit: Some(CHUNK),
        ..Filter::default()
    };
    let ids: Vec<i64> = store.select_letters(&filter).await?.iter().map(|letter| letter.id).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    store.delete_letters(&ids).await
}
