//! The settings (contract, section 8): environment variables, each also a flag but for those that can
//! hold a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::cli::SettingFlags;
use crate::event::Limits;
use crate::store::connect::url;

/// Every setting, checked.
#[derive(Clone)]
#[allow(missing_docs, reason = "the fields are the settings' names; the contract says what they mean")]
pub struct Settings {
    /// Without the driver that other services write into the scheme: `postgresql://...`.
    pub database_url: String,
    pub db_pool_size: u32,
    pub db_max_overflow: u32,
    pub kafka_bootstrap_servers: String,
    pub kafka_group_id: String,
    /// librdkafka's properties, from every other `KAFKA_X_Y`.
    pub kafka_properties: BTreeMap<String, String>,
    pub topic_prefix: String,
    pub cache_ttl: Duration,
    pub expiry_interval: Duration,
    pub expired_event_max_age: Option<Duration>,
    pub batch_max_records: usize,
    pub batch_max_wait: Duration,
    pub record_max_bytes: usize,
    pub dead_letter_limit: i64,
    /// `None` turns HTTP off.
    pub http_addr: Option<SocketAddr>,
}

impl Settings {
    /// Reads and checks the settings; a flag wins over a variable, and an empty one counts as unset (but for
    /// `HTTP_ADDR`, where it turns HTTP off). What the command does not need is not read and stays empty.
    /// The error is the first one found.
    pub fn from(
        flags: &SettingFlags,
        env: impl Iterator<Item = (String, String)>,
        need: Need,
    ) -> Result<Settings, SettingError> {
        Settings::read(flags, env, need).map_err(|(first, _)| first)
    }

    /// Like [`Settings::from`], but with every error: the first and the others.
    pub fn read(
        flags: &SettingFlags,
        env: impl Iterator<Item = (String, String)>,
        need: Need,
    ) -> Result<Settings, (SettingError, Vec<SettingError>)> {
        let mut reader = Reader { env: env.collect(), errors: Vec::new() };
        let settings = reader.settings(flags, need);
        let mut errors = reader.errors.into_iter();
        match errors.next() {
            None => Ok(settings),
            Some(first) => Err((first, errors.collect())),
        }
    }

    /// What decoding depends on.
    pub fn limits(&self) -> Limits {
        Limits {
            record_max_bytes: self.record_max_bytes,
            cache_ttl_seconds: i64::try_from(self.cache_ttl.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// A topic's name as Kafka has it: with the prefix.
    pub fn topic_name(&self, name: impl fmt::Display) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// Every setting's name and value as they hold, with secrets hidden.
    pub fn effective(&self) -> Vec<(String, String)> {
        let or = |text: String, empty: &str| if text.is_empty() { empty.to_owned() } else { text };
        let mut all: Vec<(String, String)> = [
            ("DATABASE_URL", or(without_secrets(&self.database_url), "(not set)")),
            ("DB_POOL_SIZE", self.db_pool_size.to_string()),
            ("DB_MAX_OVERFLOW", self.db_max_overflow.to_string()),
            ("KAFKA_BOOTSTRAP_SERVERS", or(self.kafka_bootstrap_servers.clone(), "(not set)")),
            ("KAFKA_GROUP_ID", self.kafka_group_id.clone()),
            ("TOPIC_PREFIX", or(self.topic_prefix.clone(), "(empty)")),
            ("CACHE_TTL", written(self.cache_ttl)),
            ("EXPIRY_INTERVAL", written(self.expiry_interval)),
            (
                "EXPIRED_EVENT_MAX_AGE",
                self.expired_event_max_age.map_or_else(|| "(no limit)".to_owned(), written),
            ),
            ("BATCH_MAX_RECORDS", self.batch_max_records.to_string()),
            ("BATCH_MAX_WAIT", written(self.batch_max_wait)),
            ("RECORD_MAX_BYTES", self.record_max_bytes.to_string()),
            ("DEAD_LETTER_LIMIT", self.dead_letter_limit.to_string()),
            ("HTTP_ADDR", self.http_addr.map_or_else(|| "(off)".to_owned(), |addr| addr.to_string())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        for (property, value) in &self.kafka_properties {
            let name = format!("KAFKA_{}", property.to_uppercase().replace('.', "_"));
            all.push((name, if is_secret(property) { HIDDEN.to_owned() } else { value.clone() }));
        }
        all
    }
}

/// Hides secrets, as [`Settings::effective`] does.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.effective()).finish()
    }
}

/// What a command needs to reach; the settings of the rest are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// `DATABASE_URL` must be set.
    pub database: bool,
    /// `KAFKA_BOOTSTRAP_SERVERS` must be set.
    pub broker: bool,
}

/// A setting is missing or malformed. Its one line names it and says what to do, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The variable's name.
    pub name: String,
    /// What is wrong, to be read after the name: `is not set`.
    pub problem: String,
    /// What to do.
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

/// This process's environment variables; what is not UTF-8 gets replacement characters.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |words: std::ffi::OsString| words.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

const HIDDEN: &str = "***";

/// The longest time taken: from now it ends before the year 9999, the last of RFC 3339.
const MAX_TIME: Duration = Duration::from_secs(7_000 * 365 * 86_400);
/// A batch that waited longer would look like a member that hangs.
const MAX_WAIT: Duration = Duration::from_secs(60);
const MAX_RECORD_BYTES: u64 = 100 << 20;
/// Kafka takes 249 characters for a topic's name; this leaves room for ours.
const MAX_PREFIX: usize = 200;

const TIME: &str = "give seconds, or a number with s, m, h or d, like 24h";
const SHORT_TIME: &str = "give seconds, or a number with ms, s or m, at most 1m, like 20ms";
const REMOVE: &str = "remove it";

/// Properties on which the promise depends: the only value taken (`None`: none), and why.
const OURS: [(&str, Option<&str>, &str); 10] = [
    ("enable.auto.commit", Some("false"), "offsets are committed after the rows they stand for"),
    ("auto.commit.enable", Some("false"), "offsets are committed after the rows they stand for"),
    ("enable.auto.offset.store", Some("false"), "offsets are committed after the rows they stand for"),
    ("auto.offset.reset", Some("error"), "a lost offset must be noticed, never skipped over"),
    ("isolation.level", Some("read_committed"), "records of aborted transactions must not become rows"),
    ("enable.partition.eof", None, "the daemon sets it where it needs it"),
    ("metadata.broker.list", None, "the brokers are named by KAFKA_BOOTSTRAP_SERVERS"),
    ("partition.assignment.strategy", Some("cooperative-sticky"), "instances of one group must agree on it"),
    ("allow.auto.create.topics", Some("false"), "a missing topic must be reported, not made"),
    ("group.protocol", Some("classic"), "instances of one group must agree on it"),
];

struct Reader {
    env: BTreeMap<String, String>,
    errors: Vec<SettingError>,
}

impl Reader {
    fn settings(&mut self, flags: &SettingFlags, need: Need) -> Settings {
        let database_url = if need.database { self.database_url() } else { String::new() };
        let broker = if need.broker { self.broker() } else { Broker::default() };
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
                    duration(text, true).filter(|time| *time <= MAX_WAIT)
                })
                .unwrap_or(Duration::from_millis(20)),
            record_max_bytes: self
                .parsed(
                    "RECORD_MAX_BYTES",
                    &flags.record_max_bytes,
                    "give bytes, or a number with KiB or MiB, from 1 byte to 100 MiB, like 8 MiB",
                    |text| {
                        let bytes = text.parse::<ByteSize>().ok()?.as_u64();
                        (1..=MAX_RECORD_BYTES).contains(&bytes).then(|| usize::try_from(bytes).ok())?
                    },
                )
                .unwrap_or(8 << 20),
            dead_letter_limit: self.number(
                "DEAD_LETTER_LIMIT",
                &flags.dead_letter_limit,
                1..=i64::MAX,
                10_000,
                count,
            ),
            http_addr: self.http_addr(&flags.http_addr),
        }
    }

    /// The value as written, without the blanks around it; `None` where it is unset or empty.
    fn given(&self, name: &str, flag: &Option<String>) -> Option<String> {
        let filled = |text: &String| !text.trim().is_empty();
        let value = flag
            .as_ref()
            .filter(|text| filled(text))
            .or_else(|| self.env.get(name).filter(|text| filled(text)));
        value.map(|text| text.trim().to_owned())
    }

    fn error(&mut self, name: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(SettingError::new(name, problem, remedy));
    }

    fn parsed<T>(
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
        match duration(&text, false) {
            None => self.error(name, format!("is {text:?}"), TIME),
            Some(time) if time < Duration::from_secs(least) => {
                self.error(name, format!("is {text:?}"), format!("give at least {least}s"));
            }
            Some(time) if time > MAX_TIME => {
                let remedy = format!("give at most {}", written(MAX_TIME));
                self.error(name, format!("is {text:?}"), remedy);
            }
            Some(time) => return Some(time),
        }
        None
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

    /// Never shows the value: it can hold a password.
    fn database_url(&mut self) -> String {
        let name = "DATABASE_URL";
        let Some(text) = self.given(name, &None) else {
            self.error(name, "is not set", format!("set it to a URL like {}", url::EXAMPLE));
            return String::new();
        };
        if let Err(url::Problem { problem, remedy }) = url::problem(&text) {
            self.error(name, problem, remedy);
            return String::new();
        }
        // without the driver that other services write into the scheme
        text.split_once("://").map_or_else(String::new, |(_, rest)| format!("postgresql://{rest}"))
    }

    fn broker(&mut self) -> Broker {
        let servers = self.given("KAFKA_BOOTSTRAP_SERVERS", &None);
        if servers.is_none() {
            self.error(
                "KAFKA_BOOTSTRAP_SERVERS",
                "is not set",
                "set it to the brokers, like host:9092,host2:9092",
            );
        }
        let mut properties = BTreeMap::new();
        for (name, value) in self.env.clone() {
            let Some(key) = name.strip_prefix("KAFKA_") else { continue };
            if value.is_empty() || matches!(key, "BOOTSTRAP_SERVERS" | "GROUP_ID") || is_of_kubernetes(key) {
                continue;
            }
            let property = key.to_lowercase().replace('_', ".");
            match OURS.iter().find(|(ours, _, _)| *ours == property) {
                None => {
                    properties.insert(property, value);
                }
                Some((_, Some(ours), _)) if is_same(&value, ours) => {}
                Some((_, Some(ours), why)) => {
                    self.error(&name, format!("can only be {ours}, as {why}"), REMOVE);
                }
                Some((_, None, why)) => self.error(&name, format!("cannot be set, as {why}"), REMOVE),
            }
        }
        Broker { servers: servers.unwrap_or_default(), properties }
    }
}

#[derive(Default)]
struct Broker {
    servers: String,
    properties: BTreeMap<String, String>,
}

/// Whether Kubernetes injects `KAFKA_<key>` for a service called `kafka`.
fn is_of_kubernetes(key: &str) -> bool {
    matches!(key, "PORT" | "SERVICE_HOST" | "SERVICE_PORT")
        || key.starts_with("PORT_")
        || key.starts_with("SERVICE_PORT_")
}

/// librdkafka writes false in several ways.
fn is_same(value: &str, ours: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    value == ours || (ours == "false" && matches!(value.as_str(), "f" | "0"))
}

fn is_secret(property: &str) -> bool {
    property.starts_with("sasl.oauthbearer.")
        || ["password", "secret", "key", "token", "jaas"].iter().any(|word| property.contains(word))
}

/// The URL with its passwords hidden; hidden whole where it cannot be read.
fn without_secrets(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    url::shown(url).unwrap_or_else(|| HIDDEN.to_owned())
}

/// A whole number with a unit; plain means seconds.
fn duration(text: &str, with_milliseconds: bool) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = match unit.trim_start_matches(' ') {
        "ms" if with_milliseconds => return Some(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// A time as a setting is written.
fn written(time: Duration) -> String {
    if time.subsec_millis() > 0 {
        return format!("{}ms", time.as_millis());
    }
    let seconds = time.as_secs();
    // 24h and 60s rather than 1d and 1m
    for (unit, length, least) in [("d", 86_400, 2), ("h", 3_600, 1), ("m", 60, 2)] {
        if seconds.is_multiple_of(length) && seconds / length >= least {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Need = Need { database: true, broker: true };
    const NEITHER: Need = Need { database: false, broker: false };
    const BASE: [(&str, &str); 2] =
        [("DATABASE_URL", "postgresql://u:hunter2@db/calls"), ("KAFKA_BOOTSTRAP_SERVERS", "k:9092")];

    fn vars(vars: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        vars.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>().into_iter()
    }

    fn with(more: &[(&str, &str)]) -> Result<Settings, SettingError> {
        let all: Vec<_> = BASE.iter().chain(more).copied().collect();
        Settings::from(&SettingFlags::default(), vars(&all), BOTH)
    }

    fn line(name: &str, value: &str) -> String {
        let line = with(&[(name, value)]).unwrap_err().to_string();
        assert!(!line.contains('\n'));
        line
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let s = with(&[]).unwrap();
        assert_eq!((s.db_pool_size, s.db_max_overflow), (5, 10));
        assert_eq!(s.kafka_group_id, "voiceclone-events");
        assert_eq!((s.cache_ttl.as_secs(), s.expiry_interval.as_secs()), (86_400, 60));
        assert_eq!(s.expired_event_max_age, None);
        assert_eq!((s.batch_max_records, s.batch_max_wait), (3_000, Duration::from_millis(20)));
        assert_eq!((s.record_max_bytes, s.dead_letter_limit), (8 << 20, 10_000));
        assert_eq!(s.http_addr.unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(s.topic_prefix, "");
    }

    #[test]
    fn a_needed_setting_that_is_missing_or_empty_is_named() {
        let none = SettingFlags::default();
        let error = Settings::from(&none, vars(&[("DATABASE_URL", "")]), BOTH).unwrap_err();
        assert!(error.to_string().starts_with("DATABASE_URL is not set: set it to"), "{error}");
        let broker = Need { database: false, broker: true };
        let error = Settings::from(&none, vars(&[]), broker).unwrap_err();
        assert!(error.to_string().starts_with("KAFKA_BOOTSTRAP_SERVERS is not set: set it to"), "{error}");
        let (first, others) = Settings::read(&none, vars(&[("CACHE_TTL", "x")]), BOTH).unwrap_err();
        assert_eq!(first.name, "DATABASE_URL");
        assert_eq!(
            others.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
            ["KAFKA_BOOTSTRAP_SERVERS", "CACHE_TTL"]
        );
    }

    #[test]
    fn what_is_not_needed_is_not_read() {
        let junk =
            [("DATABASE_URL", "junk"), ("KAFKA_BOOTSTRAP_SERVERS", "k"), ("KAFKA_ISOLATION_LEVEL", "x")];
        let s = Settings::from(&SettingFlags::default(), vars(&junk), NEITHER).unwrap();
        assert_eq!((s.database_url.as_str(), s.kafka_bootstrap_servers.as_str()), ("", ""));
        assert!(s.kafka_properties.is_empty());
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_an_empty_one_counts_as_unset() {
        let mut flags = SettingFlags { cache_ttl: Some("2h".into()), ..SettingFlags::default() };
        let env = [("CACHE_TTL", "1h")];
        assert_eq!(Settings::from(&flags, vars(&env), NEITHER).unwrap().cache_ttl.as_secs(), 7_200);
        flags.cache_ttl = Some(String::new());
        assert_eq!(Settings::from(&flags, vars(&env), NEITHER).unwrap().cache_ttl.as_secs(), 3_600);
        assert_eq!(with(&[("BATCH_MAX_RECORDS", " ")]).unwrap().batch_max_records, 3_000);
        assert_eq!(with(&[("HTTP_ADDR", "")]).unwrap().http_addr, None);
    }

    #[test]
    fn a_database_url_loses_its_driver_and_keeps_the_rest() {
        for (given, read) in [
            (
                "postgresql+asyncpg://u:p%40@h:1/d?sslmode=require&pool_size=1",
                "postgresql://u:p%40@h:1/d?sslmode=require&pool_size=1",
            ),
            ("postgres://h/d", "postgresql://h/d"),
            ("POSTGRES+psycopg2://h", "postgresql://h"),
            ("postgresql://u@%2Ftmp%2Fpg/d", "postgresql://u@%2Ftmp%2Fpg/d"),
            ("postgresql:///d?host=/tmp", "postgresql:///d?host=/tmp"),
            ("postgresql://h/d\n", "postgresql://h/d"),
        ] {
            assert_eq!(with(&[("DATABASE_URL", given)]).unwrap().database_url, read);
        }
        for bad in
            ["hunter2", "mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d", "host=h password=hunter2"]
        {
            let line = line("DATABASE_URL", bad);
            assert!(line.starts_with("DATABASE_URL is not a URL") && !line.contains("hunter2"), "{line}");
        }
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("5s", 5), ("2m", 120), ("24h", 86_400), ("30 d", 2_592_000)]
        {
            assert_eq!(with(&[("CACHE_TTL", text)]).unwrap().cache_ttl.as_secs(), seconds);
        }
        assert_eq!(with(&[("BATCH_MAX_WAIT", "5ms")]).unwrap().batch_max_wait, Duration::from_millis(5));
        let problem = "give seconds, or a number with s, m, h or d, like 24h";
        for bad in [
            "abc",
            "-1",
            "1.5h",
            "20ms",
            "h",
            "1w",
            "99999999999999999999",
            "9223372036854775807d",
            "1\nh",
            "١h",
        ] {
            assert_eq!(line("CACHE_TTL", bad), format!("CACHE_TTL is {bad:?}: {problem}"));
        }
        assert_eq!(line("CACHE_TTL", "2555001d"), r#"CACHE_TTL is "2555001d": give at most 2555000d"#);
        assert_eq!(line("EXPIRY_INTERVAL", "0"), r#"EXPIRY_INTERVAL is "0": give at least 1s"#);
        assert!(line("BATCH_MAX_WAIT", "2m").ends_with(SHORT_TIME));
    }

    #[test]
    fn numbers_and_sizes_keep_to_their_bounds() {
        let s = with(&[("RECORD_MAX_BYTES", "1 MiB"), ("DB_MAX_OVERFLOW", "0")]).unwrap();
        assert_eq!((s.record_max_bytes, s.db_max_overflow), (1 << 20, 0));
        assert_eq!(with(&[("RECORD_MAX_BYTES", "1000")]).unwrap().record_max_bytes, 1000);
        assert_eq!(
            line("BATCH_MAX_RECORDS", "0"),
            r#"BATCH_MAX_RECORDS is "0": give a whole number from 1 to 100000"#
        );
        for (name, bad) in [
            ("BATCH_MAX_RECORDS", "100001"),
            ("DB_POOL_SIZE", "0"),
            ("DB_MAX_OVERFLOW", "-1"),
            ("DEAD_LETTER_LIMIT", "0"),
            ("RECORD_MAX_BYTES", "0"),
            ("RECORD_MAX_BYTES", "101 MiB"),
            ("RECORD_MAX_BYTES", "8 lots"),
            ("HTTP_ADDR", "localhost"),
            ("TOPIC_PREFIX", "a b"),
        ] {
            assert!(line(name, bad).starts_with(&format!("{name} is {bad:?}: give ")), "{name}");
        }
    }

    #[test]
    fn other_kafka_variables_are_properties_but_for_those_of_kubernetes() {
        let s = with(&[
            ("KAFKA_SASL_MECHANISM", "PLAIN"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_SERVICE_PORT", "9092"),
            ("KAFKA_SERVICE_PORT_TCP_CLIENT", "9092"),
            ("KAFKA_CLIENT_ID", ""),
            ("KAFKA_GROUP_ID", "g"),
        ])
        .unwrap();
        assert_eq!(
            s.kafka_properties.into_iter().collect::<Vec<_>>(),
            [("sasl.mechanism".into(), "PLAIN".into())]
        );
        assert_eq!(s.kafka_group_id, "g");
    }

    #[test]
    fn a_property_that_would_break_the_promise_is_refused_with_the_reason() {
        assert_eq!(
            line("KAFKA_ENABLE_AUTO_COMMIT", "true"),
            "KAFKA_ENABLE_AUTO_COMMIT can only be false, as offsets are committed after the rows they stand for: \
             remove it"
        );
        for (name, bad) in [
            ("KAFKA_ENABLE_AUTO_OFFSET_STORE", "true"),
            ("KAFKA_AUTO_OFFSET_RESET", "latest"),
            ("KAFKA_ISOLATION_LEVEL", "read_uncommitted"),
            ("KAFKA_ENABLE_PARTITION_EOF", "false"),
            ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "range"),
            ("KAFKA_ALLOW_AUTO_CREATE_TOPICS", "true"),
        ] {
            assert!(line(name, bad).starts_with(&format!("{name} can")), "{name}");
        }
        let same = [("KAFKA_ENABLE_AUTO_COMMIT", "False"), ("KAFKA_ISOLATION_LEVEL", "read_committed")];
        assert!(with(&same).unwrap().kafka_properties.is_empty());
    }

    #[test]
    fn secrets_are_never_shown() {
        let s = with(&[
            (
                "DATABASE_URL",
                "postgresql://u:hunter2@h/d?sslmode=require&password=hunter2&ssl%70assword=hunter2",
            ),
            ("KAFKA_SASL_PASSWORD", "hunter2"),
            ("KAFKA_SSL_KEY_PEM", "hunter2"),
            ("KAFKA_SASL_OAUTHBEARER_CONFIG", "hunter2"),
            ("KAFKA_SASL_USERNAME", "user"),
        ])
        .unwrap();
        let shown = s.effective();
        let value = |name: &str| shown.iter().find(|(n, _)| n == name).unwrap().1.as_str();
        assert_eq!(
            value("DATABASE_URL"),
            "postgresql://u:***@h/d?sslmode=require&password=***&ssl%70assword=***"
        );
        assert_eq!(value("KAFKA_SASL_PASSWORD"), "***");
        assert_eq!(value("KAFKA_SASL_USERNAME"), "user");
        assert_eq!(
            (value("CACHE_TTL"), value("EXPIRY_INTERVAL"), value("BATCH_MAX_WAIT")),
            ("24h", "60s", "20ms")
        );
        assert!(!format!("{shown:?} {s:?}").contains("hunter2"));
        let unread = Settings { database_url: "junk hunter2".into(), ..s };
        assert!(!format!("{unread:?}").contains("hunter2"));
    }
}
