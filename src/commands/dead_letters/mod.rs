//! `dead-letters`: an operator looks through records that could not be used, and settles them (contract, section 8).
//!
//! ```text
//! summary, list, show    -> what there is
//! retry, discard, purge  -> what changes it
//! fix                    -> a corrected record into the topic; correct and stamp decide, pure
//! export                 -> a file
//! accept                 -> stopped partitions
//! select                 -> which letters, and whether to go on
//! layout                 -> pure: one letter laid out
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

/// Does what the command line asks for; `false` where some of it was not done.
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
