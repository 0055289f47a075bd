//! The merge rules on a real PostgreSQL: histories in which everything collides, written in any order, cut
//! into any batches, read twice, by two writers at once, always end in the model's tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use voiceclone_events::event::Limits;
use voiceclone_events::ingest::{Ingest, Positions};
use voiceclone_events::record::{Record, Topic};
use voiceclone_events::store::write::Mode;
use voiceclone_events::store::{Store, connect, migrate};

use crate::model::{self, Input};
use crate::support::postgres::Database;
use crate::support::tables;

/// Random choices of a seed.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit as u64) as usize
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A field that may be absent, null or blank.
    fn maybe(&mut self, fields: &mut Map<String, Value>, name: &str, of: &[Value]) {
        match self.below(8) {
            0..=1 => {}
            2 => drop(fields.insert(name.into(), Value::Null)),
            3 => drop(fields.insert(name.into(), json!(" \t"))),
            _ => drop(fields.insert(name.into(), self.one(of))),
        }
    }
}

/// A record in which few values meet often.
fn record(dice: &mut Dice, offset: i64) -> Record {
    let topic = dice.one(&Topic::ALL);
    let callers = [json!("+15550100"), json!("+15550101"), json!("\u{1F600} caller ")];
    let calls = [json!("call-1"), json!("call-2"), json!("CALL-1")];
    let voices = [json!("voice-1"), json!("voice-2")];
    let times = [
        json!("2020-01-01T00:00:00Z"),
        json!("2020-01-01T00:00:01.5Z"),
        json!("2020-01-01T00:00:01.500000+00:00"),
        json!(1_577_836_801_500_i64),
        json!("2020-01-02 00:00:00.000001"),
    ];
    let numbers = [json!(0), json!(1), json!(5.0), json!(2_147_483_647)];
    let texts =
        [json!("a"), json!("B"), json!("b "), json!("\u{e9}"), json!("e\u{301}"), json!("\u{10FFFF}")];
    let mut fields = Map::new();
    let mut key = None;
    match topic {
        Topic::CloneReady => {
            fields.insert("caller_id".into(), dice.one(&callers));
            fields.insert("greeting_call_id".into(), dice.one(&calls));
            fields.insert("cloned_voice_id".into(), dice.one(&voices));
            dice.maybe(&mut fields, "ready_at", &times);
            dice.maybe(&mut fields, "clone_created_at", &times);
            for name in ["clone_duration_ms", "api_response_time_ms", "sample_file_size_bytes", "ttl_seconds"]
            {
                dice.maybe(&mut fields, name, &numbers);
            }
        }
        Topic::CloneFailed => {
            fields.insert("caller_id".into(), dice.one(&callers));
            fields.insert("greeting_call_id".into(), dice.one(&calls));
            fields.insert("error_message".into(), dice.one(&texts));
            dice.maybe(&mut fields, "failed_at", &times);
            dice.maybe(&mut fields, "cloned_voice_id", &voices);
            dice.maybe(&mut fields, "api_response_time_ms", &numbers);
            dice.maybe(&mut fields, "sample_file_size_bytes", &numbers);
        }
        Topic::CloneTransfer => {
            fields.insert("greeting_call_id".into(), dice.one(&calls));
            fields.insert("agent_call_id".into(), dice.one(&calls));
            fields.insert("cloned_voice_id".into(), dice.one(&voices));
            dice.maybe(&mut fields, "transferred_at", &times);
        }
        Topic::CallLifecycle => {
            fields.insert("call_id".into(), dice.one(&calls));
            fields.insert(
                "status".into(),
                dice.one(&[json!("initiated"), json!("completed"), json!("failed")]),
            );
            for name in ["occurred_at", "call_started_at", "call_ended_at"] {
                dice.maybe(&mut fields, name, &times);
            }
            dice.maybe(&mut fields, "duration_seconds", &numbers);
            for name in ["threecx_call_id", "caller_id", "cloned_voice_id", "transcript"] {
                dice.maybe(&mut fields, name, &texts);
            }
            let metadata = [
                json!({}),
                json!({"z": 1, "a": {"y": null, "b": [1.0, 0.1, 1e300]}}),
                json!({"a": null, "\u{e9}": "\u{1F600}"}),
                json!({"a": {"b": 2}, "m": 18_446_744_073_709_551_615_u64}),
            ];
            dice.maybe(&mut fields, "metadata", &metadata);
        }
        Topic::CallerVoiceMapping => {
            let caller = dice.one(&callers);
            key = caller.as_str().map(|caller| caller.as_bytes().to_vec());
            fields.insert("caller_id".into(), caller);
            fields.insert("voice_sample_url".into(), dice.one(&texts));
            for name in ["voice_name", "description", "account_id"] {
                dice.maybe(&mut fields, name, &texts);
            }
            dice.maybe(&mut fields, "updated_at", &times);
            dice.maybe(&mut fields, "deleted", &[json!(true), json!(false), json!(false)]);
        }
    }
    let tombstone = dice.below(12) == 0;
    Record {
        topic,
        partition: 0,
        offset,
        timestamp: dice.one(&[1_577_836_800_000, 1_577_836_801_500, 1_577_923_200_000]),
        key,
        value: (!tombstone).then(|| Value::Object(fields).to_string().into_bytes()),
        headers: Vec::new(),
    }
}

fn ingest(database: &Database) -> Ingest {
    let flags = voiceclone_events::cli::SettingFlags::default();
    let variables = [("DATABASE_URL".to_owned(), database.url().to_owned())];
    let need = voiceclone_events::config::Need { database: true, broker: false };
    let settings = voiceclone_events::config::Settings::from(&flags, variables.into_iter(), need).unwrap();
    Ingest {
        store: Store::new(connect::pool(&settings).unwrap()),
        limits: Limits { record_max_bytes: 8 * 1024 * 1024, cache_ttl_seconds: 86_400 },
        topic_prefix: String::new(),
        group: None,
        dead_letter_limit: 10_000,
        mode: Mode::Commit,
    }
}

async fn write(ingest: &Ingest, records: &[Record]) {
    ingest.write(records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
}

fn assert_model(seed: u64, way: &str, records: &[Record], database: &Database) {
    let inputs: Vec<Input> = records
        .iter()
        .map(|record| Input {
            topic: record.topic.name().to_owned(),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: Vec::new(),
            timestamp: record.timestamp,
        })
        .collect();
    let folded = model::fold(&inputs, 86_400, 8 * 1024 * 1024);
    if let Some(difference) = model::first_difference(&folded.tables, &tables::read_with_ids(database)) {
        panic!("seed {seed}, {way}: {difference}");
    }
}

async fn migrated() -> Database {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_history_ends_in_the_models_tables_in_any_order_any_batches_and_with_two_writers() {
    for seed in 0..12 {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let records: Vec<Record> = (0..150).map(|offset| record(&mut dice, offset)).collect();

        let at_once = migrated().await;
        write(&ingest(&at_once), &records).await;
        assert_model(seed, "in one batch", &records, &at_once);

        let one_by_one = migrated().await;
        let writer = ingest(&one_by_one);
        for record in records.iter().rev() {
            write(&writer, std::slice::from_ref(record)).await;
        }
        write(&writer, &records).await;
        assert_model(seed, "backwards one by one, then again in one batch", &records, &one_by_one);

        let side_by_side = migrated().await;
        let writer = Arc::new(ingest(&side_by_side));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let mut mine: Vec<Record> =
                    records.iter().filter(|_| dice.below(4) > 0).chain(&records).cloned().collect();
                dice.shuffle(&mut mine);
                let size = 1 + dice.below(20);
                let writer = writer.clone();
                tokio::spawn(async move {
                    for batch in mine.chunks(size) {
                        write(&writer, batch).await;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_model(seed, "shuffled and doubled by two writers at once", &records, &side_by_side);
    }
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
    assert_model(0, "at the same moment", &ready, &database);
}
