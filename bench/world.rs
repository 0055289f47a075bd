//! The measured broker and database, and the parts of every measurement: a fresh database, topics with records,
//! consumers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};
use voiceclone_events::kafka::headers;
use voiceclone_events::record::Outgoing;

use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::PrivateKafka;
use crate::support::postgres::{Database, PrivateServer};
use crate::support::unique;
use crate::support::wait::SOON;

/// The settings of the server, as a careful operator would choose them. Checkpoints happen between the runs.
pub const POSTGRES_SETTINGS: [(&str, &str); 8] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "32GB"),
    ("min_wal_size", "4GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "on"),
];

/// The servers of this run.
pub struct World {
    /// The broker.
    pub kafka: PrivateKafka,
    /// The database server.
    pub server: PrivateServer,
    /// Whether the server has `pg_stat_statements`.
    pub profiles: bool,
    /// Maximum number of records per transaction, for the daemon, the baseline and `COPY`.
    pub batch: usize,
    migrated: Database,
    settings: Vec<(String, String)>,
}

impl World {
    /// Starts both servers. `settings` are for every daemon, `server_settings` for the database server.
    pub fn start(settings: &[(String, String)], batch: usize, server_settings: &[(String, String)]) -> World {
        // Daemons that start together must share the partitions from the first rebalance on.
        let ours = [("log.segment.bytes", "1073741824"), ("group.initial.rebalance.delay.ms", "3000")];
        let kafka = PrivateKafka::start(&ours).unwrap_or_else(|why| panic!("{why}"));
        let given = server_settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut server =
            PrivateServer::start(&POSTGRES_SETTINGS.into_iter().chain(given).collect::<Vec<_>>());
        let profiles = {
            let database = Database::on(&server);
            let there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
            let there = database.value(there) == "1";
            if there {
                database.run("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'");
            }
            there
        };
        if profiles {
            server.stop();
            server.start_again();
        }
        let migrated = Database::on(&server);
        let done = run_command(&["migrate", "up"], &[("DATABASE_URL", migrated.url())], SOON * 2);
        assert_eq!(done.code, 0, "{}", done.stderr);
        if profiles {
            migrated.run("CREATE EXTENSION pg_stat_statements");
        }
        World { kafka, server, profiles, batch, migrated, settings: settings.to_vec() }
    }

    /// A database with the schema and no rows.
    pub fn database(&self) -> Database {
        self.migrated.copy(&self.server)
    }

    /// The URL of a database for the client `name`, at the server itself or at a proxy.
    pub fn url(&self, database: &Database, name: &str, proxy: Option<&str>) -> String {
        let address = self.server.address();
        let url = database.url().replace(&address, proxy.unwrap_or(&address));
        format!("{url}?application_name={name}")
    }

    /// A connection of the benchmark itself, which is not measured.
    pub fn session(&self, database: &Database) -> Session {
        Session::open(&self.url(database, "benchmark", None))
    }

    /// Creates the topics that the daemon reads and writes, with `partitions` each.
    pub fn topics(&self, partitions: i32) -> Topics {
        let prefix = format!("{}.", unique("bench"));
        for topic in TOPICS {
            self.kafka.create_topic(
                &format!("{prefix}{topic}"),
                partitions,
                &[("max.message.bytes", "10485760")],
            );
        }
        Topics { prefix, partitions }
    }

    /// Starts `run` on these topics and this database, in this group.
    pub fn daemon(&self, topics: &Topics, url: &str, group: &str, more: &[(&str, &str)]) -> Daemon {
        let mut variables = vec![
            ("DATABASE_URL", url),
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.servers.as_str()),
            ("KAFKA_GROUP_ID", group),
            ("TOPIC_PREFIX", topics.prefix.as_str()),
        ];
        variables.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        variables.extend_from_slice(more);
        Daemon::run(&variables)
    }

    /// Sends records in order within a partition, and returns their number.
    pub fn produce(&self, topics: &Topics, records: impl Iterator<Item = Outgoing>) -> u64 {
        let producer = self.producer("50");
        let mut count = 0;
        for record in records {
            send(&producer, topics, &record);
            count += 1;
        }
        producer.flush(SOON * 4).unwrap();
        assert_eq!(producer.context().failed.load(Ordering::Relaxed), 0, "records were not delivered");
        count
    }

    /// A producer with this `linger.ms`.
    pub fn producer(&self, linger_ms: &str) -> BaseProducer<Deliveries> {
        let mut config = self.kafka.config();
        config.set("enable.idempotence", "true").set("linger.ms", linger_ms);
        config.set("queue.buffering.max.messages", "200000");
        config.create_with_context(Deliveries::default()).unwrap()
    }
}

/// Passes a record to the producer, waiting while its queue is full.
pub fn send(producer: &BaseProducer<Deliveries>, topics: &Topics, record: &Outgoing) {
    let topic = topics.name(record.topic);
    loop {
        let mut next = BaseRecord::<Vec<u8>, Vec<u8>>::to(&topic);
        next.key = record.key.as_ref();
        next.payload = record.value.as_ref();
        next.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            next.headers = Some(headers::write(&record.headers));
        }
        match producer.send(next) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => panic!("sending to {topic}: {error}"),
        }
    }
    producer.poll(Duration::ZERO);
}

/// Counts records that the broker refused.
#[derive(Default)]
pub struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const TOPICS: [&str; 7] = [
    "clone.ready",
    "clone.failed",
    "clone.transfer",
    "call.lifecycle",
    "caller.voice_mapping",
    "clone.expired",
    "voiceclone.dead-letters",
];

/// The topics of one measurement.
pub struct Topics {
    /// `TOPIC_PREFIX`.
    pub prefix: String,
    /// Number of partitions of each topic.
    pub partitions: i32,
}

impl Topics {
    /// The name of a topic, with its prefix.
    pub fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// The number of partitions that the daemon reads.
    pub fn partitions_read(&self) -> i64 {
        5 * i64::from(self.partitions)
    }

    /// Deletes the topics: the disk may be small.
    pub fn delete(&self, world: &World) {
        TOPICS.iter().for_each(|topic| world.kafka.delete_topic(&self.name(topic)));
    }
}

/// The runtime that drives the benchmark's connections.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// A connection to the database.
pub struct Session {
    /// The client, for other queries.
    pub client: Client,
    /// The process id of the backend.
    pub pid: u32,
}

impl Session {
    /// Opens a connection.
    pub fn open(url: &str) -> Session {
        runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
            Session { client, pid: u32::try_from(pid).unwrap() }
        })
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        runtime().block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The one number (`bigint`) that a query returns.
    pub fn number(&self, sql: &str) -> i64 {
        let row = runtime().block_on(self.client.query_one(sql, &[]));
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Bytes of WAL written since the server was created.
    pub fn wal(&self) -> i64 {
        self.number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
    }
}
