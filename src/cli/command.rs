//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::dead_letters::{DeadLetters, moment};
use super::tap::TapArgs;
use super::values::{offset, partition, positive, rate, time, topic, whole};
use crate::event::Time;
use crate::record::Topic;

/// A command.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the daemon: consume, write, expire, publish
    ///
    /// Waits for a database or a broker that is away. SIGTERM or SIGINT finishes the batch in flight, commits and
    /// leaves the group within 10 s.
    Run {
        /// Bring the database's schema up to date first, instead of refusing one that is behind
        #[arg(long)]
        migrate: bool,
    },
    /// Apply, roll back or show the database's migrations
    #[command(subcommand, disable_help_subcommand = true)]
    Migrate(Migrate),
    /// Check every setting, the database, schema, broker, topics and permissions
    ///
    /// Says for each what is wrong and what to do, and changes nothing. Exit status 2 if a setting is wrong, 1 if
    /// `run` would not work for another reason.
    Check,
    /// Show the state: a verdict, what is wrong and what to do, offsets and lag
    ///
    /// Asks the database and the brokers, and works while no daemon runs. Exit status 0 whenever there is an answer,
    /// whatever it is; see --fail-on.
    Status {
        /// Repeat until Ctrl-C; with --json one line each time
        #[arg(long)]
        watch: bool,
        /// Exit with 1 if a problem has at least this severity
        #[arg(long, value_name = "SEVERITY", value_enum)]
        fail_on: Option<FailOn>,
    },
    /// Read a range of a topic again, beside the running daemon
    ///
    /// Takes the records through the same code as the daemon, without moving the group's offsets, and says how many
    /// rows that makes, changes and leaves alone.
    Replay {
        /// The topic, without TOPIC_PREFIX
        #[arg(long)]
        topic: String,
        /// Only this partition [default: all]
        #[arg(long, value_name = "P", value_parser = partition)]
        partition: Option<i32>,
        /// Start here: a time such as 2025-06-01T12:00:00Z, or an offset [default: the oldest record]
        #[arg(long, value_name = "TIME|OFFSET")]
        from: Option<String>,
        /// Stop before this time or offset [default: after the newest record now]
        #[arg(long, value_name = "TIME|OFFSET")]
        to: Option<String>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Skip records of a waiting partition that can never be read or written
    ///
    /// Moves the group's stored offset. ingest.skips keeps the skipped range, and the reason.
    Skip {
        /// The topic, without TOPIC_PREFIX
        #[arg(long, value_parser = topic)]
        topic: Topic,
        /// The partition
        #[arg(long, value_name = "P", value_parser = partition)]
        partition: i32,
        /// The offset to read next
        #[arg(long, value_name = "OFFSET", value_parser = offset)]
        to: i64,
        /// The reason, for whoever reads it later
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
    /// Pause all instances, for work on the database
    ///
    /// The group keeps its members, and /readyz stays 200. Expiry is paused, too.
    Pause {
        /// Only this topic, without TOPIC_PREFIX [default: all]
        #[arg(long, value_parser = topic)]
        topic: Option<Topic>,
        /// For this long, such as 30m [default: until `resume`]
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        time: Option<std::time::Duration>,
    },
    /// End a pause
    Resume {
        /// Only this topic, without TOPIC_PREFIX [default: all]
        #[arg(long, value_parser = topic)]
        topic: Option<Topic>,
    },
    /// Look through records that could not be used, and resolve them
    #[command(disable_help_subcommand = true)]
    DeadLetters {
        /// The command [default: summary].
        #[command(subcommand)]
        what: Option<DeadLetters>,
    },
    /// Show records as they arrive, or from a position on, and the outcome of each
    ///
    /// Personal data is masked. Joins no group, commits nothing and writes nothing. Ends with Ctrl-C, at --to or with
    /// --limit. Without DATABASE_URL the database's part of the outcome is missing.
    Tap(Box<TapArgs>),
    /// Send JSON objects, one a line, to a topic, after the checks of the daemon
    Publish {
        /// The topic, without TOPIC_PREFIX
        #[arg(long)]
        topic: String,
        /// Send nothing: show line, field and reason of each dead letter to be, and warn of likely mistakes
        ///
        /// Needs neither a broker nor a database. Exit status 1 if a line would be a dead letter.
        #[arg(long)]
        check: bool,
        /// The file to read [default: standard input]
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of a topic's events, or the AsyncAPI document of all topics
    Schema {
        /// The topic, such as clone.ready or clone.expired [default: the AsyncAPI document]
        topic: Option<String>,
    },
    /// Count the rows that hold a caller, without showing them
    ///
    /// Looks at the seven tables, schema ingest, dead letters and the outbox; changes nothing. Topics, backups and
    /// logs are not searched.
    WhereIs {
        /// The caller's id; - reads it from standard input, which keeps it out of the shell's history
        #[arg(long, value_name = "ID")]
        caller: String,
        /// End the search after this time: texts have no index, and all of them are read
        #[arg(long, value_name = "TIME", value_parser = time, default_value = "10m")]
        within: std::time::Duration,
    },
    /// Publish the traffic of a plausible service
    ///
    /// Calls, clones, failures, transfers and mappings of the last minutes, or over days and nights with --since: a
    /// believable rhythm, callers who come back, some long calls and one bad hour of the voice API. The traffic
    /// differs each time; the last line says how to repeat it. Records have the time of their calls: if that is
    /// longer ago than a topic keeps records, let the daemon run meanwhile.
    Simulate {
        /// Number of calls [default: 1000, with --since 500 a day]
        #[arg(long, value_name = "N", value_parser = whole)]
        calls: Option<u64>,
        /// Calls a second [default: as fast as the broker takes them]
        #[arg(long, value_name = "R", value_parser = rate, conflicts_with_all = ["since", "until"])]
        rate: Option<f64>,
        /// Seed of the random numbers [default: another one each time]
        ///
        /// The same seed with other times makes the same calls again, and so changes the times of the earlier ones:
        /// give --until, too.
        #[arg(long, value_name = "S", value_parser = whole)]
        seed: Option<u64>,
        /// Spread the calls over the days from this time on: 2026-01-05T00:00:00Z, or 30d for thirty days ago
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Time>,
        /// End of the calls [default: now]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Time>,
        /// Add late, duplicate and unusable records
        #[arg(long)]
        disorder: bool,
    },
    /// Show success, latency, hand-overs, cache use, failures and volume of the calls
    ///
    /// Reads the views of schema analytics and changes nothing; a role that may read these is enough. Periods are hours,
    /// or days where the time is long.
    Report {
        /// Start of the report: 2026-01-05T00:00:00Z, or 7d for seven days ago [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Time>,
        /// End of the report [default: now]
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Time>,
        /// Write a page with plots, which needs no other file
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Print one value a line, for a spreadsheet: section, time, name, value
        #[arg(long, conflicts_with_all = ["html", "json"])]
        csv: bool,
    },
    /// See everything at once, on an embedded broker and a throw-away PostgreSQL
    ///
    /// Migrates, simulates, consumes, expires and shows the tables.
    Demo {
        /// Number of calls
        #[arg(long, value_name = "N", default_value_t = 300, value_parser = whole)]
        calls: u64,
        /// Seed of the random numbers
        #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole)]
        seed: u64,
        /// Leave broker, database and daemon with its page running until Ctrl-C
        #[arg(long)]
        keep: bool,
        /// Add late, duplicate and unusable records
        #[arg(long)]
        disorder: bool,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one command
    Man {
        /// The command, such as `replay` or `dead-letters retry` [default: the program]
        command: Vec<String>,
    },
}

/// The severity from which on `status` fails: a person is needed soon, or records are not consumed or were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the severities of `status`")]
pub enum FailOn {
    Warning,
    Critical,
}

/// The commands of `migrate`.
#[derive(Debug, Clone, Subcommand)]
pub enum Migrate {
    /// Apply the migrations that are missing; safe when several instances start at once
    Up {
        /// Maximum number of migrations [default: all]
        #[arg(value_parser = positive)]
        n: Option<u64>,
    },
    /// Roll back the newest migrations
    Down {
        /// Number of migrations [default: one]
        #[arg(value_parser = positive)]
        n: Option<u64>,
    },
    /// Show which migrations are applied and which are missing
    Status,
}
