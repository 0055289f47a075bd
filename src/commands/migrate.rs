//! `migrate up`, `down`, `status`.

use anyhow::Context;

use crate::cli::Migrate;
use crate::config::Settings;
use crate::output::print;
use crate::store::{connect, migrate};

/// Runs the subcommand, and prints the migrations.
pub async fn run(settings: &Settings, what: &Migrate, json: bool) -> anyhow::Result<()> {
    let url = &settings.database_url;
    let (done, names) = match what {
        Migrate::Up { n } => ("applied", migrate::up(url, *n).await?),
        Migrate::Down { n } => ("rolled_back", migrate::down(url, *n).await?),
        Migrate::Status => return status(url, json).await,
    };
    if json {
        print(serde_json::json!({ done: names }))?;
    } else if names.is_empty() {
        print("Nothing to do.")?;
    } else {
        for name in names {
            print(format!("{} {name}", done.replace('_', " ")))?;
        }
    }
    Ok(())
}

async fn status(url: &str, json: bool) -> anyhow::Result<()> {
    let mut connection = connect::connect(url).await.context("PostgreSQL cannot be used")?;
    let state = migrate::state(&mut connection).await?;
    if json {
        let state = serde_json::json!({
            "applied": state.applied, "pending": state.pending, "unknown": state.unknown,
        });
        print(state)?;
        return Ok(());
    }
    for (what, names) in [("applied", state.applied), ("pending", state.pending), ("unknown", state.unknown)]
    {
        for name in names {
            print(format!("{what:8} {name}"))?;
        }
    }
    Ok(())
}
