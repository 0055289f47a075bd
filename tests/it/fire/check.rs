//! What must hold at the end of a round, when everything was up again and nothing was left to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;
use uuid::{Uuid, uuid};

use super::stage::{PASSWORD, Report, Round};
use super::traffic::PAYLOAD_TEXT;
use crate::model;
use crate::support::kafka::Record;
use crate::support::tables;

/// The contract's namespace (section 3).
const NS: Uuid = uuid!("32912be5-e948-560b-b792-7dcb8baa72b1");

/// Everything that is not as it must be, each with what a person needs to look into it.
pub fn check(round: &Round, report: &mut Report, logs: &Path, number: u64) -> Vec<String> {
    let log = round.log();
    report.add("records compared with the model", log.len() as u64);
    let mut differences = Vec::new();
    let folded = model::fold(&round.scene.inputs(&log), 86_400, 8 * 1024 * 1024);
    let seen = tables::read_with_ids(&round.scene.database);
    report.add("rows compared with the model", seen.values().map(|rows| rows.len() as u64).sum());
    if let Some(difference) = model::first_difference(&folded.tables, &seen) {
        differences
            .push(format!("{difference}\n{}", records_behind(&difference, &folded.tables, &seen, &log)));
    }
    drop(seen);
    dead_letters(round, report, &folded.unusable, &log, &mut differences);
    expiries(round, report, &mut differences);
    log_lines(logs, number, &log, report, &mut differences);
    differences
}

/// The records that name what the row of a difference names.
fn records_behind(
    difference: &str,
    expected: &model::Tables,
    seen: &model::Tables,
    log: &[Record],
) -> String {
    let table = difference.split(':').next().unwrap_or_default();
    let id = difference.split("row ").nth(1).and_then(|rest| rest.get(..36)).unwrap_or_default();
    let row = [expected, seen].into_iter().find_map(|tables| tables.get(table)?.get(id));
    let Some(row) = row else { return "no such row".to_owned() };
    let names: &[&str] = match table {
        "call_log" => &["call_id"],
        "caller_voice_mapping" => &["caller_id"],
        "voice_clone_cache" => &["cloned_voice_id"],
        "clone_transfer_events" => &["greeting_call_id", "agent_call_id"],
        "clone_ready_events" => &["greeting_call_id", "cloned_voice_id"],
        "clone_failed_events" => &["greeting_call_id"],
        _ => &["caller_id", "cloned_voice_id"],
    };
    let texts: Vec<&str> = names.iter().filter_map(|name| row.get(name)?.as_deref()).collect();
    let names_it = |record: &&Record| {
        let text = |bytes: &Option<Vec<u8>>| {
            bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        let all = text(&record.value) + &text(&record.key);
        texts.iter().all(|name| all.contains(name))
    };
    let behind: Vec<String> = log.iter().filter(names_it).take(40).map(shown).collect();
    format!("the whole row: {row:?}\nrecords that name {texts:?}:\n{}", behind.join("\n"))
}

/// A record for a person to read.
fn shown(record: &Record) -> String {
    let text =
        |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name, text(value))).collect();
    let (key, value) = (text(&record.key), text(&record.value));
    let value = value.map(|value| value.chars().take(2000).collect::<String>());
    format!(
        "  {} {} {} at {:?}: {key:?} {value:?} {headers:?}",
        record.topic, record.partition, record.offset, record.timestamp
    )
}

/// Key, value, headers.
type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Option<Vec<u8>>>);

fn flat(headers: &[(String, Option<Vec<u8>>)]) -> Vec<Option<Vec<u8>>> {
    headers.iter().flat_map(|(name, value)| [Some(name.clone().into_bytes()), value.clone()]).collect()
}

/// The table holds exactly the unusable records, and each is on the dead-letter topic, with its bytes.
fn dead_letters(
    round: &Round,
    report: &mut Report,
    unusable: &BTreeMap<usize, BTreeSet<&'static str>>,
    log: &[Record],
    differences: &mut Vec<String>,
) {
    let letters = tables::dead_letters(&round.scene.database);
    report.add("dead letters", letters.len() as u64);
    // A topic may have been made anew: a place in it may name two records.
    let mut wanted: HashMap<(&str, i32, i64), Vec<usize>> = HashMap::new();
    for index in unusable.keys() {
        let record = &log[*index];
        wanted.entry((&record.topic, record.partition, record.offset)).or_default().push(*index);
    }
    let mut published: HashMap<(String, i32, i64), Vec<(Bytes, String)>> = HashMap::new();
    let mut on_topic = round.gone_output.clone();
    on_topic.retain(|record| record.topic.ends_with("voiceclone.dead-letters"));
    on_topic.extend(round.scene.kafka.read_all(&round.scene.topic("voiceclone.dead-letters")));
    report.add("dead letters published", on_topic.len() as u64);
    for record in on_topic {
        let of =
            |name: &str| record.header(&format!("__connect.errors.{name}")).unwrap_or_default().to_owned();
        let place = (of("topic"), of("partition").parse().unwrap_or(-1), of("offset").parse().unwrap_or(-1));
        let headers = flat(&record.headers[..record.headers.len().saturating_sub(5)]);
        let reason = of("exception.class.name");
        published.entry(place).or_default().push(((record.key, record.value, headers), reason));
    }
    for letter in &letters {
        let place = (letter.topic.as_str(), letter.partition, letter.record_offset);
        let bytes: Bytes = (letter.key.clone(), letter.value.clone(), letter.headers.clone());
        let same = |index: &usize| {
            let record = &log[*index];
            (&record.key, &record.value, flat(&record.headers)) == (&bytes.0, &bytes.1, bytes.2.clone())
        };
        let of = wanted.get_mut(&place).and_then(|all| all.iter().position(same).map(|at| all.remove(at)));
        match of {
            None => differences
                .push(format!("a dead letter of no unusable record, or with other bytes: {letter:?}")),
            Some(index) if !unusable[&index].contains(letter.reason.as_str()) => {
                differences.push(format!(
                    "a dead letter for another reason than {:?}: {letter:?}",
                    unusable[&index]
                ));
            }
            Some(_) => {}
        }
        let copies = published.get(&(letter.topic.clone(), letter.partition, letter.record_offset));
        let copied = copies
            .is_some_and(|all| all.iter().any(|(copy, reason)| *copy == bytes && *reason == letter.reason));
        if !copied {
            differences.push(format!("a dead letter that is not on its topic as it came: {letter:?}"));
        }
    }
    for index in wanted.into_values().flatten() {
        differences.push(format!(
            "an unusable record without a dead letter ({:?}): {:?}",
            unusable[&index], log[index]
        ));
    }
    let places: HashSet<(&str, i32, i64)> = letters
        .iter()
        .map(|letter| (letter.topic.as_str(), letter.partition, letter.record_offset))
        .collect();
    for (topic, partition, offset) in published.keys() {
        if !places.contains(&(topic.as_str(), *partition, *offset)) {
            differences.push(format!("published as a dead letter, and none: {topic} {partition} {offset}"));
        }
    }
    differences.truncate(20);
}

/// Every expired row has its event, by the moment that both hold; an id stands for one expiry of one row. It repeats
/// with the same bytes, unless the database was restored in between: the restored row does not know that it had
/// expired, and does so again, at another moment and with what it has by then.
fn expiries(round: &Round, report: &mut Report, differences: &mut Vec<String>) {
    let database = &round.scene.database;
    let mut events = round.gone_output.clone();
    events.retain(|record| record.topic.ends_with("clone.expired"));
    events.extend(round.scene.kafka.read_all(&round.scene.topic("clone.expired")));
    report.add("expiries published", events.len() as u64);
    let mut by_id: BTreeMap<String, Record> = BTreeMap::new();
    let mut told: HashSet<(String, String)> = HashSet::new();
    for event in events {
        let value: Value = match event.value.as_deref().map(serde_json::from_slice) {
            Some(Ok(value)) => value,
            other => {
                differences.push(format!("an expiry that is no JSON: {other:?}"));
                continue;
            }
        };
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let uid = |kind: &str, parts: [String; 2]| {
            Uuid::new_v5(&NS, format!("{kind}\u{1f}{}", parts.join("\u{1f}")).as_bytes()).to_string()
        };
        let row = uid("voice_clone_cache", [text("caller_id"), text("cloned_voice_id")]);
        let micros = |time: &str| {
            chrono::DateTime::parse_from_rfc3339(time).map_or(-1, |time| time.timestamp_micros())
        };
        let id = uid("clone.expired", [row.clone(), micros(&text("ttl_expires_at")).to_string()]);
        let headers = |event: &Record| {
            ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"]
                .map(|name| event.header(name).unwrap_or_default().to_owned())
        };
        let [version, ce_id, source, kind, time, content] = headers(&event);
        let sound = version == "1.0"
            && ce_id == id
            && !source.is_empty()
            && kind == "clone.expired"
            && content == "application/json"
            && time == text("expired_at")
            && text("event_id") == id
            && event.key.as_deref() == Some(text("caller_id").as_bytes())
            && micros(&text("expired_at")) >= micros(&text("ttl_expires_at"));
        if !sound {
            differences.push(format!(
                "an expiry that contradicts itself (its id should be {id}): {}",
                shown(&event)
            ));
        }
        told.insert((row, micros(&text("expired_at")).to_string()));
        if let Some(first) = by_id.get(&id) {
            report.add("expiries published again", 1);
            let same =
                (&first.key, &first.value, &first.headers) == (&event.key, &event.value, &event.headers);
            if !same && !round.restored {
                differences.push(format!(
                    "one expiry told in two ways:\n{}\n{}",
                    shown(first),
                    shown(&event)
                ));
            }
        } else {
            by_id.insert(id, event);
        }
    }
    let rows = database.rows(
        "SELECT id::text, (extract(epoch FROM deleted_at) * 1000000)::bigint::text,
                (deleted_at >= ttl_expires_at)::text, cloned_voice_id
         FROM voice_clone_cache WHERE deleted_at IS NOT NULL",
    );
    report.add("cache rows expired at the end", rows.len() as u64);
    // The outbox was empty a moment before the instances ended; what came then waits for the next instance.
    let waiting: HashSet<String> = database
        .rows("SELECT unnest(cloned_voice_ids) FROM ingest.outbox")
        .into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect();
    for row in rows {
        let [Some(id), Some(deleted_at), Some(after), Some(voice)] = row.as_slice() else { unreachable!() };
        if after != "true" {
            differences.push(format!("cache row {id} was deleted before its time"));
        }
        if !told.contains(&(id.clone(), deleted_at.clone())) && !waiting.contains(voice) {
            differences.push(format!("the expiry of cache row {id} at {deleted_at} was never published"));
        }
    }
    let known: HashSet<String> = database
        .rows("SELECT id::text FROM voice_clone_cache")
        .into_iter()
        .filter_map(|mut row| row.remove(0))
        .collect();
    for (row, at) in &told {
        if !known.contains(row) {
            differences.push(format!("the expiry at {at} of cache row {row}, which there is not"));
        }
    }
    let left = database.value("SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL");
    if left != "0" {
        differences.push(format!("{left} dead letters are still to be published"));
    }
}

/// No line of any instance holds a number, what was said, a text of a payload, or the password.
fn log_lines(logs: &Path, number: u64, log: &[Record], report: &mut Report, differences: &mut Vec<String>) {
    let mut numbers: HashSet<String> = HashSet::new();
    for record in log {
        if let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok())
            && let Some(digits) = key.strip_prefix('+')
        {
            numbers.insert(digits.to_owned());
        }
    }
    let mine = format!("round-{number}-");
    for entry in std::fs::read_dir(logs).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&mine) {
            continue;
        }
        for line in BufReader::new(File::open(entry.path()).unwrap()).lines() {
            let line = line.unwrap();
            report.add("log lines looked at", 1);
            let forbidden = ["Agent: ", "Caller: ", "samples.example.com", PAYLOAD_TEXT, PASSWORD];
            let text = forbidden.iter().find(|text| line.contains(**text));
            let digits = line
                .split(|c: char| !c.is_ascii_digit())
                .find(|digits| digits.len() >= 10 && numbers.contains(*digits));
            if let Some(found) = text.copied().or(digits) {
                differences.push(format!("{:?} stands in a log line of {:?}: {line}", found, entry.path()));
            }
            for (part, what) in [
                (
                    "a stored offset is not where this process left it",
                    "log: fenced off, positions read again",
                ),
                ("a batch is kept and tried again", "log: batches kept and tried again"),
                ("the database's offsets are not those", "log: another state of the database noticed"),
                ("no longer has the stored offset", "log: stored offsets that the topic no longer had"),
                ("partitions are assigned", "log: assignments"),
                ("partitions are revoked", "log: revocations"),
                ("the program panicked", "log: PANICS"),
            ] {
                if line.contains(part) {
                    report.add(what, 1);
                }
            }
            if line.contains("the program panicked") {
                differences.push(format!("a panic: {line}"));
            }
        }
    }
}
