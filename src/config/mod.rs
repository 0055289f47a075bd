//! The settings (contract, section 8): environment variables, each also a flag unless it can hold a secret.

mod kafka;
mod names;
mod reader;
mod secrets;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
mod traces;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod traces_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use self::reader::SettingsReader;
use self::secrets::{HIDDEN, is_secret, without_secrets};
use crate::cli::SettingFlags;
use crate::duration::format_duration;
use crate::event::Limits;

pub use self::names::{Misspelt, likely, misspelt};
pub use self::traces::TraceSettings;

/// The default of `session.timeout.ms` here, in milliseconds. Kafka's own of 45 s leaves the partitions of a killed
/// instance unread for that long.
pub const SESSION_TIMEOUT_MS: i64 = 10_000;

/// The default of `max.poll.interval.ms` here, in milliseconds. A rebalance waits for a member that does not rejoin for
/// at most this long, and this daemon polls whatever else it waits for; Kafka's own is 300 s.
pub const MAX_POLL_INTERVAL_MS: i64 = 60_000;

/// Every setting, checked.
#[derive(Clone)]
#[allow(missing_docs, reason = "the fields are the settings' names; the contract says what they mean")]
pub struct Settings {
    /// Without the name of a driver in the scheme, which other services write: `postgresql://...`.
    pub database_url: String,
    pub db_pool_size: u32,
    pub db_max_overflow: u32,
    pub kafka_bootstrap_servers: String,
    pub kafka_group_id: String,
    /// librdkafka's properties, from all other `KAFKA_X_Y`.
    pub kafka_properties: BTreeMap<String, String>,
    pub topic_prefix: String,
    pub cache_ttl: Duration,
    pub expiry_interval: Duration,
    pub expired_event_max_age: Option<Duration>,
    pub batch_max_records: usize,
    pub batch_max_wait: Duration,
    pub record_max_bytes: usize,
    pub dead_letter_limit: i64,
    /// Resolved and published dead letters older than this are deleted; `None` keeps them.
    pub dead_letter_retention: Option<Duration>,
    /// `None` turns HTTP off.
    pub http_addr: Option<SocketAddr>,
    /// `OTEL_*`; `None` sends no traces.
    pub traces: Option<TraceSettings>,
}

impl Settings {
    /// Reads and checks the settings. A flag wins over a variable, and an empty one counts as unset (except
    /// `HTTP_ADDR`, where it turns HTTP off). A setting that the command does not need is not read and stays empty.
    pub fn from(
        flags: &SettingFlags,
        env: impl Iterator<Item = (String, String)>,
        need: Need,
    ) -> Result<Settings, SettingErrors> {
        let (settings, errors) = Settings::read(flags, env, need);
        if errors.is_empty() { Ok(settings) } else { Err(SettingErrors(errors)) }
    }

    /// Like [`Settings::from`], but an invalid setting gets its default, or is empty, and its error is returned
    /// beside the settings.
    pub fn read(
        flags: &SettingFlags,
        env: impl Iterator<Item = (String, String)>,
        need: Need,
    ) -> (Settings, Vec<SettingError>) {
        let mut reader = SettingsReader { env: env.collect(), errors: Vec::new() };
        let settings = reader.settings(flags, need);
        (settings, reader.errors)
    }

    /// The limits of decoding.
    pub fn limits(&self) -> Limits {
        Limits {
            record_max_bytes: self.record_max_bytes,
            cache_ttl_seconds: i64::try_from(self.cache_ttl.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// A topic's name in Kafka, with the prefix.
    pub fn topic_name(&self, name: impl fmt::Display) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The name and effective value of every setting, with secrets hidden.
    pub fn effective(&self) -> Vec<(String, String)> {
        let or = |text: String, empty: &str| if text.is_empty() { empty.to_owned() } else { text };
        let optional =
            |time: Option<Duration>, none: &str| time.map_or_else(|| none.to_owned(), format_duration);
        let mut all: Vec<(String, String)> = [
            ("DATABASE_URL", or(without_secrets(&self.database_url), "(not set)")),
            ("DB_POOL_SIZE", self.db_pool_size.to_string()),
            ("DB_MAX_OVERFLOW", self.db_max_overflow.to_string()),
            ("KAFKA_BOOTSTRAP_SERVERS", or(self.kafka_bootstrap_servers.clone(), "(not set)")),
            ("KAFKA_GROUP_ID", self.kafka_group_id.clone()),
            ("TOPIC_PREFIX", or(self.topic_prefix.clone(), "(empty)")),
            ("CACHE_TTL", format_duration(self.cache_ttl)),
            ("EXPIRY_INTERVAL", format_duration(self.expiry_interval)),
            ("EXPIRED_EVENT_MAX_AGE", optional(self.expired_event_max_age, "(no limit)")),
            ("BATCH_MAX_RECORDS", self.batch_max_records.to_string()),
            ("BATCH_MAX_WAIT", format_duration(self.batch_max_wait)),
            ("RECORD_MAX_BYTES", self.record_max_bytes.to_string()),
            ("DEAD_LETTER_LIMIT", self.dead_letter_limit.to_string()),
            ("DEAD_LETTER_RETENTION", optional(self.dead_letter_retention, "(kept)")),
            ("HTTP_ADDR", self.http_addr.map_or_else(|| "(off)".to_owned(), |addr| addr.to_string())),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                self.traces.as_ref().map_or_else(|| "(off)".to_owned(), |traces| traces.endpoint.clone()),
            ),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        for (property, value) in &self.kafka_properties {
            let shown = if is_secret(property) { HIDDEN.to_owned() } else { value.clone() };
            all.push((variable(property), shown));
        }
        all
    }
}

/// The environment variable of a property of librdkafka.
pub fn variable(property: &str) -> String {
    format!("KAFKA_{}", property.to_uppercase().replace('.', "_"))
}

/// Hides secrets, as [`Settings::effective`] does.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.effective()).finish()
    }
}

/// The servers that a command needs. The settings of the others are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// `DATABASE_URL` must be set.
    pub database: bool,
    /// `KAFKA_BOOTSTRAP_SERVERS` must be set.
    pub broker: bool,
}

/// A missing or malformed setting. Its one line names the setting, says what to do, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The variable's name.
    pub name: String,
    /// The problem, to be read after the name: `is not set`.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl SettingError {
    /// An error of the variable `name`.
    pub fn new(
        name: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> SettingError {
        SettingError { name: name.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.name, self.problem, self.remedy)
    }
}

impl std::error::Error for SettingError {}

/// All invalid settings, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingErrors(pub Vec<SettingError>);

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for SettingErrors {}

/// This process's environment variables. Bytes that are not UTF-8 become replacement characters.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |words: std::ffi::OsString| words.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}
