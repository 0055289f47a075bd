//! The resources that a measurement uses: CPU and memory from `/proc` (Linux), WAL, and the wait events of the
//! consumers' backends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::support::postgres::Database;
use crate::world::{Session, World, runtime};

/// Time between two samples of the backends.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The bytes of a database on the disk.
const DISK: &str = "SELECT pg_database_size(current_database())";

/// The resources of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Duration of the run.
    pub seconds: f64,
    /// Bytes of WAL written during the run.
    pub wal_bytes: f64,
    /// Bytes by which the database grew: tables with their indexes.
    pub disk_bytes: f64,
    /// CPU time of the consuming processes (daemons, baseline).
    pub consumer_cpu_seconds: f64,
    /// CPU time of all PostgreSQL processes but the benchmark's own backends.
    pub postgres_cpu_seconds: f64,
    /// CPU time of the broker.
    pub broker_cpu_seconds: f64,
    /// The processes that used the most CPU, as shares of the duration.
    pub busiest: Vec<(String, f64)>,
    /// The wait events of the consumers' backends in a transaction, as shares of the duration; with several backends
    /// the sum may exceed 1.
    pub backends: BTreeMap<String, f64>,
    /// The statements that took the most time in PostgreSQL, as shares of the duration; from `pg_stat_statements`,
    /// where the server has it.
    pub statements: Vec<(String, f64)>,
    /// Share of the time in which no consumer had a transaction open.
    pub no_transaction: f64,
    /// Peak memory of one consuming process.
    pub peak_memory_mib: f64,
    /// Memory of that process at the end.
    pub memory_mib: f64,
}

/// Measures the resources from start to finish.
pub struct Meter {
    session: Session,
    profiles: bool,
    ours: BTreeSet<u32>,
    consumers: Vec<(String, u32)>,
    postmaster: u32,
    broker: u32,
    wal: i64,
    disk: i64,
    cpu: BTreeMap<u32, (String, f64)>,
    postmaster_cpu: f64,
    started: Instant,
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<(BTreeMap<String, u64>, u64, u64)>,
}

impl Meter {
    /// Starts. `consumers` are processes with their names; `ours` are process ids of other backends to leave out.
    pub fn start(world: &World, database: &Database, consumers: &[(String, u32)], ours: &[u32]) -> Meter {
        let (session, watch) = (world.session(database), world.session(database));
        let ours = ours.iter().copied().chain([session.pid, watch.pid]).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sampler = std::thread::spawn(move || sample(&watch, &stopped));
        let mut meter = Meter {
            wal: session.wal(),
            disk: session.number(DISK),
            session,
            profiles: world.profiles,
            ours,
            consumers: consumers.to_vec(),
            postmaster: world.server.process_id(),
            broker: world.kafka.process_id(),
            cpu: BTreeMap::new(),
            postmaster_cpu: 0.0,
            started: Instant::now(),
            stop,
            sampler,
        };
        if meter.profiles {
            meter.session.run("SELECT pg_stat_statements_reset()");
        }
        meter.cpu = meter.look();
        meter.postmaster_cpu = cpu(meter.postmaster, true);
        meter.started = Instant::now();
        meter
    }

    /// Ends the measurement.
    pub fn finish(self) -> Measured {
        let seconds = self.started.elapsed().as_secs_f64();
        let now = self.look();
        let postmaster = cpu(self.postmaster, true) - self.postmaster_cpu;
        let wal = self.session.wal() - self.wal;
        let disk = self.session.number(DISK) - self.disk;
        self.stop.store(true, Ordering::Relaxed);
        let statements = self.statements(seconds);
        let (states, without, looks) = self.sampler.join().unwrap();
        let used = |pid: &u32| {
            now.get(pid).map_or(0.0, |(_, cpu)| *cpu) - self.cpu.get(pid).map_or(0.0, |(_, cpu)| *cpu)
        };
        let consumers: BTreeSet<u32> = self.consumers.iter().map(|(_, pid)| *pid).collect();
        let of_postgres = |pid: &&u32| !consumers.contains(pid) && **pid != self.broker;
        let all: BTreeSet<u32> = now.keys().chain(self.cpu.keys()).copied().collect();
        let mut busiest: Vec<(String, f64)> = now
            .iter()
            .map(|(pid, (name, _))| (name.clone(), used(pid) / seconds))
            .filter(|(_, share)| *share >= 0.02)
            .collect();
        busiest.sort_by(|one, other| other.1.total_cmp(&one.1));
        let looks = looks.max(1) as f64;
        let memory = |field| consumers.iter().map(|pid| memory_mib(*pid, field)).fold(0.0, f64::max);
        Measured {
            seconds,
            wal_bytes: wal as f64,
            disk_bytes: disk as f64,
            consumer_cpu_seconds: consumers.iter().map(used).sum(),
            // The CPU time of ended backends is counted in the postmaster.
            postgres_cpu_seconds: postmaster + all.iter().filter(of_postgres).map(used).sum::<f64>(),
            broker_cpu_seconds: used(&self.broker),
            busiest,
            statements,
            backends: states.into_iter().map(|(state, count)| (state, count as f64 / looks)).collect(),
            no_transaction: without as f64 / looks,
            peak_memory_mib: memory("VmHWM:"),
            memory_mib: memory("VmRSS:"),
        }
    }

    /// The time of the consumers' statements, by the first table that each names.
    fn statements(&self, seconds: f64) -> Vec<(String, f64)> {
        if !self.profiles {
            return Vec::new();
        }
        let sql = "SELECT parts[1] || ' ' || parts[2], total_exec_time / 1000
                   FROM (SELECT regexp_match(query, '(INSERT INTO|UPDATE|COPY|FROM|LOCK TABLE) ((?:public|ingest)[.][a-z_]+)') AS parts,
                                total_exec_time
                         FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid
                         WHERE datname = current_database()
                           AND query !~ 'pg_stat_|xact_start|sum.next_offset|count.*consumer_offsets') AS named
                   WHERE parts IS NOT NULL ORDER BY total_exec_time DESC LIMIT 10";
        let rows = runtime().block_on(self.session.client.query(sql, &[])).unwrap();
        rows.iter()
            .map(|row| (row.get::<_, String>(0).replace("public.", ""), row.get::<_, f64>(1) / seconds))
            .filter(|(_, share)| *share >= 0.01)
            .collect()
    }

    /// The name and CPU time of each process.
    fn look(&self) -> BTreeMap<u32, (String, f64)> {
        let mut seen = BTreeMap::new();
        for (name, pid) in &self.consumers {
            seen.insert(*pid, (name.clone(), cpu(*pid, false)));
        }
        seen.insert(self.broker, ("broker".to_owned(), cpu(self.broker, false)));
        for pid in children(self.postmaster) {
            if !self.ours.contains(&pid) {
                seen.insert(pid, (title(pid), cpu(pid, false)));
            }
        }
        seen
    }
}

/// Counts the wait events of backends in a transaction, the samples without one, and all samples.
fn sample(session: &Session, stop: &AtomicBool) -> (BTreeMap<String, u64>, u64, u64) {
    let (mut states, mut without, mut looks) = (BTreeMap::new(), 0, 0);
    let sql = "SELECT CASE WHEN wait_event IS NULL THEN 'running' ELSE wait_event_type || ':' || wait_event END
               FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'consumer%' AND xact_start IS NOT NULL";
    runtime().block_on(async {
        let statement = session.client.prepare(sql).await.unwrap();
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            interval.tick().await;
            let rows = session.client.query(&statement, &[]).await.unwrap();
            looks += 1;
            without += u64::from(rows.is_empty());
            for row in rows {
                *states.entry(row.get::<_, String>(0)).or_default() += 1;
            }
        }
    });
    (states, without, looks)
}

/// CPU seconds of a process; `with_children` adds those of its ended children.
fn cpu(pid: u32, with_children: bool) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, the same on all of Linux's common platforms
    let fields = stat(pid);
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let own = ticks(11) + ticks(12);
    let children = if with_children { ticks(13) + ticks(14) } else { 0.0 };
    (own + children) / TICKS_PER_SECOND
}

/// The fields of `/proc/PID/stat` from the state on; none where the process does not exist.
fn stat(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().map(str::to_owned).collect()
}

fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).get(1).is_some_and(|parent| *parent == of.to_string())).collect()
}

/// `backend`, `walwriter`, `checkpointer`, ... from a title such as `postgres: walwriter`.
fn title(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let title = line.strip_prefix("postgres: ").unwrap_or(&line).trim();
    if title.contains("127.0.0.1(") {
        "backend".to_owned()
    } else {
        title.split(" test_").next().unwrap_or(title).to_owned()
    }
}

fn memory_mib(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}
