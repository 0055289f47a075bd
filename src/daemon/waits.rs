//! The watch for long-running statements. It logs what they wait for.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::outage::Outage;
use crate::retry::pause_for;
use crate::store::{LongStatement, Store};

/// A statement that takes longer is logged.
const LONG: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Logs a long-running statement at once, then one a minute for as long as there is any.
pub(super) async fn watch_waits(store: Store, cancel: CancellationToken) {
    let mut outage = Outage::default();
    while pause_for(LOOK_EVERY, &cancel).await {
        // without a connection the pool logs why
        let Ok(waiting) = store.waiting(LONG).await else { continue };
        let Some(LongStatement { statement, seconds, waits_for, blocked_by }) = waiting.first() else {
            if let Some(line) = outage.recovered(Instant::now()) {
                info!(
                    for_seconds = line.lasted.as_secs(),
                    "PostgreSQL has finished the statements that took long"
                );
            }
            continue;
        };
        if outage.failed(Instant::now()).is_some() {
            let waits_for = if waits_for.is_empty() { "nothing: it works" } else { waits_for };
            warn!(
                statement,
                seconds,
                waits_for,
                blocked_by,
                others = waiting.len() - 1,
                "PostgreSQL has not finished a statement{}",
                hint(waits_for)
            );
        }
    }
}

fn hint(waits_for: &str) -> &'static str {
    if waits_for.ends_with("SyncRep") {
        ": no standby of synchronous_standby_names confirms it"
    } else if waits_for.starts_with("Lock") {
        ": another session holds a lock"
    } else {
        ""
    }
}
