//! The benchmark: the throughput of the daemon on this machine, compared with the maximum of PostgreSQL (`COPY` of the
//! same rows into the same tables), on a real broker and a durable database of its own. `make bench` runs it;
//! `docs/performance.md` explains the measurements.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod expiry;
mod latency;
mod load;
#[allow(dead_code)]
#[path = "../tests/it/model.rs"]
mod model;
mod proxy;
mod records;
mod report;
mod scale_out;
#[path = "../tests/it/support/mod.rs"]
mod support;
mod usage;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::json;
use voiceclone_events::cli::SettingFlags;
use voiceclone_events::config::{Need, Settings};
use voiceclone_events::record::Topic;

use latency::Times;
use load::{Job, Order, Rows, Who};
use records::Kind;
use report::{Report, Series, median, number};
use support::postgres::Database;
use world::{POSTGRES_SETTINGS, Topics, World};

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Item {
    /// First load of each topic and of a mix, beside COPY of the same rows
    Load,
    /// Reading everything again when all rows are there
    Again,
    /// The same load by a plain Python consumer
    Baseline,
    /// Time from sending a record to its visible row
    Latency,
    /// Load and latency with a longer round trip to the database
    RoundTrip,
    /// A million cache rows expire at once
    Expiry,
    /// The same load into tables that hold rows already
    Growth,
    /// Several instances with a longer round trip and small batches, and members at rest
    ScaleOut,
}

/// Measures voiceclone-events on this machine. Needs Java and `make kafka-jars`, PostgreSQL's server programs, and Linux
/// for CPU and memory.
#[derive(Parser)]
struct Options {
    /// Only these, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Item>,
    /// Of load and again only these topics (`mix` is all five at once), separated by commas
    #[arg(long, value_delimiter = ',')]
    topics: Vec<String>,
    /// Records of each first load; where round trips, growth and scale-out are measured, a fifth of them
    #[arg(long, default_value_t = 500_000)]
    records: u64,
    /// Runs of each measurement
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Runs of the expiry
    #[arg(long, default_value_t = 1)]
    expiry_repeats: usize,
    /// Cache rows that expire at once
    #[arg(long, default_value_t = 1_000_000)]
    expired: u64,
    /// Rows that the tables hold before the growth measurement
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1_000_000])]
    growth: Vec<u64>,
    /// Numbers of instances of the scale-out, 16 at most; the first is the one that the others are compared with
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    instances: Vec<usize>,
    /// Seconds that latency is measured for at each rate, and members at rest four times as long
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Writes all figures there as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// A setting of the daemon other than its default, such as BATCH_MAX_WAIT=5ms; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// A setting of the server beside or instead of those that the output names, such as wal_compression=lz4; may be
    /// given several times
    #[arg(long = "postgres", value_name = "NAME=VALUE", value_parser = setting)]
    server_settings: Vec<(String, String)>,
    /// Python with the packages of bench/baseline/requirements.txt
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-venv/bin/python"))]
    python: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Options {
    fn has(&self, item: Item) -> bool {
        self.only.is_empty() || self.only.contains(&item)
    }

    /// The daemon's settings: defaults and those of `--set`.
    fn daemon(&self) -> Settings {
        let need = Need { database: false, broker: false };
        let read = Settings::from(&SettingFlags::default(), self.settings.iter().cloned(), need);
        read.unwrap_or_else(|error| panic!("--set: {error}"))
    }

    fn kinds(&self) -> Vec<Kind> {
        let wanted =
            |kind: &Kind| self.topics.is_empty() || self.topics.iter().any(|name| name == kind.name());
        Kind::all().into_iter().filter(wanted).collect()
    }
}

/// The seed of all runs, so that they read the same records.
const SEED: u64 = 20_260_115;

fn main() {
    let options = Options::parse();
    if let Some(unknown) =
        options.topics.iter().find(|name| !Kind::all().iter().any(|kind| kind.name() == **name))
    {
        panic!("--topics: there is no {unknown:?}");
    }
    let started = Instant::now();
    let mut report = Report::default();
    let world = World::start(&options.settings, options.daemon().batch_max_records, &options.server_settings);
    say_what_this_is(&mut report, &world, &options);
    if options.has(Item::Load) || options.has(Item::Again) || options.has(Item::Baseline) {
        options.kinds().into_iter().for_each(|kind| loads(&mut report, &world, &options, kind));
    }
    if options.has(Item::Latency) {
        latencies(&mut report, &world, &options);
    }
    if options.has(Item::RoundTrip) {
        round_trips(&mut report, &world, &options);
    }
    if options.has(Item::Expiry) {
        let runs: Vec<_> = (0..options.expiry_repeats.max(1))
            .map(|_| expiry::expiry(&world, options.expired, options.seconds))
            .collect();
        let title = format!(
            "{} cache rows expire at once, while {} clone.ready records a second are consumed",
            number(options.expired as f64, 0),
            expiry::RATE
        );
        report.expiry(&title, &runs);
    }
    if options.has(Item::Growth) {
        growth(&mut report, &world, &options);
    }
    if options.has(Item::ScaleOut) {
        let kind = Kind::Alone(Topic::CloneReady);
        let runs = (options.repeats, options.seconds * 4);
        scale_out::measure(&mut report, &world, kind, (options.records / 5, SEED), &options.instances, runs);
    }
    println!();
    report.about("load average at the end", load_average());
    report.about("minutes", format!("{:.1}", started.elapsed().as_secs_f64() / 60.0));
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{:#}\n", report.json())).unwrap();
        println!("All figures: {}", file.display());
    }
}

fn say_what_this_is(report: &mut Report, world: &World, options: &Options) {
    let shell = |command: &str| {
        let output = std::process::Command::new("/bin/sh").args(["-c", command]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let database = world.database();
    let version = database.value("SHOW server_version");
    let given = options.server_settings.iter().map(|(name, _)| name.as_str());
    let given = given.filter(|name| !POSTGRES_SETTINGS.iter().any(|(known, _)| known == name));
    let names = POSTGRES_SETTINGS.iter().map(|(name, _)| *name).chain(given);
    let defaults: Vec<String> =
        names.map(|name| format!("{name}={}", database.value(&format!("SHOW {name}")))).collect();
    report.about("source", shell(&format!("git -C {root} describe --always --dirty 2>/dev/null")));
    report.about("machine", shell("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1"));
    report.about("processors", shell("nproc"));
    report.about("memory", shell("sed -n 's/MemTotal: *//p' /proc/meminfo"));
    report.about("system", shell("uname -sr"));
    report.about("load average at the start", load_average());
    report.about("PostgreSQL", format!("{version}, {}", defaults.join(", ")));
    let kafka = shell(&format!("ls {root}/tests/kafka/lib | sed -n 's/^kafka_2.13-\\(.*\\).jar$/\\1/p'"));
    report.about("Kafka", format!("{kafka}, one broker on this machine, Java's first compiler only"));
    let effective = options.daemon().effective();
    let shown = |(name, _): &&(String, String)| {
        name.starts_with("BATCH_")
            || name.starts_with("DB_")
            || options.settings.iter().any(|(set, _)| set == name)
    };
    let shown: Vec<String> =
        effective.iter().filter(shown).map(|(name, value)| format!("{name}={value}")).collect();
    report.about("daemon", shown.join(", "));
    report.about("repeats", json!(options.repeats));
    println!("Figures are medians (least..most) of the repeats.");
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// First load, reading again, the baseline and their ceiling, for one topic or the mix.
fn loads(report: &mut Report, world: &World, options: &Options, kind: Kind) {
    let ready = kind == Kind::Alone(Topic::CloneReady);
    let python = (ready && options.has(Item::Baseline)).then_some(&options.python);
    if !options.has(Item::Load) && !options.has(Item::Again) && python.is_none() {
        return;
    }
    let python = match python {
        Some(python) if !python.exists() => {
            report.left_out(
                "the Python baseline",
                "there is no Python with its packages: `make bench` makes one",
            );
            None
        }
        python => python,
    };
    let topics = world.topics(4);
    let records = world.produce(&topics, kind.records(options.records, SEED));
    let (rows, with_own, arrived) = {
        let database = world.database();
        Job::new(world, &topics, records, &database).load(Who::Daemons(1, None)); // this one warms up
        let rows = |tables: &[_], order| Rows::of(world, &database, tables, records, order);
        let with_own = (options.has(Item::Load) && !kind.own_tables().is_empty())
            .then(|| rows(&[kind.tables(), kind.own_tables()].concat(), Order::AsTheyLie));
        (rows(kind.tables(), Order::AsTheyLie), with_own, rows(kind.tables(), Order::OfArrival))
    };
    let (mut copy, mut copy_two, mut one, mut two, mut again) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut copy_arrived, mut copy_with_own) = (vec![], vec![]);
    let (mut baseline, mut baseline_again) = (vec![], vec![]);
    for _ in 0..options.repeats.max(1) {
        copy.push(rows.copy(world, &world.database(), 1, None));
        copy_arrived.push(arrived.copy(world, &world.database(), 1, None));
        copy_with_own
            .extend(with_own.as_ref().map(|with_own| with_own.copy(world, &world.database(), 1, None)));
        let database = world.database();
        let job = Job::new(world, &topics, records, &database);
        one.push(job.load(Who::Daemons(1, None)));
        assert_same_rows(world, &job, kind, &rows);
        if options.has(Item::Again) {
            again.push(job.load(Who::Daemons(1, None)));
            assert_same_rows(world, &job, kind, &rows);
        }
        if options.has(Item::Load) {
            copy_two.push(rows.copy(world, &world.database(), 2, None));
        }
        if options.has(Item::Load) && (ready || kind == Kind::Mix) {
            let database = world.database();
            let job = Job::new(world, &topics, records, &database);
            two.push(job.load(Who::Daemons(2, None)));
            assert_same_rows(world, &job, kind, &rows);
        }
        if let Some(python) = python {
            let database = world.database();
            let job = Job::new(world, &topics, records, &database);
            baseline.push(job.load(Who::Baseline(python)));
            assert_same_rows(world, &job, kind, &rows);
            baseline_again.push(job.load(Who::Baseline(python)));
            assert_same_rows(world, &job, kind, &rows);
        }
    }
    topics.delete(world);
    let series =
        |name: &str, runs, ceiling| Series { name: name.into(), records, rows: rows.count(), runs, ceiling };
    let copy = series("COPY of the same rows, one connection", copy, None);
    let copy_two = series("COPY of the same rows, two connections", copy_two, None);
    let (ceiling, ceiling_two) = (Some(copy.rate()), Some(copy_two.rate()));
    let all = [
        copy,
        series("COPY of the same rows in the order of arrival", copy_arrived, ceiling),
        series("COPY of the same rows and of those in the daemon's own tables", copy_with_own, ceiling),
        series("first load, one daemon", one, ceiling),
        series("reading again, one daemon", again, ceiling),
        copy_two,
        series("first load, two daemons", two, ceiling_two),
        series("first load, Python baseline", baseline, ceiling),
        series("reading again, Python baseline", baseline_again, ceiling),
    ];
    let measured: Vec<Series> = all.into_iter().filter(|series| !series.runs.is_empty()).collect();
    let title = format!(
        "{}: {} records, {} rows in {} (4 partitions; COPY's rows in the order in which the daemon's lie, unless said)",
        kind.name(),
        number(records as f64, 0),
        number(rows.count() as f64, 0),
        kind.tables().join(", ").replace("public.", "")
    );
    report.loads(&title, &measured);
}

fn assert_same_rows(world: &World, job: &Job<'_>, kind: Kind, rows: &Rows) {
    let session = world.session(job.database);
    let counts = kind.tables().iter().map(|table| session.number(&format!("SELECT count(*) FROM {table}")));
    assert_eq!(u64::try_from(counts.sum::<i64>()).unwrap(), rows.count(), "rows of {}", kind.name());
}

fn latencies(report: &mut Report, world: &World, options: &Options) {
    let commits: Vec<Times> =
        (0..options.repeats.max(1)).map(|_| latency::bare_commits(world, None, 1000)).collect();
    let p50 = |runs: &[Times]| median(&runs.iter().map(|run| run.p50).collect::<Vec<_>>());
    let p99 = |runs: &[Times]| median(&runs.iter().map(|run| run.p99).collect::<Vec<_>>());
    let commit = (p50(&commits), p99(&commits));
    let mut series = vec![("a bare commit of one row".to_owned(), commits)];
    let mut ratios = Vec::new();
    for rate in [1, 100, 1000, 5000] {
        // At one record per second more runs would add little.
        let repeats = if rate == 1 { 1 } else { options.repeats.max(1) };
        let (mut receipts, mut runs) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            receipts.push(latency::bare_receipts(world, rate, options.seconds));
            runs.push(latency::latency(world, rate, options.seconds, None));
        }
        let name = format!("{} records a second", number(rate as f64, 0));
        let floor = (p50(&receipts) + commit.0, p99(&receipts) + commit.1);
        ratios.push((name.clone(), (p50(&runs), p99(&runs)), floor));
        series.push((format!("a bare consumer, {name}"), receipts));
        series.push((name, runs));
    }
    let note = "From just before the producer's send (which lingers for 1 ms at 5,000 a second, else not) to the row's visibility; BATCH_MAX_WAIT is part of it. \
                Visible is what the stored offset is past, as it is committed with the rows. A bare consumer's times end with its receipt of the record.";
    report.times("From the producer to the visible row (clone.ready, one partition)", note, &series);
    println!();
    for (name, daemon, floor) in ratios {
        let ratio = |daemon: f64, floor: f64| {
            format!("{} ({} of {} ms)", number(daemon / floor, 1), number(daemon, 2), number(floor, 2))
        };
        report.about(
            &format!("times the floor (bare consumer and bare commit) at {name}"),
            format!("p50 {}, p99 {}", ratio(daemon.0, floor.0), ratio(daemon.1, floor.1)),
        );
    }
}

/// Records of clone.ready in Kafka, and the rows that they make.
struct Load {
    topics: Topics,
    records: u64,
    rows: Rows,
}

impl Load {
    /// Sends a fifth of the records of a first load.
    fn prepare(world: &World, options: &Options) -> Load {
        let kind = Kind::Alone(Topic::CloneReady);
        let topics = world.topics(4);
        let records = world.produce(&topics, kind.records(options.records / 5, SEED));
        let database = world.database();
        Job::new(world, &topics, records, &database).load(Who::Daemons(1, None)); // this one warms up
        let rows = Rows::of(world, &database, kind.tables(), records, Order::AsTheyLie);
        Load { topics, records, rows }
    }

    /// Loads the records into new databases, with COPY and with a daemon, both through a proxy if one is given.
    fn beside_copy(
        &self,
        (world, options): (&World, &Options),
        suffix: &str,
        proxy: Option<&str>,
        database: impl Fn() -> Database,
    ) -> [Series; 2] {
        let (mut copies, mut runs) = (vec![], vec![]);
        for _ in 0..options.repeats.max(1) {
            copies.push(self.rows.copy(world, &database(), 1, proxy));
            let database = database();
            runs.push(Job::new(world, &self.topics, self.records, &database).load(Who::Daemons(1, proxy)));
        }
        let series = |what: &str, runs, ceiling| Series {
            name: format!("{what}, {suffix}"),
            records: self.records,
            rows: self.rows.count(),
            runs,
            ceiling,
        };
        let copy = series("COPY, one connection", copies, None);
        let ceiling = Some(copy.rate());
        [copy, series("first load, one daemon", runs, ceiling)]
    }
}

fn round_trips(report: &mut Report, world: &World, options: &Options) {
    let load = Load::prepare(world, options);
    let (mut loads, mut times, mut batches) = (vec![], vec![], vec![]);
    for added in [0.0, 0.5, 2.5, 12.0] {
        let address = world.server.address();
        let proxy = (added > 0.0).then(|| proxy::start(&address, Duration::from_secs_f64(added / 1000.0)));
        let proxy = proxy.as_deref();
        let seen = latency::round_trip(world, proxy);
        let suffix = format!("{added} ms added (an empty statement takes {seen:.2} ms)");
        loads.extend(load.beside_copy((world, options), &suffix, proxy, || world.database()));
        let commits = latency::bare_commits(world, proxy, 200);
        times.push((format!("a bare commit of one row, {suffix}"), vec![commits]));
        let runs = latency::latency(world, 100, options.seconds.min(10), proxy);
        batches.push((added, seen, runs.batch.unwrap()));
        times.push((format!("100 records a second, {suffix}"), vec![runs]));
    }
    load.topics.delete(world);
    let title = format!("Round trip to PostgreSQL: clone.ready, {} records", number(load.records as f64, 0));
    report.loads(&title, &loads);
    report.times("Round trip to PostgreSQL: from the producer to the visible row", "As above.", &times);
    println!();
    let (_, near, near_batch) = batches[0];
    for (added, seen, batch) in &batches[1..] {
        let count = number((batch - near_batch) / (seen - near), 1);
        let times = format!("{} ms, without {} ms", number(*batch, 1), number(near_batch, 1));
        report.about(&format!("round trips of a batch, with {added} ms added"), format!("{count} ({times})"));
    }
}

/// The daemon itself fills the tables, and each run uses a copy of that database.
fn growth(report: &mut Report, world: &World, options: &Options) {
    let load = Load::prepare(world, options);
    let mut loads = vec![];
    for before in &options.growth {
        let filled = world.database();
        if *before > 0 {
            let topics = world.topics(4);
            let count = world.produce(&topics, Kind::Alone(Topic::CloneReady).records(*before, SEED + 1));
            Job::new(world, &topics, count, &filled).load(Who::Daemons(1, None));
            topics.delete(world);
            filled.run("VACUUM (ANALYZE)");
        }
        let suffix = format!("{} rows a table before", number(*before as f64, 0));
        loads.extend(load.beside_copy((world, options), &suffix, None, || filled.copy(&world.server)));
    }
    load.topics.delete(world);
    let title = format!(
        "Growth: clone.ready, {} records into tables that hold rows already",
        number(load.records as f64, 0)
    );
    report.loads(&title, &loads);
}
