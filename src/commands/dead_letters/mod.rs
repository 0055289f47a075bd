//! `dead-letters`: an operator inspects unusable records and resolves them (contract, section 8).
//!
//! ```text
//! summary, list, show    -> read only
//! retry, discard, purge  -> change letters
//! fix                    -> publishes a corrected record; correct and stamp decide, pure
//! export                 -> writes letters to a file
//! accept                 -> resumes stopped partitions
//! select                 -> selects letters and asks for confirmation
//! layout                 -> pure: one letter as text or JSON
//! ```

mod accept;
mod correct;
mod discard;
pub(super) mod export;
mod fix;
mod layout;
mod list;
mod purge;
mod retry;
mod select;
mod show;
mod stamp;
mod summary;

use tokio_util::sync::CancellationToken;

use crate::cli::DeadLetters;
use crate::config::Settings;

/// Runs the subcommand; `false` where part of it was not done.
pub async fn run(
    settings: &Settings,
    what: Option<&DeadLetters>,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    match what {
        None | Some(DeadLetters::Summary) => summary::run(settings, json).await?,
        Some(DeadLetters::List { filter }) => list::run(settings, filter, json).await?,
        Some(DeadLetters::Show { id, reveal, raw }) => show::run(settings, *id, *reveal, *raw, json).await?,
        Some(DeadLetters::Retry { filter, bulk, rate }) => {
            return retry::run(settings, filter, *bulk, *rate, json, cancel).await;
        }
        Some(DeadLetters::Fix(args)) => return fix::run(settings, args, json, cancel).await,
        Some(DeadLetters::Discard { filter, bulk, note }) => {
            discard::run(settings, filter, *bulk, note, json).await?;
        }
        Some(DeadLetters::Export { filter, format, reveal, output }) => {
            export::run(settings, filter, *format, *reveal, output.as_deref()).await?;
        }
        Some(DeadLetters::Purge { older_than, filter, bulk }) => {
            purge::run(settings, *older_than, filter, *bulk, json).await?;
        }
        Some(DeadLetters::Accept { topic, partition }) => {
            accept::accept(settings, *topic, *partition, json).await?;
        }
    }
    Ok(true)
}
