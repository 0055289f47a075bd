//! The command line: commands, flags and `--help`; a usage error ends with a line that says what to do.

pub mod dead_letters;
pub mod tap;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::dead_letters::DeadLetters;
pub use self::usage::Usage;
use self::usage::usage;

use crate::event::Time;
use crate::record::Topic;

const PROGRAM: &str = "voiceclone-events";

const ENVIRONMENT: &str = "\
Settings that can hold a secret are environment variables only:
  DATABASE_URL             postgresql://user:password@host/database; sslmode and sslrootcert are honoured
  KAFKA_BOOTSTRAP_SERVERS  host:port,host:port
  KAFKA_GROUP_ID           consumer group [default: voiceclone-events]
  KAFKA_X_Y                librdkafka's property x.y, such as KAFKA_SASL_MECHANISM

Exit status: 0 done, 1 failed, 2 wrong usage or a wrong setting.";

const NEEDS_DATABASE: &str = "Needs DATABASE_URL in the environment.";
const NEEDS_BROKER: &str = "Needs KAFKA_BOOTSTRAP_SERVERS in the environment; any other KAFKA_X_Y there is \
                            librdkafka's property x.y.";
const NEEDS_BOTH: &str = "Needs DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS in the environment; KAFKA_GROUP_ID \
                          names the consumer group, any other KAFKA_X_Y is librdkafka's property x.y.";
const NEEDS_DATABASE_AND_GROUP: &str =
    "Needs DATABASE_URL in the environment; KAFKA_GROUP_ID names the consumer group.";
const NEEDS_NOTHING: &str = "Needs the programs of PostgreSQL (initdb, postgres) on this machine. DATABASE_URL \
                             and KAFKA_* are not read.";

const NEEDS_NO_SETTINGS: &str = "DATABASE_URL and KAFKA_* are not read.";

/// Consumes voice-clone events from Kafka into PostgreSQL, exactly as if each had arrived once and in order
#[derive(Debug, Clone, Parser)]
#[command(name = PROGRAM, version, after_help = ENVIRONMENT)]
#[command(subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print for a program: JSON instead of tables and sentences
    #[arg(long, global = true)]
    pub json: bool,
    /// The settings given as flags or in the environment.
    #[command(flatten)]
    pub settings: SettingFlags,
}

/// The settings that are flags as well as environment variables, as written; `config` checks them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingFlags {
    /// Put before every topic's name, read or written [default: nothing]
    #[arg(long, global = true, env = "TOPIC_PREFIX", hide_env_values = true, value_name = "TEXT")]
    pub topic_prefix: Option<String>,
    /// How long a cache row lives: seconds, or a number with s, m, h or d [default: 24h]
    #[arg(long, global = true, env = "CACHE_TTL", hide_env_values = true, value_name = "TIME")]
    pub cache_ttl: Option<String>,
    /// Time between two runs of the expiry [default: 60s]
    #[arg(long, global = true, env = "EXPIRY_INTERVAL", hide_env_values = true, value_name = "TIME")]
    pub expiry_interval: Option<String>,
    /// Publish no expiry event for a row that expired longer ago than this [default: no limit]
    #[arg(long, global = true, env = "EXPIRED_EVENT_MAX_AGE", hide_env_values = true, value_name = "TIME")]
    pub expired_event_max_age: Option<String>,
    /// Records written in one transaction, at most [default: 3000]
    #[arg(long, global = true, env = "BATCH_MAX_RECORDS", hide_env_values = true, value_name = "N")]
    pub batch_max_records: Option<String>,
    /// A record that arrives alone waits at most this long; a number with ms or s [default: 20ms]
    #[arg(long, global = true, env = "BATCH_MAX_WAIT", hide_env_values = true, value_name = "TIME")]
    pub batch_max_wait: Option<String>,
    /// A larger record goes to the dead letters unread [default: 8 MiB]
    #[arg(long, global = true, env = "RECORD_MAX_BYTES", hide_env_values = true, value_name = "SIZE")]
    pub record_max_bytes: Option<String>,
    /// Stop after this many unusable records in a row of one partition [default: 10000]
    #[arg(long, global = true, env = "DEAD_LETTER_LIMIT", hide_env_values = true, value_name = "N")]
    pub dead_letter_limit: Option<String>,
    /// Delete dead letters that are resolved, published and older than this [default: keep them]
    #[arg(long, global = true, env = "DEAD_LETTER_RETENTION", hide_env_values = true, value_name = "TIME")]
    pub dead_letter_retention: Option<String>,
    /// Database connections kept [default: 5]
    #[arg(long, global = true, env = "DB_POOL_SIZE", hide_env_values = true, value_name = "N")]
    pub db_pool_size: Option<String>,
    /// Further database connections under load [default: 10]
    #[arg(long, global = true, env = "DB_MAX_OVERFLOW", hide_env_values = true, value_name = "N")]
    pub db_max_overflow: Option<String>,
    /// Where /healthz, /readyz and /metrics answer; empty turns them off [default: 127.0.0.1:8080]
    #[arg(long, global = true, env = "HTTP_ADDR", hide_env_values = true, value_name = "IP:PORT")]
    pub http_addr: Option<String>,
    /// text or json [default: text on a terminal, else json; text for every command but `run`]
    #[arg(long, global = true, env = "LOG_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, such as debug or info,voiceclone_events=debug [default: info for `run`, else warn]
    #[arg(long, global = true, env = "RUST_LOG", hide_env_values = true, value_name = "FILTER")]
    pub rust_log: Option<String>,
}

/// One command.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the daemon: consume, write, expire, publish
    ///
    /// Waits for a database or a broker that is away. SIGTERM or SIGINT finishes the batch in hand, commits and
    /// leaves the group within 10 s.
    #[command(after_help = NEEDS_BOTH)]
    Run {
        /// Bring the database's schema up to date first, rather than refuse one that is behind
        #[arg(long)]
        migrate: bool,
    },
    /// Apply, roll back or show the database's migrations
    #[command(subcommand, after_help = NEEDS_DATABASE, disable_help_subcommand = true)]
    Migrate(Migrate),
    /// Try every setting, the database, schema, broker, topics and permissions
    ///
    /// Says for each what is wrong and what to do, and changes nothing. Exit status 2 where a setting is wrong, 1
    /// where `run` would not work for another reason.
    #[command(after_help = NEEDS_BOTH)]
    Check,
    /// Say how it goes: a verdict, what is wrong and what to do, offsets and lag
    ///
    /// Asks the database and the brokers, and works while no daemon runs. Exit status 0 whenever it can tell, whatever
    /// it tells; see --fail-on.
    #[command(after_help = NEEDS_BOTH)]
    Status {
        /// Again and again until Ctrl-C; with --json one line each time
        #[arg(long)]
        watch: bool,
        /// Exit with 1 where there is a problem at least so severe
        #[arg(long, value_name = "SEVERITY", value_enum)]
        fail_on: Option<FailOn>,
    },
    /// Read a range of a topic again, beside the running daemon
    ///
    /// Takes the records through the same code as the daemon, without moving the group's offsets, and says how many
    /// rows that makes, changes and leaves alone.
    #[command(after_help = NEEDS_BOTH)]
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
        /// Stop before this time or offset [default: what is there now]
        #[arg(long, value_name = "TIME|OFFSET")]
        to: Option<String>,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Pass over what can never be read or written of a partition that waits
    ///
    /// Moves the group's stored offset. ingest.skips keeps what was passed over, and why.
    #[command(after_help = NEEDS_BOTH)]
    Skip {
        /// The topic, without TOPIC_PREFIX
        #[arg(long, value_parser = topic)]
        topic: Topic,
        /// The partition
        #[arg(long, value_name = "P", value_parser = partition)]
        partition: i32,
        /// The offset that is read next
        #[arg(long, value_name = "OFFSET", value_parser = offset)]
        to: i64,
        /// Why, for those who come after
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
    /// Hold all instances still, for work on the database
    ///
    /// The group keeps its members, and /readyz stays 200. Expiry rests too.
    #[command(after_help = NEEDS_DATABASE_AND_GROUP)]
    Pause {
        /// Only this topic, without TOPIC_PREFIX [default: all]
        #[arg(long, value_parser = topic)]
        topic: Option<Topic>,
        /// For this long, such as 30m [default: until `resume`]
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        time: Option<std::time::Duration>,
    },
    /// End what `pause` began
    #[command(after_help = NEEDS_DATABASE_AND_GROUP)]
    Resume {
        /// Only this topic, without TOPIC_PREFIX [default: all]
        #[arg(long, value_parser = topic)]
        topic: Option<Topic>,
    },
    /// Look through records that could not be used, and settle them
    #[command(after_help = NEEDS_DATABASE_AND_GROUP, disable_help_subcommand = true)]
    DeadLetters {
        /// What to do [default: summary].
        #[command(subcommand)]
        what: Option<DeadLetters>,
    },
    /// Show records as they arrive, or from a place on, and what becomes of each
    ///
    /// Personal data is masked. Joins no group, commits nothing and writes nothing. Ends with Ctrl-C, at --to or with
    /// --limit. Without DATABASE_URL it does not know what the database made of a record.
    #[command(after_help = NEEDS_BROKER)]
    Tap(Box<tap::TapArgs>),
    /// Send one JSON object a line to a topic, checked first as the daemon would
    #[command(after_help = NEEDS_BROKER)]
    Publish {
        /// The topic, without TOPIC_PREFIX
        #[arg(long)]
        topic: String,
        /// Send nothing: say line, field and reason of what would be a dead letter, and warn of likely mistakes
        ///
        /// Needs neither a broker nor a database. Exit status 1 where a line would be a dead letter.
        #[arg(long)]
        check: bool,
        /// The file to read [default: standard input]
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of a topic's events, or the AsyncAPI document of all topics
    #[command(after_help = NEEDS_NO_SETTINGS)]
    Schema {
        /// The topic, such as clone.ready or clone.expired [default: the AsyncAPI document]
        topic: Option<String>,
    },
    /// Count the places that hold a caller, without showing them
    ///
    /// Looks at the seven tables, schema ingest, dead letters and the outbox; changes nothing. Topics, backups and logs
    /// are not looked at.
    #[command(after_help = NEEDS_DATABASE)]
    WhereIs {
        /// The caller's id; - reads it from standard input, which keeps it out of the shell's history
        #[arg(long, value_name = "ID")]
        caller: String,
    },
    /// Publish the traffic of a plausible service
    ///
    /// Calls, clones, failures, transfers and mappings of the last minutes, or over days and nights with --since: a
    /// believable rhythm, callers who come back, some long calls and one bad hour of the voice API. Each time it is other
    /// traffic; the last line says how to get the same once more. Records have the time of their calls: where that is
    /// longer ago than a topic keeps records, let the daemon run meanwhile.
    #[command(after_help = NEEDS_BROKER)]
    Simulate {
        /// How many calls [default: 1000, with --since 500 a day]
        #[arg(long, value_name = "N", value_parser = whole)]
        calls: Option<u64>,
        /// Calls a second [default: as fast as the broker takes them]
        #[arg(long, value_name = "R", value_parser = rate, conflicts_with_all = ["since", "until"])]
        rate: Option<f64>,
        /// Where the random numbers start [default: another place each time]
        ///
        /// The same seed with other times makes the same calls again, and so changes the times of the earlier ones: give
        /// --until, too.
        #[arg(long, value_name = "S", value_parser = whole)]
        seed: Option<u64>,
        /// Spread the calls over the days from this time on: 2026-01-05T00:00:00Z, or 30d for thirty days ago
        #[arg(long, value_name = "TIME", value_parser = dead_letters::moment)]
        since: Option<Time>,
        /// When the calls end [default: now]
        #[arg(long, value_name = "TIME", value_parser = dead_letters::moment)]
        until: Option<Time>,
        /// Late, doubled and unusable records, too
        #[arg(long)]
        disorder: bool,
    },
    /// Show success, latency, hand-overs, cache use, failures and volume of the calls
    ///
    /// Reads the views of schema analytics and changes nothing; a role that may read these is enough. Periods are hours,
    /// or days where the time is long.
    #[command(after_help = NEEDS_DATABASE)]
    Report {
        /// From this time on: 2026-01-05T00:00:00Z, or 7d for seven days ago [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = dead_letters::moment)]
        since: Option<Time>,
        /// Up to this time [default: now]
        #[arg(long, value_name = "TIME", value_parser = dead_letters::moment)]
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
    #[command(after_help = NEEDS_NOTHING)]
    Demo {
        /// How many calls
        #[arg(long, value_name = "N", default_value_t = 300, value_parser = whole)]
        calls: u64,
        /// Where the random numbers start
        #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole)]
        seed: u64,
        /// Leave broker, database and daemon with its page running until Ctrl-C, to look around
        #[arg(long)]
        keep: bool,
        /// Late, doubled and unusable records, too
        #[arg(long)]
        disorder: bool,
    },
    /// Print the completions for a shell
    #[command(after_help = NEEDS_NO_SETTINGS)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program, or of one command
    #[command(after_help = NEEDS_NO_SETTINGS)]
    Man {
        /// The command, such as `replay` or `dead-letters retry` [default: the program]
        command: Vec<String>,
    },
}

/// The least severity at which `status` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// It needs a person soon.
    Warning,
    /// Records are not consumed, or were lost.
    Critical,
}

/// What `migrate` does.
#[derive(Debug, Clone, Subcommand)]
pub enum Migrate {
    /// Apply the migrations that are missing; safe when several instances start at once
    #[command(after_help = NEEDS_DATABASE)]
    Up {
        /// How many [default: all]
        #[arg(value_parser = positive)]
        n: Option<u64>,
    },
    /// Roll back the newest migrations
    #[command(after_help = NEEDS_DATABASE)]
    Down {
        /// How many [default: one]
        #[arg(value_parser = positive)]
        n: Option<u64>,
    },
    /// Show which migrations are applied and which are missing
    #[command(after_help = NEEDS_DATABASE)]
    Status,
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::from_name(text).ok_or_else(|| {
        let names = Topic::ALL.map(Topic::name).join(", ");
        format!("give one of {names}, without TOPIC_PREFIX")
    })
}

fn whole(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "give a whole number, 0 or above")
}

fn positive(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|n| *n > 0).ok_or("give a whole number above 0")
}

fn partition(text: &str) -> Result<i32, &'static str> {
    text.parse().ok().filter(|n| *n >= 0).ok_or("give a partition's number, 0 or above")
}

fn offset(text: &str) -> Result<i64, &'static str> {
    text.parse().ok().filter(|n| *n >= 0).ok_or("give an offset, 0 or above")
}

fn time(text: &str) -> Result<std::time::Duration, &'static str> {
    let time = crate::config::duration::duration(text).filter(|time| !time.is_zero());
    time.ok_or("give seconds, or a number with s, m, h or d, like 30m")
}

fn rate(text: &str) -> Result<f64, &'static str> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("give a number above 0, like 50 or 0.5"),
    }
}

/// What the command line asks for.
pub enum Asked {
    /// A command.
    Command(Box<Cli>),
    /// `--help` or `--version`: this text, on standard output.
    Text(clap::Error),
}

/// Reads this process's command line.
pub fn parse() -> Result<Asked, Usage> {
    match parse_from(std::env::args_os()) {
        Ok(cli) => Ok(Asked::Command(Box::new(cli))),
        Err(text) if matches!(text.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Asked::Text(text))
        }
        Err(error) => Err(usage(&error)),
    }
}

fn parse_from(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn last_line(words: &[&str]) -> String {
        let words = std::iter::once(&PROGRAM).chain(words).copied();
        let text = usage(&parse_from(words).unwrap_err()).to_string();
        assert!(!text.contains("For more information"), "{text}");
        text.lines().last().unwrap().to_owned()
    }

    fn parsed(words: &[&str]) -> Cli {
        parse_from(std::iter::once(&PROGRAM).chain(words).copied()).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_ends_by_naming_what_is_wrong_and_what_to_do() {
        for (words, expected) in [
            (
                &[][..],
                "a command is missing: give one of run, migrate, check, status, replay, skip, pause, resume, dead-letters, tap, publish, schema, where-is, simulate, report, demo, completions, man",
            ),
            (&["migrate"], "a command is missing after migrate: give one of up, down, status"),
            (&["migrate", "--json"], "a command is missing after migrate: give one of up, down, status"),
            (
                &["dead-letters", "retry", "40-17"],
                "[ID]... cannot be \"40-17\": give an id such as 17, or a range such as 17-40",
            ),
            (&["dead-letters", "discard", "17"], "--note <TEXT> is missing: give it, or see --help"),
            (
                &["dead-letters", "accept", "--partition", "1"],
                "--topic <TOPIC> is missing: give it, or see --help",
            ),
            (
                &["dead-letters", "accept", "--topic", "calls"],
                "--topic <TOPIC> cannot be \"calls\": give one of clone.ready, clone.failed, clone.transfer, \
                 call.lifecycle, caller.voice_mapping, without TOPIC_PREFIX",
            ),
            (
                &["status", "--fail-on", "info"],
                "--fail-on <SEVERITY> cannot be \"info\": give one of warning, critical",
            ),
            (&["simulat"], "there is no command \"simulat\": perhaps simulate is meant, or see --help"),
            (&["xyz"], "there is no command \"xyz\": see --help"),
            (&["run", "--migrat"], "--migrat is not known here: perhaps --migrate is meant"),
            (
                &["run", "--database-url", "x"],
                "--database-url is not known here: leave it out, or see --help",
            ),
            (&["replay"], "--topic <TOPIC> is missing: give it, or see --help"),
            (&["replay", "--topic"], "--topic <TOPIC> has no value: give one, or see --help"),
            (
                &["simulate", "--rate", "0"],
                "--rate <R> cannot be \"0\": give a number above 0, like 50 or 0.5",
            ),
            (&["simulate", "--calls", "x"], "--calls <N> cannot be \"x\": give a whole number, 0 or above"),
            (&["migrate", "up", "0"], "[N] cannot be \"0\": give a whole number above 0"),
            (
                &["run", "--cache-ttl", "1", "--cache-ttl", "2"],
                "--cache-ttl <TIME> is given more than once, or beside what excludes it: keep one",
            ),
        ] {
            assert_eq!(last_line(words), expected, "{words:?}");
        }
    }

    #[test]
    fn a_setting_may_stand_before_or_after_the_command() {
        assert_eq!(parsed(&["--cache-ttl", "1h", "run"]).settings.cache_ttl.as_deref(), Some("1h"));
        assert_eq!(parsed(&["migrate", "up", "--cache-ttl", "1h"]).settings.cache_ttl.as_deref(), Some("1h"));
        assert!(parsed(&["migrate", "status", "--json"]).json);
    }

    #[test]
    fn what_can_hold_a_secret_is_no_flag() {
        for argument in Cli::command().get_arguments() {
            let name = argument.get_long().unwrap_or_default();
            assert!(!name.starts_with("kafka") && name != "database-url", "{name}");
        }
    }

    #[test]
    fn every_help_names_the_environment() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("DATABASE_URL") || help.contains("KAFKA_"), "{help}");
            assert!(help.contains("[env: CACHE_TTL]"), "{help}");
        }
    }
}
