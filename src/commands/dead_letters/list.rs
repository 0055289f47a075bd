//! `dead-letters list`: one line per letter.

use anyhow::Context as _;
use comfy_table::Table;
use serde_json::json;

use super::select::{self, filter};
use crate::cli::dead_letters::FilterArgs;
use crate::config::Settings;
use crate::output::{self, print};
use crate::store::letters::{Head, LetterState};

/// Default of `--limit`.
const DEFAULT_LIMIT: i64 = 100;

/// Prints the list.
pub async fn run(settings: &Settings, args: &FilterArgs, json: bool) -> anyhow::Result<()> {
    let store = crate::commands::store(settings).await?;
    // a letter given by its id is shown whatever its state
    let state = if args.named().is_some() { LetterState::All } else { LetterState::Unresolved };
    let mut filter = filter(settings, args, state);
    let limit = *filter.limit.get_or_insert(DEFAULT_LIMIT);
    let context = "the dead letters could not be read";
    let listed = store.list_letters(&filter).await.context(context)?;
    let kinds = store.letter_kinds(&filter).await.context(context)?;
    let total: i64 = kinds.iter().map(|kind| kind.count).sum();
    if json {
        return print(json!({ "total": total, "letters": listed }));
    }
    if listed.is_empty() {
        return print("No dead letter matches.");
    }
    print(table(&listed))?;
    if total > limit {
        print(format!("The first {limit} of {}: --limit shows more.", select::letters(total)))?;
    }
    Ok(())
}

fn table(listed: &[Head]) -> Table {
    let header = ["id", "age", "topic/partition@offset", "reason", "message", "state"];
    let rows = listed.iter().map(|letter| {
        [
            letter.id.to_string(),
            age(letter.age_seconds),
            letter.place(),
            letter.reason.clone(),
            letter.message.clone(),
            letter.state().to_owned(),
        ]
    });
    output::table(header, &[0, 1], rows)
}

/// `45s`, `12m`, `3h`, `9d`
pub fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let ages = [-1, 119, 120, 7199, 7200, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "2d"]);
    }
}
