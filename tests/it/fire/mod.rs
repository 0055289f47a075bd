//! Under fire: several instances against a real Apache Kafka and a real PostgreSQL, and everything that goes wrong
//! with them, at times drawn from a seed. Afterwards the tables are those of the independent model, no dead letter and
//! no expiry is lost, and no log line has personal data or secrets.
//!
//! - [`stage`]: servers, instances, and the state of a round;
//! - [`faults`]: each kind of fault;
//! - [`partial`]: faults of one partition, one broker of three, or one client;
//! - [`drift`]: tables that refuse good rows, and a pooler;
//! - [`fail_over`]: a standby becomes the primary;
//! - [`check`]: the invariants at the end of a round;
//! - [`traffic`]: the traffic meanwhile;
//! - [`found`]: the findings, each as a deterministic test.
//!
//! `FIRE_SEED=7 cargo test --test it fire::` runs the short ones from another seed; `make soak DURATION=10m SEED=1`
//! runs them for this long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod check;
mod dice;
mod drift;
mod fail_over;
mod faults;
mod found;
mod partial;
mod stage;
mod traffic;

use std::time::{Duration, Instant};

use self::faults::Fault;
use self::stage::{Needs, Stage};
use self::traffic::Pace;
use crate::support::left_out::{or_left_out, real_kafka};

/// The seed from `FIRE_SEED`, or a fixed one.
fn seed() -> u64 {
    std::env::var("FIRE_SEED").ok().filter(|seed| !seed.is_empty()).map_or(1, |seed| seed.parse().unwrap())
}

/// Injects each of these faults once, in any order. `seen` are lines of the report that must not be 0 afterwards.
fn short(
    name: &str,
    kafka: Option<&crate::support::kafka::Kafka>,
    needs: Needs,
    faults: &[Fault],
    seen: &[&str],
) {
    let command = format!("FIRE_SEED={} cargo test --test it fire::{name}", seed());
    let mut stage = Stage::new(name, seed(), &command, kafka, needs);
    stage.begin_round(Pace { per_second: 600, most: 25_000, duplicates_per_mille: 30, ahead: u64::MAX });
    let mut faults = faults.to_vec();
    stage.dice.shuffle(&mut faults);
    for fault in faults {
        stage.strike(fault);
    }
    stage.end_round();
    let report = stage.finish();
    for line in seen {
        assert!(report.count(line) > 0, "no {line}: the faults have not struck");
    }
}

#[test]
fn instances_killed_halted_coming_and_going_and_connections_to_postgresql_cut() {
    short(
        "instances_killed_halted_coming_and_going_and_connections_to_postgresql_cut",
        Some(real_kafka!()),
        Needs::default(),
        &Fault::NEAR_POSTGRES,
        &[
            "log: revocations",
            "log: outages of PostgreSQL in which records waited",
            "commits, or answers to them, lost",
            "sessions of PostgreSQL terminated",
            "tables that took no good row for a while",
        ],
    );
}

#[test]
fn the_broker_restarted_topics_deleted_and_made_again_retention_and_offsets_reset() {
    or_left_out!(crate::support::kafka::available());
    short(
        "the_broker_restarted_topics_deleted_and_made_again_retention_and_offsets_reset",
        None,
        Needs::default(),
        &[&Fault::OF_KAFKA[..], &[Fault::Killed]].concat(),
        &[
            "log: revocations",
            "log: stored offsets that the topic no longer had",
            "records of recreated topics",
        ],
    );
}

#[test]
fn a_full_disk_and_a_database_restored_from_a_dump() {
    short(
        "a_full_disk_and_a_database_restored_from_a_dump",
        Some(real_kafka!()),
        Needs { small_disk: true, ..Needs::default() },
        &[&Fault::OF_STORAGE[..], &[Fault::Killed]].concat(),
        &["log: outages of PostgreSQL in which records waited"],
    );
}

#[test]
fn a_fail_over_drift_a_pooler_and_a_role_with_limits() {
    short(
        "a_fail_over_drift_a_pooler_and_a_role_with_limits",
        Some(real_kafka!()),
        Needs::default(),
        &Fault::OF_ADMINISTRATION,
        &["records whose rows a fail-over lost", "tables that took no good row for a while"],
    );
}

#[test]
fn one_partition_one_broker_of_three_or_one_client_in_trouble() {
    or_left_out!(crate::support::kafka::available());
    short(
        "one_partition_one_broker_of_three_or_one_client_in_trouble",
        None,
        Needs { cluster: true, ..Needs::default() },
        &[&Fault::PARTIAL[..], &[Fault::BrokerAway]].concat(),
        &[
            "records deleted before they were read",
            "records of batches too large to unpack",
            "partitions stopped and accepted",
        ],
    );
}

/// `make soak`: random faults, round after round, each with a database and topics of its own, until `FIRE_DURATION`
/// is over and `FIRE_RECORDS` were sent.
#[test]
#[ignore = "goes on for as long as FIRE_DURATION says: make soak"]
fn soak() {
    crate::support::kafka::available().unwrap_or_else(|why| panic!("{why}"));
    let text = |name: &str, default: &str| {
        std::env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    let duration = duration(&text("FIRE_DURATION", "10m"));
    let records: u64 = text("FIRE_RECORDS", "0").parse().unwrap();
    let command =
        format!("make soak DURATION={} SEED={} RECORDS={records}", text("FIRE_DURATION", "10m"), seed());
    let mut stage = Stage::new("soak", seed(), &command, None, Needs { small_disk: true, cluster: true });
    let faults = Fault::all();
    let started = Instant::now();
    let pace = Pace { per_second: 8_000, most: 1_000_000, duplicates_per_mille: 1500, ahead: 30_000 };
    while started.elapsed() < duration || stage.report.count("records sent") < records {
        stage.begin_round(pace);
        for _ in 0..20 + stage.dice.below(11) {
            let fault = stage.dice.pick(&faults);
            // A fault that cannot overlap with others waits for their end, without an additional pause.
            while fault.wants_calm() && stage.is_struck_for(Duration::from_millis(1500)) {
                let brief = stage.dice.pick(&Fault::BRIEF);
                stage.strike(brief);
            }
            stage.strike(fault);
        }
        stage.end_round();
    }
    stage.finish();
}

/// `90`, `90s`, `10m`, `2h`.
fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("{text:?} is no duration like 90s, 10m or 2h"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * seconds)
}
