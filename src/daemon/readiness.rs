//! The readiness task: keeps what `/readyz` reports up to date.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Settings;
use crate::http::Readiness;
use crate::kafka;
use crate::retry::pause_for;
use crate::store::Store;

/// How often readiness is checked.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Keeps `/readyz` told.
pub(super) async fn watch_readiness(
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
