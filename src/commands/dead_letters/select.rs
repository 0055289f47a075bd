//! Selects the letters of a command, and asks for confirmation before many of them are changed.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use indicatif::HumanCount;

use crate::cli::Usage;
use crate::cli::dead_letters::{Bulk, FilterArgs, StateArg};
use crate::config::Settings;
use crate::output::say;
use crate::store::Store;
use crate::store::letters::{Filter, LetterKind, LetterState, Selected};

/// Maximum number of letters loaded at once, and of bytes of their records.
const CHUNK_LETTERS: usize = 500;
const CHUNK_BYTES: i64 = 16 << 20;

/// The filter given by the arguments.
pub fn filter(settings: &Settings, args: &FilterArgs, default: LetterState) -> Filter {
    Filter {
        ids: args.ids.clone(),
        topic: args.topic.map(|topic| settings.topic_name(topic)),
        partition: args.partition,
        offsets: args.offsets,
        reason: args.reason,
        message_like: args.message_like.clone(),
        since: args.since,
        until: args.until,
        state: match args.state {
            None => default,
            Some(StateArg::Unresolved) => LetterState::Unresolved,
            Some(StateArg::Resolved) => LetterState::Resolved,
            Some(StateArg::All) => LetterState::All,
        },
        published: false,
        limit: args.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)),
    }
}

/// Checks the arguments of a command that changes letters, before any server is contacted. `narrowed`: the command has
/// another option that restricts the selection.
pub fn allow(verb: &str, args: &FilterArgs, bulk: Bulk, narrowed: bool) -> anyhow::Result<()> {
    if !args.narrows() && !narrowed && !bulk.all {
        let text =
            format!("{verb} without an id or a filter means every dead letter: add --all, or a filter");
        return Err(Usage::new(text).into());
    }
    if args.narrows() && bulk.all {
        return Err(Usage::new("--all does not go with ids or filters: leave one of them out").into());
    }
    if asks(args, bulk) && !std::io::stdin().is_terminal() {
        let text =
            format!("{verb} would ask first, and standard input is no terminal: add --yes, or --dry-run");
        return Err(Usage::new(text).into());
    }
    Ok(())
}

/// Whether to ask for confirmation; letters given by their ids need none.
fn asks(args: &FilterArgs, bulk: Bulk) -> bool {
    !bulk.yes && !bulk.dry_run && args.named().is_none()
}

/// Returns an error for an id that does not exist.
pub async fn require_known(store: &Store, args: &FilterArgs) -> anyhow::Result<()> {
    let Some(ids) = args.named() else { return Ok(()) };
    let unknown = store.unknown_letters(&ids).await.context("the dead letters could not be read")?;
    if let [first, ..] = unknown.as_slice() {
        bail!("there is no dead letter {first}: `voiceclone-events dead-letters list` shows them");
    }
    Ok(())
}

/// Prints the number and kinds of the selected letters, asks for confirmation, and returns the letters; `None` where the
/// user declines.
pub async fn chosen(
    store: &Store,
    verb: &str,
    filter: &Filter,
    args: &FilterArgs,
    bulk: Bulk,
) -> anyhow::Result<Option<Vec<Selected>>> {
    require_known(store, args).await?;
    let context = "the dead letters could not be read";
    let selected = store.select_letters(filter).await.context(context)?;
    if selected.is_empty() || (args.named().is_some() && !bulk.dry_run) {
        return Ok(Some(selected));
    }
    let kinds = store.letter_kinds(filter).await.context(context)?;
    say(question(verb, selected.len(), &kinds));
    if !asks(args, bulk) {
        return Ok(Some(selected));
    }
    let mut out = std::io::stderr();
    let asked = write!(out, "{verb} them? [y/N] ").and_then(|()| out.flush());
    asked.context("standard error could not be written")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input could not be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes").then_some(selected))
}

fn question(verb: &str, count: usize, kinds: &[LetterKind]) -> String {
    let found: i64 = kinds.iter().map(|kind| kind.count).sum();
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut text = if count < found {
        format!("{verb}: the first {} of {}", HumanCount(unsigned(count)), letters(found))
    } else {
        format!("{verb}: {}", letters(count))
    };
    for LetterKind { topic, reason, count } in kinds {
        text.push_str(&format!("\n  {} {topic} {reason}", HumanCount(unsigned(*count))));
    }
    text
}

/// `1 dead letter`, `1,200 dead letters`
pub fn letters(count: i64) -> String {
    let noun = if count == 1 { "dead letter" } else { "dead letters" };
    format!("{} {noun}", HumanCount(unsigned(count)))
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Splits the letters into chunks of at most `most` letters whose records fit into memory.
pub fn chunks(selected: &[Selected], most: usize) -> Vec<Vec<i64>> {
    let mut chunks: Vec<Vec<i64>> = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0_i64);
    for letter in selected {
        let is_full =
            chunk.len() >= most.clamp(1, CHUNK_LETTERS) || bytes.saturating_add(letter.bytes) > CHUNK_BYTES;
        if is_full && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        chunk.push(letter.id);
        bytes = bytes.saturating_add(letter.bytes);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_bounded_by_letters_and_by_bytes() {
        let selected = |bytes: &[i64]| -> Vec<Selected> {
            (1..).zip(bytes).map(|(id, bytes)| Selected { id, bytes: *bytes }).collect()
        };
        assert_eq!(chunks(&selected(&[1; 5]), 2), [vec![1, 2], vec![3, 4], vec![5]]);
        let large = selected(&[CHUNK_BYTES + 1, 1, CHUNK_BYTES, 1]);
        assert_eq!(chunks(&large, 100), [vec![1], vec![2], vec![3], vec![4]]);
        assert!(chunks(&[], 100).is_empty());
    }

    #[test]
    fn the_question_says_how_many_and_of_which_kinds() {
        let kind =
            |reason: &str, count| LetterKind { topic: "clone.ready".into(), reason: reason.into(), count };
        let kinds = [kind("too_large", 1200), kind("tombstone", 1)];
        assert_eq!(
            question("Retry", 1201, &kinds),
            "Retry: 1,201 dead letters\n  1,200 clone.ready too_large\n  1 clone.ready tombstone"
        );
        assert!(question("Retry", 5, &kinds).starts_with("Retry: the first 5 of 1,201 dead letters\n"));
        assert!(question("Retry", 1, &[kind("tombstone", 1)]).starts_with("Retry: 1 dead letter\n"));
    }

    #[test]
    fn a_command_for_all_of_them_needs_a_word_for_it() {
        let bulk = Bulk { yes: true, ..Bulk::default() };
        let all = FilterArgs::default();
        let one = FilterArgs { ids: vec![(7, 7)], ..FilterArgs::default() };
        assert!(allow("Retry", &all, bulk, false).unwrap_err().is::<Usage>());
        assert!(allow("Retry", &all, Bulk { all: true, ..bulk }, false).is_ok());
        assert!(allow("Purge", &all, bulk, true).is_ok());
        assert!(allow("Retry", &one, Bulk::default(), false).is_ok(), "a named letter takes no question");
        assert!(allow("Retry", &one, Bulk { all: true, ..bulk }, false).is_err());
    }
}
