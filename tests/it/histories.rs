//! Histories on a real PostgreSQL in which everything collides and every kind of unusable record occurs. Written in
//! any order, cut into any batches, by several writers at once, through offsets and beside them, with any part read
//! again, each ends in the model's tables and dead letters, and always in the same bytes.
//!
//! `HISTORY_SEEDS=1000` tries that many histories; `HISTORY_SEED=7` begins with that one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use voiceclone_events::event::Limits;
use voiceclone_events::ingest::{Ingest, Memory, Positions, Stop};
use voiceclone_events::record::{Header, Record, Topic};
use voiceclone_events::store::offsets::{Partition, Position, PositionChange};
use voiceclone_events::store::write::Mode;
use voiceclone_events::store::{Store, connect, migrate};

use crate::model::{self, Input};
use crate::support::postgres::Database;
use crate::support::tables::{self, Tables};

const CACHE_TTL: i64 = 86_400;
/// Small, so that a record that is too large costs little.
const RECORD_MAX_BYTES: usize = 50_000;

/// Empties a database that is migrated; faster than TRUNCATE for a few rows.
pub const EMPTY: &str = "
    DELETE FROM clone_ready_events; DELETE FROM clone_failed_events; DELETE FROM clone_transfer_events;
    DELETE FROM voice_clone_cache; DELETE FROM voice_clone_log; DELETE FROM call_log;
    DELETE FROM caller_voice_mapping; DELETE FROM ingest.voices; DELETE FROM ingest.calls;
    DELETE FROM ingest.mappings; DELETE FROM ingest.dead_letters; DELETE FROM ingest.consumer_offsets;";

/// The writer of the daemon, without a group, so that it moves no offsets.
pub fn ingest(database: &Database) -> Ingest {
    let flags = voiceclone_events::cli::SettingFlags::default();
    // Connections are made as they are needed: most tests need one.
    let variables = [("DATABASE_URL", database.url()), ("DB_POOL_SIZE", "1")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let need = voiceclone_events::config::Need { database: true, broker: false };
    let settings = voiceclone_events::config::Settings::from(&flags, variables.into_iter(), need).unwrap();
    Ingest {
        store: Store::new(connect::pool(&settings).unwrap()),
        limits: Limits { record_max_bytes: RECORD_MAX_BYTES, cache_ttl_seconds: CACHE_TTL },
        topic_prefix: String::new(),
        group: None,
        dead_letter_limit: 10_000,
        mode: Mode::Live,
        memory: Memory::default(),
        span: voiceclone_events::traces::Span::default(),
    }
}

/// Writes one batch.
pub async fn write(ingest: &Ingest, records: &[Record]) {
    ingest.write(records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
}

/// A database with the tables, which orders texts otherwise than the contract does.
pub async fn migrated() -> Database {
    let database = Database::with_a_locale();
    migrate::up(database.url(), None).await.unwrap();
    database
}

pub fn inputs(records: &[Record]) -> Vec<Input> {
    let headers = |record: &Record| {
        record
            .headers
            .iter()
            .map(|header| (String::from_utf8_lossy(&header.name).into_owned(), header.value.clone()))
            .collect()
    };
    records
        .iter()
        .map(|record| Input {
            topic: record.topic.name().to_owned(),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: headers(record),
            timestamp: record.timestamp,
        })
        .collect()
}

// -------- Generating histories

/// Random choices of a seed.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit as u64) as usize
    }

    /// True once in `times` on average.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The kind of value in a field.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Caller,
    Call,
    Voice,
    /// A text of at most this many characters.
    Text(usize),
    /// A text of any length.
    LongText,
    Time,
    Integer,
    Status,
    Metadata,
    Boolean,
}

/// The fields of section 4, the required ones first.
fn fields(topic: Topic) -> (usize, &'static [(&'static str, Kind)]) {
    use Kind::{Boolean, Call, Caller, Integer, LongText, Metadata, Status, Text, Time, Voice};
    match topic {
        Topic::CloneReady => (
            3,
            &[
                ("caller_id", Caller),
                ("greeting_call_id", Call),
                ("cloned_voice_id", Voice),
                ("ready_at", Time),
                ("clone_duration_ms", Integer),
                ("clone_created_at", Time),
                ("api_response_time_ms", Integer),
                ("sample_file_size_bytes", Integer),
                ("ttl_seconds", Integer),
            ],
        ),
        Topic::CloneFailed => (
            3,
            &[
                ("caller_id", Caller),
                ("greeting_call_id", Call),
                ("error_message", LongText),
                ("failed_at", Time),
                ("cloned_voice_id", Text(255)),
                ("api_response_time_ms", Integer),
                ("sample_file_size_bytes", Integer),
            ],
        ),
        Topic::CloneTransfer => (
            3,
            &[
                ("greeting_call_id", Call),
                ("agent_call_id", Call),
                ("cloned_voice_id", Voice),
                ("transferred_at", Time),
            ],
        ),
        Topic::CallLifecycle => (
            2,
            &[
                ("call_id", Call),
                ("status", Status),
                ("occurred_at", Time),
                ("threecx_call_id", Text(255)),
                ("caller_id", Text(255)),
                ("cloned_voice_id", Text(255)),
                ("call_started_at", Time),
                ("call_ended_at", Time),
                ("duration_seconds", Integer),
                ("transcript", LongText),
                ("metadata", Metadata),
            ],
        ),
        Topic::CallerVoiceMapping => (
            2,
            &[
                ("caller_id", Caller),
                ("voice_sample_url", Text(2048)),
                ("voice_name", Text(255)),
                ("description", LongText),
                ("account_id", Text(255)),
                ("updated_at", Time),
                ("deleted", Boolean),
            ],
        ),
    }
}

fn texts(raws: &[&str]) -> Vec<String> {
    raws.iter().map(|raw| (*raw).to_owned()).collect()
}

/// An object nested to this depth.
fn nested(levels: usize) -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(levels - 1), "}".repeat(levels - 1))
}

/// Few values for each kind, so that they collide often; as raw JSON.
fn values(kind: Kind) -> Vec<String> {
    match kind {
        Kind::Caller => {
            texts(&[r#""+1555""#, r#""\u002b1555""#, r#""+1555 ""#, "\"\u{202e}\u{1F600}\u{200d}\""])
        }
        Kind::Call => texts(&[r#""c""#, r#""C""#, r#""\"\\{NULL},'""#]),
        Kind::Voice => {
            let long = format!("\"{}\"", "\u{1F600}".repeat(255));
            [texts(&[r#""v""#, r#""V""#]), vec![long]].concat()
        }
        Kind::Text(limit) => {
            let most = ["\u{10FFFF}", "\u{1}"].map(|c| json!(c.repeat(limit)).to_string());
            [longer_texts(), most.to_vec()].concat()
        }
        Kind::LongText => [longer_texts(), vec![json!("\u{1F600}\\\"\n".repeat(1000)).to_string()]].concat(),
        Kind::Time => texts(&[
            "1577836800",
            "1577836801.5",
            r#""2020-01-01T00:00:01.5Z""#,
            r#""2020-01-01 01:00:01.5000009+01:00""#,
            "1577836801500",
            "1577836801500.25",
            r#""2019-12-31T23:59:60Z""#,
            r#""2020-01-02T00:00:00.000001""#,
            "0",
            "-0.0",
            "1e9",
            r#""9990-12-31T23:59:59.999999Z""#,
        ]),
        Kind::Integer => texts(&["0", "9", "10", "5.0", "1e1", "-0", "2147483647", "2147483647.0"]),
        Kind::Status => texts(&[r#""initiated""#, r#""completed""#, r#""failed""#, r#""\u0066ailed""#]),
        Kind::Metadata => [
            texts(&[
                "{}",
                r#"{"z":1,"a":{"y":null,"b":[1.0,0.1,1e300,-0.0,-0,1e16,1E-7,5e-324]}}"#,
                r#"{"a":null,"\u00e9":"\ud83d\ude00","":"","\u001f":"\u001f","z":10}"#,
                r#"{"a":{"b":2},"m":18446744073709551615,"n":-9223372036854775808,"o":18446744073709551616}"#,
                r#"{"z":9,"a":1,"a":{"c":1,"b":"\/\b\\u0000"},"$serde_json::private::RawValue":"{"}"#,
            ]),
            vec![nested(100), format!(r#"{{"deep":{}{}}}"#, "[".repeat(99), "]".repeat(99))],
        ]
        .concat(),
        Kind::Boolean => texts(&["true", "false", "false"]),
    }
}

fn longer_texts() -> Vec<String> {
    texts(&[
        r#""a""#,
        r#""B""#,
        r#""b ""#,
        r#"" b""#,
        "\"\u{e9}\"",
        r#""e\u0301""#,
        "\"\u{FFFF}\"",
        r#""\ud800\udc00""#,
        "\"\u{200b}\"",
        "\"\u{5d0}\u{202e}\u{feff}\"",
        r#""\\u0000'\";--\t\u001f""#,
    ])
}

/// Values that a field of this kind may not hold.
fn faults(kind: Kind) -> Vec<String> {
    let mut faults = texts(&["[]", r#""\ud800""#, r#""\udc00\ud800""#, "1e400", r#""\u0000""#]);
    let limit = match kind {
        Kind::Caller | Kind::Call | Kind::Voice => {
            faults.push(r#""a\u001fb""#.to_owned());
            Some(255)
        }
        Kind::Text(limit) => Some(limit),
        _ => None,
    };
    faults.extend(limit.map(|limit| json!("\u{1F600}".repeat(limit + 1)).to_string()));
    faults.extend(texts(match kind {
        Kind::Time => &[
            "true",
            "{}",
            "-1",
            r#""5""#,
            r#""2020-01-01""#,
            r#""2020-02-30T00:00:00Z""#,
            "253402300800000",
            r#""1969-12-31T23:59:59.999999Z""#,
            r#""9999-12-31T23:59:60Z""#,
            "1e300",
        ],
        Kind::Integer => &["true", r#""5""#, "1.5", "-1", "2147483648", "2147483647.5", "{}"],
        Kind::Status => &[r#""ringing""#, r#""Failed""#, r#""failed ""#, "5"],
        Kind::Metadata => &[
            r#"{"a":[1e400]}"#,
            r#"{"a":{"\u0000":1}}"#,
            r#"{"a":"\udfff"}"#,
            r#"{"\ud800":1}"#,
            "5",
            r#""{}""#,
        ],
        Kind::Boolean => &["1", r#""true""#, "{}"],
        _ => &["7", "{}", "false"],
    }));
    if kind == Kind::Metadata {
        faults.extend([
            nested(101),
            format!(r#"{{"deep":{}{}}}"#, "[".repeat(100), "]".repeat(100)),
            nested(5000),
        ]);
    }
    faults
}

/// The names and raw values of an object, usable for the most part.
fn members(dice: &mut Dice, topic: Topic) -> Vec<(String, String)> {
    let (required, fields) = fields(topic);
    let mut members = Vec::new();
    for (index, (name, kind)) in fields.iter().enumerate() {
        let absent = |dice: &mut Dice| dice.one(&["null", r#""""#, "\" \\t\u{a0}\""]).to_owned();
        let value = match dice.below(100) {
            0..2 => Some(dice.one(&faults(*kind))),
            2 if index < required => None,
            3 if index < required => Some(absent(dice)),
            4..20 if index >= required => None,
            20..30 if index >= required => Some(absent(dice)),
            _ => Some(dice.one(&values(*kind))),
        };
        members.extend(value.map(|value| ((*name).to_owned(), value)));
        if dice.once_in(300) {
            members.push(((*name).to_owned(), dice.one(&values(*kind))));
        }
    }
    if dice.once_in(4) {
        let unknown = ["1e999", r#""\ud800""#, r#"{"a":1,"a":2}"#, "[[[[[[]]]]]]", r#""\u0000""#];
        members.push(("unknown".to_owned(), dice.one(&unknown).to_owned()));
    }
    if dice.once_in(100) {
        members.push((r"\udead".to_owned(), "1".to_owned()));
    }
    // A bare object has no attributes: these mean nothing in it.
    if dice.once_in(30) {
        members.push(("type".to_owned(), "7".to_owned()));
        members.push(("data".to_owned(), "[]".to_owned()));
    }
    dice.shuffle(&mut members);
    members
}

fn object(members: &[(String, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, raw)| format!("\"{name}\":{raw}")).collect();
    format!("{{{}}}", members.join(","))
}

fn header(name: &str, value: impl AsRef<[u8]>) -> Header {
    Header::new(name, value.as_ref())
}

/// Puts an object into an envelope, or its attributes into headers, or neither.
fn envelope(dice: &mut Dice, topic: Topic, object: String) -> (String, Vec<Header>) {
    let times = ["2020-01-01T00:00:01.5Z", "2020-01-01T00:00:03+00:00", "1970-01-01 00:00:00", " "];
    let wrong = dice.once_in(15);
    let kind = if wrong { dice.one(&["clone.expired", "clone.ready", "CLONE.READY"]) } else { topic.name() };
    let time = if dice.once_in(20) { "soon" } else { dice.one(&times) };
    match dice.below(10) {
        0..2 => {
            let mut attributes = vec![("specversion".to_owned(), r#""1.0""#.to_owned())];
            if !dice.once_in(15) {
                attributes.push(("data".to_owned(), object));
            } else if dice.once_in(2) {
                attributes.push(("data".to_owned(), dice.one(&["[]", "null", r#""{}""#, "7"]).to_owned()));
            }
            let mut given = |name: &str, value: String| attributes.push((name.to_owned(), value));
            if dice.once_in(2) {
                given("type", json!(kind).to_string());
            }
            if dice.once_in(2) {
                given("time", json!(time).to_string());
            }
            if dice.once_in(20) {
                given("time", "1577836803".to_owned());
            }
            given("id", dice.one(&["7", r#""\ud800""#]).to_owned());
            dice.shuffle(&mut attributes);
            let mut headers = vec![header("ce_type", "of no interest here")];
            if dice.once_in(2) {
                headers.push(header("content-type", "application/cloudevents+json; charset=UTF-8"));
                attributes.retain(|(name, _)| name != "specversion" || !wrong);
            }
            (self::object(&attributes), headers)
        }
        2..4 => {
            let mut headers = vec![header("ce_id", b"\xff"), header("content-type", "application/json")];
            if dice.once_in(2) {
                headers.push(header("ce_type", "overruled"));
                headers.push(header("ce_type", kind));
            }
            if dice.once_in(2) {
                headers.push(header("ce_time", time));
            }
            if dice.once_in(30) {
                headers.push(header("ce_time", b"2020\xff"));
            }
            (object, headers)
        }
        _ => (object, Vec::new()),
    }
}

fn record(dice: &mut Dice, offset: i64) -> Record {
    let topic = dice.one(&Topic::ALL);
    let members = members(dice, topic);
    let (value, headers) = envelope(dice, topic, object(&members));
    let mut value = Some(value.into_bytes());
    let keys: [&[u8]; 8] = [b"+1555", b"+1555", b"+1555", b"+1555 ", b" ", b"\xff", b"a\0", b"a\x1f"];
    let mut key = (!dice.once_in(8)).then(|| dice.one(&keys).to_vec());
    let mut timestamp = dice.one(&[1_577_836_800_000, 1_577_836_801_500, 1_577_923_200_000]);
    match dice.below(100) {
        0..8 => value = None,
        8 => key = Some("\u{1F600}".repeat(dice.one(&[255, 256])).into_bytes()),
        9 => timestamp = dice.one(&[-1, 0, 253_402_300_800_000, i64::MAX, i64::MIN]),
        10 => value = value.map(|value| value[..dice.below(value.len())].to_vec()),
        11 => value = value.map(|value| [b"\xef\xbb\xbf", value.as_slice()].concat()),
        12 => value = value.map(|value| [b"[", value.as_slice(), b"]"].concat()),
        13 => value = value.map(|value| [b" \t\r\n", value.as_slice(), b"\n"].concat()),
        14 => value = value.map(|value| [value.as_slice(), b"\xc3"].concat()),
        15 => value = value.map(|value| [value, vec![b' '; RECORD_MAX_BYTES]].concat()),
        16 => {
            value = Some(dice.one(&["", "null", "7", r#""\ud800""#, "{} {}", "{'a':1}"]).as_bytes().to_vec())
        }
        _ => {}
    }
    Record { topic, partition: dice.below(3) as i32, offset, timestamp, key, value, headers }
}

/// Records of which many are doubled, as they are or changed. The offset is the position in the history, so that
/// each partition's offsets grow and have gaps.
fn history(dice: &mut Dice, length: usize) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    while records.len() < length {
        let offset = records.len() as i64;
        let new = if records.is_empty() || !dice.once_in(5) {
            record(dice, offset)
        } else {
            let mut again = Record { offset, ..dice.one(&records) };
            if dice.once_in(3) {
                again.partition = dice.below(3) as i32;
                again.timestamp = dice.one(&[1_577_836_800_000, 1_577_923_200_000]);
            }
            again
        };
        records.push(new);
    }
    records
}

// -------- Ways to write a history

#[derive(Clone, Copy, Debug)]
enum Way {
    InOneBatch,
    BackwardsOneByOneThenAgainInOneBatch,
    InAnyOrderBySeveralWritersAtOnce,
    ThroughOffsetsWithRivalsThenAgainByAnotherGroup,
}

const WAYS: [Way; 4] = [
    Way::InOneBatch,
    Way::BackwardsOneByOneThenAgainInOneBatch,
    Way::InAnyOrderBySeveralWritersAtOnce,
    Way::ThroughOffsetsWithRivalsThenAgainByAnotherGroup,
];

impl Way {
    async fn write(self, writer: Ingest, records: &[Record], mut dice: Dice) {
        match self {
            Way::InOneBatch => write(&writer, records).await,
            Way::BackwardsOneByOneThenAgainInOneBatch => {
                for record in records.iter().rev() {
                    write(&writer, std::slice::from_ref(record)).await;
                }
                write(&writer, records).await;
            }
            Way::InAnyOrderBySeveralWritersAtOnce => in_any_order(writer, records, dice).await,
            Way::ThroughOffsetsWithRivalsThenAgainByAnotherGroup => {
                for group in ["first", "second"] {
                    let dice = Dice(ChaCha8Rng::seed_from_u64(dice.0.next_u64()));
                    through_offsets(writer.clone(), group, records, dice).await;
                }
            }
        }
    }
}

/// Several writers at once, of whom each writes some records first and all of them after that.
async fn in_any_order(writer: Ingest, records: &[Record], mut dice: Dice) {
    let writers = 1 + dice.below(4);
    let mut tasks = Vec::new();
    for _ in 0..writers {
        let mut mine: Vec<Record> =
            records.iter().filter(|_| dice.once_in(2)).chain(records).cloned().collect();
        dice.shuffle(&mut mine);
        let writer = writer.clone();
        let most = 2 + dice.below(40);
        let mut sizes = Dice(ChaCha8Rng::seed_from_u64(dice.0.next_u64()));
        tasks.push(tokio::spawn(async move {
            let mut rest = mine.as_slice();
            while !rest.is_empty() {
                let (batch, after) = rest.split_at(rest.len().min(1 + sizes.below(most)));
                write(&writer, batch).await;
                rest = after;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// As the daemon does it: each partition has one owner, offsets move with the rows. Owners forget where they stood,
/// and now and then a rival who thinks the partitions are his writes the same batch at the same moment.
async fn through_offsets(writer: Ingest, group: &'static str, records: &[Record], mut dice: Dice) {
    let writer = Ingest { group: Some(group.to_owned()), ..writer };
    let start = Position::at(0, None);
    let mut owners: Vec<BTreeMap<(Topic, i32), Vec<Record>>> = vec![BTreeMap::new(); 1 + dice.below(4)];
    for topic in Topic::ALL {
        for partition in 0..3 {
            let is_here = |record: &&Record| record.topic == topic && record.partition == partition;
            let name = (topic.name().to_owned(), partition);
            set_position(&writer.store, group, &name, None, start).await;
            let owner = dice.below(owners.len());
            owners[owner].insert((topic, partition), records.iter().filter(is_here).cloned().collect());
        }
    }
    let mut tasks = Vec::new();
    for partitions in owners {
        let dice = Dice(ChaCha8Rng::seed_from_u64(dice.0.next_u64()));
        tasks.push(tokio::spawn(consume(writer.clone(), group, partitions, dice)));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn consume(
    writer: Ingest,
    group: &str,
    partitions: BTreeMap<(Topic, i32), Vec<Record>>,
    mut dice: Dice,
) {
    loop {
        let stored = writer.store.positions(group).await.unwrap();
        let mut positions: Positions =
            partitions.keys().map(|key| (*key, stored[&(key.0.name().to_owned(), key.1)])).collect();
        let mut finished = true;
        for _ in 0..1 + dice.below(4) {
            let mut batch = Vec::new();
            for (key, records) in &partitions {
                let next = positions[key].next_offset;
                let left: Vec<&Record> = records.iter().filter(|record| record.offset >= next).collect();
                finished &= left.is_empty();
                batch.extend(left.into_iter().take(dice.below(6)).cloned());
            }
            let cancel = CancellationToken::new();
            if batch.is_empty() || !dice.once_in(4) {
                writer.write(&batch, &mut positions, &cancel).await.unwrap();
                continue;
            }
            let mut of_rival = positions.clone();
            let outcomes = tokio::join!(
                writer.write(&batch, &mut positions, &cancel),
                writer.write(&batch, &mut of_rival, &cancel)
            );
            let fenced =
                [&outcomes.0, &outcomes.1].map(|outcome| outcome.as_ref().err() == Some(&Stop::Fenced));
            assert!(fenced == [true, false] || fenced == [false, true], "{outcomes:?}");
            break;
        }
        if finished {
            return;
        }
    }
}

// -------- What must hold

/// A dead letter but for its number and its message: place, timestamp, key, value and headers.
type Place = (String, i32, i64);

/// Asserts that the dead letters are the records that the model finds unusable, each once and as it came, for a
/// reason that the model allows.
fn assert_dead_letters(records: &[Record], folded: &model::Folded, found: &[tables::DeadLetter]) {
    let place = |record: &Record| (record.topic.name().to_owned(), record.partition, record.offset);
    let expected: BTreeMap<Place, (&Record, &BTreeSet<&str>)> = folded
        .unusable
        .iter()
        .map(|(index, reasons)| (place(&records[*index]), (&records[*index], reasons)))
        .collect();
    let mut seen = BTreeSet::new();
    for letter in found {
        let place = (letter.topic.clone(), letter.partition, letter.record_offset);
        assert!(seen.insert(place.clone()), "{place:?} is there twice");
        let (record, reasons) =
            expected.get(&place).unwrap_or_else(|| panic!("{place:?} is usable: {letter:?}"));
        assert!(reasons.contains(letter.reason.as_str()), "{place:?}: not {} but {reasons:?}", letter.reason);
        assert_eq!((&letter.key, &letter.value), (&record.key, &record.value), "{place:?}");
        let headers: Vec<Option<Vec<u8>>> = record
            .headers
            .iter()
            .flat_map(|header| [Some(header.name.clone()), header.value.clone()])
            .collect();
        assert_eq!(letter.headers, headers, "{place:?}");
    }
    let missing: Vec<_> = expected.keys().filter(|place| !seen.contains(*place)).collect();
    assert!(missing.is_empty(), "no dead letters: {missing:?}");
}

fn assert_tables(what: &str, expected: &Tables, seen: &Tables, records: &[Record]) {
    let difference =
        model::explained_difference(expected, seen, &inputs(records), CACHE_TTL, RECORD_MAX_BYTES);
    if let Some(difference) = difference {
        panic!("not {what}: {difference}");
    }
}

fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn a_batch_of_a_topic_that_was_deleted_does_not_move_the_offset_of_the_recreated_one() {
    let database = migrated().await;
    let writer = Ingest { group: Some("group".to_owned()), ..ingest(&database) };
    let [old, new] = [1, 2].map(|id| Position::at(0, Some(Uuid::from_u128(id))));
    let partition = (Topic::CloneTransfer.name().to_owned(), 0);
    set_position(&writer.store, "group", &partition, None, old).await;
    set_position(&writer.store, "group", &partition, Some(0), new).await;
    let value = r#"{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"v"}"#;
    let record = Record {
        topic: Topic::CloneTransfer,
        partition: 0,
        offset: 0,
        timestamp: 1,
        key: None,
        value: Some(value.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    for (known, outcome) in [(old, Some(Stop::Fenced)), (new, None)] {
        let mut positions = Positions::from([((Topic::CloneTransfer, 0), known)]);
        let never = CancellationToken::new();
        let written = writer.write(std::slice::from_ref(&record), &mut positions, &never).await;
        assert_eq!(written.err(), outcome);
    }
    let stored = writer.store.positions("group").await.unwrap();
    assert_eq!(stored, BTreeMap::from([(partition, Position::at(1, new.topic_id))]));
}

/// A writer that waited for a lock must see what the holder wrote: here the number of transfers of a voice.
#[tokio::test]
async fn transactions_see_what_was_committed_before_each_statement_whatever_the_databases_default_is() {
    let database = Database::new();
    let name = database.value("SELECT current_database()");
    database.run(&format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"));
    let mut connection = connect::connect(database.url()).await.unwrap();
    let level = diesel::dsl::sql::<diesel::sql_types::Text>("current_setting('transaction_isolation')");
    let level: String =
        diesel_async::RunQueryDsl::get_result(diesel::select(level), &mut connection).await.unwrap();
    assert_eq!(level, "read committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_ends_in_the_models_tables_and_dead_letters_whichever_way_it_is_written() {
    let database = migrated().await;
    let writer = ingest(&database);
    let first = number_from_environment("HISTORY_SEED", 0);
    let count = number_from_environment("HISTORY_SEEDS", 12);
    let mut reasons: BTreeSet<String> = BTreeSet::new();
    let mut usable = 0;
    for seed in first..first + count {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let records = history(&mut dice, 160);
        let folded = model::fold(&inputs(&records), CACHE_TTL, RECORD_MAX_BYTES);
        usable += records.len() - folded.unusable.len();
        let mut before: Option<(Tables, Vec<(String, String)>)> = None;
        for way in WAYS {
            println!(
                "history {seed}, {way:?}: HISTORY_SEEDS=1 HISTORY_SEED={seed} cargo test --test it histories"
            );
            database.run(EMPTY);
            way.write(writer.clone(), &records, Dice(ChaCha8Rng::seed_from_u64(dice.0.next_u64()))).await;
            let seen = tables::read_with_ids(&database);
            assert_tables("as the model has it", &folded.tables, &seen, &records);
            let letters = tables::dead_letters(&database);
            assert_dead_letters(&records, &folded, &letters);
            let said: Vec<_> = letters.into_iter().map(|letter| (letter.reason, letter.message)).collect();
            reasons.extend(said.iter().map(|(reason, _)| reason.clone()));
            let (tables, dead_letters) = before.get_or_insert_with(|| (seen.clone(), said.clone()));
            assert_tables("as it was another way", tables, &seen, &records);
            assert_eq!(&said, dead_letters);
        }
    }
    println!("{usable} usable records; the reasons of the others: {reasons:?}");
    // The histories must cover every reason, and most records must make rows.
    if count >= 12 {
        assert_eq!(reasons.len(), 10, "{reasons:?}");
    }
    assert!(usable as u64 > count * 80, "{usable}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_and_transfer_events_of_one_voice_written_at_the_same_moment_leave_the_right_count() {
    let database = migrated().await;
    let event = |topic: Topic, number: i64, value: Value| Record {
        topic,
        partition: 0,
        offset: number,
        timestamp: 1_577_836_800_000 + number,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    };
    let mut ready = Vec::new();
    let mut transfers = Vec::new();
    for number in 0..300 {
        let voice = format!("voice-{}", number % 7);
        let caller = format!("caller-{}", number % 50);
        ready.push(event(
            Topic::CloneReady,
            number,
            json!({"caller_id": caller, "greeting_call_id": "g", "cloned_voice_id": voice}),
        ));
        transfers.push(event(
            Topic::CloneTransfer,
            number,
            json!({"greeting_call_id": "g", "agent_call_id": format!("a{number}"), "cloned_voice_id": voice}),
        ));
    }
    let writer = Arc::new(ingest(&database));
    let writers = [ready.clone(), transfers.clone()].map(|records| {
        let writer = writer.clone();
        tokio::spawn(async move {
            for batch in records.chunks(3) {
                write(&writer, batch).await;
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    ready.extend(transfers);
    let folded = model::fold(&inputs(&ready), CACHE_TTL, RECORD_MAX_BYTES);
    assert_tables("as the model has it", &folded.tables, &tables::read_with_ids(&database), &ready);
}

// -------- PostgreSQL accepts everything that the decoder accepts

/// The extreme values of a kind, as plain texts or as raw JSON. `number` makes ids different.
fn extremes(kind: Kind, number: usize) -> Vec<Value> {
    let filled = |limit: usize, filling: &str| {
        let start = format!("{number:06}");
        json!(start.clone() + &filling.repeat(limit - start.len()))
    };
    let strange = [
        "\u{10FFFF}",
        "\u{FFFF}",
        "\u{FEFF}",
        "\u{1}",
        "\u{7f}",
        "\u{1e}\u{1c}",
        "{}",
        "NULL",
        "\\N",
        "\\.",
        "'",
        "''",
        "\"",
        "\\",
        "{\"a\",NULL}",
        "x\r\n",
        "\tx",
        "$1",
        "%s",
        "e\u{301}\u{200d}\u{202e}",
        " x",
        "x ",
        "\u{85}x",
    ];
    let mut found: Vec<Value> = match kind {
        Kind::Caller | Kind::Call | Kind::Voice => {
            let mut ids: Vec<Value> = strange
                .iter()
                .enumerate()
                .map(|(index, text)| json!(format!("{text}{number}-{index}{text}")))
                .collect();
            ids.extend(["\u{1F600}", "\u{10FFFF}", " ", "\\", "\"", "\u{1}", "x"].map(|c| filled(255, c)));
            ids
        }
        Kind::Text(limit) => {
            let mut texts: Vec<Value> = strange.map(|text| json!(text)).to_vec();
            texts.push(json!("\u{1f}"));
            texts.extend(
                ["\u{1F600}", "\u{10FFFF}", " ", "\\", "\"", "\u{1}", "\u{1f}", "x"]
                    .map(|c| filled(limit, c)),
            );
            texts
        }
        Kind::LongText => {
            let mut texts: Vec<Value> = strange.map(|text| json!(text)).to_vec();
            texts.extend(["\u{1F600}", "x", "\\", "\u{1f}"].map(|c| filled(10_000, c)));
            texts
        }
        Kind::Time => vec![
            json!(0),
            json!("1970-01-01T00:00:00.000001Z"),
            json!("9999-12-31T23:59:59.9999999Z"),
            json!(253_402_300_799_999_i64),
            json!("2000-01-01T00:00:00Z"),
            json!("2024-02-29T23:59:60.5-23:59"),
        ],
        Kind::Integer => vec![json!(0), json!(1), json!(i32::MAX), json!(2_147_483_647.0)],
        Kind::Status => vec![json!("initiated"), json!("completed"), json!("failed")],
        Kind::Metadata => {
            values(Kind::Metadata).iter().map(|raw| serde_json::from_str(raw).unwrap()).collect()
        }
        Kind::Boolean => vec![json!(true), json!(false)],
    };
    if kind == Kind::Metadata {
        let many: serde_json::Map<String, Value> =
            (0..2000).map(|n| (format!("\u{1F600}{n}"), json!(n))).collect();
        found.push(Value::Object(many));
        found.push(
            json!({"\u{FFFF}": "\u{1}\u{1f}\u{7f}\\u0000", "x".repeat(20_000): vec!["\u{10FFFF}"; 100]}),
        );
    }
    found
}

/// For each field an event with each of its extremes, and for each extreme an event whose every field has one; no
/// two of one row.
fn extreme_events() -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    for topic in Topic::ALL {
        let (required, fields) = fields(topic);
        let most = fields.iter().map(|(_, kind)| extremes(*kind, 0).len()).max().unwrap();
        let one_field = (0..fields.len()).flat_map(|field| {
            (0..extremes(fields[field].1, 0).len()).map(move |extreme| (Some(field), extreme))
        });
        let all_fields = (0..most).map(|extreme| (None, extreme));
        for (field, extreme) in one_field.chain(all_fields) {
            let number = records.len();
            let mut value = serde_json::Map::new();
            for (index, (name, kind)) in fields.iter().enumerate() {
                if field.is_none_or(|field| field == index) {
                    let extremes = extremes(*kind, number);
                    value.insert((*name).to_owned(), extremes[extreme % extremes.len()].clone());
                } else if index < required {
                    let plain =
                        if *kind == Kind::Status { json!("initiated") } else { json!(format!("{number}")) };
                    value.insert((*name).to_owned(), plain);
                }
            }
            // An end after the year 9999 is no extreme but a fault.
            if topic == Topic::CloneReady && value.contains_key("ready_at") {
                let late = extreme % extremes(Kind::Time, 0).len();
                if [2, 3].contains(&late) {
                    value.insert("ttl_seconds".to_owned(), json!(0));
                }
            }
            records.push(Record {
                topic,
                partition: 0,
                offset: number as i64,
                timestamp: [0, 253_402_214_399_000, 1_577_836_800_000][number % 3],
                key: None,
                value: Some(Value::Object(value).to_string().into_bytes()),
                headers: Vec::new(),
            });
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_extreme_of_any_field_is_refused_by_postgresql_and_each_comes_back_as_it_was_sent() {
    let database = migrated().await;
    let writer = Ingest {
        limits: Limits { record_max_bytes: 8 << 20, cache_ttl_seconds: CACHE_TTL },
        ..ingest(&database)
    };
    let records = extreme_events();
    let folded = model::fold(&inputs(&records), CACHE_TTL, 8 << 20);
    assert_eq!(folded.unusable, BTreeMap::new());
    for size in [records.len(), 1] {
        database.run(EMPTY);
        for batch in records.chunks(size) {
            let written =
                writer.write(batch, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
            assert_eq!(written.unusable, 0, "{:?}", tables::dead_letters(&database));
        }
        assert_tables("as the model has it", &folded.tables, &tables::read_with_ids(&database), &records);
    }
    // None of the events shares its row: what is there is what was sent.
    let rows: usize = ["clone_ready_events", "clone_failed_events", "clone_transfer_events", "call_log"]
        .map(|table| folded.tables[table].len())
        .iter()
        .sum();
    let mappings = records.iter().filter(|record| record.topic == Topic::CallerVoiceMapping).count();
    assert_eq!(rows, records.len() - mappings);
}

/// Stores one position, as the daemon does when a partition starts.
async fn set_position(
    store: &Store,
    group: &str,
    partition: &Partition,
    expected: Option<i64>,
    to: Position,
) {
    let change = PositionChange { partition: partition.clone(), expected, to, lost: None };
    assert_eq!(store.set_positions(group, &[change]).await.unwrap().len(), 1);
}
