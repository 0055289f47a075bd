//! The invariants at the end of a round, when all servers are up again and nothing is left to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use uuid::{Uuid, uuid};

use super::stage::{PASSWORD, Report, Round};
use super::traffic::PAYLOAD_TEXT;
use crate::model::{self, Input};
use crate::support::kafka::Record;
use crate::support::scene::{CACHE_TTL, RECORD_MAX_BYTES, TOPICS};
use crate::support::tables::{self, DeadLetter};

/// The contract's namespace (section 3).
const NS: Uuid = uuid!("32912be5-e948-560b-b792-7dcb8baa72b1");

/// A position in the log, and the index of the input there.
struct Place {
    partition: i32,
    offset: i64,
    input: usize,
}

/// All records that count. Exact duplicates are one input: the rows are a function of the set of records.
#[derive(Default)]
pub struct Log {
    inputs: Vec<Input>,
    places: Vec<Place>,
}

impl Log {
    fn read(round: &Round) -> Log {
        let mut known: HashMap<Input, usize> = HashMap::new();
        let mut places = Vec::new();
        for topic in TOPICS {
            for record in round.log(&round.scene.topic(topic)) {
                let Record { partition, offset, timestamp, key, value, headers, .. } = record;
                let timestamp = timestamp.unwrap();
                let next = known.len();
                let input = Input { topic: topic.to_owned(), key, value, headers, timestamp };
                places.push(Place { partition, offset, input: *known.entry(input).or_insert(next) });
            }
        }
        let mut inputs: Vec<(Input, usize)> = known.into_iter().collect();
        inputs.sort_by_key(|(_, number)| *number);
        Log { inputs: inputs.into_iter().map(|(input, _)| input).collect(), places }
    }

    /// A record for a person to read.
    fn shown(&self, place: &Place) -> String {
        let input = &self.inputs[place.input];
        let Place { partition, offset, .. } = place;
        shown(&input.topic, *partition, *offset, input.timestamp, &input.key, &input.value, &input.headers)
    }
}

/// The results of a round, once all servers are up again and nothing is left to do.
pub struct Left {
    number: u64,
    prefix: String,
    restores: Vec<Range<i64>>,
    log: Log,
    tables: tables::Tables,
    dead_letters: Vec<DeadLetter>,
    /// The records of the dead-letter topic, including deleted ones.
    dead_letters_published: Vec<Record>,
    /// The records of `clone.expired`.
    expiries_published: Vec<Record>,
    /// Each expiry in the database or in the log of its trigger, including those of rows that a later event has brought
    /// back: the row's id, the time in microseconds since 1970, and whether that is past the row's end.
    expired: Vec<[String; 3]>,
    /// Rows and times of the expiries that are still to be published.
    waiting: HashSet<(String, String)>,
    dead_letters_waiting: String,
    log_files: Vec<PathBuf>,
}

impl Left {
    /// Reads the results. The servers are not needed for them afterwards.
    pub fn read(round: &Round, logs: &Path, number: u64) -> Left {
        let database = &round.scene.database;
        let published = |topic: &str| {
            let mut all = round.gone_output.clone();
            all.retain(|record| record.topic.ends_with(topic));
            all.extend(round.scene.kafka.read_all(&round.scene.topic(topic)));
            all
        };
        let expired = database.rows(
            "SELECT id::text, (extract(epoch FROM deleted_at) * 1000000)::bigint::text,
                    (deleted_at >= ttl_expires_at)::text
             FROM (SELECT id, deleted_at, ttl_expires_at FROM witness.expired
                   UNION SELECT id, deleted_at, ttl_expires_at FROM voice_clone_cache
                         WHERE deleted_at IS NOT NULL) AS every",
        );
        // The outbox was empty a moment before the instances ended; later events wait for the next instance.
        let waiting = database.rows(
            "SELECT unnest(ids)::text, (extract(epoch FROM expired_at) * 1000000)::bigint::text FROM ingest.outbox",
        );
        let mine = format!("round-{number}-");
        let log_files = std::fs::read_dir(logs).unwrap().flatten();
        Left {
            number,
            prefix: round.scene.prefix.clone(),
            restores: round.restores.clone(),
            log: Log::read(round),
            tables: tables::read_with_ids(database),
            dead_letters: tables::dead_letters(database),
            dead_letters_published: published("voiceclone.dead-letters"),
            expiries_published: published("clone.expired"),
            expired: expired
                .into_iter()
                .map(|row| <[_; 3]>::try_from(row).unwrap().map(Option::unwrap))
                .collect(),
            waiting: waiting
                .into_iter()
                .map(|row| <[_; 2]>::try_from(row).unwrap().map(Option::unwrap).into())
                .collect(),
            dead_letters_waiting: database
                .value("SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL"),
            log_files: log_files
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(&mine))
                .map(|entry| entry.path())
                .collect(),
        }
    }
}

/// The comparison of a round.
pub struct Verdict {
    /// The number of the round.
    pub number: u64,
    /// The things compared.
    pub report: Report,
    /// The differences, each with the details for an investigation.
    pub differences: Vec<String>,
}

/// Compares the results of a round with the model.
pub fn compare(left: Left) -> Verdict {
    let started = Instant::now();
    let mut report = Report::default();
    let mut differences = Vec::new();
    report.add("records compared with the model", left.log.places.len() as u64);
    report.add("different records compared with the model", left.log.inputs.len() as u64);
    let folded = model::fold(&left.log.inputs, CACHE_TTL, RECORD_MAX_BYTES);
    report.add("rows compared with the model", left.tables.values().map(|rows| rows.len() as u64).sum());
    differences.extend(model::explained_difference(
        &folded.tables,
        &left.tables,
        &left.log.inputs,
        CACHE_TTL,
        RECORD_MAX_BYTES,
    ));
    dead_letters(&left, &folded.unusable, &mut report, &mut differences);
    expiries(&left, &mut report, &mut differences);
    log_lines(&left, &mut report, &mut differences);
    report.add("time: comparing, beside the next round (ms)", started.elapsed().as_millis() as u64);
    Verdict { number: left.number, report, differences }
}

/// A record for a person to read.
fn shown(
    topic: &str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: &Option<Vec<u8>>,
    value: &Option<Vec<u8>>,
    headers: &[(String, Option<Vec<u8>>)],
) -> String {
    let text =
        |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name, text(value))).collect();
    let value = text(value).map(|value| value.chars().take(2000).collect::<String>());
    format!("  {topic} {partition} {offset} at {timestamp}: {:?} {value:?} {headers:?}", text(key))
}

/// Key, value, headers.
type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Option<Vec<u8>>>);

fn flat(headers: &[(String, Option<Vec<u8>>)]) -> Vec<Option<Vec<u8>>> {
    headers.iter().flat_map(|(name, value)| [Some(name.clone().into_bytes()), value.clone()]).collect()
}

/// The table has exactly the unusable records, and each is on the dead-letter topic, with its bytes.
fn dead_letters(
    left: &Left,
    unusable: &BTreeMap<usize, BTreeSet<&'static str>>,
    report: &mut Report,
    differences: &mut Vec<String>,
) {
    let letters = &left.dead_letters;
    report.add("dead letters", letters.len() as u64);
    // The topic may have been recreated: one offset may name two records.
    let mut wanted: HashMap<(String, i32, i64), Vec<&Place>> = HashMap::new();
    for place in &left.log.places {
        if unusable.contains_key(&place.input) {
            let topic = format!("{}{}", left.prefix, left.log.inputs[place.input].topic);
            wanted.entry((topic, place.partition, place.offset)).or_default().push(place);
        }
    }
    let mut published: HashMap<(String, i32, i64), Vec<(Bytes, String)>> = HashMap::new();
    report.add("dead letters published", left.dead_letters_published.len() as u64);
    for record in &left.dead_letters_published {
        let of =
            |name: &str| record.header(&format!("__connect.errors.{name}")).unwrap_or_default().to_owned();
        let place = (of("topic"), of("partition").parse().unwrap_or(-1), of("offset").parse().unwrap_or(-1));
        let headers = flat(&record.headers[..record.headers.len().saturating_sub(5)]);
        let bytes = (record.key.clone(), record.value.clone(), headers);
        published.entry(place).or_default().push((bytes, of("exception.class.name")));
    }
    let mut places = HashSet::new();
    for letter in letters {
        let place = (letter.topic.clone(), letter.partition, letter.record_offset);
        let bytes: Bytes = (letter.key.clone(), letter.value.clone(), letter.headers.clone());
        let same = |place: &&Place| {
            let input = &left.log.inputs[place.input];
            (&input.key, &input.value, flat(&input.headers)) == (&bytes.0, &bytes.1, bytes.2.clone())
        };
        let of = wanted.get_mut(&place).and_then(|all| all.iter().position(same).map(|at| all.remove(at)));
        match of {
            None => differences
                .push(format!("a dead letter of no unusable record, or with other bytes: {letter:?}")),
            Some(of) if !unusable[&of.input].contains(letter.reason.as_str()) => {
                differences.push(format!(
                    "a dead letter for another reason than {:?}: {letter:?}",
                    unusable[&of.input]
                ));
            }
            Some(_) => {}
        }
        let copied = published
            .get(&place)
            .is_some_and(|all| all.iter().any(|(copy, reason)| *copy == bytes && *reason == letter.reason));
        if !copied {
            differences.push(format!("a dead letter that is not on its topic as it came: {letter:?}"));
        }
        places.insert(place);
    }
    for place in wanted.into_values().flatten() {
        differences.push(format!(
            "an unusable record without a dead letter ({:?}): {}",
            unusable[&place.input],
            left.log.shown(place)
        ));
    }
    for place in published.keys().filter(|place| !places.contains(*place)) {
        differences.push(format!("published as a dead letter, and none: {place:?}"));
    }
    differences.truncate(20);
}

/// Every expiry has its event, matched by row and time; an id belongs to one expiry of one row. An event repeats with the
/// same bytes, unless the database was restored in between: the restored row expires again, at another time and with its
/// contents of then.
fn expiries(left: &Left, report: &mut Report, differences: &mut Vec<String>) {
    let shown = |event: &Record| {
        let Record { topic, partition, offset, timestamp, key, value, headers } = event;
        shown(topic, *partition, *offset, timestamp.unwrap_or(-1), key, value, headers)
    };
    report.add("expiries published", left.expiries_published.len() as u64);
    let mut by_id: BTreeMap<String, &Record> = BTreeMap::new();
    let mut told: HashSet<(String, String)> = HashSet::new();
    for event in &left.expiries_published {
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
        let [version, ce_id, source, kind, time, content] = headers(event);
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
            differences
                .push(format!("an expiry that contradicts itself (its id should be {id}): {}", shown(event)));
        }
        told.insert((row, micros(&text("expired_at")).to_string()));
        if let Some(first) = by_id.get(&id) {
            report.add("expiries published again", 1);
            let same =
                (&first.key, &first.value, &first.headers) == (&event.key, &event.value, &event.headers);
            let moment = |event: &Record| micros(event.header("ce_time").unwrap_or_default());
            let (earlier, later) = (moment(first).min(moment(event)), moment(first).max(moment(event)));
            let restored =
                earlier < later && left.restores.iter().any(|at| at.end >= earlier && at.start <= later);
            if !same && !restored {
                differences.push(format!(
                    "one expiry published in two ways:\n{}\n{}",
                    shown(first),
                    shown(event)
                ));
            }
        } else {
            by_id.insert(id, event);
        }
    }
    report.add("expiries of cache rows", left.expired.len() as u64);
    for [id, deleted_at, after] in &left.expired {
        if after != "true" {
            differences.push(format!("cache row {id} was deleted before its time"));
        }
        let expiry = (id.clone(), deleted_at.clone());
        if !told.contains(&expiry) && !left.waiting.contains(&expiry) {
            differences.push(format!("the expiry of cache row {id} at {deleted_at} was never published"));
        }
    }
    for (row, at) in &told {
        if !left.tables["voice_clone_cache"].contains_key(row) {
            differences.push(format!("the expiry at {at} of cache row {row}, which there is not"));
        }
    }
    if left.dead_letters_waiting != "0" {
        differences.push(format!("{} dead letters are still to be published", left.dead_letters_waiting));
    }
}

/// No log line of any instance has a phone number, a transcript, a text of a payload, or the password.
fn log_lines(left: &Left, report: &mut Report, differences: &mut Vec<String>) {
    let mut numbers: HashSet<String> = HashSet::new();
    for input in &left.log.inputs {
        if let Some(key) = input.key.as_deref().and_then(|key| std::str::from_utf8(key).ok())
            && let Some(digits) = key.strip_prefix('+')
        {
            numbers.insert(digits.to_owned());
        }
    }
    for file in &left.log_files {
        for line in BufReader::new(File::open(file).unwrap()).lines() {
            let line = line.unwrap();
            report.add("log lines looked at", 1);
            let forbidden = ["Agent: ", "Caller: ", "samples.example.com", PAYLOAD_TEXT, PASSWORD];
            let text = forbidden.iter().find(|text| line.contains(**text));
            let digits = line
                .split(|c: char| !c.is_ascii_digit())
                .find(|digits| digits.len() >= 10 && numbers.contains(*digits));
            if let Some(found) = text.copied().or(digits) {
                differences.push(format!("{found:?} is in a log line of {file:?}: {line}"));
            }
            for (part, what) in [
                ("another process moved the stored offset", "log: fenced off, positions read again"),
                ("records wait for it", "log: outages of PostgreSQL in which records waited"),
                ("partitions wait, and the others go on", "log: partitions that waited alone"),
                ("deadlock detected", "log: deadlocks"),
                ("the brokers answer other clients", "log: consumers that had lost the brokers"),
                ("failed for good", "log: clients that failed for good"),
                ("another process changed the stored offset", "log: another state of the database noticed"),
                ("no longer has the stored offset", "log: stored offsets that the topic no longer had"),
                ("a batch landed", "log: batches written"),
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
