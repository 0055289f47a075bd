//! Checks of the database before the pool is filled: a pooler in between, the encoding, the schema.

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Settings;
use crate::outage;
use crate::retry::{pause_for, pauses};
use crate::store::connect::{self, ConnectError};
use crate::store::{fault, migrate};

/// Waits for a database that the daemon can work with, and migrates it if `bring_up` says so. Returns `false` if it
/// was cancelled before. An error needs a person.
pub(super) async fn prepare_database(
    settings: &Settings,
    bring_up: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<bool> {
    for pause in pauses() {
        match prepare(&settings.database_url, bring_up).await {
            Ok(()) => {
                outage::recovered("PostgreSQL");
                return Ok(true);
            }
            Err(ConnectError::Person(why)) => return Err(anyhow!(why)),
            Err(ConnectError::Away(reason)) => outage::failed("PostgreSQL", &reason),
        }
        if !pause_for(pause, cancel).await {
            break;
        }
    }
    Ok(false)
}

async fn prepare(url: &str, bring_up: bool) -> Result<(), ConnectError> {
    let mut connection = connect::look_over(url).await?;
    let state = migrate::state(&mut connection).await;
    let pending = state.map_err(|error| ConnectError::Away(format!("{error:#}")))?.pending;
    drop(connection);
    if !bring_up && !pending.is_empty() {
        return Err(ConnectError::Person(format!(
            "the database's schema is behind, it lacks {}: run `voiceclone-events migrate up`, or `run --migrate`",
            pending.join(", ")
        )));
    }
    if bring_up && !pending.is_empty() {
        let done = match migrate::up(url, None).await {
            Ok(done) => done,
            // an error while PostgreSQL can be reached needs a person, unless PostgreSQL was away for a moment
            Err(error) if !fault::is_transient(&error) && connect::connect(url).await.is_ok() => {
                return Err(ConnectError::Person(format!("{error:#}")));
            }
            Err(error) => return Err(ConnectError::Away(format!("{error:#}"))),
        };
        info!(migrations = done.join(", "), "the database's schema is current");
    }
    Ok(())
}
