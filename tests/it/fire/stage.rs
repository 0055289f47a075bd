//! The servers, the instances, and the state of the current round.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::check::{self, Left, Verdict};
use super::dice::Dice;
use super::fail_over::Former;
use super::faults::Lasting;
use super::traffic::{Pace, Producer};
use crate::support::cluster::{Broker, Cluster, FIRST};
use crate::support::daemon::Daemon;
use crate::support::kafka::{Kafka, PrivateKafka, Record};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Database, PrivateServer};
use crate::support::processes::{Signal, free_port};
use crate::support::proxy::Proxy;
use crate::support::scene::{Scene, TOPICS};
use crate::support::wait::{SOON, eventually};

/// The role of the instances; its password may be in no log.
pub const ROLE: &str = "fire";
/// See [`ROLE`].
pub const PASSWORD: &str = "fire-secret-word";

/// `DEAD_LETTER_LIMIT` of the instances.
pub const DEAD_LETTER_LIMIT: &str = "100";
/// Maximum size of an uncompressed batch for the instances.
const RECEIVE_MAX_BYTES: &str = "67108864";

/// Partitions of each topic.
const PARTITIONS: i32 = 4;

/// A trigger that logs each expiry of a cache row, with the row's end: a later event may bring the row back.
const WITNESS: &str = "
    CREATE SCHEMA witness;
    CREATE TABLE witness.expired (id UUID, deleted_at TIMESTAMP, ttl_expires_at TIMESTAMP);
    CREATE FUNCTION witness.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO witness.expired VALUES (new.id, new.deleted_at, new.ttl_expires_at);
        RETURN NULL; END $$;
    CREATE TRIGGER witness AFTER UPDATE ON public.voice_clone_cache FOR EACH ROW
        WHEN (new.deleted_at IS DISTINCT FROM old.deleted_at AND new.deleted_at IS NOT NULL)
        EXECUTE FUNCTION witness.note()";

/// Maximum time until everything is done after all servers are up, on a busy machine.
const SETTLED: Duration = Duration::from_secs(240);

/// Options of a stage.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// PostgreSQL on a disk that can be filled.
    pub small_disk: bool,
    /// Three brokers, of which two may be away.
    pub cluster: bool,
}

/// The counts of a run, as a table.
#[derive(Default)]
pub struct Report(BTreeMap<String, u64>);

impl Report {
    /// Adds to a line.
    pub fn add(&mut self, what: &str, count: u64) {
        *self.0.entry(what.to_owned()).or_default() += count;
    }

    /// Keeps the maximum of a line.
    pub fn at_least(&mut self, what: &str, count: u64) {
        let line = self.0.entry(what.to_owned()).or_default();
        *line = count.max(*line);
    }

    /// Adds every line of another one.
    pub fn extend(&mut self, other: Report) {
        for (what, count) in other.0 {
            self.add(&what, count);
        }
    }

    /// The count of a line.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// A running instance.
pub struct Instance {
    /// The name of its log.
    pub name: String,
    /// The process.
    pub daemon: Daemon,
    /// Whether the process is halted.
    pub halted: bool,
}

/// The stage of a run.
pub struct Stage {
    /// The name of the test.
    pub name: String,
    seed: u64,
    command: String,
    started: Instant,
    /// The random choices.
    pub dice: Dice,
    broker: Option<PrivateKafka>,
    /// The brokers, where there are three.
    cluster: Option<Cluster>,
    /// The brokers besides the first: the second has partitions that no other broker has.
    pub other_brokers: Vec<Broker>,
    /// The proxy between the instances and that broker.
    pub kafka_proxy: Option<Proxy>,
    kafka: Kafka,
    /// PostgreSQL, this stage's own.
    pub server: PrivateServer,
    /// The servers before it in this round, the first one first.
    pub(super) formers: Vec<Former>,
    /// The proxy between the instances and PostgreSQL.
    pub proxy: Proxy,
    logs: PathBuf,
    /// The counts of the run.
    pub report: Report,
    differences: Vec<String>,
    rounds: u64,
    made: u64,
    lost_commits: u64,
    /// The comparison of the previous round, which runs during this one.
    comparing: Option<JoinHandle<Verdict>>,
    pub(super) round: Option<Round>,
}

/// Topics, group and database of one round, and their state.
pub struct Round {
    /// The stage of the other tests.
    pub scene: Scene,
    /// The database's name.
    pub database: String,
    /// The processes that should be running.
    pub instances: Vec<Instance>,
    /// The producer.
    pub producer: Producer,
    /// The rate and amount of its traffic.
    pace: Pace,
    /// The start of the round.
    started: Instant,
    /// Lasting faults.
    pub lasting: Vec<(Instant, Lasting)>,
    /// Records that were read and then deleted from their topics. (A killed broker may have them again, if it had not yet
    /// stored the deletion.)
    pub gone: Vec<Record>,
    /// Topic, partition and offsets of records that were deleted before they were read.
    pub lost: Vec<(String, i32, Range<i64>)>,
    /// Deleted records of the topics that the daemon writes.
    pub gone_output: Vec<Record>,
    /// Topics that were deleted for good, as Kafka had them.
    pub deleted: BTreeSet<String>,
    /// The pooler between some instances and PostgreSQL.
    pub pooler: Option<PgBouncer>,
    /// A dump that may still be restored.
    pub dump: Option<PathBuf>,
    /// The start and end of each restore, in microseconds since 1970.
    pub restores: Vec<Range<i64>>,
}

impl Stage {
    /// Starts the servers. Without `kafka` the broker is one of its own.
    pub fn new(name: &str, seed: u64, command: &str, kafka: Option<&Kafka>, needs: Needs) -> Stage {
        let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fire").join(format!("{name}-{seed}"));
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs).unwrap();
        // A stopping server waits for connections that have not sent their first message, which a stalled proxy holds back.
        let settings =
            [("deadlock_timeout", "200ms"), ("max_wal_size", "256MB"), ("authentication_timeout", "12s")];
        let small = if needs.small_disk { PrivateServer::start_on_small_disk(&settings, 3000) } else { None };
        let server = small.unwrap_or_else(|| PrivateServer::start(&settings));
        let (mut broker, mut cluster, mut other_brokers, mut kafka_proxy) = (None, None, Vec::new(), None);
        if needs.cluster {
            let (three, further, proxy) = cluster_behind_proxy();
            (cluster, other_brokers, kafka_proxy) = (Some(three), further, Some(proxy));
        } else if kafka.is_none() {
            let (one, proxy) = broker_behind_proxy();
            (broker, kafka_proxy) = (Some(one), Some(proxy));
        }
        let own = broker.as_ref().or(cluster.as_ref().map(|cluster| &cluster.first));
        let kafka = Kafka::at(&own.map_or_else(|| kafka.unwrap().servers.clone(), |own| own.servers.clone()));
        let maintenance = Database::on(&server);
        maintenance.run(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
        drop(maintenance);
        let proxy = Proxy::to(&server.address());
        eprintln!("fire: {name}, seed {seed}, logs in {}; again: {command}", logs.display());
        Stage {
            name: name.to_owned(),
            seed,
            command: command.to_owned(),
            started: Instant::now(),
            dice: Dice::new(seed, 1),
            broker,
            cluster,
            other_brokers,
            kafka_proxy,
            kafka,
            server,
            formers: Vec::new(),
            proxy,
            logs,
            report: Report::default(),
            differences: Vec::new(),
            rounds: 0,
            made: 0,
            lost_commits: 0,
            comparing: None,
            round: None,
        }
    }

    /// The broker, or the first of three, where it is this stage's own.
    pub fn broker(&mut self) -> Option<&mut PrivateKafka> {
        self.broker.as_mut().or(self.cluster.as_mut().map(|cluster| &mut cluster.first))
    }

    /// The round under way.
    pub fn round(&mut self) -> &mut Round {
        self.round.as_mut().expect("no round is under way")
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The brokers of each partition of a topic, if there are three. All partitions of a topic have as many replicas.
    pub fn brokers_of(&self, topic: &str) -> Option<Vec<Vec<i32>>> {
        let [second, third] = self.other_brokers.as_slice() else { return None };
        let (second, third) = (second.id, third.id);
        let is_alone =
            ["clone.failed", "call.lifecycle", "clone.expired"].into_iter().any(|name| topic.ends_with(name));
        Some(if is_alone {
            vec![vec![FIRST], vec![FIRST], vec![second], vec![FIRST]]
        } else {
            vec![vec![FIRST, third], vec![FIRST, third], vec![FIRST, third], vec![third, FIRST]]
        })
    }

    /// Fresh topics and a fresh database, two or three instances, and traffic.
    pub fn begin_round(&mut self, pace: Pace) {
        let started = Instant::now();
        self.rounds += 1;
        let database = Database::on(&self.server);
        let name = database.value("SELECT current_database()");
        database.run(&format!("ALTER DATABASE {name} OWNER TO {ROLE}"));
        let scene = if self.other_brokers.is_empty() {
            Scene::on(&self.kafka, database, PARTITIONS)
        } else {
            Scene::placed_on(&self.kafka, database, |topic| self.brokers_of(topic).unwrap())
        };
        let producer =
            Producer::start(&self.kafka.servers, &scene.prefix, self.seed * 1_000_003 + self.rounds, pace);
        self.round = Some(Round {
            scene,
            database: name,
            instances: Vec::new(),
            producer,
            pace,
            started,
            lasting: Vec::new(),
            gone: Vec::new(),
            lost: Vec::new(),
            gone_output: Vec::new(),
            deleted: BTreeSet::new(),
            pooler: None,
            dump: None,
            restores: Vec::new(),
        });
        for _ in 0..2 + self.dice.below(2) {
            self.start_instance();
        }
        self.round().instances[0].daemon.wait_ready(SOON * 2);
        self.round().scene.database.run(WITNESS);
    }

    /// Starts one more instance.
    pub fn start_instance(&mut self) {
        self.start_instance_with(&[]);
    }

    /// Starts one more instance, with additional variables.
    pub fn start_instance_with(&mut self, further: &[(&str, &str)]) {
        self.made += 1;
        self.report.add("instances started", 1);
        let name = format!("round-{}-instance-{}.log", self.rounds, self.made);
        let batch = self.dice.pick(&["20", "200", "1000", "5000"]);
        let log = self.logs.join(&name);
        let address = self.proxy.address();
        let servers = self.kafka_proxy.as_ref().map_or_else(|| self.kafka.servers.clone(), Proxy::address);
        let round = self.round.as_mut().expect("no round is under way");
        let url = format!("postgresql://{ROLE}:{PASSWORD}@{address}/{}", round.database);
        let ours = [
            ("DATABASE_URL", url.as_str()),
            ("KAFKA_BOOTSTRAP_SERVERS", &servers),
            ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
            ("KAFKA_HEARTBEAT_INTERVAL_MS", "1500"),
            ("KAFKA_RECONNECT_BACKOFF_MAX_MS", "1000"),
            ("EXPIRY_INTERVAL", "1s"),
            ("BATCH_MAX_RECORDS", batch),
            // Only a fault that sends this many bad records in a row reaches it.
            ("DEAD_LETTER_LIMIT", DEAD_LETTER_LIMIT),
            ("KAFKA_RECEIVE_MESSAGE_MAX_BYTES", RECEIVE_MAX_BYTES),
            ("RUST_LOG", "info,voiceclone_events=debug,rdkafka=debug,librdkafka=debug"),
        ];
        let variables = round.scene.variables(&[&ours, further].concat());
        let daemon = Daemon::start_with_log(&["run", "--migrate"], &variables, Some(&log));
        round.instances.push(Instance { name, daemon, halted: false });
    }

    /// Lets time pass, in which the fault does its work and traffic flows.
    pub fn pass(&self, millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    /// All running instances end in good order: exit status 0, within the contract's 10 seconds.
    pub fn stop_instances(&mut self) {
        for mut instance in std::mem::take(&mut self.round().instances) {
            self.end_in_order(&mut instance);
        }
    }

    /// One instance ends in good order.
    pub fn end_in_order(&mut self, instance: &mut Instance) {
        self.count_metrics(instance);
        let asked = Instant::now();
        instance.daemon.signal(Signal::Term);
        let code = instance.daemon.wait_exit(SOON);
        let took = asked.elapsed();
        self.report.add("ended by SIGTERM", 1);
        if code != 0 {
            self.difference(format!("{} ended with status {code} after SIGTERM", instance.name));
        }
        if took > Duration::from_secs(10) {
            self.difference(format!(
                "{} took {took:.1?} to end after SIGTERM, not 10 s at most",
                instance.name
            ));
        }
    }

    /// Adds the counters of an instance, before it ends.
    pub fn count_metrics(&mut self, instance: &Instance) {
        if instance.halted {
            return;
        }
        let Ok((200, metrics)) = instance.daemon.try_http_get("/metrics") else { return };
        for (metric, what) in [
            ("voiceclone_records_total", "records written (as far as /metrics showed)"),
            ("voiceclone_batch_duration_seconds_count", "batches (as far as /metrics showed)"),
            ("voiceclone_write_retries_total", "batches tried again (as far as /metrics showed)"),
        ] {
            for line in metrics.lines().filter(|line| line.starts_with(metric)) {
                let value =
                    line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
                self.report.add(what, value as u64);
            }
        }
    }

    /// Notes a difference.
    pub fn difference(&mut self, what: String) {
        self.difference_in(self.rounds, what);
    }

    fn difference_in(&mut self, round: u64, what: String) {
        eprintln!("fire: DIFFERENCE in round {round} (seed {}): {what}", self.seed);
        self.differences.push(format!("round {round}: {what}"));
    }

    /// Notes every instance that is no longer running and should be, and starts another one in its place.
    pub fn look_after_instances(&mut self) {
        let mut ended = Vec::new();
        let round = self.round();
        let mut at = 0;
        while at < round.instances.len() {
            if round.instances[at].daemon.is_running() {
                at += 1;
            } else {
                ended.push(round.instances.remove(at));
            }
        }
        for mut instance in ended {
            let code = instance.daemon.wait_exit(SOON);
            let last = instance.daemon.logs().last().cloned().unwrap_or_default();
            self.difference(format!("{} ended by itself with status {code}: {last}", instance.name));
            self.start_instance();
        }
    }

    /// Waits until PostgreSQL answers, asked without the proxy.
    pub fn wait_for_postgres(&mut self) {
        let database = &self.round().scene.database;
        eventually(SOON * 2, "PostgreSQL's answer", || database.try_rows("SELECT 1"));
    }

    /// The partitions in which the database is not where the topics end, and how many records are to be read in all.
    pub fn lag(&mut self) -> (Vec<String>, u64) {
        let scene = &self.round().scene;
        let stored: BTreeMap<(String, String), i64> = scene
            .database
            .rows(&format!(
                "SELECT topic, partition::text, next_offset::text FROM ingest.consumer_offsets WHERE group_id = '{}'",
                scene.group
            ))
            .into_iter()
            .map(|mut row| {
                let mut take = || row.remove(0).unwrap();
                ((take(), take()), take().parse().unwrap())
            })
            .collect();
        let (mut behind, mut unread) = (Vec::new(), 0);
        for topic in self.round().topics() {
            let scene = &self.round().scene;
            for (partition, (low, high)) in scene.kafka.watermarks(&topic) {
                let stored = stored.get(&(topic.clone(), partition.to_string())).copied();
                if stored != Some(high) {
                    behind.push(format!("{topic} {partition}: {stored:?} of {high}"));
                    unread += (high - stored.unwrap_or(low)).unsigned_abs();
                }
            }
        }
        (behind, unread)
    }

    /// Keeps the producer from running too far ahead of the instances. Asks only while the servers answer.
    pub fn hold_or_let_go(&mut self) {
        let silent = |lasting: &Lasting| lasting.stops_postgres() || lasting.stops_broker();
        if !self.round().lasting.iter().any(|(_, lasting)| silent(lasting)) {
            let (_, unread) = self.lag();
            let round = self.round();
            round.producer.hold(unread > round.pace.ahead);
        }
    }

    /// Waits until all that the topics hold is in the database.
    pub fn wait_until_consumed(&mut self) {
        eventually(SETTLED, "everything to be consumed", || {
            let (behind, _) = self.lag();
            std::thread::sleep(Duration::from_millis(200));
            if behind.is_empty() { Ok(()) } else { Err(behind) }
        });
    }

    /// Waits until everything is done: all records consumed, all due rows expired, everything published.
    fn wait_until_settled(&mut self) {
        self.wait_until_consumed();
        let database = &self.round().scene.database;
        eventually(SETTLED, "nothing to be left to expire and to publish", || {
            let left = database.rows(
                "SELECT (SELECT count(*) FROM voice_clone_cache WHERE deleted_at IS NULL
                           AND ttl_expires_at < now() AT TIME ZONE 'utc' - interval '2 seconds')::text,
                        (SELECT count(*) FROM ingest.outbox)::text,
                        (SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL)::text",
            );
            std::thread::sleep(Duration::from_millis(200));
            if left[0].iter().all(|count| count.as_deref() == Some("0")) { Ok(()) } else { Err(left) }
        });
    }

    /// Reverts lasting faults, waits until everything is done, ends the instances, and reads the results. They are
    /// compared with the model during the next round.
    pub fn end_round(&mut self) {
        let struck = self.round().started.elapsed();
        let draining = Instant::now();
        self.lift_all();
        self.round().producer.end();
        self.look_after_instances();
        if self.round().instances.is_empty() {
            self.start_instance();
        }
        self.accept_dead_letters();
        self.wait_until_settled();
        self.look_after_instances();
        self.look_at_lag_and_readiness();
        self.stop_instances();
        let drained = draining.elapsed();
        let lost = self.proxy.lost_commits() - self.lost_commits;
        self.lost_commits += lost;
        self.report.add("commits, or answers to them, lost", lost);
        let round = self.round.take().expect("no round is under way");
        let deadlocks = round
            .scene
            .database
            .value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
        self.report.add("deadlocks that PostgreSQL ended", deadlocks.parse().unwrap_or(0));
        self.report.add("rounds", 1);
        self.report.add("records sent", round.producer.sent());
        self.report.add("exact duplicates sent", round.producer.duplicates());
        let reading = Instant::now();
        let left = Left::read(&round, &self.logs, self.rounds);
        let written = ["clone.expired", "voiceclone.dead-letters"].map(|topic| round.scene.topic(topic));
        for topic in round.topics().iter().chain(&written) {
            round.scene.kafka.delete_topic(topic);
        }
        let sent = round.producer.sent();
        drop(round);
        self.fail_back();
        let read = reading.elapsed();
        let waiting = Instant::now();
        self.take_in_comparison();
        let waited = waiting.elapsed();
        self.comparing = Some(std::thread::spawn(move || check::compare(left)));
        for (what, took) in [
            ("striking", struck),
            ("draining", drained),
            ("reading", read),
            ("waiting for a comparison", waited),
        ] {
            self.report.add(&format!("time: {what} (ms)"), took.as_millis() as u64);
        }
        eprintln!(
            "fire: round {} done after {:.0?}: {sent} records; {struck:.1?} of striking, {drained:.1?} of draining, \
             {read:.1?} of reading, {waited:.1?} of waiting for the comparison of the round before; in all {} \
             faults, {} records, {} differences before this round; {} MiB of memory",
            self.rounds,
            self.started.elapsed(),
            self.report.count("faults"),
            self.report.count("records sent"),
            self.differences.len(),
            memory("VmRSS:"),
        );
    }

    /// Kafka's own lag of the group is 0, and every instance is ready.
    fn look_at_lag_and_readiness(&mut self) {
        let started = Instant::now();
        loop {
            let round = self.round();
            let lag = |topic: String| {
                let lag = round.scene.kafka.group_lag(&round.scene.group, &topic);
                lag.into_iter()
                    .filter(|(_, lag)| *lag != 0)
                    .map(move |(of, lag)| format!("{topic} {of}: {lag}"))
            };
            let behind: Vec<String> = round.topics().into_iter().flat_map(lag).collect();
            let ready = |instance: &Instance| match instance.daemon.try_http_get("/readyz") {
                Ok((200, _)) => None,
                other => Some(format!("{}: {other:?}", instance.name)),
            };
            let unready: Vec<String> = round.instances.iter().filter_map(ready).collect();
            if behind.is_empty() && unready.is_empty() {
                return;
            }
            if started.elapsed() > SOON {
                self.difference(format!(
                    "at the end of the round Kafka's lag is {behind:?}; not ready: {unready:?}"
                ));
                return;
            }
            self.pass(200);
        }
    }

    /// Waits for the last comparison.
    fn take_in_comparison(&mut self) {
        let Some(comparing) = self.comparing.take() else { return };
        let Verdict { number, report, differences } = comparing.join().expect("the comparison failed");
        self.report.extend(report);
        let more = differences.len().saturating_sub(10);
        for difference in differences.into_iter().take(10) {
            self.difference_in(number, difference);
        }
        if more > 0 {
            self.difference_in(number, format!("{more} more differences in this round"));
        }
    }

    /// Prints and returns the counts.
    ///
    /// # Panics
    /// Where there are differences.
    pub fn finish(mut self) -> Report {
        self.take_in_comparison();
        self.report.add("MiB of memory that the tests' own process had at most", memory("VmHWM:"));
        let count = |what: &str| self.report.count(what);
        let mut table = format!("\n{}, seed {}, {:.0?}\n", self.name, self.seed, self.started.elapsed());
        for (what, count) in &self.report.0 {
            table.push_str(&format!("  {count:>9}  {what}\n"));
        }
        for difference in &self.differences {
            table.push_str(&format!("DIFFERENCE: {difference}\n"));
        }
        table.push_str(&format!(
            "logs: {}\nsoak: {} faults ({} kinds), {} records ({} exact duplicates), {} batches, {} kills, {} rebalances, \
             {} instances started, {} differences, seed {}",
            self.logs.display(),
            count("faults"),
            self.report.0.keys().filter(|what| what.starts_with("faults: ")).count(),
            count("records sent"),
            count("exact duplicates sent"),
            count("log: batches written"),
            count("faults: Killed"),
            count("log: assignments"),
            count("instances started"),
            self.differences.len(),
            self.seed
        ));
        eprintln!("{table}");
        let differences = std::mem::take(&mut self.differences).len();
        assert!(differences == 0, "{differences} differences; again: {}", self.command);
        std::mem::take(&mut self.report)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(Ok(verdict)) = self.comparing.take().map(JoinHandle::join) {
                self.differences.extend(verdict.differences);
            }
            eprintln!("fire: {} failed with seed {}; again: {}", self.name, self.seed, self.command);
            eprintln!("fire: the logs of all instances are in {}", self.logs.display());
            for difference in &self.differences {
                eprintln!("DIFFERENCE: {difference}");
            }
        }
    }
}

/// The memory of this process, in MiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

/// A broker that advertises the proxy to its clients, except to this process, which has a listener of its own.
pub fn broker_behind_proxy() -> (PrivateKafka, Proxy) {
    let (behind, front) = (free_port(), free_port());
    let listeners = format!(
        "PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{{controller}}"
    );
    let advertised = format!("PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{front}");
    let broker = PrivateKafka::start(&[
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("inter.broker.listener.name", "PLAINTEXT"),
    ]);
    let proxy = Proxy::on(front, &format!("127.0.0.1:{behind}"));
    (broker.unwrap(), proxy)
}

/// Three brokers; the first advertises the proxy to its clients, except to this process.
fn cluster_behind_proxy() -> (Cluster, Vec<Broker>, Proxy) {
    let (behind, front) = (free_port(), free_port());
    let protocols =
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT");
    let inside = ("inter.broker.listener.name", "PLAINTEXT");
    let listeners =
        format!("PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{behind},CONTROLLER://{{quorum}}");
    let advertised = format!("PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{front}");
    let cluster = Cluster::start(&[
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        protocols,
        inside,
    ]);
    let cluster = cluster.unwrap();
    let further = || {
        // Clients that came through the proxy hear only of brokers with a listener of the same name.
        let listeners = format!("PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{}", free_port());
        let settings =
            [("listeners", listeners.as_str()), ("advertised.listeners", &listeners), protocols, inside];
        cluster.another_broker_with(&settings)
    };
    let further = vec![further(), further()];
    (cluster, further, Proxy::on(front, &format!("127.0.0.1:{behind}")))
}

impl Round {
    /// The topics that are read and were not deleted for good, as Kafka has them.
    pub fn topics(&self) -> Vec<String> {
        let all = TOPICS.iter().map(|topic| self.scene.topic(topic));
        all.filter(|topic| !self.deleted.contains(topic)).collect()
    }

    /// The current records of a topic that count: all but those deleted unread.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        if self.deleted.contains(topic) {
            return Vec::new();
        }
        let mut records = self.scene.kafka.read_all(topic);
        records.retain(|record| {
            !self.lost.iter().any(|(topic, partition, offsets)| {
                (topic, partition) == (&record.topic, &record.partition) && offsets.contains(&record.offset)
            })
        });
        records
    }

    /// All records of a topic that ever counted, each once.
    pub fn log(&self, topic: &str) -> Vec<Record> {
        let mut log: Vec<Record> = self
            .gone
            .iter()
            .filter(|record| record.topic == topic)
            .cloned()
            .chain(self.read(topic))
            .collect();
        log.sort_by_key(|record| (record.partition, record.offset, record.timestamp));
        log.dedup();
        log
    }
}
