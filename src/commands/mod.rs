//! The commands, a module each.

pub mod check;
pub mod dead_letters;
pub mod demo;
pub mod manual;
pub mod migrate;
pub mod pause;
pub mod publish;
pub mod replay;
pub mod report;
pub mod schema;
pub mod simulate;
pub mod skip;
pub mod status;
mod tally;
pub mod tap;
mod view;
pub mod where_is;

use anyhow::{Context as _, bail};

use crate::config::Settings;
use crate::store::{Store, connect};

/// Connects to the database, and refuses one whose schema is behind.
async fn store(settings: &Settings) -> anyhow::Result<Store> {
    let store = Store::new(connect::pool(settings)?);
    let state = store.schema_state().await.context("the database's schema could not be read")?;
    if !state.pending.is_empty() {
        bail!(
            "the database's schema is behind (missing: {}): run `voiceclone-events migrate up` first",
            state.pending.join(", ")
        );
    }
    Ok(store)
}
