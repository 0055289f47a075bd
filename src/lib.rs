//! `voiceclone-events`: records of five Kafka topics in, rows of seven PostgreSQL tables out, as if every
//! event had arrived exactly once and in the order in which it happened.
//!
//! A record goes from `kafka` by `consumer` and `ingest` (`event`, `fold`, `plan`) to `store`. Imports go down this list
//! only: a module may use those below it.
//!
//! ```text
//! main                   dispatches the commands
//! logging                log lines, as text or JSON
//! memory                 a setting of the allocator
//! commands               a module for each command: publish, schema, simulate, tap, replay, report, where-is, check, status, migrate, dead-letters, skip, pause, manual, demo
//! output                 what the commands print
//! traffic                generates the records of a plausible service, for `simulate` and `demo`
//! daemon                 the tasks of `run`: consuming, expiry, `publisher` with the headers that it publishes, readiness
//! http                   /healthz, /readyz, /metrics
//! page                   the page at / and its plots
//! shared                 computes the document of `status` once for all who ask at the same time
//! survey                 gathers the facts about the database and the brokers that `status` judges
//! consumer               the live consumer: a state machine for each partition, and a driver that executes its decisions. The pauses of partitions: `mod.rs`. When a partition counts as stalled for /readyz: `progress`
//! status                 pure: from the facts of `survey` to a verdict and the problems; their texts are in `judge`. When a partition counts as stalled for `status`: `partitions`
//! kafka                  the only place that knows rdkafka: clients with our defaults for their properties (`mod.rs`), the group, questions to brokers, ranges, sending
//! ingest                 a batch: decode, plan, write. What cannot be written whole is split; a record that PostgreSQL refuses gets a trial before it is diverted
//! traces                 spans of batches, rounds and runs over OTLP; nothing if no endpoint is set
//! metrics                the metrics of /metrics: names, help, labels, and how they are counted
//! retry                  the pauses of retries, but for those of partitions (`consumer`) and of publishing (`store`)
//! store                  the only place that knows Diesel: write (the order of locks, the statements of each table), tables (columns), rights, offsets, dead letters, expiry, outbox with the pauses of publishing
//! outage                 one log line when a server goes away, one a minute, one when it is back
//! config                 the settings with their defaults (`reader`), and the KAFKA_* properties that are refused
//! cli                    the commands and flags with their help
//! duration               pure: durations as they are written in settings, `24h`
//! database_url           DATABASE_URL as libpq reads it, and its TLS
//! certificates           the errors and the expiry date of a certificate
//! mask                   pure: hides personal data in events that are shown
//! blocking               moves the decoding of large values off the runtime's workers
//! json_schemas           the events as published: JSON Schemas and AsyncAPI, from schemas/
//! plan                   pure: a batch folded to sorted, unique rows
//! fold                   pure: the merge rules
//! event                  pure: bytes to an event with its times, or to one of the reasons of dead letters (`unusable`)
//! identity               pure: the ids of rows
//! record                 plain data: topics, partitions, headers, records
//! schema                 the tables for Diesel (`make schema`)
//! ```
//!
//! `docs/design.md` draws the states of a partition, and says how the promise is kept.
//!
//! The rules in `event` and `fold` are the contract's. `fold` merges the events of calls and mappings, within a batch
//! and with the stored row. The other five tables have their merge rules twice: `fold` merges within a batch, and the
//! statements of `store::write` merge with the stored row. `reuse_count` is only in `store::write::voices`, as it
//! counts stored transfers.
//!
//! Outside of `src`:
//!
//! ```text
//! migrations, schema*.rs            the tables, and their types for Diesel (`make schema`)
//! roles.sql                         the rights of the daemon's role and of analysts
//! schemas                           the events for producers
//! templates                         the page at / and the page of `report`
//! deploy                            alerts (prometheus/rules.yml), dashboard, manifests, chart, unit
//! tests/it/model.rs                 the rules once more, independently; tests compare the tables with it
//! tests/it/fire                     faults of a real Kafka and PostgreSQL; `src/consumer/simulation` has simulated faults
//! bench                             the measurements of docs/performance.md
//! ```
//!
//! `docs/design.md` has twenty change requests with the files of each.

pub mod blocking;
pub mod certificates;
pub mod cli;
pub mod commands;
pub mod config;
pub mod consumer;
pub mod daemon;
pub mod database_url;
mod duration;
pub mod event;
pub mod fold;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod json_schemas;
pub mod kafka;
pub mod logging;
pub mod mask;
pub mod memory;
pub mod metrics;
pub mod outage;
pub mod output;
pub mod page;
pub mod plan;
pub mod record;
pub mod retry;
pub mod shared;
pub mod status;
pub mod store;
pub mod survey;
pub mod traces;
pub mod traffic;

/// The seven tables, and those of schema `ingest`, generated by Diesel (`make schema`).
#[allow(missing_docs)]
pub mod schema {
    include!("../schema.rs");
    include!("../schema_ingest.rs");
}
