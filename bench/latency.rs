//! The time from sending a record to its visible row, at a given rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;
use voiceclone_events::record::{Outgoing, Topic};

use crate::records::Dice;
use crate::support::postgres::Database;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};
use crate::usage::{Measured, Meter};
use crate::world::{Session, Topics, World, runtime, send};

/// Time between two reads of the stored offset.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Records sent during the warm-up do not count.
pub const WARM_UP: Duration = Duration::from_secs(2);

/// Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    /// Number of records or commits.
    pub samples: usize,
    /// The median.
    pub p50: f64,
    /// 99 of 100 took at most this long; the longest where there are fewer than 100.
    pub p99: f64,
    /// 999 of 1000 took at most this long; the longest where there are fewer than 1000.
    pub p999: f64,
    /// The longest time.
    pub longest: f64,
    /// Time between two reads of the database, for 99 of 100 at most: a measured time may be too long by this.
    pub resolution: f64,
    /// The resources that the daemon and the server used, where measured.
    pub cost: Option<Measured>,
    /// Mean time of the daemon's batches, where measured: from the first statement to the commit.
    pub batch: Option<f64>,
}

impl Times {
    fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        if times.is_empty() {
            return Times::default();
        }
        let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
        Times {
            samples: times.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            longest: at(1.0),
            ..Times::default()
        }
    }
}

/// Sends records at a steady rate, and watches when their rows are visible. The topic `clone.ready` has one partition
/// and nothing else in it, so a record's offset is its number; the offset stored with the rows, in their transaction,
/// shows which records are visible.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    producer: JoinHandle<Vec<Instant>>,
    seen: Arc<AtomicU64>,
    watcher: JoinHandle<Vec<(Instant, u64)>>,
    watch_stop: Arc<AtomicBool>,
    /// The process id of the watcher's backend.
    pub pid: u32,
}

impl Pulse {
    /// Starts sending and watching.
    pub fn start(world: &World, topics: &Topics, database: &Database, group: &str, rate: u64) -> Pulse {
        let watch_stop = Arc::<AtomicBool>::default();
        let seen = Arc::<AtomicU64>::default();
        let (stop, producer) = send_at(world, topics, rate);
        let session = world.session(database);
        let pid = session.pid;
        let (group, topic_seen, ended) = (group.to_owned(), seen.clone(), watch_stop.clone());
        let watcher = std::thread::spawn(move || {
            let sql = "SELECT COALESCE(max(next_offset), 0) FROM ingest.consumer_offsets
                       WHERE group_id = $1 AND topic LIKE '%clone.ready'";
            let statement = runtime().block_on(session.client.prepare(sql)).unwrap();
            let mut looks = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let row = runtime().block_on(session.client.query_one(&statement, &[&group])).unwrap();
                let next = u64::try_from(row.get::<_, i64>(0)).unwrap();
                looks.push((Instant::now(), next));
                topic_seen.store(next, Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
            looks
        });
        Pulse { stop, producer, seen, watcher, watch_stop, pid }
    }

    /// Stops sending, waits until all records are visible, and returns when each was sent and seen.
    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.producer.join().unwrap();
        let end = u64::try_from(sent.len()).unwrap();
        eventually(SOON * 4, &format!("offset {end} to be stored"), || {
            let seen = self.seen.load(Ordering::Relaxed);
            if seen >= end { Ok(()) } else { Err(seen) }
        });
        self.watch_stop.store(true, Ordering::Relaxed);
        let looks = self.watcher.join().unwrap();
        let mut look = looks.iter();
        let mut at = look.next().unwrap();
        let mut records = Vec::new();
        for (offset, sent) in (0..).zip(sent) {
            while at.1 <= offset {
                at = look.next().unwrap();
            }
            records.push((sent, milliseconds(at.0 - sent)));
        }
        let gaps = looks.windows(2).map(|two| milliseconds(two[1].0 - two[0].0)).collect();
        Seen { records, resolution: Times::of(gaps).p99 }
    }
}

/// Sends records at a steady rate until the flag is set. Returns when each was sent.
fn send_at(world: &World, topics: &Topics, rate: u64) -> (Arc<AtomicBool>, JoinHandle<Vec<Instant>>) {
    let stop = Arc::<AtomicBool>::default();
    // Thousands of requests per second with one record each would measure the broker.
    let producer = world.producer(if rate > 1000 { "1" } else { "0" });
    let stopped = stop.clone();
    let mut dice = Dice::new(rate);
    let topics = Topics { prefix: topics.prefix.clone(), partitions: topics.partitions };
    let producer = std::thread::spawn(move || {
        let mut sent = Vec::new();
        let start = Instant::now();
        while !stopped.load(Ordering::Relaxed) {
            // Created before its time, so that creating it is not measured.
            let record: Outgoing = dice.record(Topic::CloneReady, 0, 1);
            let due = start + Duration::from_nanos(1_000_000_000 / rate) * u32::try_from(sent.len()).unwrap();
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sent.push(Instant::now());
            send(&producer, &topics, &record);
        }
        producer.flush(SOON).unwrap();
        sent
    });
    (stop, producer)
}

/// Times from sending a record to its receipt by a consumer that does nothing else: the floor of consuming.
pub fn bare_receipts(world: &World, rate: u64, seconds: u64) -> Times {
    let topics = world.topics(1);
    let mut config = world.kafka.config();
    config.set("group.id", "bare-consumer").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut start = TopicPartitionList::new();
    start.add_partition_offset(&topics.name(Topic::CloneReady.name()), 0, Offset::Beginning).unwrap();
    consumer.assign(&start).unwrap();
    let (stop, producer) = send_at(world, &topics, rate);
    let until = Instant::now() + WARM_UP + Duration::from_secs(seconds);
    let mut received = Vec::new();
    while Instant::now() < until {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message.unwrap();
            received.push(Instant::now());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent = producer.join().unwrap();
    topics.delete(world);
    let warm = until - Duration::from_secs(seconds);
    let timed = sent.into_iter().zip(received).filter(|(sent, _)| *sent >= warm);
    Times::of(timed.map(|(sent, received)| milliseconds(received.saturating_duration_since(sent))).collect())
}

/// The time at which each record was sent, and the milliseconds until it was seen.
pub struct Seen {
    records: Vec<(Instant, f64)>,
    resolution: f64,
}

impl Seen {
    /// The times of the records sent within this span.
    pub fn times(&self, from: Instant, until: Instant) -> Times {
        let within = self.records.iter().filter(|(sent, _)| (from..until).contains(sent));
        Times { resolution: self.resolution, ..Times::of(within.map(|(_, time)| *time).collect()) }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Times of records at this rate, sent for `seconds`.
pub fn latency(world: &World, rate: u64, seconds: u64, proxy: Option<&str>) -> Times {
    let (database, topics, group) = (world.database(), world.topics(1), unique("group"));
    let mut daemon = world.daemon(&topics, &world.url(&database, "consumer-1", proxy), &group, &[]);
    wait_until_consuming(world, &database, &mut daemon, &group, topics.partitions_read());
    world.session(&database).run("CHECKPOINT");
    let pulse = Pulse::start(world, &topics, &database, &group, rate);
    std::thread::sleep(WARM_UP);
    let meter = Meter::start(world, &database, &[("daemon".to_owned(), daemon.process_id())], &[pulse.pid]);
    let from = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let cost = Some(meter.finish());
    let times = pulse.finish().times(from, from + Duration::from_secs(seconds));
    let batch = Some(batch_time(&daemon.http_get("/metrics").1));
    drop(daemon);
    topics.delete(world);
    Times { cost, batch, ..times }
}

/// The mean time of a batch by the daemon's metrics, in milliseconds.
fn batch_time(metrics: &str) -> f64 {
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    1000.0 * value("voiceclone_batch_duration_seconds_sum") / value("voiceclone_batch_duration_seconds_count")
}

/// Waits until the daemon has the starting offsets of its partitions.
pub fn wait_until_consuming(
    world: &World,
    database: &Database,
    daemon: &mut crate::support::daemon::Daemon,
    group: &str,
    partitions: i64,
) {
    let session = world.session(database);
    let sql = format!("SELECT count(*) FROM ingest.consumer_offsets WHERE group_id = '{group}'");
    eventually(SOON * 2, "the daemon to consume", || {
        assert!(daemon.is_running(), "the daemon has ended");
        let seen = session.number(&sql);
        if seen == partitions { Ok(()) } else { Err(seen) }
    });
    daemon.wait_ready(SOON);
}

/// Times of bare commits: one row into `clone_ready_events` per transaction, on a warm connection.
pub fn bare_commits(world: &World, proxy: Option<&str>, count: usize) -> Times {
    let database = world.database();
    let session = Session::open(&world.url(&database, "bare-commits", proxy));
    session.run("CHECKPOINT");
    runtime().block_on(async {
        let sql = "INSERT INTO public.clone_ready_events
                   (id, caller_id, greeting_call_id, cloned_voice_id, clone_duration_ms, ready_at, created_at)
                   VALUES (gen_random_uuid(), md5(random()::text), md5(random()::text), 'voice', 1, now(), now())";
        let statement = session.client.prepare(sql).await.unwrap();
        let mut times = Vec::new();
        for nth in 0..count + 100 {
            let start = Instant::now();
            session.client.execute(&statement, &[]).await.unwrap();
            if nth >= 100 {
                times.push(milliseconds(start.elapsed()));
            }
        }
        Times::of(times)
    })
}

/// The median time of an empty statement, in milliseconds: the round trip.
pub fn round_trip(world: &World, proxy: Option<&str>) -> f64 {
    let database = world.database();
    let session = Session::open(&world.url(&database, "round-trip", proxy));
    runtime().block_on(async {
        let statement = session.client.prepare("SELECT 1").await.unwrap();
        let mut times = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            session.client.execute(&statement, &[]).await.unwrap();
            times.push(milliseconds(start.elapsed()));
        }
        Times::of(times).p50
    })
}
