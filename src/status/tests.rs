//! Tests of verdict, problems and lag, with hand-made facts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::facts::{BrokerAnswers, DatabaseAnswers, Facts, Unanswered, Unseen};
use super::partitions::furthest_behind;
use super::problems::Severity;
use super::*;
use crate::kafka::brokers::Log;
use crate::record::{Topic, TopicPartition};
use crate::store::status::{Letters, Pause, ReportedWait, Skipped, Stored};

mod losses;
mod shown;
mod turns;

const NOW: i64 = 1_800_000_000_000;
const KEY: TopicPartition = TopicPartition { topic: Topic::CloneFailed, partition: 1 };

fn stored(next_offset: i64) -> Stored {
    Stored {
        topic: "p.clone.failed".into(),
        partition: 1,
        next_offset,
        dead_in_a_row: 0,
        topic_id: None,
        stopped_at: None,
        moved_at: "2027-01-15T07:00:00Z".into(),
        idle_seconds: 3.0,
    }
}

/// One partition whose log is 10 to `end`, and a group with one member and these stored offsets at the two looks.
fn facts(stored_at: [Option<i64>; 2], end: i64) -> Facts {
    let positions = stored_at
        .map(|next| Some(next.map(|next| BTreeMap::from([(KEY, stored(next))])).unwrap_or_default()));
    let logs = [0, 1].map(|_| BTreeMap::from([(KEY, Log { low: 10, high: end })]));
    let member = crate::kafka::group_state::Member {
        id: "m".into(),
        client_id: "c".into(),
        host: "h".into(),
        partitions: vec![KEY],
    };
    Facts {
        checked_at: NOW,
        group: "g".into(),
        topic_prefix: "p.".into(),
        dead_letter_limit: 100,
        expiry_interval: Duration::from_secs(60),
        between: Duration::from_secs(2),
        database: Ok(DatabaseAnswers {
            positions,
            instances: Some(Vec::new()),
            ..DatabaseAnswers::default()
        }),
        brokers: Ok(BrokerAnswers {
            broker: ClusterInfo { id: Some(1), brokers: 1 },
            unseen: Vec::new(),
            ids: BTreeMap::new(),
            leaders: BTreeMap::from([(KEY, Some(1))]),
            logs,
            members: Ok(vec![member]),
            committed: Ok(BTreeMap::new()),
            waiting: BTreeMap::from([(KEY, NOW - 90_000)]),
        }),
    }
}

fn answers(facts: &mut Facts) -> &mut DatabaseAnswers {
    facts.database.as_mut().unwrap()
}

fn cluster(facts: &mut Facts) -> &mut BrokerAnswers {
    facts.brokers.as_mut().unwrap()
}

fn second(facts: &mut Facts) -> &mut Stored {
    answers(facts).positions[1].as_mut().unwrap().get_mut(&KEY).unwrap()
}

fn codes(document: &Document) -> Vec<&'static str> {
    document.problems.iter().map(|problem| problem.code.name()).collect()
}

#[track_caller]
fn assert_says(document: &Document, verdict: Verdict, code: &str, what: &str, fix: &str) {
    assert_eq!(document.verdict, verdict, "{document:#?}");
    let problem = document.problems.iter().find(|problem| problem.code.name() == code);
    let problem = problem.unwrap_or_else(|| panic!("no {code}: {document:#?}"));
    assert!(problem.what.contains(what) && problem.fix.contains(fix), "{problem:#?}");
}

#[test]
fn nothing_is_wrong_where_the_stored_offset_is_the_end() {
    let document = judge(&facts([Some(20), Some(20)], 20));
    assert_eq!((document.verdict, codes(&document)), (Verdict::Ok, vec![]));
    let partition = &document.partitions[0];
    assert_eq!((partition.lag_records, partition.lag_seconds), (Some(0), Some(0.0)));
    assert_eq!((partition.state, partition.member.as_deref()), (Some(PartitionState::Ok), Some("m")));
    assert_eq!(document.topics[0].lag_seconds, Some(0.0));
}

#[test]
fn a_partition_that_was_never_consumed_is_behind_by_all_that_its_log_holds() {
    assert_eq!(judge(&facts([None, None], 25)).partitions[0].lag_records, Some(15));
    assert_eq!(judge(&facts([None, None], 10)).partitions[0].lag_records, Some(0));
}

#[test]
fn the_offset_of_a_topic_that_had_the_same_name_counts_for_nothing() {
    let mut facts = facts([Some(90), Some(90)], 25);
    second(&mut facts).topic_id = Some(Uuid::from_u128(1));
    cluster(&mut facts).ids.insert(KEY.topic, Uuid::from_u128(2));
    let document = judge(&facts);
    assert_eq!((document.partitions[0].next_offset, document.partitions[0].lag_records), (None, Some(15)));
    assert!(!codes(&document).contains(&"offsets_lost"), "{document:#?}");
}

#[test]
fn the_age_is_that_of_the_waiting_record_never_negative_and_null_with_its_reason() {
    let mut facts = facts([Some(12), Some(12)], 20);
    assert_eq!(judge(&facts).partitions[0].lag_seconds, Some(90.0));
    cluster(&mut facts).waiting.insert(KEY, NOW + 5_000);
    assert_eq!(judge(&facts).partitions[0].lag_seconds, Some(0.0));
    cluster(&mut facts).waiting.clear();
    let document = judge(&facts);
    assert_eq!((document.partitions[0].lag_seconds, document.topics[0].lag_seconds), (None, None));
    assert!(codes(&document).contains(&"lag_seconds_unknown"), "{document:#?}");
}

#[test]
fn lag_that_shrinks_has_an_end_in_sight() {
    let document = judge(&facts([Some(1_000), Some(3_000)], 43_000));
    assert_eq!((document.verdict, codes(&document)), (Verdict::CatchingUp, vec![]));
    let topic = &document.topics[0];
    assert_eq!((topic.records_per_second, topic.eta_seconds), (Some(1_000.0), Some(40.0)));
}

#[test]
fn lag_that_does_not_shrink_is_a_warning() {
    let mut growing = facts([Some(1_000), Some(3_000)], 43_000);
    cluster(&mut growing).logs[0].insert(KEY, Log { low: 10, high: 41_000 });
    let document = judge(&growing);
    assert_says(&document, Verdict::Degraded, "lag_not_shrinking", "p.clone.failed partition 1", "instances");
    assert_eq!(document.topics[0].eta_seconds, None);
}

#[test]
fn records_that_are_consumed_within_seconds_are_no_lag_to_speak_of() {
    let document = judge(&facts([Some(1_000), Some(3_000)], 3_500));
    assert_eq!((document.verdict, document.partitions[0].lag_records), (Verdict::Ok, Some(500)));
    let mut young = facts([Some(12), Some(12)], 13);
    cluster(&mut young).waiting.insert(KEY, NOW - 500);
    assert_eq!(judge(&young).verdict, Verdict::Ok);
}

#[test]
fn a_partition_that_has_not_moved_for_a_minute_while_records_wait_is_stalled() {
    let mut facts = facts([Some(12), Some(12)], 20);
    second(&mut facts).idle_seconds = 61.0;
    let document = judge(&facts);
    assert_says(&document, Verdict::Degraded, "stalled", "p.clone.failed partition 1", "/readyz");
    assert_eq!(document.partitions[0].state, Some(PartitionState::Stalled));
}

#[test]
fn a_stopped_partition_has_the_command_that_lets_it_go_on() {
    let mut facts = facts([Some(12), Some(12)], 20);
    second(&mut facts).stopped_at = Some("2027-01-15T07:00:00Z".into());
    second(&mut facts).dead_in_a_row = 100;
    let accept = "voiceclone-events dead-letters accept --topic clone.failed --partition 1";
    assert_says(&judge(&facts), Verdict::Stopped, "partition_stopped", "after 100 unusable", accept);
}

#[test]
fn without_a_member_it_is_down_and_the_lag_is_there() {
    let mut facts = facts([Some(12), Some(12)], 20);
    cluster(&mut facts).members = Ok(Vec::new());
    let document = judge(&facts);
    assert_says(&document, Verdict::Down, "no_member", "group g has no member", "run");
    assert_eq!(document.partitions[0].lag_records, Some(8));
    assert_eq!(document.partitions[0].state, Some(PartitionState::Unassigned));
    assert!(!codes(&document).contains(&"unassigned"), "{document:#?}");
}

#[test]
fn a_partition_that_no_member_has_is_named() {
    let mut facts = facts([Some(12), Some(12)], 20);
    cluster(&mut facts).members.as_mut().unwrap()[0].partitions.clear();
    assert_says(&judge(&facts), Verdict::Degraded, "unassigned", "p.clone.failed partition 1", "rebalance");
}

#[test]
fn a_partition_without_a_leader_and_a_missing_topic_are_named() {
    let mut facts = facts([Some(12), Some(12)], 20);
    cluster(&mut facts).leaders.insert(KEY, None);
    cluster(&mut facts).logs = [BTreeMap::new(), BTreeMap::new()];
    cluster(&mut facts).unseen = vec![Unseen { topic: "p.clone.ready".into(), refused: None }];
    let document = judge(&facts);
    assert_says(&document, Verdict::Degraded, "no_leader", "p.clone.failed partition 1", "kafka-topics.sh");
    assert_says(&document, Verdict::Degraded, "topic_missing", "p.clone.ready", "TOPIC_PREFIX");
    assert_eq!((document.partitions[0].end, document.partitions[0].lag_records), (None, None));
    assert!(document.has(Severity::Critical));
}

fn wait(waits_for: &str, reason: &str, silent_seconds: f64) -> ReportedWait {
    let (waits_for, reason) = (waits_for.into(), reason.into());
    ReportedWait { topic: "p.clone.failed".into(), partition: 1, waits_for, reason, silent_seconds }
}

#[test]
fn what_an_instance_says_its_partition_waits_for_is_the_state_and_a_problem_with_its_fix() {
    let skip = "voiceclone-events skip --topic clone.failed --partition 1 --to OFFSET";
    for (waits_for, state, code, fix) in [
        ("drift", PartitionState::Drift, "drift", "voiceclone-events check"),
        ("unreadable", PartitionState::Unreadable, "unreadable", skip),
        (
            "no_leader",
            PartitionState::NoLeader,
            "no_leader",
            "kafka-topics.sh --describe --topic p.clone.failed",
        ),
        ("write", PartitionState::CatchingUp, "waits", "voiceclone-events check"),
    ] {
        let mut facts = facts([Some(12), Some(12)], 20);
        answers(&mut facts).waits = vec![wait("write", "long ago", 9.0), wait(waits_for, "for this", 2.0)];
        let document = judge(&facts);
        let what = "p.clone.failed partition 1 waits: for this";
        assert_says(&document, Verdict::Degraded, code, what, fix);
        let partition = &document.partitions[0];
        assert_eq!((partition.state, partition.waits_for.as_deref()), (Some(state), Some(waits_for)));
        assert_eq!(codes(&document)[0], code, "first");
    }
}

#[test]
fn a_stalled_partition_has_the_reason_of_its_instance() {
    let mut facts = facts([Some(12), Some(12)], 20);
    second(&mut facts).idle_seconds = 61.0;
    answers(&mut facts).waits = vec![wait("write", "a lock is held by pid 7", 2.0)];
    let document = judge(&facts);
    assert_says(&document, Verdict::Degraded, "stalled", "waits: a lock is held by pid 7", "check");
    assert_eq!(codes(&document), ["stalled"]);
}

#[test]
fn an_instance_that_is_silent_and_one_that_has_the_partition_no_longer_say_nothing() {
    let mut facts = facts([Some(20), Some(20)], 20);
    answers(&mut facts).waits = vec![wait("drift", "for this", 31.0)];
    assert_eq!(judge(&facts).partitions[0].state, Some(PartitionState::Ok));
    answers(&mut facts).waits = vec![wait("drift", "for this", 3.0)];
    cluster(&mut facts).members.as_mut().unwrap()[0].partitions.clear();
    let document = judge(&facts);
    assert_eq!(
        (document.partitions[0].state, codes(&document)),
        (Some(PartitionState::Unassigned), vec!["unassigned"])
    );
    assert_eq!(document.partitions[0].waits_for, None);
}

#[test]
fn pauses_and_skips_are_listed() {
    let mut facts = facts([Some(12), Some(12)], 20);
    let pause = Pause { topic: "clone.failed".into(), paused_at: "2027-01-15T07:00:00Z".into(), until: None };
    answers(&mut facts).pauses = vec![pause];
    answers(&mut facts).skips = vec![Skipped {
        topic: "p.clone.ready".into(),
        partition: 0,
        from_offset: 3,
        to_offset: Some(5),
        note: "oversize".into(),
        skipped_at: "2027-01-15T07:00:00Z".into(),
        cause: "skip".into(),
        age_seconds: 60.0,
    }];
    let document = judge(&facts);
    let resume = "voiceclone-events resume --topic clone.failed";
    assert_says(&document, Verdict::Degraded, "paused", "p.clone.failed", resume);
    let skipped = "offsets 3 to 4 of p.clone.ready partition 0 were passed over: oversize";
    assert_says(&document, Verdict::Degraded, "skipped", skipped, "");
    assert_eq!(document.partitions[0].state, Some(PartitionState::Paused));
    answers(&mut facts).pauses.clear();
    cluster(&mut facts).logs[1].insert(KEY, Log { low: 10, high: 12 });
    assert_eq!(judge(&facts).verdict, Verdict::Ok, "what was skipped needs nobody");
}

#[test]
fn a_server_that_is_away_leaves_the_other_ones_part() {
    let away = Unanswered { what: "refused".into(), fix: "start it".into() };
    let mut no_database = facts([Some(12), Some(12)], 20);
    no_database.database = Err(away.clone());
    let document = judge(&no_database);
    assert_says(&document, Verdict::Down, "database_away", "PostgreSQL could not be asked", "start it");
    let partition = &document.partitions[0];
    assert_eq!((partition.end, partition.next_offset, partition.lag_records), (Some(20), None, None));
    assert!(document.database.is_none() && document.members.is_some());

    let mut no_broker = facts([Some(12), Some(12)], 20);
    no_broker.brokers = Err(away);
    let document = judge(&no_broker);
    assert_says(&document, Verdict::Down, "brokers_away", "Kafka could not be asked", "start it");
    let partition = &document.partitions[0];
    assert_eq!((partition.end, partition.next_offset, partition.lag_records), (None, Some(12), None));
}

#[test]
fn what_waits_too_long_is_a_warning_and_old_dead_letters_are_none() {
    let mut facts = facts([Some(20), Some(20)], 20);
    second(&mut facts).dead_in_a_row = 50;
    let letters = Letters {
        unresolved: 3,
        recent: 0,
        unpublished: 2,
        unpublishable: 1,
        oldest_unpublished_seconds: Some(400.0),
    };
    answers(&mut facts).letters = Some((letters, Vec::new()));
    answers(&mut facts).outbox = Some(Outbox { events: 7, oldest_seconds: Some(301.0) });
    answers(&mut facts).cache = Some(Cache { overdue: 2, overdue_seconds: 301.0, ..Cache::default() });
    let document = judge(&facts);
    let by = |severity: Severity| {
        let of = document.problems.iter().filter(|problem| problem.severity == severity);
        of.map(|problem| problem.code.name()).collect::<Vec<_>>()
    };
    assert_eq!(
        by(Severity::Warning),
        [
            "near_dead_letter_limit",
            "dead_letters_unpublished",
            "dead_letters_unpublishable",
            "outbox_stuck",
            "expiry_late"
        ]
    );
    assert_eq!(by(Severity::Info), ["dead_letters"]);
    answers(&mut facts).letters.as_mut().unwrap().0.recent = 1;
    assert_says(&judge(&facts), Verdict::Degraded, "dead_letters", "1 of them from the last hour", "");
}

#[test]
fn the_partitions_furthest_behind_are_looked_at() {
    let mut facts = facts([Some(12), Some(12)], 20);
    for partition in 2..50 {
        let key = TopicPartition::new(KEY.topic, partition);
        cluster(&mut facts).leaders.insert(key, Some(1));
        cluster(&mut facts).logs[1].insert(key, Log { low: 0, high: i64::from(partition) * 100 });
    }
    let places = furthest_behind(&facts, 32);
    assert_eq!(places.len(), 32);
    assert_eq!(places.keys().map(|key| key.partition).min(), Some(18));
}

#[test]
fn the_document_has_the_documented_fields_in_their_order() {
    let document = serde_json::to_string(&judge(&facts([Some(12), Some(12)], 20))).unwrap();
    let fields: serde_json::Map<String, Value> = serde_json::from_str(&document).unwrap();
    for field in [
        "version",
        "checked_at",
        "group",
        "topic_prefix",
        "verdict",
        "problems",
        "topics",
        "partitions",
        "members",
        "instances",
        "dead_letters",
        "cache",
        "expiry",
        "outbox",
        "database",
        "broker",
    ] {
        assert!(fields.contains_key(field), "{field}: {document}");
    }
    assert!(document.find("\"verdict\"") < document.find("\"problems\""), "{document}");
}
