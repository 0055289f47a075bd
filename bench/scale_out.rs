//! Scale-out: the rate of several instances where the wait for the database limits each of them, and the cost of members
//! that have nothing to do.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::latency::wait_until_consuming;
use crate::load::{Job, Who};
use crate::proxy;
use crate::records::Kind;
use crate::report::{Report, median, number, spread};
use crate::support::daemon::Daemon;
use crate::support::unique;
use crate::support::wait::{SOON, eventually_eq};
use crate::usage::{Measured, Meter};
use crate::world::World;

/// The round trip that a proxy adds between the instances and the database.
const ROUND_TRIP: Duration = Duration::from_millis(12);

/// `BATCH_MAX_RECORDS`: so few that a batch takes the database less time than its round trips take.
const BATCH_MAX_RECORDS: &str = "100";

/// Partitions of each topic: two for each of eight instances, one for each of an instance's lanes.
const PARTITIONS: i32 = 16;

/// Time that members at rest have before they are measured.
const SETTLE: Duration = Duration::from_secs(20);

/// Measures loads, then members at rest, for each number of instances.
pub fn measure(
    report: &mut Report,
    world: &World,
    kind: Kind,
    (records, seed): (u64, u64),
    instances: &[usize],
    (repeats, seconds): (usize, u64),
) {
    loads(report, world, kind, (records, seed), instances, repeats);
    let rest: Vec<Rest> = instances.iter().map(|count| rest(world, *count, seconds)).collect();
    show_rest(report, &rest);
}

/// Runs with one number of instances.
#[derive(Serialize)]
struct Runs {
    instances: usize,
    runs: Vec<Measured>,
}

fn loads(
    report: &mut Report,
    world: &World,
    kind: Kind,
    (records, seed): (u64, u64),
    instances: &[usize],
    repeats: usize,
) {
    let topics = world.topics(PARTITIONS);
    let records = world.produce(&topics, kind.records(records, seed));
    let proxy = proxy::start(&world.server.address(), ROUND_TRIP);
    let settings = [("BATCH_MAX_RECORDS", BATCH_MAX_RECORDS)];
    let all = || instances.iter().map(|count| Runs { instances: *count, runs: Vec::new() }).collect();
    let (mut first, mut again): (Vec<Runs>, Vec<Runs>) = (all(), all());
    for _ in 0..repeats.max(1) {
        for (first, again) in first.iter_mut().zip(&mut again) {
            let database = world.database();
            let job = Job { settings: &settings, ..Job::new(world, &topics, records, &database) };
            let who = Who::Daemons(first.instances, Some(&proxy));
            first.runs.push(job.load(who));
            again.runs.push(job.load(who));
        }
    }
    topics.delete(world);
    for (what, runs) in [("first load", first), ("reading again", again)] {
        show_loads(report, what, kind, records, &runs);
    }
}

fn show_loads(report: &mut Report, what: &str, kind: Kind, records: u64, runs: &[Runs]) {
    let rates =
        |runs: &Runs| -> Vec<f64> { runs.runs.iter().map(|run| records as f64 / run.seconds).collect() };
    let one = runs.first().map_or(f64::NAN, |runs| median(&rates(runs)) / runs.instances as f64);
    let rows = runs.iter().map(|runs| {
        let share = |of: fn(&Measured) -> f64| {
            let shares: Vec<f64> = runs.runs.iter().map(|run| of(run) / run.seconds * 100.0).collect();
            number(median(&shares), 0)
        };
        vec![
            runs.instances.to_string(),
            spread(&rates(runs), 0),
            number(median(&rates(runs)) / one, 2),
            share(|run| run.consumer_cpu_seconds),
            share(|run| run.postgres_cpu_seconds),
            share(|run| run.broker_cpu_seconds),
            spread(&runs.runs.iter().map(|run| run.peak_memory_mib).collect::<Vec<_>>(), 0),
        ]
    });
    let title = format!(
        "Scale-out, {what}: {}, {} records in {PARTITIONS} partitions, {} ms of round trip added, BATCH_MAX_RECORDS={BATCH_MAX_RECORDS}",
        kind.name(),
        number(records as f64, 0),
        ROUND_TRIP.as_millis(),
    );
    let header = [
        "instances",
        "records/s",
        "times one",
        "CPU %: instances",
        "PostgreSQL",
        "broker",
        "memory peak MiB of one",
    ];
    report.table(&title, "CPU in % of one processor.", &header, rows.collect(), json!(runs));
}

/// The cost of members at rest.
#[derive(Serialize)]
struct Rest {
    instances: usize,
    /// Resident memory of all instances together.
    memory_mib: u64,
    /// Connections of all instances to the database.
    connections: i64,
    /// Statements of all instances; `None` where the server has no `pg_stat_statements`.
    statements_per_second: Option<f64>,
    used: Measured,
}

/// Statements of the daemons: all but those of the benchmark itself.
const STATEMENTS: &str = "SELECT COALESCE(sum(calls), 0)::bigint FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid
    WHERE datname = current_database() AND query !~ 'pg_stat_statements|pg_wal_lsn_diff|application_name LIKE'";

const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'consumer%'";

fn rest(world: &World, count: usize, seconds: u64) -> Rest {
    let (database, topics, group) = (world.database(), world.topics(PARTITIONS), unique("group"));
    let mut daemons: Vec<Daemon> = (1..=count)
        .map(|nth| {
            let url = world.url(&database, &format!("consumer-{nth}"), None);
            world.daemon(&topics, &url, &group, &[("BATCH_MAX_RECORDS", BATCH_MAX_RECORDS)])
        })
        .collect();
    for daemon in &mut daemons {
        wait_until_consuming(world, &database, daemon, &group, topics.partitions_read());
    }
    eventually_eq(SOON, "the members of the group", count, || world.kafka.group_members(&group));
    std::thread::sleep(SETTLE);
    let pids: Vec<(String, u32)> =
        daemons.iter().map(|daemon| ("daemon".to_owned(), daemon.process_id())).collect();
    let session = world.session(&database);
    let meter = Meter::start(world, &database, &pids, &[session.pid]);
    std::thread::sleep(Duration::from_secs(seconds));
    let statements = world.profiles.then(|| session.number(STATEMENTS));
    let used = meter.finish();
    let connections = session.number(CONNECTIONS);
    let memory_mib = daemons.iter().map(Daemon::memory).sum();
    drop(daemons);
    topics.delete(world);
    let statements_per_second = statements.map(|calls| calls as f64 / used.seconds);
    Rest { instances: count, memory_mib, connections, statements_per_second, used }
}

fn show_rest(report: &mut Report, rest: &[Rest]) {
    let percent = |rest: &Rest, seconds: f64| number(seconds / rest.used.seconds * 100.0, 1);
    let row = |rest: &Rest| {
        vec![
            rest.instances.to_string(),
            percent(rest, rest.used.consumer_cpu_seconds),
            percent(rest, rest.used.postgres_cpu_seconds),
            percent(rest, rest.used.broker_cpu_seconds),
            rest.memory_mib.to_string(),
            rest.connections.to_string(),
            rest.statements_per_second.map_or_else(|| "-".to_owned(), |rate| number(rate, 1)),
            number(rest.used.wal_bytes / rest.used.seconds, 0),
        ]
    };
    let header = [
        "instances",
        "CPU %: instances",
        "PostgreSQL",
        "broker",
        "memory MiB of all",
        "connections",
        "statements/s",
        "WAL B/s",
    ];
    let title = format!("Members at rest: nothing to read, {PARTITIONS} partitions of each topic");
    report.table(&title, "CPU in % of one processor.", &header, rest.iter().map(row).collect(), json!(rest));
}
