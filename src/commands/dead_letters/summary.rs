//! `dead-letters summary`: the number of letters by topic, reason and message.

use anyhow::Context as _;
use comfy_table::Table;
use indicatif::HumanCount;
use serde_json::json;

use super::select::letters;
use crate::config::Settings;
use crate::output::{self, print};
use crate::store::letters::{Backlog, InARow, LetterGroup};

/// Maximum number of groups shown.
const MAX_GROUPS: i64 = 200;

/// Prints the summary.
pub async fn run(settings: &Settings, json: bool) -> anyhow::Result<()> {
    let store = crate::commands::store(settings).await?;
    let context = "the dead letters could not be read";
    let groups = store.letter_groups(MAX_GROUPS).await.context(context)?;
    let backlog = store.letter_backlog().await.context(context)?;
    // partitions with four fifths of the limit are shown
    let near = settings.dead_letter_limit.saturating_sub(settings.dead_letter_limit / 5).max(1);
    let partitions = store
        .partitions_in_a_row(&settings.kafka_group_id, near)
        .await
        .context("the offsets could not be read")?;
    if json {
        return print(json!({
            "groups": groups, "backlog": backlog, "dead_letter_limit": settings.dead_letter_limit,
            "partitions": partitions,
        }));
    }
    if groups.is_empty() {
        print("No unresolved dead letters.")?;
    } else {
        print(table(&groups))?;
        let shown: i64 = groups.iter().map(|group| group.count).sum();
        print(format!("{} unresolved.", letters(shown)))?;
    }
    if i64::try_from(groups.len()).is_ok_and(|count| count >= MAX_GROUPS) {
        print(format!(
            "These are the {MAX_GROUPS} most frequent kinds: `dead-letters list` shows the others."
        ))?;
    }
    if let Some(line) = unpublished(&backlog) {
        print(line)?;
    }
    for partition in &partitions {
        print(in_a_row(partition, settings))?;
    }
    Ok(())
}

fn table(groups: &[LetterGroup]) -> Table {
    let header = ["topic", "reason", "message", "count", "first (UTC)", "latest (UTC)", "example"];
    let rows = groups.iter().map(|group| {
        let LetterGroup { topic, reason, message, count, first_at, latest_at, example_id } = group;
        let count = HumanCount(u64::try_from(*count).unwrap_or(0)).to_string();
        let (topic, reason, message) = (topic.clone(), reason.clone(), message.clone());
        [topic, reason, message, count, minute(first_at), minute(latest_at), example_id.to_string()]
    });
    output::table(header, &[3, 6], rows)
}

/// `2026-01-05T13:00:59Z` as `2026-01-05 13:00`
fn minute(at: &str) -> String {
    at.get(..16).unwrap_or(at).replace('T', " ")
}

fn unpublished(backlog: &Backlog) -> Option<String> {
    if backlog.unpublished == 0 {
        return None;
    }
    let age = backlog.oldest_unpublished_seconds.unwrap_or(0).max(0);
    let mut line = format!("{} not published yet, the oldest for {age} s", letters(backlog.unpublished));
    if backlog.unpublishable > 0 {
        line.push_str(&format!("; the broker refuses {} of them for good", backlog.unpublishable));
    }
    line.push('.');
    Some(line)
}

fn in_a_row(partition: &InARow, settings: &Settings) -> String {
    let InARow { topic, partition, dead_in_a_row, stopped } = partition;
    if *stopped {
        let topic = topic.strip_prefix(settings.topic_prefix.as_str()).unwrap_or(topic);
        return format!(
            "{topic}/{partition} is STOPPED after {dead_in_a_row} unusable records in a row: fix the producer, then \
             run `voiceclone-events dead-letters accept --topic {topic} --partition {partition}`."
        );
    }
    format!(
        "{topic}/{partition} has {dead_in_a_row} unusable records in a row; it stops at {}.",
        settings.dead_letter_limit
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_fits_100_columns_and_breaks_no_word() {
        let group = LetterGroup {
            topic: "call.lifecycle".into(),
            reason: "invalid_value".into(),
            message: "status is none of initiated, completed, failed".into(),
            count: 3,
            first_at: "2026-11-27T18:58:38.240Z".into(),
            latest_at: "2026-11-27T18:58:38.240Z".into(),
            example_id: 74,
        };
        let text = table(&[group]).to_string();
        println!("{text}");
        assert!(text.lines().all(|line| line.chars().count() <= output::WIDTH), "{text}");
        for word in
            ["call.lifecycle", "invalid_value", "initiated,", "completed,", "2026-11-27", "18:58", "74"]
        {
            assert!(text.contains(word), "{word} is broken: {text}");
        }
    }
}
