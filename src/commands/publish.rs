//! `publish`: sends one JSON object per line, each checked first as the daemon would check it.

pub mod check;

mod advice;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::Usage;
use crate::config::Settings;
use crate::event::{Event, Limits, Reason, Unusable, decode};
use crate::kafka::admin::{self, TopicState};
use crate::kafka::send::Sender;
use crate::output::{print, say};
use crate::record::{Outgoing, Record, Topic};

/// Size of a read in bytes; its lines are sent together.
const CHUNK_BYTES: usize = 1 << 20;
/// Maximum number of lines sent together.
const CHUNK_LINES: usize = 1000;
/// Maximum number of refused lines kept for `--json`; all of them are counted.
const MAX_REFUSED_KEPT: usize = 10_000;
/// Maximum time for a request to the broker.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// A line that is not blank.
struct InputLine {
    number: u64,
    bytes: Vec<u8>,
    /// The line exceeds the maximum size of a record, and its rest was dropped.
    is_cut: bool,
}

/// A line that was not sent.
#[derive(Serialize)]
struct Refused {
    line: u64,
    /// Only `--check` sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    reason: &'static str,
    message: String,
}

/// Sends the lines of a file (standard input for none or `-`) to a topic, given by its name with or without
/// the prefix. Reports and skips lines that the daemon could not use; returns `false` where there was one, and where it was
/// cancelled before the end of the input.
pub async fn run(
    settings: &Settings,
    topic: &str,
    file: Option<&Path>,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    let topic = topic_of(settings, topic)?;
    let input = open(file)?;
    let ours = settings.clone();
    tokio::task::spawn_blocking(move || require_topics(&ours, &[topic])).await??;
    let sender = Sender::new(settings)?;
    let limits = settings.limits();

    let mut chunks = lines_of(input, settings.record_max_bytes);
    let (mut sent, mut refused_count, mut refused) = (0_u64, 0_u64, Vec::new());
    while let Some(chunk) = next(&mut chunks, &cancel).await {
        let chunk =
            chunk.with_context(|| format!("the input cannot be read any further; {}", so_far(sent)))?;
        let (mut numbers, mut good) = (Vec::new(), Vec::new());
        for line in chunk {
            let number = line.number;
            match checked(topic, line, limits) {
                Ok(outgoing) => {
                    numbers.push(number);
                    good.push(outgoing);
                }
                Err(Unusable { reason, message }) => {
                    refused_count += 1;
                    if !json {
                        say(format!("line {number}: {reason}: {message}"));
                    } else if refused.len() < MAX_REFUSED_KEPT {
                        refused.push(Refused { line: number, field: None, reason: reason.name(), message });
                    }
                }
            }
        }
        let outcomes = sender.send_all(&good).await;
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        sent += done as u64;
        let failed = numbers
            .iter()
            .zip(&outcomes)
            .find_map(|(number, outcome)| outcome.as_ref().err().map(|error| (number, error)));
        if let Some((number, error)) = failed {
            bail!(
                "line {number} could not be sent ({error}); {}. Send the input again once that is fixed: a record \
                 that is sent twice counts once",
                so_far(sent)
            );
        }
    }

    let interrupted = cancel.is_cancelled();
    if json {
        print(
            json!({"sent": sent, "interrupted": interrupted, "refused_count": refused_count, "refused": refused}),
        )?;
    } else {
        print(format!("{sent} {} sent to {}", records(sent), settings.topic_name(topic)))?;
    }
    if refused_count > 0 && !json {
        let lines = if refused_count == 1 { "line was" } else { "lines were" };
        say(format!(
            "{refused_count} {lines} not sent: correct the errors above and publish the corrected lines"
        ));
    }
    if interrupted && !json {
        say(
            "interrupted before the end of the input: publish it again, as a record that is sent twice counts once",
        );
    }
    Ok(refused_count == 0 && !interrupted)
}

/// Opens the input: a file, or standard input for none or `-`.
fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn Read + Send>> {
    Ok(match file.filter(|file| *file != Path::new("-")) {
        Some(path) => {
            Box::new(File::open(path).with_context(|| format!("{} cannot be read", path.display()))?)
        }
        None => Box::new(io::stdin()),
    })
}

/// Reads the lines of the input in chunks, on a thread of its own.
fn lines_of(input: Box<dyn Read + Send>, max_bytes: usize) -> mpsc::Receiver<io::Result<Vec<InputLine>>> {
    // A blocking task would delay the runtime's shutdown until the next line from a terminal.
    let (lines, chunks) = mpsc::channel(2);
    std::thread::spawn(move || {
        if let Err(error) = read(input, max_bytes, &lines) {
            // the receiver is gone only when the command ends
            let _ = lines.blocking_send(Err(error));
        }
    });
    chunks
}

/// The next lines of the input; `None` at its end, or when cancelled.
async fn next<T>(chunks: &mut mpsc::Receiver<T>, cancel: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        chunk = chunks.recv() => chunk,
    }
}

/// The topic of a name with or without the prefix.
fn topic_of(settings: &Settings, name: &str) -> anyhow::Result<Topic> {
    let bare = name.strip_prefix(settings.topic_prefix.as_str()).and_then(Topic::from_name);
    match Topic::from_name(name).or(bare) {
        Some(topic) => Ok(topic),
        None => {
            let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.name()).collect();
            let text = format!("--topic is {name:?}: give one of {}", names.join(", "));
            Err(Usage::new(text).into())
        }
    }
}

/// Returns an error that names a missing topic. Blocks.
pub(crate) fn require_topics(settings: &Settings, topics: &[Topic]) -> anyhow::Result<()> {
    let names: Vec<String> = topics.iter().map(|topic| settings.topic_name(topic)).collect();
    let states = admin::topic_states(settings, &names, BROKER_TIMEOUT)?;
    let missing: Vec<&str> = names
        .iter()
        .zip(&states)
        .filter(|(_, state)| **state == TopicState::Missing)
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let (topics, exist, them) =
            if missing.len() == 1 { ("topic", "does", "it") } else { ("topics", "do", "them") };
        bail!("the {topics} {} {exist} not exist: create {them} first", missing.join(", "));
    }
    for (name, state) in names.iter().zip(states) {
        if let TopicState::Refused(why) = state {
            bail!("the broker refuses the topic {name}: {why}");
        }
    }
    Ok(())
}

/// The record of a line, sent at `timestamp`, in milliseconds since 1970.
fn record_of(topic: Topic, line: InputLine, timestamp: i64) -> Result<Record, Unusable> {
    if line.is_cut {
        return Err(Unusable::new(Reason::TooLarge, "the line has more bytes than RECORD_MAX_BYTES"));
    }
    let value = Some(line.bytes);
    Ok(Record { topic, partition: 0, offset: 0, timestamp, key: None, value, headers: Vec::new() })
}

/// The record to send for a line, or why the daemon could not use it.
fn checked(topic: Topic, line: InputLine, limits: Limits) -> Result<Outgoing, Unusable> {
    let record = record_of(topic, line, Utc::now().timestamp_millis())?;
    let key = match decode(&record, limits)? {
        Event::Ready(event) => event.caller_id,
        Event::Failed(event) => event.caller_id,
        Event::Transfer(event) => event.greeting_call_id,
        Event::Call(event) => event.call_id,
        Event::Mapping(event) => event.caller_id,
    };
    let key = Some(key.as_bytes().to_vec());
    Ok(Outgoing {
        topic: topic.name(),
        key,
        value: record.value,
        headers: Vec::new(),
        timestamp: Some(record.timestamp),
    })
}

/// Reads lines to the end. Passes on the lines of each read at once, so that lines typed one by one are sent one
/// by one.
fn read(
    input: impl Read,
    max_bytes: usize,
    chunks: &mpsc::Sender<io::Result<Vec<InputLine>>>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, input);
    // a line may end in two bytes
    let limit = max_bytes.saturating_add(3) as u64;
    let (mut number, mut chunk, mut size) = (0, Vec::new(), 0);
    loop {
        let mut bytes = Vec::new();
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            break;
        }
        number += 1;
        let mut is_cut = false;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if read as u64 == limit {
            is_cut = true;
            bytes = Vec::new();
            reader.skip_until(b'\n')?;
        }
        if is_cut || !bytes.trim_ascii().is_empty() {
            size += bytes.len();
            chunk.push(InputLine { number, bytes, is_cut });
        }
        let is_full = size >= CHUNK_BYTES || chunk.len() >= CHUNK_LINES;
        if !chunk.is_empty() && (is_full || !reader.buffer().contains(&b'\n')) {
            size = 0;
            if chunks.blocking_send(Ok(std::mem::take(&mut chunk))).is_err() {
                return Ok(());
            }
        }
    }
    if !chunk.is_empty() {
        // the receiver is gone only when the command ends
        let _ = chunks.blocking_send(Ok(chunk));
    }
    Ok(())
}

fn so_far(sent: u64) -> String {
    format!("{sent} {} sent before", if sent == 1 { "record was" } else { "records were" })
}

fn records(count: u64) -> &'static str {
    if count == 1 { "record" } else { "records" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn lines(text: &str, max_bytes: usize) -> Vec<(u64, String, bool)> {
        let (sender, mut chunks) = mpsc::channel(100);
        read(text.as_bytes(), max_bytes, &sender).unwrap();
        drop(sender);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            for line in chunk.unwrap() {
                all.push((line.number, String::from_utf8(line.bytes).unwrap(), line.is_cut));
            }
        }
        all
    }

    #[tokio::test]
    async fn a_wait_for_the_next_lines_ends_when_the_command_is_asked_to_end() {
        let (sender, mut chunks) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        sender.send(1).await.unwrap();
        assert_eq!(next(&mut chunks, &cancel).await, Some(1));
        let asked = cancel.clone();
        let wait = tokio::spawn(async move { next(&mut chunks, &cancel).await });
        asked.cancel();
        assert_eq!(wait.await.unwrap(), None);
        drop(sender);
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_are_skipped() {
        let all = lines("a\r\n\n  \nb\n123456789\nc", 5);
        let expected = [(1, "a", false), (4, "b", false), (5, "", true), (6, "c", false)];
        assert_eq!(all, expected.map(|(number, text, is_cut)| (number, text.to_owned(), is_cut)));
    }

    #[test]
    fn a_line_is_checked_as_by_the_daemon_and_gets_its_key() {
        let limits = Limits { record_max_bytes: 1000, cache_ttl_seconds: 60 };
        let line = |text: &str| InputLine { number: 1, bytes: text.as_bytes().to_vec(), is_cut: false };
        let good =
            checked(Topic::CallLifecycle, line(r#"{"call_id":"c","status":"failed"}"#), limits).unwrap();
        assert_eq!(good.key.as_deref(), Some(b"c".as_slice()));
        let bad = checked(Topic::CallLifecycle, line(r#"{"call_id":"c"}"#), limits).unwrap_err();
        assert_eq!(bad.reason, Reason::MissingField);
    }
}
