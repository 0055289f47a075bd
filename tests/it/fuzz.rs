//! Feeds any bytes to the decoder (contract, section 2): it returns an event or a reason, and never panics. PostgreSQL
//! cannot refuse the event, and the model decodes the same record to the same event.
//!
//! `make fuzz N=10000000` tries that many inputs, optimised, and measures how the time grows with the size of a record.
//! Each input follows from its number alone: `FUZZ_FROM=7 FUZZ_INPUTS=1` tries just that one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::de::IgnoredAny;
use voiceclone_events::event::{Event, Limits, Reason, Time, Unusable, decode};
use voiceclone_events::fold::Call;
use voiceclone_events::record::{Header, Record, Topic};

use crate::model::{self, Input};

const CACHE_TTL: i64 = 86_400;
const RECORD_MAX_BYTES: usize = 8 << 20;
const LIMITS: Limits = Limits { record_max_bytes: RECORD_MAX_BYTES, cache_ttl_seconds: CACHE_TTL };
/// 2026-01-01T00:00:00Z in milliseconds: the timestamp of most records.
const SENT: i64 = 1_767_225_600_000;

// -------- Generating inputs

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // The upper half of a product, as a division is slow.
        ((u64::from(self.0.next_u32()) * limit as u64) >> 32) as usize
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most + 1)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

/// The parts of inputs, by topic.
const VALID: [&[&str]; 5] = [
    &[
        r#"{"caller_id":"+491","greeting_call_id":"g","cloned_voice_id":"v","ready_at":"2026-01-01T00:00:01.5Z","clone_duration_ms":7,"clone_created_at":1767225600,"api_response_time_ms":9,"sample_file_size_bytes":5.0,"ttl_seconds":60}"#,
        r#"{"caller_id":"\u002b4\t91","greeting_call_id":"😀","cloned_voice_id":"v"}"#,
        r#"{"specversion":"1.0","id":"1","source":"s","type":"clone.ready","time":"2026-01-01T00:00:00Z","data":{"caller_id":"+491","greeting_call_id":"g","cloned_voice_id":"v","ttl_seconds":0}}"#,
    ],
    &[
        r#"{"caller_id":"+491","greeting_call_id":"g","error_message":"no \"sample\"","failed_at":1767225600123,"cloned_voice_id":"v","api_response_time_ms":0,"sample_file_size_bytes":2147483647}"#,
        r#"{"data":{"error_message":"e","caller_id":"+491","greeting_call_id":"g"},"specversion":"1.0"}"#,
    ],
    &[
        r#"{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"v","transferred_at":"2026-01-01 00:00:00+01:00"}"#,
        r#"{"specversion":"1.0","type":"clone.transfer","data":{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"v"}}"#,
    ],
    &[
        r#"{"call_id":"c","status":"completed","occurred_at":1767225600.25,"threecx_call_id":"3","caller_id":"+491","cloned_voice_id":"v","call_started_at":"2026-01-01T00:00:00Z","call_ended_at":"2026-01-01T00:01:00Z","duration_seconds":60,"transcript":"Hello \u00e9","metadata":{"b":[1.5,{"z":null,"a":true}],"a":"x"}}"#,
        r#"{"call_id":"c","status":"initiated","metadata":{"a":{"c":1e2,"b":-0.0},"a":18446744073709551615}}"#,
        r#"{"specversion":"1.0","data":{"call_id":"c","status":"failed","metadata":{}}}"#,
    ],
    &[
        r#"{"caller_id":"+491","voice_sample_url":"s3://b/k","voice_name":"n","description":"d","account_id":"a","updated_at":"2026-01-01T00:00:00.000001Z","deleted":false}"#,
        r#"{"caller_id":"+491","deleted":true,"updated_at":5}"#,
    ],
];

/// Values, right and wrong.
const RAWS: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "-1",
    "1.5",
    "5.0",
    "1e3",
    "1E-3",
    "2147483647",
    "2147483648",
    "2147483647.0000001",
    "99999999999",
    "100000000000",
    "99999999999.9999999",
    "253402300799.999999",
    "253402300799999",
    "253402300800",
    "253402300800000",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "1e400",
    "-1e400",
    "1e308",
    "5e-324",
    "1e-400",
    "0.1",
    "1e16",
    "1.7672256001234565e9",
    "1.0000000000000000000000000000001",
    r#""""#,
    r#"" ""#,
    r#""\u00a0\u3000\t""#,
    r#""\u0000""#,
    r#""\u001f""#,
    r#""a\u001fb""#,
    r#""\ud800""#,
    r#""\ude00\ud83d""#,
    r#""\ud83d\ude00""#,
    r#""\u200b""#,
    r#""5""#,
    r#""true""#,
    r#""initiated""#,
    r#""completed""#,
    r#""failed""#,
    r#""Failed""#,
    r#""clone.ready""#,
    r#""call.lifecycle""#,
    r#""2026-01-01T00:00:00Z""#,
    r#""2026-01-01t23:59:60.9999999z""#,
    r#""2026-02-29T00:00:00Z""#,
    r#""2024-02-29 00:00:00""#,
    r#""1970-01-01T00:00:00+00:01""#,
    r#""9999-12-31T23:59:59.9999999Z""#,
    r#""9999-12-31T23:59:60Z""#,
    r#""2026-01-01T00:00:00.Z""#,
    r#""2026-01-01T00:00:00-23:59""#,
    r#""2026-01-01T00:00:00+24:00""#,
    r#""2026-01-01T24:00:00Z""#,
    r#""0000-01-01T00:00:00Z""#,
    "{}",
    "[]",
    "[[]]",
    r#"{"a":1,"a":2}"#,
    r#"{"a":{"\u0000":1}}"#,
    r#"{"\ud800":1}"#,
    r#"{"a":[1e400]}"#,
    r#"{"$serde_json::private::RawValue":"{}"}"#,
    r#"{"$serde_json::private::Number":"5"}"#,
    "\"\u{202e}\u{1F600}\u{301}\"",
    "\"\u{85}\"",
];

const NAMES: &[&str] = &[
    "caller_id",
    "greeting_call_id",
    "cloned_voice_id",
    "agent_call_id",
    "ready_at",
    "clone_duration_ms",
    "clone_created_at",
    "api_response_time_ms",
    "sample_file_size_bytes",
    "ttl_seconds",
    "error_message",
    "failed_at",
    "transferred_at",
    "call_id",
    "status",
    "occurred_at",
    "threecx_call_id",
    "call_started_at",
    "call_ended_at",
    "duration_seconds",
    "transcript",
    "metadata",
    "voice_sample_url",
    "voice_name",
    "description",
    "account_id",
    "updated_at",
    "deleted",
    "specversion",
    "type",
    "time",
    "data",
    "unknown",
    "",
    "caller\\u005fid",
    "\\ud800",
];

/// Pieces of JSON, and of what is none.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u",
    b"\\u0000",
    b"\\ud83d",
    b"\\ude00",
    b"\\\"",
    b"-",
    b".",
    b"e",
    b"E+",
    b"0",
    b"9",
    b" ",
    b"\t",
    b"\r\n",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b"nul",
    b"NaN",
    b"Infinity",
    b"//",
    b"'",
    b"\"\":",
    b"\xe2\x80\xa8",
    b"\xc2\xa0",
];

/// The parts that a long run repeats.
const RUNS: &[&[u8]] = &[
    b"[",
    b"]",
    b"{\"a\":",
    b"}",
    b"9",
    b"0",
    b"x",
    b" ",
    b"\\u00e9",
    b"\\\\",
    b"\xf0\x9f\x98\x80",
    b"[0,",
    b"\"a\":1,",
];

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn mutate(dice: &mut Dice, value: &mut Vec<u8>) {
    let at = dice.below(value.len() + 1);
    let range = at.min(value.len())..(at + dice.below(12)).min(value.len());
    match dice.below(16) {
        0 if at < value.len() => value[at] ^= 1 << dice.below(8),
        1 if at < value.len() => value[at] = dice.below(256) as u8,
        2 => drop(value.drain(range)),
        3 => {
            let again = value[range].to_vec();
            insert(value, at, &again);
        }
        4 => {
            let piece = dice.one(PIECES);
            insert(value, at, piece);
        }
        5 => {
            let topic = dice.below(5);
            let other = dice.one(VALID[topic]).as_bytes();
            let from = dice.below(other.len());
            value.truncate(at);
            value.extend(&other[from..]);
        }
        6 => value.truncate(at),
        7 => {
            // Long enough to pass a limit of 255 characters or 100 levels, seldom very long.
            let most = if dice.below(400) == 0 { 20_000 } else { 300 };
            let count = dice.below(most);
            let piece = dice.one(RUNS);
            insert(value, at, &piece.repeat(count));
        }
        8 => {
            let field = format!("\"{}\":{},", dice.one(NAMES), dice.one(RAWS));
            let at = value.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
            insert(value, at, field.as_bytes());
        }
        9 => *value = dice.bytes(64),
        10 => {
            *value = (0..dice.below(30)).flat_map(|_| dice.one(PIECES).to_vec()).collect();
        }
        // Most often another value in place of one.
        _ => {
            let Some(colon) = (at..value.len()).find(|at| value[*at] == b':') else { return };
            let end =
                (colon..value.len()).find(|at| matches!(value[*at], b',' | b'}')).unwrap_or(value.len());
            let raw = dice.one(RAWS);
            value.splice(colon + 1..end, raw.bytes());
        }
    }
}

/// The input of this number.
fn input(number: u64) -> Record {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(number));
    let index = dice.below(5);
    let mut value = dice.one(VALID[index]).as_bytes().to_vec();
    while dice.below(3) > 0 {
        mutate(&mut dice, &mut value);
    }
    let mut headers = Vec::new();
    if dice.below(5) == 0 {
        for _ in 0..1 + dice.below(3) {
            let names = ["ce_type", "ce_time", "ce_specversion", "content-type", "ce_id", "CE_TYPE"];
            let name = match dice.below(8) {
                0 => dice.bytes(20),
                _ => dice.one(&names).into(),
            };
            let likely = [
                "clone.ready",
                "clone.failed",
                "clone.transfer",
                "call.lifecycle",
                "caller.voice_mapping",
                " ",
                "1.0",
                "2026-01-01T00:00:00Z",
                "5",
                "application/json",
                "application/cloudevents+json",
                " Application/CloudEvents+JSON ; charset=utf-8",
            ];
            let header = match dice.below(8) {
                0 => None,
                1 => Some(dice.bytes(30)),
                2..5 => Some(Topic::ALL[index].name().into()),
                _ => Some(dice.one(&likely).into()),
            };
            headers.push(Header { name, value: header });
        }
    }
    let key = match dice.below(8) {
        0 => None,
        1 => Some(dice.bytes(40)),
        2 => Some(dice.one(PIECES).repeat(dice.below(300))),
        _ => Some(b"+491".to_vec()),
    };
    let timestamp = match dice.below(32) {
        0 => dice.0.next_u64() as i64,
        1 => [-1, 0, 253_402_300_799_999, 253_402_300_800_000, i64::MAX, i64::MIN][dice.below(6)],
        _ => SENT,
    };
    let key = match dice.below(2000) {
        0 => {
            headers.resize_with(999 + dice.below(4), || Header { name: dice.bytes(3), value: None });
            key
        }
        1 => Some(vec![b'4'; (1 << 20) - 20 + dice.below(40)]),
        2 if index == 3 => {
            // one more value than these repeats
            let count = 65_534 + dice.below(4);
            let piece = dice.one(&["0,", "{},", "\"\","]);
            value = format!(
                r#"{{"call_id":"c","status":"failed","metadata":{{"a":[{}0]}}}}"#,
                piece.repeat(count - 1)
            )
            .into_bytes();
            key
        }
        _ => key,
    };
    let value = (dice.below(40) > 0).then_some(value);
    Record { topic: Topic::ALL[index], partition: 0, offset: 0, timestamp, key, value, headers }
}

// -------- What must hold

/// Asserts that PostgreSQL stores the text in a column of `most` characters, and that it is a text by the contract.
fn assert_text(text: &str, most: usize) {
    assert!(!text.contains('\0') && (text.len() <= most || text.chars().count() <= most), "{text:?}");
    assert!(!text.chars().all(char::is_whitespace), "{text:?}");
}

fn assert_ids<const N: usize>(texts: [&str; N]) {
    for text in texts {
        assert_text(text, 255);
        assert!(!text.contains('\u{1f}'), "{text:?}");
    }
}

fn assert_times<const N: usize>(times: [Option<Time>; N]) {
    for time in times.into_iter().flatten() {
        assert!((0..=253_402_300_799_999_999).contains(&time.micros()), "{time}");
    }
}

fn assert_integers<const N: usize>(integers: [Option<i32>; N]) {
    assert!(integers.into_iter().flatten().all(|integer| integer >= 0), "{integers:?}");
}

/// A member of `metadata` is JSON that nests at most 99 levels, and no text in it holds U+0000.
fn assert_member(json: &str) {
    serde_json::from_str::<IgnoredAny>(json).unwrap();
    let (mut level, mut deepest, mut in_text) = (0, 0, false);
    let mut rest = json.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'"' => in_text = !in_text,
            b'\\' => {
                assert!(!after.starts_with(b"u0000"), "{json}");
                rest = &after[1..];
            }
            b'[' | b'{' if !in_text => level += 1,
            b']' | b'}' if !in_text => level -= 1,
            _ => {}
        }
        deepest = deepest.max(level);
    }
    assert!(deepest <= 99, "{json}");
}

fn assert_storable(event: &Event<'_>) {
    let any_length = usize::MAX;
    match event {
        Event::Ready(event) => {
            assert_ids([&event.caller_id, &event.greeting_call_id, &event.cloned_voice_id]);
            assert_times([event.ready_at, event.clone_created_at, event.ttl_expires_at].map(Some));
            assert!(event.ttl_expires_at >= event.ready_at);
            assert_integers([
                event.clone_duration_ms,
                event.api_response_time_ms,
                event.sample_file_size_bytes,
            ]);
        }
        Event::Failed(event) => {
            assert_ids([&event.caller_id, &event.greeting_call_id]);
            assert_text(&event.error_message, any_length);
            event.cloned_voice_id.iter().for_each(|text| assert_text(text, 255));
            assert_times([Some(event.failed_at)]);
            assert_integers([event.api_response_time_ms, event.sample_file_size_bytes]);
        }
        Event::Transfer(event) => {
            assert_ids([&event.greeting_call_id, &event.agent_call_id, &event.cloned_voice_id]);
            assert_times([Some(event.transferred_at)]);
        }
        Event::Call(event) => {
            assert_ids([&event.call_id]);
            for text in
                [&event.threecx_call_id, &event.caller_id, &event.cloned_voice_id].into_iter().flatten()
            {
                assert_text(text, 255);
            }
            event.transcript.iter().for_each(|text| assert_text(text, any_length));
            assert_times([Some(event.occurred_at), event.call_started_at, event.call_ended_at]);
            assert_integers([event.duration_seconds]);
            for (name, json) in event.metadata.iter().flatten() {
                assert!(!name.contains('\0'));
                assert_member(json);
            }
        }
        Event::Mapping(event) => {
            assert_ids([&event.caller_id]);
            assert_times([Some(event.updated_at)]);
            if let Some(state) = &event.state {
                assert_text(&state.voice_sample_url, 2048);
                for text in [&state.voice_name, &state.account_id].into_iter().flatten() {
                    assert_text(text, 255);
                }
                state.description.iter().for_each(|text| assert_text(text, any_length));
            }
        }
    }
}

/// Some columns of some tables, as text.
type Columns = BTreeMap<(&'static str, &'static str), Option<String>>;

/// The values that a single event puts into its rows.
fn columns(event: &Event<'_>, timestamp: i64) -> Columns {
    let mut columns = Columns::new();
    let time = |time: Option<Time>| time.map(|time| model::printed(time.micros()));
    macro_rules! put {
        ($table:literal: $($column:ident $value:expr),*) => {
            columns.extend([$((($table, stringify!($column)), $value)),*])
        };
    }
    macro_rules! text {
        ($value:expr) => {
            $value.as_ref().map(ToString::to_string)
        };
    }
    match event {
        Event::Ready(e) => {
            put!("clone_ready_events": caller_id text!(Some(&e.caller_id)), ready_at time(Some(e.ready_at)),
                greeting_call_id text!(Some(&e.greeting_call_id)), clone_duration_ms text!(e.clone_duration_ms));
            put!("voice_clone_cache": cloned_voice_id text!(Some(&e.cloned_voice_id)),
                clone_created_at time(Some(e.clone_created_at)), ttl_expires_at time(Some(e.ttl_expires_at)));
            put!("voice_clone_log": api_response_time_ms text!(e.api_response_time_ms),
                sample_file_size_bytes text!(e.sample_file_size_bytes));
        }
        Event::Failed(e) => {
            put!("clone_failed_events": caller_id text!(Some(&e.caller_id)), failed_at time(Some(e.failed_at)),
                greeting_call_id text!(Some(&e.greeting_call_id)), error_message text!(Some(&e.error_message)));
            put!("voice_clone_log": cloned_voice_id text!(e.cloned_voice_id),
                api_response_time_ms text!(e.api_response_time_ms),
                sample_file_size_bytes text!(e.sample_file_size_bytes));
        }
        Event::Transfer(e) => put!("clone_transfer_events": agent_call_id text!(Some(&e.agent_call_id)),
            greeting_call_id text!(Some(&e.greeting_call_id)), cloned_voice_id text!(Some(&e.cloned_voice_id)),
            transferred_at time(Some(e.transferred_at))),
        Event::Call(e) => {
            let call = Call::of(e.clone(), Time::from_micros(timestamp * 1000));
            put!("call_log": call_id text!(Some(&e.call_id)), threecx_call_id text!(e.threecx_call_id),
                caller_id text!(e.caller_id), cloned_voice_id text!(e.cloned_voice_id),
                call_started_at time(call.started_at()), call_ended_at time(call.ended_at()),
                duration_seconds text!(call.duration()), transcript text!(e.transcript),
                status text!(Some(e.status.name())), metadata call.metadata_json());
        }
        Event::Mapping(e) => {
            if let Some(state) = &e.state {
                put!("caller_voice_mapping": caller_id text!(Some(&e.caller_id)), voice_name text!(state.voice_name),
                    voice_sample_url text!(Some(&state.voice_sample_url)), description text!(state.description),
                    account_id text!(state.account_id), updated_at time(Some(e.updated_at)), deleted_at None);
            }
        }
    }
    columns
}

fn assert_model_agrees(record: &Record, outcome: &Result<Event<'_>, Unusable>) {
    let input = Input {
        topic: record.topic.name().to_owned(),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record
            .headers
            .iter()
            .map(|header| (String::from_utf8_lossy(&header.name).into_owned(), header.value.clone()))
            .collect(),
        timestamp: record.timestamp,
    };
    let folded = model::fold(&[input], CACHE_TTL, RECORD_MAX_BYTES);
    match (outcome, folded.unusable.get(&0)) {
        (Ok(event), None) => {
            let columns = columns(event, record.timestamp);
            let mut found = Columns::new();
            for (table, column) in columns.keys() {
                let row = folded.tables[table].values().next().unwrap_or_else(|| panic!("no row in {table}"));
                found.insert((table, column), row[column].clone());
            }
            assert_eq!(columns, found, "decoded, and as the model has it");
            let rows: usize = folded.tables.values().map(BTreeMap::len).sum();
            assert_eq!(rows == 0, columns.is_empty());
        }
        (Err(unusable), Some(reasons)) => {
            assert!(reasons.contains(unusable.reason.name()), "{unusable:?}, but the model: {reasons:?}");
        }
        (outcome, reasons) => panic!("decoded: {outcome:?}, but the model: {reasons:?}"),
    }
}

/// Decodes an input and checks what came out; says what that was.
fn examine(record: &Record, with_model: bool) -> &'static str {
    let outcome = decode(record, LIMITS);
    match &outcome {
        Ok(event) => assert_storable(event),
        Err(unusable) => {
            assert!(!unusable.message.is_empty() && unusable.message.len() < 200, "{unusable:?}");
            assert_ne!(unusable.reason, Reason::RejectedByDatabase, "{unusable:?}");
        }
    }
    if with_model {
        assert_model_agrees(record, &outcome);
    }
    match outcome {
        Ok(_) => record.topic.name(),
        Err(unusable) => unusable.reason.name(),
    }
}

/// An input takes microseconds.
const HANGS_AFTER: Duration = Duration::from_secs(60);

const NONE: u64 = u64::MAX;

/// Notes the end of a worker, including by panic.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}

/// Waits until all workers have ended. Ends the process where a worker takes too long for one input, as nothing else can
/// end a thread.
fn end_at_a_hang(in_hand: &[AtomicU64]) {
    let mut seen = vec![(NONE, Instant::now()); in_hand.len()];
    loop {
        let now: Vec<u64> = in_hand.iter().map(|number| number.load(Ordering::Relaxed)).collect();
        if now.iter().all(|number| *number == NONE) {
            return;
        }
        for (number, seen) in now.into_iter().zip(&mut seen) {
            if number != seen.0 {
                *seen = (number, Instant::now());
            } else if number != NONE && seen.1.elapsed() > HANGS_AFTER {
                eprintln!(
                    "input {number} hangs: FUZZ_FROM={number} FUZZ_INPUTS=1 cargo test --test it -- --ignored fuzz"
                );
                std::process::exit(1);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Examines inputs on all processors, every so manieth of them with the model too; counts what came out.
fn examine_inputs(from: u64, count: u64, model_every: u64) -> BTreeMap<&'static str, u64> {
    const BLOCK: u64 = 5_000;
    let next = AtomicU64::new(from);
    let total = Mutex::new(BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let in_hand: Vec<AtomicU64> = (0..workers).map(|_| AtomicU64::new(from)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| end_at_a_hang(&in_hand));
        for mine in &in_hand {
            scope.spawn(|| {
                let _ended = Ended(mine);
                let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
                loop {
                    let first = next.fetch_add(BLOCK, Ordering::Relaxed);
                    if first >= from + count {
                        break;
                    }
                    for number in first..(first + BLOCK).min(from + count) {
                        mine.store(number, Ordering::Relaxed);
                        let record = input(number);
                        let with_model = number.is_multiple_of(model_every);
                        match catch_unwind(AssertUnwindSafe(|| examine(&record, with_model))) {
                            Ok(outcome) => *counts.entry(outcome).or_default() += 1,
                            Err(panic) => {
                                let value = record.value.as_deref().map(String::from_utf8_lossy);
                                println!("input {number}: {record:?}\nits value: {value:?}");
                                println!("again: FUZZ_FROM={number} FUZZ_INPUTS=1 cargo test --test it -- --ignored fuzz");
                                resume_unwind(panic);
                            }
                        }
                    }
                }
                let mut total = total.lock().unwrap();
                for (outcome, count) in counts {
                    *total.entry(outcome).or_default() += count;
                }
            });
        }
    });
    total.into_inner().unwrap()
}

#[test]
fn any_bytes_are_an_event_that_postgresql_can_store_or_have_the_models_reason() {
    let counts = examine_inputs(0, 40_000, 1);
    // Where the inputs are any good, each topic and each reason but the database's turns up.
    assert_eq!(counts.len(), 5 + 10, "{counts:?}");
    assert!(counts.values().all(|count| *count >= 5), "{counts:?}");
}

#[test]
#[ignore = "takes minutes; `make fuzz` runs it"]
fn very_many_bytes() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (from, count) = (number("FUZZ_FROM", 0), number("FUZZ_INPUTS", 1_000_000));
    let begin = Instant::now();
    let counts = examine_inputs(from, count, if count < 100_000 { 1 } else { 16 });
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "inputs {from} to {}: {count} in {seconds:.1} s, {:.0} a second",
        from + count,
        count as f64 / seconds
    );
    for (outcome, count) in &counts {
        println!("{count:>12} {outcome}");
    }
    assert_eq!(counts.values().sum::<u64>(), count);
}

// -------- How the time grows

/// Fills a record of about this many bytes with something, between a beginning and an end.
fn filled(size: usize, begin: &str, end: &str, mut piece: impl FnMut(usize) -> String) -> Vec<u8> {
    let mut value = begin.to_owned();
    let mut count = 0;
    while value.len() + end.len() + 40 < size {
        value.push_str(&piece(count));
        count += 1;
    }
    value.push_str(end);
    value.into_bytes()
}

/// A `call.lifecycle` record with a field of this raw value, in parts.
fn call(size: usize, field: &str, begin: &str, end: &str, piece: impl FnMut(usize) -> String) -> Vec<u8> {
    let begin = format!(r#"{{"call_id":"c","status":"completed","{field}":{begin}"#);
    filled(size, &begin, &format!("{end}}}"), piece)
}

fn nested(size: usize, field: &str, open: &str, close: &str) -> Vec<u8> {
    let levels = (size - 60) / (open.len() + close.len() + 1);
    call(size, field, &format!("{}0{}", open.repeat(levels), close.repeat(levels)), "", |_| " ".to_owned())
}

/// Hostile records, by kind.
fn shapes(size: usize) -> Vec<(&'static str, Vec<u8>)> {
    let same = |piece: &'static str| move |_: usize| piece.to_owned();
    // An odd number times the count, cut to 32 bits, meets each number once and in no order.
    let scattered = |count: usize| (count as u32).wrapping_mul(2_654_435_761);
    vec![
        ("a long plain text, to compare with", call(size, "transcript", "\"", "\"", same("x"))),
        ("deep arrays in an unknown field", nested(size, "unknown", "[", "]")),
        ("deep objects in an unknown field", nested(size, "unknown", "{\"a\":", "}")),
        ("deep arrays in a text's place", nested(size, "transcript", "[", "]")),
        ("deep arrays in metadata", nested(size, "metadata", "{\"a\":", "}")),
        ("arrays that nobody closes", filled(size, "", "", same("["))),
        ("a known field again and again", filled(size, "{\"call_id\":1", "}", same(",\"call_id\":1"))),
        ("an unknown field again and again", filled(size, "{\"a\":1", "}", same(",\"a\":1"))),
        ("names with escapes", filled(size, "{\"a\":1", "}", same(",\"\\u0063all_id\":1"))),
        ("one long name of escapes", filled(size, "{\"", "\":1}", same("\\u00e9"))),
        ("many unknown names", filled(size, "{\"a\":1", "}", |count| format!(",\"{count}\":1"))),
        ("a text of escapes", call(size, "transcript", "\"", "\"", same("\\n"))),
        ("a text of escaped surrogate pairs", call(size, "transcript", "\"", "\"", same("\\ud83d\\ude00"))),
        ("a blank text", call(size, "transcript", "\"", "\"", same("\u{3000}"))),
        ("an id that is too long", call(size, "caller_id", "\"", "\"", same("\u{1F600}"))),
        (
            "a time with a long fraction",
            call(size, "occurred_at", "\"2026-01-01T00:00:00.", "Z\"", same("1")),
        ),
        ("a time that is none", call(size, "occurred_at", "\"", "\"", same("1"))),
        ("a long integer", call(size, "duration_seconds", "1", "", same("1"))),
        ("a long fraction", call(size, "duration_seconds", "0.", "1", same("0"))),
        ("a long fraction of nines as a time", call(size, "occurred_at", "0.", "9", same("9"))),
        ("a long exponent", call(size, "duration_seconds", "1e", "1", same("0"))),
        ("a long integer in metadata", call(size, "metadata", "{\"a\":1", "}", same("1"))),
        ("a long fraction in metadata", call(size, "metadata", "{\"a\":0.", "1}", same("0"))),
        ("a long fraction of nines in metadata", call(size, "metadata", "{\"a\":0.", "9}", same("9"))),
        ("a long exponent in metadata", call(size, "metadata", "{\"a\":1e", "1}", same("0"))),
        (
            "many doubles in metadata",
            call(size, "metadata", "{\"a\":[0", "]}", same(",1.7976931348623157e308")),
        ),
        (
            "many sorted names in metadata",
            call(size, "metadata", "{\"a\":1", "}", |count| format!(",\"{count:08}\":1")),
        ),
        (
            "many scattered names in metadata",
            call(size, "metadata", "{\"a\":1", "}", |count| format!(",\"{:08x}\":1", scattered(count))),
        ),
        (
            "many scattered names below the top of metadata",
            call(size, "metadata", "{\"a\":{\"a\":1", "}}", |count| {
                format!(",\"{:08x}\":1", scattered(count))
            }),
        ),
        ("one name again and again in metadata", call(size, "metadata", "{\"a\":1", "}", same(",\"a\":1"))),
        ("many objects in metadata", call(size, "metadata", "{\"a\":[0", "]}", same(",{\"b\":{}}"))),
        ("white space", filled(size, "{", "}", same(" "))),
    ]
}

/// The time that this thread has spent on a processor, so that a busy machine counts for nothing.
fn processor_time() -> Duration {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(nanoseconds.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "measures; `make fuzz` runs it"]
fn the_time_per_byte_of_hostile_records_does_not_grow_with_their_size() {
    let time_per_byte = |value: Vec<u8>| {
        let bytes = value.len();
        let (key, headers, topic) = (None, Vec::new(), Topic::CallLifecycle);
        let value = Some(value);
        let record = Record { topic, partition: 0, offset: 0, timestamp: SENT, key, value, headers };
        // As many bytes of either size, and the better of two tries.
        let times = (32 << 20) / bytes;
        let tries = (0..2).map(|_| {
            let begin = processor_time();
            for _ in 0..times {
                drop(decode(&record, LIMITS));
            }
            processor_time() - begin
        });
        tries.min().unwrap().as_secs_f64() * 1e9 / (bytes * times) as f64
    };
    println!("\n{:<48} {:>8} {:>8} {:>6}", "nanoseconds per byte of a record of", "64 KiB", "8 MiB", "ratio");
    for ((name, small), (_, large)) in shapes(64 << 10).into_iter().zip(shapes(8 << 20)) {
        assert!(
            large.len() <= RECORD_MAX_BYTES && large.len() > RECORD_MAX_BYTES / 2,
            "{name}: {}",
            large.len()
        );
        let (small, large) = (time_per_byte(small), time_per_byte(large));
        println!("{name:<48} {small:>8.2} {large:>8.2} {:>6.1}", large / small);
        // 128 times the bytes: what takes time in the square of them shows as 128, what merely leaves the processor's
        // caches as less than 10.
        assert!(large < small * 20.0, "{name}: not linear in size");
    }
}
