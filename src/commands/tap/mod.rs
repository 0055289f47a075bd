//! `tap`: records as they arrive, or from an offset or time on, decoded and masked, with the outcome of each (contract,
//! section 8). It joins no group, and rolls back every write.
//!
//! ```text
//! mod      -> the ranges of the partitions, and the loop
//! one      -> `--offset`: the outcome of one record
//! effects  -> the rows that a record would make or change
//! record   -> pure: one record as a line or as JSON, and the filters
//! ```

pub mod effects;
mod one;
mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{anyhow, bail};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::effects::rehearse;
use self::record::Judged;
use super::publish::require_topics;
use super::replay::{bound, in_order};
use crate::cli::Usage;
use crate::cli::tap::TapArgs;
use crate::config::Settings;
use crate::event::{Limits, decode};
use crate::ingest::Ingest;
use crate::kafka::admin::{self, TopicState};
use crate::kafka::range::{Bound, Missing, Range};
use crate::kafka::tail::{Seen, Tail, TailRange};
use crate::output::{print, say};
use crate::record::{Record, Topic, TopicPartition};
use crate::store::write::Mode;

/// Maximum time for a request to the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for the client to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of records read ahead of the output.
const READ_AHEAD: usize = 8;

/// Prints records until Ctrl-C, `--to` or `--limit`; with `--offset` the outcome of one.
pub async fn run(
    settings: &Settings,
    args: &TapArgs,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    if args.effects && settings.database_url.is_empty() {
        let text = "--effects asks the database, and DATABASE_URL is not set: set it, or leave --effects out";
        return Err(Usage::new(text).into());
    }
    let from = args.from.as_deref().map(|text| bound("--from", text)).transpose()?;
    let to = args.to.as_deref().map(|text| bound("--to", text)).transpose()?;
    in_order(from, to)?;
    if let (Some(offset), Some(topic), Some(partition)) = (args.offset, args.topic, args.partition) {
        let place = TopicPartition::new(topic, partition);
        return one::run(settings, place, offset, args.effects, json, &cancel).await;
    }
    let rehearsal = match args.effects {
        true => Some(Ingest::new(settings, super::store(settings).await?, None, Mode::Rehearse)),
        false => None,
    };
    let judge = Judge { settings, rehearsal, cancel: cancel.clone() };

    let topics = topics(settings, args.topic).await?;
    let (ours, partition) = (settings.clone(), args.partition);
    let asked = tokio::task::spawn_blocking(move || {
        let tail = Tail::new(&ours)?;
        let spans = spans(&tail, &topics, partition, (from, to))?;
        anyhow::Ok((tail, spans))
    });
    let (tail, spans) = tokio::select! {
        asked = asked => asked??,
        () = cancel.cancelled() => return Ok(()),
    };
    say(heading(settings, args, &spans));
    let mut reading = TapReader::start(tail, spans);
    let shown = show(&judge, &mut reading, args, json).await;
    reading.end().await;
    shown
}

/// The requested topic, which must exist; without one, the existing ones of the five.
async fn topics(settings: &Settings, wanted: Option<Topic>) -> anyhow::Result<Vec<Topic>> {
    let ours = settings.clone();
    let asked = tokio::task::spawn_blocking(move || {
        if let Some(topic) = wanted {
            require_topics(&ours, &[topic])?;
            return Ok(vec![topic]);
        }
        let names = Topic::ALL.map(|topic| ours.topic_name(topic));
        let states = admin::topic_states(&ours, &names, BROKER_TIMEOUT)?;
        let mut existing = Vec::new();
        for ((topic, name), state) in Topic::ALL.into_iter().zip(names).zip(states) {
            match state {
                TopicState::There { .. } => existing.push(topic),
                TopicState::Missing => say(format!("{name} does not exist, and is left out.")),
                TopicState::Refused(why) => say(format!("{name} is left out: {why}")),
            }
        }
        if existing.is_empty() {
            bail!("there is nothing to show: correct TOPIC_PREFIX or KAFKA_BOOTSTRAP_SERVERS");
        }
        Ok(existing)
    });
    asked.await?
}

/// The range to read of each partition. Blocks.
fn spans(
    tail: &Tail,
    topics: &[Topic],
    partition: Option<i32>,
    (from, to): (Option<Bound>, Option<Bound>),
) -> anyhow::Result<BTreeMap<TopicPartition, TailRange>> {
    let mut spans = BTreeMap::new();
    for topic in topics {
        for range in tail.resolve(*topic, partition, from, to)? {
            if let Missing::Offsets { from, to } = range.missing {
                say(format!(
                    "{topic}/{} no longer has offsets {from} to {}: retention has removed them.",
                    range.partition,
                    to - 1
                ));
            }
            spans.insert(
                TopicPartition::new(*topic, range.partition),
                span(&range, from.is_some(), to.is_some()),
            );
        }
    }
    Ok(spans)
}

fn span(range: &Range, has_from: bool, has_to: bool) -> TailRange {
    match (has_from, has_to) {
        (_, true) => TailRange { from: range.start, to: Some(range.end) },
        (true, false) => TailRange { from: range.start, to: None },
        (false, false) => TailRange { from: range.end, to: None },
    }
}

fn heading(settings: &Settings, args: &TapArgs, spans: &BTreeMap<TopicPartition, TailRange>) -> String {
    let mut topics: Vec<String> = spans.keys().map(|place| settings.topic_name(place.topic)).collect();
    topics.dedup();
    let place = match (&args.from, &args.to) {
        (None, None) => "from now on".to_owned(),
        (Some(from), None) => format!("from {from} on"),
        (None, Some(to)) => format!("until {to}"),
        (Some(from), Some(to)) => format!("from {from} until {to}"),
    };
    let end = if args.to.is_none() { "; Ctrl-C ends" } else { "" };
    format!("Shows {} {place}{end}.", topics.join(", "))
}

/// Decides the outcome of records.
struct Judge<'a> {
    settings: &'a Settings,
    rehearsal: Option<Ingest>,
    cancel: CancellationToken,
}

impl Judge<'_> {
    /// The record with its outcome; `None` where it was interrupted.
    async fn judge<'r>(&self, record: &'r Record) -> anyhow::Result<Option<Judged<'r>>> {
        let mut judged = decoded(self.settings, record, self.settings.limits());
        if let (Some(ingest), None) = (&self.rehearsal, &judged.unusable) {
            match rehearse(ingest, record, &self.cancel).await? {
                None => return Ok(None),
                Some(Ok(effects)) => judged.effects = Some(effects),
                Some(Err(unusable)) => judged.unusable = Some(unusable),
            }
        }
        Ok(Some(judged))
    }
}

fn decoded<'r>(settings: &Settings, record: &'r Record, limits: Limits) -> Judged<'r> {
    let unusable = decode(record, limits).err();
    Judged { topic_name: settings.topic_name(record.topic), record, unusable, effects: None }
}

async fn show(judge: &Judge<'_>, reading: &mut TapReader, args: &TapArgs, json: bool) -> anyhow::Result<()> {
    let mut shown = 0_u64;
    loop {
        let seen = tokio::select! {
            biased;
            () = judge.cancel.cancelled() => return Ok(()),
            seen = reading.seen.recv() => seen,
        };
        let record = match seen {
            None => return Ok(()),
            Some(Err(error)) => return Err(error),
            Some(Ok(Seen::Nothing)) => continue,
            Some(Ok(Seen::Failed(place, why))) => {
                say(format!("{place} cannot be read: {why}"));
                continue;
            }
            Some(Ok(Seen::Record(record))) => record,
        };
        let Some(judged) = judge.judge(&record).await? else { return Ok(()) };
        if !judged.passes(args) {
            continue;
        }
        if json {
            print(Value::Object(judged.object()))?;
        } else {
            print(judged.line())?;
        }
        shown += 1;
        if args.limit.is_some_and(|limit| shown >= limit) {
            return Ok(());
        }
    }
}

/// A thread that reads: librdkafka's calls block.
struct TapReader {
    seen: mpsc::Receiver<anyhow::Result<Seen>>,
    thread: std::thread::JoinHandle<()>,
}

impl TapReader {
    fn start(tail: Tail, spans: BTreeMap<TopicPartition, TailRange>) -> TapReader {
        let (sender, seen) = mpsc::channel(READ_AHEAD);
        let thread = std::thread::spawn(move || {
            let read = tail.read(&spans, |seen| match seen {
                Seen::Nothing => !sender.is_closed(),
                seen => sender.blocking_send(Ok(seen)).is_ok(),
            });
            if let Err(error) = read {
                // the receiver is gone only when the command ends
                let _ = sender.blocking_send(Err(error));
            }
        });
        TapReader { seen, thread }
    }

    /// Returns the first record, if any, and closes the client.
    async fn first(mut self) -> anyhow::Result<Option<Record>> {
        let first = loop {
            match self.seen.recv().await {
                None => break Ok(None),
                Some(Ok(Seen::Record(record))) => break Ok(Some(record)),
                Some(Ok(Seen::Nothing)) => {}
                Some(Ok(Seen::Failed(place, why))) => break Err(anyhow!("{place} cannot be read: {why}")),
                Some(Err(error)) => break Err(error),
            }
        };
        self.end().await;
        first
    }

    async fn end(self) {
        drop(self.seen);
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        if tokio::time::timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::debug!("the Kafka client did not end in time");
        }
    }
}
