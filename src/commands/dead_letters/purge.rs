//! `dead-letters purge`: deletes letters that are resolved and published.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::select::{self, chosen, chunks, filter};
use crate::cli::Usage;
use crate::cli::dead_letters::{Bulk, FilterArgs, StateArg, before_now};
use crate::config::Settings;
use crate::output::print;
use crate::store::letters::LetterState;

/// Deletes the selected letters.
pub async fn run(
    settings: &Settings,
    older_than: Option<Duration>,
    args: &FilterArgs,
    bulk: Bulk,
    json: bool,
) -> anyhow::Result<()> {
    if args.state.is_some_and(|state| state != StateArg::Resolved) {
        return Err(Usage::new("--state: only resolved dead letters are deleted: leave it out").into());
    }
    select::allow("Purge", args, bulk, older_than.is_some())?;
    let store = crate::commands::store(settings).await?;
    let mut filter = filter(settings, args, LetterState::Resolved);
    filter.published = true;
    if let Some(age) = older_than {
        let before = before_now(age);
        filter.until = Some(filter.until.map_or(before, |until| until.min(before)));
    }
    let Some(selected) = chosen(&store, "Purge", &filter, args, bulk).await? else {
        return print("Nothing was deleted.");
    };
    let mut deleted = 0;
    if !bulk.dry_run {
        for chunk in chunks(&selected, usize::MAX) {
            deleted += store.delete_letters(&chunk).await.with_context(|| {
                format!("{deleted} were deleted; run the same command again for the others")
            })?;
        }
    }
    let count = if bulk.dry_run { selected.len() } else { deleted };
    if json {
        return print(json!({ "dry_run": bulk.dry_run, "deleted": count }));
    }
    let letters = select::letters(i64::try_from(count).unwrap_or(i64::MAX));
    print(match (bulk.dry_run, count) {
        (_, 0) => "No dead letter that is resolved and published matches: nothing is deleted.".to_owned(),
        (true, _) => format!("Would delete {letters}."),
        (false, _) => format!("Deleted {letters}."),
    })
}
