use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::cli::SettingFlags;
use crate::config::{Need, Settings};
use crate::store::write::Mode;
use crate::store::{Store, connect};

#[test]
fn a_usable_record_resets_the_count_until_the_limit_is_reached() {
    let count = |outcomes: &str| {
        outcomes.chars().fold(0, |before, outcome| count_consecutive(before, outcome == 'u', 3))
    };
    assert_eq!(count("ddudd"), 2);
    assert_eq!(count("ddu"), 0);
    assert_eq!(count("ddd"), 3);
    assert_eq!(count("uddduud"), 3, "what follows does not take it back");
}

fn records(count: i64) -> Vec<Record> {
    let record = |offset| Record {
        topic: Topic::CloneFailed,
        partition: 0,
        offset: offset * 2,
        timestamp: 0,
        key: None,
        value: None,
        headers: Vec::new(),
    };
    (0..count).map(record).collect()
}

#[test]
fn pieces_end_behind_their_last_record_and_the_last_one_where_the_batch_does() {
    let records = records(5);
    let records: Vec<&Record> = records.iter().collect();
    let part = Part {
        key: TopicPartition::new(Topic::CloneFailed, 0),
        from: Position::at(0, None),
        to_offset: 20,
        completes: true,
        records: &records,
    };
    let ends = |most| -> Vec<(usize, i64, bool)> {
        part.pieces(most)
            .iter()
            .map(|piece| (piece.records.len(), piece.to_offset, piece.completes))
            .collect()
    };
    assert_eq!(ends(2), [(2, 3, false), (2, 7, false), (1, 20, true)]);
    assert_eq!(ends(100), [(5, 20, true)]);
    let empty = Part { records: &[], ..part };
    assert_eq!(empty.pieces(2).len(), 1, "the offset moves all the same");
}

/// An ingest that never connects.
fn ingest() -> Ingest {
    let variables = [("DATABASE_URL".to_owned(), "postgresql://u@127.0.0.1:1/d".to_owned())];
    let need = Need { database: true, broker: false };
    let settings = Settings::from(&SettingFlags::default(), variables.into_iter(), need).unwrap();
    let store = Store::new(connect::waiting_pool(&settings).unwrap());
    Ingest::new(&settings, store, None, Mode::Live)
}

#[test]
fn other_tasks_of_the_only_worker_run_while_a_batch_of_8_mib_values_is_decoded() {
    let mut records = records(4);
    for (record, number) in records.iter_mut().zip(0..) {
        let head = format!(r#"{{"call_id":"c{number}","status":"completed","transcript":""#);
        let transcript = "x".repeat(8 * 1024 * 1024 - head.len() - 2);
        record.topic = Topic::CallLifecycle;
        record.value = Some(format!(r#"{head}{transcript}"}}"#).into_bytes());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let turns = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&turns);
    runtime.spawn(async move {
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let decoding = runtime.spawn(async move {
        let ingest = ingest();
        let records: Vec<&Record> = records.iter().collect();
        let part = Part {
            key: TopicPartition::new(Topic::CallLifecycle, 0),
            from: Position::at(0, None),
            to_offset: 20,
            completes: true,
            records: &records,
        };
        // again on a machine that is too busy to run the other thread meanwhile
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let before = turns.load(Ordering::Relaxed);
            assert_eq!(ingest.prepare(&[part], &Rejected::new()).plan.call_log.len(), 4);
            if turns.load(Ordering::Relaxed) > before {
                return;
            }
        }
        panic!("no other task ran while records were decoded");
    });
    runtime.block_on(decoding).unwrap();
}
