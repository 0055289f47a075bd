//! The watch for long-running statements. It logs what they wait for.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::outage::Outage;
use crate::retry::pause_for;
use crate::store::Store;
use crate::store::waits::LONG;

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Logs a long-running statement at once, then one a minute for as long as there is any.
pub(super) async fn watch_waits(store: Store, cancel: CancellationToken) {
    let mut outage = Outage::default();
    while pause_for(LOOK_EVERY, &cancel).await {
        // without a connection the pool logs why
        let Ok(waiting) = store.waiting(LONG).await else { continue };
        let Some(longest) = waiting.first() else {
            if let Some(line) = outage.recovered(Instant::now()) {
                info!(
                    for_seconds = line.lasted.as_secs(),
                    "PostgreSQL has finished the statements that took long"
                );
            }
            continue;
        };
        if outage.failed(Instant::now()).is_some() {
            longest.report(waiting.len() - 1);
        }
    }
}
