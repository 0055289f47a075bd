//! `replay`: reads a range of a topic again, through the same code as the daemon and beside it. The group's
//! offsets do not move; events are idempotent, so nothing happens twice.
//!
//! - `bounds`: `--from` and `--to`;
//! - `progress`: a bar or a line every few seconds;
//! - `report`: the plan, the result, and the commands that finish an interrupted replay.

mod bounds;
mod progress;
mod report;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::progress::ReplayProgress;
use crate::cli::Usage;
use crate::commands::tally::Tally;
use crate::config::Settings;
use crate::ingest::{Ingest, Positions, Stop};
use crate::kafka::range::{Bound, Range, RangeReader};
use crate::output::print;
use crate::record::{Record, Topic};
use crate::store::offsets::Position;
use crate::store::write::Mode;
use crate::traces;

pub(super) use self::bounds::{bound, in_order};

/// The range to read, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// The topic, without `TOPIC_PREFIX`.
    pub topic: String,
    /// Only this partition.
    pub partition: Option<i32>,
    /// A time or an offset.
    pub from: Option<String>,
    /// A time or an offset.
    pub to: Option<String>,
    /// Only report the changes.
    pub dry_run: bool,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// Everything was read and written; exit status 0.
    Done,
    /// The replay was cancelled, and printed how to continue; exit status 1.
    Interrupted,
}

/// Replays a range. The plan and the progress go to standard error, the result to standard output, with `json` as one
/// object.
pub async fn run(
    settings: &Settings,
    options: ReplayOptions,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ReplayOutcome> {
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
    replay.end_span(&ended);
    let outcome = match &ended {
        Ok(ReplayOutcome::Done) => "done",
        Ok(ReplayOutcome::Interrupted) => "interrupted",
        Err(_) => "failed",
    };
    replay.report(outcome, json)?;
    replay.reader.close().await;
    ended
}

fn stopped_early(json: bool, options: &ReplayOptions) -> anyhow::Result<ReplayOutcome> {
    if json {
        print(
            json!({ "topic": options.topic, "dry_run": options.dry_run, "outcome": "interrupted", "records": 0 }),
        )?;
    }
    say("Interrupted before anything was read: run the same command again.")?;
    Ok(ReplayOutcome::Interrupted)
}

/// One replay with all its state.
struct Replay {
    topic: Topic,
    dry_run: bool,
    ranges: Vec<Range>,
    reader: RangeReader,
    ingest: Ingest,
    /// The position of each partition that is read: every record before it has landed.
    landed: Positions,
    records: u64,
    unusable: u64,
    new_dead_letters: u64,
    rows: Tally,
    progress: ReplayProgress,
}

impl Replay {
    async fn prepare(
        settings: &Settings,
        options: &ReplayOptions,
        topic: Topic,
        (from, to): (Option<Bound>, Option<Bound>),
    ) -> anyhow::Result<Replay> {
        let store = super::store(settings).await?;
        let reader = RangeReader::new(settings, topic)?;
        let ranges = reader.resolve(options.partition, from, to).await?;
        let mode = if options.dry_run { Mode::Rehearse } else { Mode::Replay };
        let start = |range: &Range| ((topic, range.partition), Position::at(range.start, None));
        Ok(Replay {
            topic,
            dry_run: options.dry_run,
            progress: ReplayProgress::new(ranges.iter().map(Range::offsets).sum()),
            landed: ranges.iter().filter(|range| range.offsets() > 0).map(start).collect(),
            ranges,
            reader,
            ingest: Ingest {
                span: traces::root("replay", Some(topic)),
                ..Ingest::new(settings, store, None, mode)
            },
            records: 0,
            unusable: 0,
            new_dead_letters: 0,
            rows: Tally::default(),
        })
    }

    async fn read(&mut self, cancel: &CancellationToken) -> anyhow::Result<ReplayOutcome> {
        if self.landed.is_empty() {
            return Ok(ReplayOutcome::Done);
        }
        self.reader.start(&self.ranges)?;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let chunk = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(ReplayOutcome::Interrupted),
                chunk = self.reader.next() => chunk?,
                _ = tick.tick() => {
                    self.show();
                    continue;
                }
            };
            let Some(chunk) = chunk else {
                return Ok(ReplayOutcome::Done);
            };
            if !self.write(&chunk, &mut tick, cancel).await? {
                return Ok(ReplayOutcome::Interrupted);
            }
            self.show();
        }
    }

    fn end_span(&self, ended: &anyhow::Result<ReplayOutcome>) {
        let span = &self.ingest.span;
        span.count("voiceclone.records", self.records);
        span.count("voiceclone.dead_letters", self.unusable);
        match ended {
            Ok(ReplayOutcome::Done) => {}
            Ok(ReplayOutcome::Interrupted) => span.failed("interrupted"),
            Err(_) => span.failed("failed"),
        }
        span.end();
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
                // Parts of the chunk may have landed before: a refused row makes `Ingest` split it.
                let landed = |record: &&Record| {
                    self.landed
                        .get(&(record.topic, record.partition))
                        .is_some_and(|position| record.offset < position.next_offset)
                };
                self.records += chunk.iter().filter(landed).count() as u64;
                Ok(false)
            }
            Err(Stop::Fenced) => bail!("this is a bug: a replay moves no offsets and hit a fence"),
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

    /// The unread rest: partition, next offset, end offset.
    fn unfinished(&self) -> Vec<(i32, i64, i64)> {
        self.ranges
            .iter()
            .filter_map(|range| {
                let at = self.landed.get(&(self.topic, range.partition))?.next_offset;
                let is_unfinished = at < range.end && !self.reader.is_complete(range.partition, at);
                is_unfinished.then_some((range.partition, at, range.end))
            })
            .collect()
    }
}

/// Prints a line to standard error. A replay that cannot report how to continue must not go on.
fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("standard error could not be written")
}
