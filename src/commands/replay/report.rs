//! The plan and the result of a replay, for a person or as JSON, and the commands that finish an interrupted one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use indicatif::HumanCount;
use serde_json::json;

use super::{Replay, say};
use crate::commands::tally::Rows;
use crate::kafka::range::Missing;
use crate::output::{self, print};

impl Replay {
    /// The ranges to read, for a person.
    pub(super) fn plan(&self) -> String {
        let mut text = String::new();
        let verb = if self.dry_run { "Would replay" } else { "Replays" };
        let _ = writeln!(text, "{verb} {}:", self.ingest.topic_name(self.topic));
        for range in &self.ranges {
            let _ = match range.offsets() {
                0 => writeln!(text, "  partition {}: nothing", range.partition),
                count => writeln!(
                    text,
                    "  partition {}: offsets {} to {} ({})",
                    range.partition,
                    range.start,
                    range.end - 1,
                    HumanCount(count)
                ),
            };
        }
        for range in &self.ranges {
            let partition = range.partition;
            let _ = match range.missing {
                Missing::None => Ok(()),
                Missing::Offsets { from, to } => writeln!(
                    text,
                    "WARNING: the topic no longer has offsets {from} to {} of partition {partition}: retention has \
                     removed them, and they CANNOT be replayed.",
                    to - 1
                ),
                Missing::Unknown => writeln!(
                    text,
                    "WARNING: the oldest record that partition {partition} still has is already from the time asked \
                     for: retention MAY have removed earlier ones, which cannot be replayed."
                ),
            };
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// The command line of this process, for the rest of one partition.
    fn command(&self, (partition, from, to): (i32, i64, i64)) -> String {
        let mut words = without_range(std::env::args());
        words.extend(["--partition", &partition.to_string(), "--from", &from.to_string()].map(String::from));
        words.extend(["--to", &to.to_string()].map(String::from));
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn report(&mut self, outcome: &str, json: bool) -> anyhow::Result<()> {
        let unfinished = if outcome == "done" { Vec::new() } else { self.unfinished() };
        let tables = self.rows.count()?;
        print(if json {
            self.object(outcome, &tables, &unfinished).to_string()
        } else {
            self.table(&tables)
        })?;
        for lost in self.reader.lost() {
            say(&format!(
                "WARNING: retention removed offsets {} to {} of partition {} before they could be read.",
                lost.from,
                lost.to - 1,
                lost.partition
            ))?;
        }
        if outcome != "done" {
            let how = if outcome == "failed" { "Failed" } else { "Interrupted" };
            if unfinished.is_empty() {
                return say(&format!("{how} when everything was read already: nothing is left to do."));
            }
            say(&format!("{how}. Counted records stay written; to continue from there:"))?;
            for part in unfinished {
                say(&format!("  {}", self.command(part)))?;
            }
        }
        Ok(())
    }

    fn object(
        &self,
        outcome: &str,
        tables: &BTreeMap<&'static str, Rows>,
        unfinished: &[(i32, i64, i64)],
    ) -> serde_json::Value {
        let unfinished: Vec<_> = unfinished
            .iter()
            .map(|part| json!({ "partition": part.0, "from": part.1, "to": part.2, "command": self.command(*part) }))
            .collect();
        json!({
            "topic": self.topic.name(),
            "dry_run": self.dry_run,
            "outcome": outcome,
            "ranges": self.ranges,
            "lost": self.reader.lost(),
            "records": self.records,
            "tables": tables,
            "unusable": self.unusable,
            "new_dead_letters": self.new_dead_letters,
            "unfinished": unfinished,
        })
    }

    fn table(&self, tables: &BTreeMap<&'static str, Rows>) -> String {
        let count = |number: u64| HumanCount(number).to_string();
        let heads = if self.dry_run {
            ["table", "rows it would make", "would change", "would leave alone"]
        } else {
            ["table", "rows made", "changed", "left alone"]
        };
        let rows = tables.iter().map(|(name, rows)| {
            [(*name).to_owned(), count(rows.made), count(rows.changed), count(rows.left_alone)]
        });
        let table = output::table(heads, &[1, 2, 3], rows);
        let mut text = if tables.is_empty() { String::new() } else { format!("{table}\n") };
        let (verb, would) = if self.dry_run { ("tried", "would be") } else { ("replayed", "are") };
        let _ = write!(text, "{} records {verb}", count(self.records));
        let _ = match self.unusable {
            0 => write!(text, ", none of them unusable."),
            unusable => write!(
                text,
                ", {} of them unusable; {} of these {would} new dead letters.",
                count(unusable),
                count(self.new_dead_letters)
            ),
        };
        text
    }
}

/// The words of a command without the flags of the range.
fn without_range(words: impl Iterator<Item = String>) -> Vec<String> {
    const RANGE: [&str; 3] = ["--partition", "--from", "--to"];
    let mut kept = Vec::new();
    let mut value_follows = false;
    for word in words {
        if std::mem::take(&mut value_follows) {
            continue;
        }
        value_follows = RANGE.contains(&word.as_str());
        let (name, _) = word.split_once('=').unwrap_or((&word, ""));
        if !RANGE.contains(&name) {
            kept.push(word);
        }
    }
    kept
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=+,@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_given_again_with_its_settings_and_without_its_range() {
        let words = "a/b --topic-prefix x. replay --partition 3 --topic t --from=7 --to 9 --dry-run --json";
        assert_eq!(
            without_range(words.split(' ').map(String::from)).join(" "),
            "a/b --topic-prefix x. replay --topic t --dry-run --json"
        );
        assert_eq!(quoted("a/b"), "a/b");
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
