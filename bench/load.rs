//! Loads topics into tables: with `COPY` (the ceiling), the daemon and the baseline.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};

use crate::support::daemon::Daemon;
use crate::support::postgres::Database;
use crate::support::processes::{Process, Signal, command};
use crate::support::unique;
use crate::support::wait::SOON;
use crate::usage::{Measured, Meter};
use crate::world::{Session, Topics, World, runtime};

/// Timeout; no load of this benchmark takes as long.
const LONG: Duration = Duration::from_secs(3600);

/// A consuming program.
pub enum Consumer {
    /// The daemon of this project.
    Daemon(Daemon),
    /// The Python program.
    Baseline(Process),
}

impl Consumer {
    fn pid(&self) -> u32 {
        match self {
            Consumer::Daemon(daemon) => daemon.process_id(),
            Consumer::Baseline(process) => process.id(),
        }
    }

    fn assert_runs(&mut self) {
        let runs = match self {
            Consumer::Daemon(daemon) => daemon.is_running(),
            Consumer::Baseline(process) => process.status().is_none(),
        };
        assert!(runs, "a consumer has ended");
    }

    fn stop(self) {
        match self {
            Consumer::Daemon(mut daemon) => {
                daemon.signal(Signal::Term);
                daemon.wait_exit(SOON);
            }
            Consumer::Baseline(mut process) => {
                process.signal(Signal::Term);
                process.wait(SOON);
            }
        }
    }
}

/// The kind of consumer.
#[derive(Clone, Copy, PartialEq)]
pub enum Who<'a> {
    /// A number of daemons, with the address of a proxy if they connect through one.
    Daemons(usize, Option<&'a str>),
    /// The Python program, with the path of its interpreter.
    Baseline(&'a Path),
}

/// A group that reads these topics into this database.
pub struct Job<'a> {
    /// The servers.
    pub world: &'a World,
    /// The topics to read.
    pub topics: &'a Topics,
    /// The number of records.
    pub records: u64,
    /// The database for the rows.
    pub database: &'a Database,
    /// `KAFKA_GROUP_ID`.
    pub group: String,
    /// Settings of its daemons beside those of all daemons.
    pub settings: &'a [(&'a str, &'a str)],
}

impl<'a> Job<'a> {
    /// A job with a new group.
    pub fn new(world: &'a World, topics: &'a Topics, records: u64, database: &'a Database) -> Job<'a> {
        Job { world, topics, records, database, group: unique("group"), settings: &[] }
    }

    /// Measures from the storing of the starting offsets of all partitions, just before the first record is read, to
    /// the storing of the offsets after the last record (read every 20 ms). A lock on the table of offsets holds the
    /// consumers back until all of them have their partitions. Each run reads everything again: the stored offsets of
    /// the group are deleted first.
    pub fn load(&self, who: Who<'_>) -> Measured {
        let hold = self.world.session(self.database);
        hold.run(&format!(
            "DELETE FROM ingest.consumer_offsets WHERE group_id = '{}'; CHECKPOINT",
            self.group
        ));
        hold.run("BEGIN; LOCK TABLE ingest.consumer_offsets IN SHARE MODE");
        let (count, partitions) = match who {
            Who::Daemons(count, _) => (count, self.topics.partitions_read()),
            Who::Baseline(_) => (1, i64::from(self.topics.partitions)),
        };
        let watch = self.world.session(self.database);
        let mut consumers = self.start_all(who, count, &watch);
        let pids: Vec<(String, u32)> =
            consumers.iter().map(|(name, consumer)| (name.clone(), consumer.pid())).collect();
        hold.run("COMMIT");
        let stored =
            format!("SELECT count(*) FROM ingest.consumer_offsets WHERE group_id = '{}'", self.group);
        self.until(&mut consumers, 2, || watch.number(&stored) >= partitions);
        let meter = Meter::start(self.world, self.database, &pids, &[hold.pid, watch.pid]);
        let next = format!(
            "SELECT COALESCE(sum(next_offset), 0)::bigint FROM ingest.consumer_offsets WHERE group_id = '{}'",
            self.group
        );
        let records = i64::try_from(self.records).unwrap();
        self.until(&mut consumers, 20, || watch.number(&next) >= records);
        let measured = meter.finish();
        consumers.into_iter().for_each(|(_, consumer)| consumer.stop());
        measured
    }

    /// Starts the consumers and waits until each has its partitions and waits for the lock. A consumer that misses the
    /// first rebalance (the broker waits three seconds) gets no partitions while the others are held back: then all are
    /// started again.
    fn start_all(&self, who: Who<'_>, count: usize, watch: &Session) -> Vec<(String, Consumer)> {
        let waiting = "SELECT count(DISTINCT application_name) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name LIKE 'consumer%'
                             AND wait_event_type = 'Lock'";
        for _ in 0..5 {
            let mut consumers: Vec<_> = (1..=count).map(|nth| self.start(who, nth, count)).collect();
            let start = Instant::now();
            while start.elapsed() < SOON {
                if watch.number(waiting) == i64::try_from(count).unwrap() {
                    return consumers;
                }
                consumers.iter_mut().for_each(|(_, consumer)| consumer.assert_runs());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("{count} consumers did not get their partitions at the same time");
    }

    fn start(&self, who: Who<'_>, nth: usize, of: usize) -> (String, Consumer) {
        let name = format!("consumer-{nth}");
        match who {
            Who::Daemons(_, proxy) => {
                let url = self.world.url(self.database, &name, proxy);
                let daemon = self.world.daemon(self.topics, &url, &self.group, self.settings);
                let shown = if of == 1 { "daemon".to_owned() } else { format!("daemon {nth}") };
                (shown, Consumer::Daemon(daemon))
            }
            Who::Baseline(python) => {
                let mut program = command(python);
                program.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/baseline/consumer.py"));
                program.env("DATABASE_URL", self.world.url(self.database, &name, None));
                program.env("KAFKA_BOOTSTRAP_SERVERS", &self.world.kafka.servers);
                program.env("KAFKA_GROUP_ID", &self.group).env("TOPIC", self.topics.name("clone.ready"));
                program.env("BATCH_MAX_RECORDS", self.world.batch.to_string()).stdout(Stdio::null());
                ("baseline".to_owned(), Consumer::Baseline(Process::spawn(&mut program, Signal::Kill)))
            }
        }
    }

    fn until(&self, consumers: &mut [(String, Consumer)], pause_ms: u64, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            consumers.iter_mut().for_each(|(_, consumer)| consumer.assert_runs());
            assert!(start.elapsed() < LONG, "nothing came of it within {LONG:?}");
            std::thread::sleep(Duration::from_millis(pause_ms));
        }
    }
}

/// The order of rows for `COPY`.
#[derive(Clone, Copy)]
pub enum Order {
    /// The order in the daemon's tables: each batch by id, which is faster, as neighbours share index pages.
    AsTheyLie,
    /// The order of arrival, as a program writes them that copies records one by one.
    OfArrival,
}

/// Rows of some tables, for `COPY`.
pub struct Rows {
    tables: Vec<Table>,
    transactions: usize,
}

struct Table {
    name: &'static str,
    /// All rows in `COPY`'s binary format, without header and trailer.
    bytes: Bytes,
    /// The offset of each row, and the end of the last.
    starts: Vec<usize>,
}

/// The header of `COPY`'s binary format: signature, no flags, no extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The trailer of `COPY`'s binary format.
const TAIL: &[u8] = b"\xff\xff";

impl Rows {
    /// All rows of these tables that a load has made, split into as many transactions as the records have full batches.
    pub fn of(
        world: &World,
        database: &Database,
        tables: &[&'static str],
        records: u64,
        order: Order,
    ) -> Rows {
        let session = world.session(database);
        let tables = tables.iter().map(|name| Table::read(&session, name, order)).collect();
        Rows { tables, transactions: usize::try_from(records).unwrap().div_ceil(world.batch) }
    }

    /// The number of rows.
    pub fn count(&self) -> u64 {
        self.tables.iter().map(|table| u64::try_from(table.starts.len() - 1).unwrap()).sum()
    }

    /// Writes the rows with `COPY` into the tables of a database, on `connections` at once, which take turns with the
    /// transactions, through a proxy if one is given.
    pub fn copy(
        &self,
        world: &World,
        database: &Database,
        connections: usize,
        proxy: Option<&str>,
    ) -> Measured {
        let control = world.session(database);
        let sessions: Vec<Session> = (1..=connections)
            .map(|nth| Session::open(&world.url(database, &format!("consumer-copy-{nth}"), proxy)))
            .collect();
        control.run("CHECKPOINT");
        let meter = Meter::start(world, database, &[], &[control.pid]);
        runtime().block_on(async {
            let work = sessions.iter().enumerate().map(|(first, session)| async move {
                for nth in (first..self.transactions).step_by(connections) {
                    self.transaction(session, nth).await;
                }
            });
            futures_util::future::join_all(work).await;
        });
        meter.finish()
    }

    async fn transaction(&self, session: &Session, nth: usize) {
        session.client.batch_execute("BEGIN").await.unwrap();
        for table in &self.tables {
            let rows = table.starts.len() - 1;
            let (from, to) = (rows * nth / self.transactions, rows * (nth + 1) / self.transactions);
            let sql = format!("COPY {} FROM STDIN (FORMAT binary)", table.name);
            let sink = session.client.copy_in::<_, Bytes>(sql.as_str()).await.unwrap();
            let mut sink = std::pin::pin!(sink);
            sink.send(Bytes::from_static(HEAD)).await.unwrap();
            sink.send(table.bytes.slice(table.starts[from]..table.starts[to])).await.unwrap();
            sink.send(Bytes::from_static(TAIL)).await.unwrap();
            sink.finish().await.unwrap();
        }
        session.client.batch_execute("COMMIT").await.unwrap();
    }
}

impl Table {
    fn read(session: &Session, name: &'static str, order: Order) -> Table {
        let order = match order {
            Order::AsTheyLie => "ctid",
            // practically random within a millisecond, as ids are hashes
            Order::OfArrival => "created_at, md5(id::text)",
        };
        let all = runtime().block_on(async {
            let sql = format!("COPY (SELECT * FROM {name} ORDER BY {order}) TO STDOUT (FORMAT binary)");
            let mut stream = std::pin::pin!(session.client.copy_out(sql.as_str()).await.unwrap());
            let mut all = BytesMut::new();
            while let Some(bytes) = stream.next().await {
                all.put(bytes.unwrap());
            }
            all.freeze()
        });
        assert_eq!(&all[..HEAD.len()], HEAD);
        let bytes = all.slice(HEAD.len()..all.len() - TAIL.len());
        let mut starts = vec![0];
        let mut at = 0;
        while at < bytes.len() {
            let fields = i16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
            at += 2;
            for _ in 0..fields {
                let length = i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()); // -1: null
                at += 4 + usize::try_from(length).unwrap_or(0);
            }
            starts.push(at);
        }
        Table { name, bytes, starts }
    }
}
