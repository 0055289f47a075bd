//! The task that warns of certificates that end soon.

use std::time::Duration;

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Settings;
use crate::retry::pause_for;
use crate::{kafka, store};

/// Time between two checks, each of which warns again.
const EVERY: Duration = Duration::from_secs(6 * 3600);

/// Checks at once and then every 6 hours, until it is cancelled.
pub(super) async fn watch(settings: Settings, cancel: CancellationToken) {
    loop {
        let known = settings.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut all = kafka::certificate::certificates(&known);
            all.extend(store::connect::certificates(&known.database_url));
            all
        });
        let now = Utc::now();
        for certificate in looked.await.unwrap_or_default() {
            if certificate.ends_soon(now) {
                warn!(
                    certificate = format!("of {}", certificate.whose),
                    ends = certificate.end(now),
                    "a certificate ends soon: renew it"
                );
            }
        }
        if !pause_for(EVERY, &cancel).await {
            return;
        }
    }
}
