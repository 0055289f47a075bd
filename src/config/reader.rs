//! From environment and flags to [`Settings`]. All errors are gathered; none hides another.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::{Need, SettingError, Settings, kafka};
use crate::cli::SettingFlags;
use crate::database_url;
use crate::duration::{MAX_TIME, MAX_WAIT, SHORT_TIME, TIME, duration, format_duration, short_duration};

const MAX_RECORD_BYTES: u64 = 100 << 20;
/// Kafka allows 249 characters in a topic's name. This leaves room for ours.
const MAX_PREFIX: usize = 200;

/// Reads settings and gathers the errors in them.
pub(super) struct SettingsReader {
    pub(super) env: BTreeMap<String, String>,
    pub(super) errors: Vec<SettingError>,
}

impl SettingsReader {
    /// All settings. A default replaces an invalid one.
    pub(super) fn settings(&mut self, flags: &SettingFlags, need: Need) -> Settings {
        let database_url = if need.database { self.database_url() } else { String::new() };
        let broker = if need.broker { self.broker() } else { kafka::BrokerSettings::default() };
        let count = "give a whole number";
        Settings {
            database_url,
            db_pool_size: self.number("DB_POOL_SIZE", &flags.db_pool_size, 1..=10_000, 5, count),
            db_max_overflow: self.number("DB_MAX_OVERFLOW", &flags.db_max_overflow, 0..=10_000, 10, count),
            kafka_bootstrap_servers: broker.servers,
            kafka_group_id: self
                .given("KAFKA_GROUP_ID", &None)
                .unwrap_or_else(|| "voiceclone-events".to_owned()),
            kafka_properties: broker.properties,
            topic_prefix: self.topic_prefix(&flags.topic_prefix),
            cache_ttl: self.time("CACHE_TTL", &flags.cache_ttl, 0).unwrap_or(Duration::from_secs(86_400)),
            expiry_interval: self
                .time("EXPIRY_INTERVAL", &flags.expiry_interval, 1)
                .unwrap_or(Duration::from_secs(60)),
            expired_event_max_age: self.time("EXPIRED_EVENT_MAX_AGE", &flags.expired_event_max_age, 0),
            batch_max_records: self.number(
                "BATCH_MAX_RECORDS",
                &flags.batch_max_records,
                1..=100_000,
                3_000,
                count,
            ),
            batch_max_wait: self
                .parsed("BATCH_MAX_WAIT", &flags.batch_max_wait, SHORT_TIME, |text| {
                    short_duration(text).filter(|time| *time <= MAX_WAIT)
                })
                .unwrap_or(Duration::ZERO),
            record_max_bytes: self.record_max_bytes(&flags.record_max_bytes),
            dead_letter_limit: self.number(
                "DEAD_LETTER_LIMIT",
                &flags.dead_letter_limit,
                1..=i64::MAX,
                10_000,
                count,
            ),
            dead_letter_retention: self.time("DEAD_LETTER_RETENTION", &flags.dead_letter_retention, 1),
            http_addr: self.http_addr(&flags.http_addr),
            traces: self.traces(),
        }
    }

    /// The value, without the blanks around it; `None` if it is unset or empty.
    pub(super) fn given(&self, name: &str, flag: &Option<String>) -> Option<String> {
        let filled = |text: &String| !text.trim().is_empty();
        let value = flag
            .as_ref()
            .filter(|text| filled(text))
            .or_else(|| self.env.get(name).filter(|text| filled(text)));
        value.map(|text| text.trim().to_owned())
    }

    pub(super) fn error(
        &mut self,
        name: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.errors.push(SettingError::new(name, problem, remedy));
    }

    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        flag: &Option<String>,
        remedy: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.given(name, flag)?;
        let value = parse(&text);
        if value.is_none() {
            self.error(name, format!("is {text:?}"), remedy);
        }
        value
    }

    fn number<T>(
        &mut self,
        name: &str,
        flag: &Option<String>,
        range: RangeInclusive<T>,
        default: T,
        what: &str,
    ) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let remedy = format!("{what} from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parsed(name, flag, &remedy, parse).unwrap_or(default)
    }

    fn time(&mut self, name: &str, flag: &Option<String>, least: u64) -> Option<Duration> {
        let text = self.given(name, flag)?;
        match duration(&text) {
            None => self.error(name, format!("is {text:?}"), TIME),
            Some(time) if time < Duration::from_secs(least) => {
                self.error(name, format!("is {text:?}"), format!("give at least {least}s"));
            }
            Some(time) if time > MAX_TIME => {
                let remedy = format!("give at most {}", format_duration(MAX_TIME));
                self.error(name, format!("is {text:?}"), remedy);
            }
            Some(time) => return Some(time),
        }
        None
    }

    fn record_max_bytes(&mut self, flag: &Option<String>) -> usize {
        let remedy = "give bytes, or a number with KiB or MiB, from 1 byte to 100 MiB, like 8 MiB";
        self.parsed("RECORD_MAX_BYTES", flag, remedy, |text| {
            let bytes = text.parse::<ByteSize>().ok()?.as_u64();
            (1..=MAX_RECORD_BYTES).contains(&bytes).then(|| usize::try_from(bytes).ok())?
        })
        .unwrap_or(8 << 20)
    }

    fn topic_prefix(&mut self, flag: &Option<String>) -> String {
        let remedy = format!("give letters, digits, '.', '_' and '-', at most {MAX_PREFIX} of them");
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        self.parsed("TOPIC_PREFIX", flag, &remedy, |text| {
            (text.len() <= MAX_PREFIX && text.chars().all(legal)).then(|| text.to_owned())
        })
        .unwrap_or_default()
    }

    fn http_addr(&mut self, flag: &Option<String>) -> Option<SocketAddr> {
        let name = "HTTP_ADDR";
        let Some(text) = flag.clone().or_else(|| self.env.get(name).cloned()) else {
            return Some(SocketAddr::from(([127, 0, 0, 1], 8080)));
        };
        if text.trim().is_empty() {
            return None;
        }
        let address = text.trim().parse().ok();
        if address.is_none() {
            let remedy = "give an IP address and a port, like 127.0.0.1:8080, or nothing to turn HTTP off";
            self.error(name, format!("is {text:?}"), remedy);
        }
        address
    }

    /// Errors never show the value, which can hold a password.
    fn database_url(&mut self) -> String {
        let name = "DATABASE_URL";
        let Some(text) = self.given(name, &None) else {
            self.error(name, "is not set", format!("set it to a URL like {}", database_url::EXAMPLE));
            return String::new();
        };
        if let Err(database_url::UrlProblem { problem, remedy }) = database_url::problem(&text) {
            self.error(name, problem, remedy);
            return String::new();
        }
        // without the name of the driver, which other services write into the scheme
        text.split_once("://").map_or_else(String::new, |(_, rest)| format!("postgresql://{rest}"))
    }

    fn broker(&mut self) -> kafka::BrokerSettings {
        let name = "KAFKA_BOOTSTRAP_SERVERS";
        let servers = self.given(name, &None);
        let like = "like host:9092,host2:9092";
        match &servers {
            None => self.error(name, "is not set", format!("set it to the brokers, {like}")),
            Some(text) => {
                if let Some(bad) = kafka::unusable_server(text) {
                    let remedy = format!("name the brokers with their ports, {like}");
                    self.error(name, format!("holds {bad:?}, which is not a host and port"), remedy);
                }
            }
        }
        let (properties, errors) = kafka::properties(&self.env);
        self.errors.extend(errors);
        kafka::BrokerSettings { servers: servers.unwrap_or_default(), properties }
    }
}
