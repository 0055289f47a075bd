//! The metrics: name, kind, labels, help. In the order of `docs/metrics.md`.

use super::{Label, Metric, MetricKind};
use crate::event::Reason;
use crate::record::{DEAD_LETTER_TOPIC, EXPIRED_TOPIC, Topic};
use crate::store::tables::TABLES;

/// Buckets for the write of a batch, in seconds: those of OpenTelemetry, and some for outages.
const BATCH_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 300.0];
const RECORDS: &[f64] = &[1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0];
const AGE_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];
const EXPIRY_SECONDS: &[f64] = &[0.01, 0.1, 1.0, 10.0, 60.0, 600.0];

/// The states of a partition of this process, as `status` names them.
pub const STATES: [&str; 8] =
    ["ok", "catching_up", "stalled", "stopped_by_limit", "paused", "unreadable", "no_leader", "drift"];

macro_rules! label {
    ($name:literal: $($value:expr),+) => { Label { name: $name, values: || vec![$($value),+] } };
}

const TOPIC: Label = Label { name: "topic", values: || Topic::ALL.map(Topic::name).to_vec() };
const WRITTEN_TOPIC: Label = label!("topic": EXPIRED_TOPIC, DEAD_LETTER_TOPIC);
const REASON: Label = Label { name: "reason", values: || Reason::ALL.map(Reason::name).to_vec() };
const STATE: Label = Label { name: "state", values: || STATES.to_vec() };
const TABLE: Label = Label { name: "table", values: || TABLES.to_vec() };
const CONDITION: Label = label!("condition": "schema", "database", "broker", "member", "progress");
const OUTCOME: Label = label!("outcome": "used", "dead_letter");
const REBALANCE: Label = label!("kind": "assigned", "revoked");
const RESTART: Label = label!("cause": "topic_recreated", "brokers_lost", "fatal");
const KAFKA_ERROR: Label =
    label!("kind": "all_brokers_down", "transport", "authentication", "tls", "authorization", "other");
const CHANGE: Label = label!("change": "inserted", "updated", "unchanged");
const RETRY: Label = label!(
    "cause": "connection", "timeout", "deadlock", "disk_full", "permission", "read_only", "shutdown", "drift", "other"
);
const CONNECTION: Label = label!("state": "idle", "used");
const CLOSED: Label = label!("cause": "broken", "invalid", "max_lifetime", "idle_timeout");

/// A label whose only values come from the settings or the build, and are set at the start.
const fn given(name: &'static str) -> Label {
    Label { name, values: Vec::new }
}

macro_rules! metrics {
    ($($metric:ident: $name:literal, $kind:expr, [$($label:expr),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $metric: Metric = Metric { name: $name, kind: $kind, help: $help, labels: &[$($label),*] };
        )+
        /// All metrics.
        pub static ALL: &[&Metric] = &[$(&$metric),+];
    };
}

use MetricKind::{Counter, Gauge, Histogram, Polled, Seconds};

metrics! {
    BUILD_INFO: "voiceclone_build_info", Gauge,
        [given("version"), given("revision"), given("group"), given("topic_prefix")],
        "Always 1: the version and what it consumes.";
    READY: "voiceclone_ready", Gauge, [CONDITION],
        "Whether a condition of /readyz holds.";

    OUTCOMES: "voiceclone_records_total", Counter, [TOPIC, OUTCOME],
        "Records that landed, as rows or as dead letters.";
    BYTES: "voiceclone_record_bytes_total", Counter, [TOPIC],
        "Bytes of the keys, values and headers of records that landed.";
    RECORD_AGE: "voiceclone_record_age_seconds", Histogram(AGE_SECONDS), [TOPIC],
        "Age of the oldest record of a topic in a batch, by its timestamp, when the batch landed.";
    LAST_RECORD: "voiceclone_last_record_timestamp_seconds", Gauge, [TOPIC],
        "Timestamp of the newest record that landed since the start, 0 before the first.";

    LAG_RECORDS: "voiceclone_consumer_lag_records", Gauge, [TOPIC],
        "Records behind the stored offsets, of all partitions of this instance.";
    LAG_RECORDS_MAX: "voiceclone_consumer_lag_records_max", Gauge, [TOPIC],
        "Records behind the stored offset of the worst partition that is neither stopped nor paused.";
    LAG_SECONDS: "voiceclone_consumer_lag_seconds", Gauge, [TOPIC],
        "Age of the oldest record that was received and has not landed, of the worst partition.";
    PARTITIONS_ASSIGNED: "voiceclone_partitions_assigned", Gauge, [TOPIC],
        "Partitions of this instance.";
    PARTITIONS: "voiceclone_partitions", Gauge, [TOPIC, STATE],
        "Partitions of this instance in a state.";
    PAUSED: "voiceclone_paused", Gauge, [TOPIC],
        "Whether the command pause holds the topic.";
    REBALANCES: "voiceclone_rebalances_total", Counter, [REBALANCE],
        "Times that the group gave this instance partitions, or took some away.";
    RESTARTS: "voiceclone_consumer_restarts_total", Counter, [RESTART],
        "Kafka clients that were replaced by a new one.";
    OFFSETS_LOST: "voiceclone_offsets_lost_total", Counter, [TOPIC],
        "Stored offsets that the log no longer had.";
    FENCED: "voiceclone_fenced_total", Counter, [],
        "Writes that were rolled back because another process had moved the stored offset.";
    KAFKA_ERRORS: "voiceclone_kafka_errors_total", Counter, [KAFKA_ERROR],
        "Errors that librdkafka reported.";

    BATCH_DURATION: "voiceclone_batch_duration_seconds", Histogram(BATCH_SECONDS), [],
        "Time of the write by which a batch landed.";
    BATCH_RECORDS: "voiceclone_batch_records", Histogram(RECORDS), [],
        "Records of a batch that landed.";
    ROWS: "voiceclone_rows_total", Counter, [TABLE, CHANGE],
        "Rows of batches, by outcome.";
    WRITE_RETRIES: "voiceclone_write_retries_total", Counter, [RETRY],
        "Writes after which records were kept to be tried again.";
    BATCHES_HALVED: "voiceclone_batches_halved_total", Counter, [],
        "Writes that were tried again in halves.";

    DEAD_LETTERS: "voiceclone_dead_letters_total", Counter, [TOPIC, REASON],
        "Records that could not be used.";
    DEAD_IN_A_ROW: "voiceclone_dead_letters_in_a_row", Gauge, [TOPIC],
        "Unusable records since the last usable one, of the worst partition.";
    DEAD_LETTER_LIMIT: "voiceclone_dead_letter_limit", Gauge, [],
        "DEAD_LETTER_LIMIT: a partition stops after this many unusable records in a row.";
    DEAD_LETTERS_UNRESOLVED: "voiceclone_dead_letters_unresolved", Polled, [REASON],
        "Dead letters in the database that nobody has resolved.";
    DEAD_LETTERS_UNPUBLISHABLE: "voiceclone_dead_letters_unpublishable", Polled, [],
        "Dead letters in the database that the broker refuses for what they are.";

    PUBLISH_BACKLOG: "voiceclone_publish_backlog", Polled, [WRITTEN_TOPIC],
        "Records in the database that are to be published.";
    PUBLISH_BACKLOG_AGE: "voiceclone_publish_backlog_age_seconds", Polled, [WRITTEN_TOPIC],
        "Age of the oldest record that is to be published, 0 if there is none.";
    PUBLISHED: "voiceclone_published_total", Counter, [WRITTEN_TOPIC],
        "Records that the broker has.";
    PUBLISH_FAILURES: "voiceclone_publish_failures_total", Counter, [WRITTEN_TOPIC],
        "Attempts to publish records that the broker did not take.";

    EXPIRED: "voiceclone_expired_total", Counter, [],
        "Cache rows that expired.";
    EXPIRY_OVERDUE_ROWS: "voiceclone_expiry_overdue_rows", Polled, [],
        "Cache rows past their time that the expiry has not reached.";
    EXPIRY_OVERDUE_SECONDS: "voiceclone_expiry_overdue_seconds", Polled, [],
        "How long the most overdue cache row is past its time, 0 if there is none.";
    EXPIRY_LAST_SUCCESS: "voiceclone_expiry_last_success_timestamp_seconds", Gauge, [],
        "When a run of the expiry last reached every row that was due, 0 before the first.";
    EXPIRY_DURATION: "voiceclone_expiry_duration_seconds", Histogram(EXPIRY_SECONDS), [],
        "Time that a run of the expiry took.";

    DATABASE_UP: "voiceclone_database_up", Gauge, [],
        "Whether the database answered the last query for these metrics.";
    DATABASE_SCRAPE_ERRORS: "voiceclone_database_scrape_errors_total", Counter, [],
        "Queries for these metrics that the database did not answer.";
    CONNECTIONS: "voiceclone_db_connections", Gauge, [CONNECTION],
        "Connections of the pool.";
    CONNECTIONS_MAX: "voiceclone_db_connections_max", Gauge, [],
        "The most connections that the pool opens: DB_POOL_SIZE and DB_MAX_OVERFLOW.";
    POOL_WAIT: "voiceclone_db_pool_wait_seconds_total", Seconds, [],
        "Time that was spent waiting for a connection of the pool.";
    POOL_TIMEOUTS: "voiceclone_db_pool_timeouts_total", Counter, [],
        "Waits for a connection that ended without one.";
    CONNECTIONS_CREATED: "voiceclone_db_connections_created_total", Counter, [],
        "Connections that were opened.";
    CONNECTIONS_CLOSED: "voiceclone_db_connections_closed_total", Counter, [CLOSED],
        "Connections that the pool closed.";

    TRACE_EXPORT_FAILURES: "voiceclone_trace_export_failures_total", Counter, [],
        "Batches of spans that the trace collector did not take.";

    PROCESS_CPU: "process_cpu_seconds_total", Seconds, [],
        "User and system CPU time of the process.";
    PROCESS_MEMORY: "process_resident_memory_bytes", Polled, [],
        "Resident memory of the process.";
    PROCESS_VIRTUAL_MEMORY: "process_virtual_memory_bytes", Polled, [],
        "Virtual memory of the process.";
    PROCESS_OPEN_FDS: "process_open_fds", Polled, [],
        "Open file descriptors of the process.";
    PROCESS_MAX_FDS: "process_max_fds", Polled, [],
        "The most file descriptors that the process may open.";
    PROCESS_START: "process_start_time_seconds", Polled, [],
        "When the process was started.";
    PROCESS_THREADS: "process_threads", Polled, [],
        "Threads of the process.";
}
