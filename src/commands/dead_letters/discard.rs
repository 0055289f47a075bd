//! `dead-letters discard`: resolves letters with a note.

use anyhow::Context as _;
use serde_json::json;

use super::select::{self, chosen, chunks, filter};
use crate::cli::Usage;
use crate::cli::dead_letters::{Bulk, FilterArgs, StateArg};
use crate::config::Settings;
use crate::output::print;
use crate::store::letters::LetterState;

/// Discards the selected letters.
pub async fn run(
    settings: &Settings,
    args: &FilterArgs,
    bulk: Bulk,
    note: &str,
    json: bool,
) -> anyhow::Result<()> {
    if note.trim().is_empty() {
        return Err(Usage::new("--note is empty: say why these dead letters are discarded").into());
    }
    if args.state.is_some_and(|state| state != StateArg::Unresolved) {
        return Err(Usage::new("--state: only unresolved dead letters are discarded: leave it out").into());
    }
    select::allow("Discard", args, bulk, false)?;
    let store = crate::commands::store(settings).await?;
    let filter = filter(settings, args, LetterState::Unresolved);
    let Some(selected) = chosen(&store, "Discard", &filter, args, bulk).await? else {
        return print("Nothing was discarded.");
    };
    let mut discarded = 0;
    if !bulk.dry_run {
        for chunk in chunks(&selected, usize::MAX) {
            discarded += store.discard_letters(&chunk, note).await.with_context(|| {
                format!("{discarded} were discarded; run the same command again for the others")
            })?;
        }
    }
    let count = if bulk.dry_run { selected.len() } else { discarded };
    if json {
        return print(json!({ "dry_run": bulk.dry_run, "discarded": count }));
    }
    let letters = select::letters(i64::try_from(count).unwrap_or(i64::MAX));
    print(match (bulk.dry_run, count) {
        (_, 0) => "No unresolved dead letter matches: nothing is discarded.".to_owned(),
        (true, _) => format!("Would discard {letters}."),
        (false, _) => format!("Discarded {letters}."),
    })
}
