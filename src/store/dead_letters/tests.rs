#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Instant;

use super::resolve::{KnownLetters, OffsetRange, QUERY_EVERY};
use super::*;
use crate::record::Topic;

fn record(partition: i32, offset: i64) -> Record {
    Record {
        topic: Topic::CloneReady,
        partition,
        offset,
        timestamp: 0,
        key: None,
        value: None,
        headers: Vec::new(),
    }
}

fn letter(record: &Record, reason: Reason) -> DeadLetter<'_> {
    DeadLetter { topic_name: "p.clone.ready".into(), record, unusable: Unusable::new(reason, "message") }
}

#[test]
fn a_batch_has_one_summary_for_each_partition_and_reason() {
    let records = [record(0, 7), record(0, 9), record(1, 3), record(0, 8)];
    let reasons = [Reason::Tombstone, Reason::Tombstone, Reason::Tombstone, Reason::InvalidJson];
    let letters: Vec<_> =
        records.iter().zip(reasons).map(|(record, reason)| letter(record, reason)).collect();
    let lines: Vec<String> = summaries(&letters).iter().map(Summary::to_string).collect();
    assert_eq!(
        lines,
        [
            "1 record of p.clone.ready/0 between offsets 8 and 8: invalid_json",
            "2 records of p.clone.ready/0 between offsets 7 and 9: tombstone",
            "1 record of p.clone.ready/1 between offsets 3 and 3: tombstone",
        ]
    );
    assert!(summaries(&[]).is_empty());
}

#[test]
fn headers_are_written_as_postgresql_reads_an_array_of_bytes() {
    let headers = [
        Header::new("a", b"\0\xff".as_slice()),
        Header { name: Vec::new(), value: None },
        Header::new(b"\xfe".as_slice(), ""),
    ];
    assert_eq!(array_text(&headers), r#"{"\\x61","\\x00ff","\\x",NULL,"\\xfe","\\x"}"#);
    assert_eq!(array_text(&[]), "{}");
}

#[test]
fn the_table_is_asked_only_for_offsets_that_may_have_a_letter() {
    let known = KnownLetters::default();
    let start = Instant::now();
    let range = |first, last| BTreeMap::from([((Topic::CloneReady, 0), (first, last))]);
    let ask = |first, last, now| !known.ranges_to_query(range(first, last), now).is_empty();
    assert!(ask(10, 19, start), "nothing is known yet");
    let range = OffsetRange { topic: Topic::CloneReady, partition: 0, first: 10, last: 19 };
    known.note_highest(&range, Some(25), start);
    assert!(ask(20, 29, start), "a letter is known there");
    assert!(!ask(30, 39, start));
    assert!(!ask(40, 49, start + QUERY_EVERY / 2));
    assert!(ask(30, 39, start), "the offsets went back");
    assert!(ask(50, 59, start + QUERY_EVERY), "another process may have read ahead");
    known.note(&[letter(&record(0, 70), Reason::Tombstone)]);
    assert!(ask(60, 69, start), "a letter was made");
    assert!(!ask(71, 79, start));
}
