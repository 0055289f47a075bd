//! `replay`: a range of a topic once more, through the same code as the daemon and beside it. The group's
//! offsets stay where they are; events are idempotent, so that nothing happens twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::Usage;
use crate::commands::tally::{Rows, Tally};
use crate::config::Settings;
use crate::event::Time;
use crate::ingest::{Ingest, Positions, Stop};
use crate::kafka::range::{Bound, Eaten, Range, Reader};
use crate::output::print;
use crate::record::{Record, Topic};
use crate::store::offsets::Position;
use crate::store::write::Mode;

/// How often a line tells of the progress where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What to read, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The topic, without `TOPIC_PREFIX`.
    pub topic: String,
    /// Only this partition.
    pub partition: Option<i32>,
    /// A time or an offset.
    pub from: Option<String>,
    /// A time or an offset.
    pub to: Option<String>,
    /// Only say what would change.
    pub dry_run: bool,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was read and written; exit status 0.
    Done,
    /// It was cancelled, and has said how to go on; exit status 1.
    Interrupted,
}

/// Replays. The plan and the progress go to standard error, the result to standard output, with `json` as one
/// object.
pub async fn run(
    settings: &Settings,
    options: Options,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<Outcome> {
    let Some(topic) = Topic::from_name(&options.topic) else {
        let names = Topic::ALL.map(Topic::name).join(", ");
        let text = format!("--topic is {:?}: give one of {names}, without TOPIC_PREFIX", options.topic);
        return Err(Usage::new(text).into());
    };
    let from = options.from.as_deref().map(|text| bound("--from", text)).transpose()?;
    let to = options.to.as_deref().map(|text| bound("--to", text)).transpose()?;
    in_order(from, to)?;

    let mut replay = tokio::select! {
        replay = Replay::prepare(settings, &options, topic, (from, to)) => replay?,
        () = cancel.cancelled() => {
            return stopped_early(json, &options);
        }
    };
    say(&replay.plan())?;
    let ended = replay.read(&cancel).await;
    replay.progress.clear();
    let outcome = match &ended {
        Ok(Outcome::Done) => "done",
        Ok(Outcome::Interrupted) => "interrupted",
        Err(_) => "failed",
    };
    replay.report(outcome, json)?;
    replay.reader.close().await;
    ended
}

fn stopped_early(json: bool, options: &Options) -> anyhow::Result<Outcome> {
    if json {
        print(
            json!({ "topic": options.topic, "dry_run": options.dry_run, "outcome": "interrupted", "records": 0 }),
        )?;
    }
    say("Interrupted before anything was read: run the same command again.")?;
    Ok(Outcome::Interrupted)
}

/// An integer is an offset, anything else a time.
pub(super) fn bound(flag: &str, text: &str) -> anyhow::Result<Bound> {
    let offset = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok().map(Bound::Offset)
    } else {
        None
    };
    match offset.or_else(|| Time::parse(text).ok().map(Bound::Time)) {
        Some(bound) => Ok(bound),
        None => {
            let remedy = "give an offset like 1200, or a time like 2025-06-01T12:00:00Z";
            Err(Usage::new(format!("{flag} is {text:?}: {remedy}")).into())
        }
    }
}

pub(super) fn in_order(from: Option<Bound>, to: Option<Bound>) -> anyhow::Result<()> {
    let ordered = match (from, to) {
        (Some(Bound::Offset(from)), Some(Bound::Offset(to))) => from < to,
        (Some(Bound::Time(from)), Some(Bound::Time(to))) => from < to,
        _ => true,
    };
    if !ordered {
        let text = "--from is not before --to, so that there is nothing to read: give a --to behind --from";
        return Err(Usage::new(text).into());
    }
    Ok(())
}

/// One replay with all its state.
struct Replay {
    topic: Topic,
    dry_run: bool,
    ranges: Vec<Range>,
    reader: Reader,
    ingest: Ingest,
    /// Where each partition that is read stands: what lies before has landed.
    landed: Positions,
    records: u64,
    unusable: u64,
    new_dead_letters: u64,
    rows: Tally,
    progress: Progress,
}

impl Replay {
    async fn prepare(
        settings: &Settings,
        options: &Options,
        topic: Topic,
        (from, to): (Option<Bound>, Option<Bound>),
    ) -> anyhow::Result<Replay> {
        let store = super::store(settings).await?;
        let reader = Reader::new(settings, topic)?;
        let ranges = reader.resolve(options.partition, from, to).await?;
        let mode = if options.dry_run { Mode::Rehearse } else { Mode::Replay };
        let start = |range: &Range| ((topic, range.partition), Position::at(range.start, None));
        Ok(Replay {
            topic,
            dry_run: options.dry_run,
            progress: Progress::new(ranges.iter().map(Range::offsets).sum()),
            landed: ranges.iter().filter(|range| range.offsets() > 0).map(start).collect(),
            ranges,
            reader,
            ingest: Ingest::new(settings, store, None, mode),
            records: 0,
            unusable: 0,
            new_dead_letters: 0,
            rows: Tally::default(),
        })
    }

    /// What will be read, for a person.
    fn plan(&self) -> String {
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
            let _ = match range.eaten {
                Eaten::Nothing => Ok(()),
                Eaten::Offsets { from, to } => writeln!(
                    text,
                    "WARNING: the topic no longer has offsets {from} to {} of partition {partition}: retention has \
                     removed them, and they CANNOT be replayed.",
                    to - 1
                ),
                Eaten::Perhaps => writeln!(
                    text,
                    "WARNING: the oldest record that partition {partition} still has is already from the time asked \
                     for: retention MAY have removed earlier ones, which cannot be replayed."
                ),
            };
        }
        text.truncate(text.trim_end().len());
        text
    }

    async fn read(&mut self, cancel: &CancellationToken) -> anyhow::Result<Outcome> {
        if self.landed.is_empty() {
            return Ok(Outcome::Done);
        }
        self.reader.start(&self.ranges)?;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let chunk = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Outcome::Interrupted),
                chunk = self.reader.next() => chunk?,
                _ = tick.tick() => {
                    self.show();
                    continue;
                }
            };
            let Some(chunk) = chunk else {
                return Ok(Outcome::Done);
            };
            if !self.write(&chunk, &mut tick, cancel).await? {
                return Ok(Outcome::Interrupted);
            }
            self.show();
        }
    }

    /// Writes a chunk; false when cancelled before all of it has landed.
    async fn write(
        &mut self,
        chunk: &[Record],
        tick: &mut tokio::time::Interval,
        cancel: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let result = {
            let write = self.ingest.write(chunk, &mut self.landed, cancel);
            tokio::pin!(write);
            loop {
                tokio::select! {
                    result = &mut write => break result,
                    _ = tick.tick() => self.progress.show_again(),
                }
            }
        };
        match result {
            Ok(written) => {
                for (table, rows) in &written.rows {
                    self.rows.add(table, rows)?;
                }
                self.unusable += written.unusable;
                self.new_dead_letters += written.dead_letters;
                self.records += chunk.len() as u64;
                Ok(true)
            }
            Err(Stop::Cancelled) => {
                // Where PostgreSQL had refused a row, pieces of the chunk may have landed before.
                let landed = |record: &&Record| {
                    self.landed
                        .get(&(record.topic, record.partition))
                        .is_some_and(|position| record.offset < position.next_offset)
                };
                self.records += chunk.iter().filter(landed).count() as u64;
                Ok(false)
            }
            Err(Stop::Fenced) => bail!("this is a bug: a replay moves no offsets and met a fence"),
        }
    }

    fn show(&mut self) {
        let done = self
            .ranges
            .iter()
            .filter_map(|range| {
                let at = self.landed.get(&(self.topic, range.partition))?.next_offset;
                let complete = self.reader.is_complete(range.partition, at);
                let at = if complete { range.end } else { at.min(range.end) };
                u64::try_from(at - range.start).ok()
            })
            .sum();
        self.progress.show(done, self.records);
    }

    /// What is left to read: partition, the offset to go on from, the offset to stop before.
    fn unfinished(&self) -> Vec<(i32, i64, i64)> {
        self.ranges
            .iter()
            .filter_map(|range| {
                let at = self.landed.get(&(self.topic, range.partition))?.next_offset;
                let left = at < range.end && !self.reader.is_complete(range.partition, at);
                left.then_some((range.partition, at, range.end))
            })
            .collect()
    }

    /// This program called as it was, for what is left of one partition.
    fn command(&self, (partition, from, to): (i32, i64, i64)) -> String {
        let mut words = without_range(std::env::args());
        words.extend(["--partition", &partition.to_string(), "--from", &from.to_string()].map(String::from));
        words.extend(["--to", &to.to_string()].map(String::from));
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    fn report(&mut self, outcome: &str, json: bool) -> anyhow::Result<()> {
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
            say(&format!("{how}. What was counted stays as it is; to go on from there:"))?;
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
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(heads);
        for (name, rows) in tables {
            table.add_row([
                (*name).to_owned(),
                count(rows.made),
                count(rows.changed),
                count(rows.left_alone),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
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

/// The words of a command without those that say what range to read.
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

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=+,@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Records, rate and the time left: a bar on a terminal, else a line every few seconds.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    total: u64,
    started: Instant,
    line: Instant,
    last: (u64, u64),
}

impl Progress {
    fn new(total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal && total > 0 { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Progress { bar, terminal, total, started: now, line: now, last: (0, 0) }
    }

    fn show(&mut self, offsets: u64, records: u64) {
        self.last = (offsets, records);
        self.show_again();
    }

    fn show_again(&mut self) {
        let (offsets, records) = self.last;
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "for a person to read")]
        let (rate, left) =
            (records as f64 / seconds, self.total.saturating_sub(offsets) as f64 * seconds / offsets as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is not negative")]
        let rate = HumanCount(rate as u64);
        let left = Duration::try_from_secs_f64(left)
            .map_or_else(|_| "time left unknown".to_owned(), |left| format!("{} left", HumanDuration(left)));
        let text = format!("{} records, {rate}/s, {left}", HumanCount(records));
        if self.terminal {
            self.bar.set_message(text);
            self.bar.set_position(offsets);
        } else if self.line.elapsed() >= LINE_EVERY {
            self.line = Instant::now();
            let percent = offsets.saturating_mul(100).checked_div(self.total).unwrap_or(100);
            let _ = say(&format!("{percent} %, {text}"));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("standard error could not be written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_an_offset_or_a_time() {
        assert_eq!(bound("--from", "1200").unwrap(), Bound::Offset(1200));
        let time = Time::parse("2025-06-01T12:00:00Z").unwrap();
        assert_eq!(bound("--from", "2025-06-01T12:00:00Z").unwrap(), Bound::Time(time));
        for bad in ["", "-1", "1.5", "yesterday", "99999999999999999999", "2025-06-01"] {
            let error = bound("--to", bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--to is {bad:?}: give an offset like")), "{error}");
            assert!(error.contains("or a time like"), "{error}");
        }
    }

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

    #[test]
    fn from_is_before_to() {
        assert!(in_order(Some(Bound::Offset(1)), Some(Bound::Offset(2))).is_ok());
        assert!(in_order(Some(Bound::Offset(2)), Some(Bound::Offset(2))).is_err());
        assert!(in_order(None, Some(Bound::Offset(0))).is_ok());
        assert!(in_order(Some(Bound::Offset(9)), Some(Bound::Time(Time::MAX))).is_ok());
    }
}
