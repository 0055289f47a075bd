//! The settings, as given in the environment and as flags.

use super::*;
use crate::duration::SHORT_TIME;

const BOTH: Need = Need { database: true, broker: true };
const NEITHER: Need = Need { database: false, broker: false };
const BASE: [(&str, &str); 2] =
    [("DATABASE_URL", "postgresql://u:hunter2@db/calls"), ("KAFKA_BOOTSTRAP_SERVERS", "k:9092")];

pub(super) fn vars(vars: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    vars.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>().into_iter()
}

pub(super) fn with(more: &[(&str, &str)]) -> Result<Settings, SettingErrors> {
    let all: Vec<_> = BASE.iter().chain(more).copied().collect();
    Settings::from(&SettingFlags::default(), vars(&all), BOTH)
}

pub(super) fn line(name: &str, value: &str) -> String {
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
    assert_eq!((s.batch_max_records, s.batch_max_wait), (3_000, Duration::ZERO));
    assert_eq!((s.record_max_bytes, s.dead_letter_limit), (8 << 20, 10_000));
    assert_eq!(s.http_addr.unwrap().to_string(), "127.0.0.1:8080");
    assert_eq!(s.topic_prefix, "");
}

#[test]
fn a_needed_setting_that_is_missing_or_empty_is_named() {
    let none = SettingFlags::default();
    let database = Need { database: true, broker: false };
    let error = Settings::from(&none, vars(&[("DATABASE_URL", "")]), database).unwrap_err();
    assert!(error.to_string().starts_with("DATABASE_URL is not set: set it to"), "{error}");
    let broker = Need { database: false, broker: true };
    let error = Settings::from(&none, vars(&[]), broker).unwrap_err();
    assert!(error.to_string().starts_with("KAFKA_BOOTSTRAP_SERVERS is not set: set it to"), "{error}");
}

#[test]
fn what_is_not_needed_is_not_read() {
    let junk = [("DATABASE_URL", "junk"), ("KAFKA_BOOTSTRAP_SERVERS", "k"), ("KAFKA_ISOLATION_LEVEL", "x")];
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
    let remedy = "give seconds, or a number with s, m, h or d, like 24h";
    for bad in
        ["abc", "-1", "1.5h", "20ms", "h", "1w", "99999999999999999999", "9223372036854775807d", "1\nh", "١h"]
    {
        assert_eq!(line("CACHE_TTL", bad), format!("CACHE_TTL is {bad:?}: {remedy}"));
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
fn every_wrong_setting_is_named_at_once() {
    let wrong = [("CACHE_TTL", "x"), ("BATCH_MAX_WAIT", "20"), ("KAFKA_ACKS", "1"), ("KAFKA_RETRIES", "0")];
    let errors = Settings::from(&SettingFlags::default(), vars(&wrong), BOTH).unwrap_err();
    assert_eq!(
        errors.0.iter().map(|error| error.name.as_str()).collect::<Vec<_>>(),
        [
            "DATABASE_URL",
            "KAFKA_BOOTSTRAP_SERVERS",
            "KAFKA_ACKS",
            "KAFKA_RETRIES",
            "CACHE_TTL",
            "BATCH_MAX_WAIT"
        ]
    );
    assert_eq!(errors.to_string().lines().count(), 6);
}

#[test]
fn a_wait_without_its_unit_is_refused_with_an_example() {
    for bad in ["20", "1", "0.02", "0.5s", "2m", "61s", "1h"] {
        let line = line("BATCH_MAX_WAIT", bad);
        assert!(line.starts_with(&format!("BATCH_MAX_WAIT is {bad:?}: ")) && line.contains("20ms"), "{line}");
    }
    for (good, millis) in [("0", 0), ("0ms", 0), ("20ms", 20), ("20 ms", 20), ("1s", 1_000), ("1m", 60_000)] {
        let wait = with(&[("BATCH_MAX_WAIT", good)]).unwrap().batch_max_wait;
        assert_eq!(wait, Duration::from_millis(millis), "{good}");
    }
}

#[test]
fn dead_letters_are_kept_unless_a_retention_is_given() {
    assert_eq!(with(&[]).unwrap().dead_letter_retention, None);
    let days = with(&[("DEAD_LETTER_RETENTION", "90d")]).unwrap().dead_letter_retention;
    assert_eq!(days, Some(Duration::from_secs(90 * 86_400)));
    assert!(line("DEAD_LETTER_RETENTION", "never").ends_with("like 24h"));
    assert!(line("DEAD_LETTER_RETENTION", "0").ends_with("give at least 1s"));
}

#[test]
fn brokers_are_hosts_with_ports() {
    for good in
        ["kafka", "kafka:9092", "a:1, b:2,", "[::1]:9092", "::1", "SASL_SSL://kafka:9093", "10.0.0.1:65535"]
    {
        with(&[("KAFKA_BOOTSTRAP_SERVERS", good)]).unwrap();
    }
    for bad in
        ["kafka:port", "kafka:0", "kafka:99999", ":9092", ",", "http://kafka:9092/x", "[::1", "ka fka:9092"]
    {
        assert!(line("KAFKA_BOOTSTRAP_SERVERS", bad).starts_with("KAFKA_BOOTSTRAP_SERVERS holds "), "{bad}");
    }
}

#[test]
fn other_kafka_variables_are_properties() {
    let s = with(&[
        ("KAFKA_SASL_MECHANISM", "PLAIN"),
        ("KAFKA_DEBUG", "broker,security"),
        ("KAFKA_CLIENT_ID", ""),
        ("KAFKA_GROUP_ID", "g"),
    ])
    .unwrap();
    assert_eq!(
        s.kafka_properties.into_iter().collect::<Vec<_>>(),
        [("debug".into(), "broker,security".into()), ("sasl.mechanism".into(), "PLAIN".into())]
    );
    assert_eq!(s.kafka_group_id, "g");
}

#[test]
fn what_kubernetes_and_kafkas_scripts_put_into_the_environment_is_ignored() {
    let s = with(&[
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
        ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ("KAFKA_PORT_9092_TCP_PORT", "9092"),
        ("KAFKA_PORT_9092_TCP_PROTO", "tcp"),
        ("KAFKA_9092_TCP_ADDR", "10.0.0.1"),
        ("KAFKA_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("KAFKA_SERVICE_PORT", "9092"),
        ("KAFKA_SERVICE_PORT_TCP_CLIENT", "9092"),
        ("KAFKA_UI_PORT", "tcp://10.0.0.2:8080"),
        ("KAFKA_UI_PORT_8080_TCP", "tcp://10.0.0.2:8080"),
        ("KAFKA_UI_PORT_8080_TCP_ADDR", "10.0.0.2"),
        ("KAFKA_UI_SERVICE_HOST", "10.0.0.2"),
        ("KAFKA_UI_SERVICE_PORT", "8080"),
        ("KAFKA_UI_SERVICE_PORT_HTTP", "8080"),
        ("KAFKA_0_EXTERNAL_PORT", "udp://10.0.0.2:9094"),
        ("KAFKA_HEAP_OPTS", "-Xmx1g"),
        ("KAFKA_OPTS", "-Da=b"),
        ("KAFKA_JMX_OPTS", "-Da=b"),
        ("KAFKA_JMX_PORT", "9999"),
        ("KAFKA_LOG4J_OPTS", "-Da=b"),
        ("KAFKA_GC_LOG_OPTS", "-Da=b"),
        ("KAFKA_JVM_PERFORMANCE_OPTS", "-server"),
        ("KAFKA_HOME", "/opt/kafka"),
        ("KAFKA_VERSION", "4.1.0"),
        ("KAFKA_DEBUG", "y"),
    ])
    .unwrap();
    assert!(s.kafka_properties.is_empty(), "{:?}", s.kafka_properties);
}

#[test]
fn times_of_the_group_must_fit_each_other() {
    for (name, bad) in [
        ("KAFKA_SESSION_TIMEOUT_MS", "3000"),
        ("KAFKA_SESSION_TIMEOUT_MS", "300001"),
        ("KAFKA_HEARTBEAT_INTERVAL_MS", "10000"),
        ("KAFKA_MAX_POLL_INTERVAL_MS", "9999"),
    ] {
        assert!(line(name, bad).starts_with(&format!("{name} is {bad}, too ")), "{name}");
    }
    with(&[("KAFKA_SESSION_TIMEOUT_MS", "3000"), ("KAFKA_HEARTBEAT_INTERVAL_MS", "1000")]).unwrap();
    with(&[("KAFKA_SESSION_TIMEOUT_MS", "600000"), ("KAFKA_MAX_POLL_INTERVAL_MS", "600000")]).unwrap();
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_named_with_the_setting() {
    for (name, likely) in [
        ("CACHE_TLL", "CACHE_TTL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("BATCH_MAX_WAITS", "BATCH_MAX_WAIT"),
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("KAFKA_GROUPID", "KAFKA_GROUP_ID"),
        ("cache_ttl", "CACHE_TTL"),
        ("DEAD_LETTERS_LIMIT", "DEAD_LETTER_LIMIT"),
        ("DB_POOLSIZE", "DB_POOL_SIZE"),
    ] {
        assert_eq!(misspelt(vars(&[(name, "5")])), [Misspelt { name: name.into(), likely }]);
        assert!(misspelt(vars(&[(name, "")])).is_empty());
    }
    let others = [
        ("PATH", "x"),
        ("HOME", "x"),
        ("CACHE_DIR", "x"),
        ("HTTP_PROXY", "x"),
        ("RUST_LIB", "x"),
        ("LOG_LEVEL", "x"),
        ("DATABASE_URL", "x"),
        ("KAFKA_SASL_USERNAME", "x"),
        ("DB_HOST", "x"),
        ("TOPIC", "x"),
        ("CACHE_TTL", "1"),
    ];
    assert!(misspelt(vars(&others)).is_empty());
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
        ("KAFKA_AUTO_COMMIT_ENABLE", "true"),
        ("KAFKA_OFFSET_STORE_METHOD", "none"),
        ("KAFKA_ACKS", "1"),
        ("KAFKA_ACKS", "0"),
        ("KAFKA_REQUEST_REQUIRED_ACKS", "1"),
        ("KAFKA_RETRIES", "0"),
        ("KAFKA_RETRIES", "none"),
        ("KAFKA_MESSAGE_SEND_MAX_RETRIES", "0"),
        ("KAFKA_MAX_IN_FLIGHT", "6"),
        ("KAFKA_MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION", "1000000"),
        ("KAFKA_ENABLE_IDEMPOTENCE", "false"),
        ("KAFKA_TRANSACTIONAL_ID", "x"),
        ("KAFKA_ENABLE_GAPLESS_GUARANTEE", "true"),
        ("KAFKA_DELIVERY_REPORT_ONLY_ERROR", "true"),
        ("KAFKA_GROUP_PROTOCOL", "consumer"),
        ("KAFKA_METADATA_BROKER_LIST", "other:9092"),
        ("KAFKA_AUTO_OFFSET_RESET", "latest"),
        ("KAFKA_ISOLATION_LEVEL", "read_uncommitted"),
        ("KAFKA_ENABLE_PARTITION_EOF", "false"),
        ("KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "range"),
        ("KAFKA_ALLOW_AUTO_CREATE_TOPICS", "true"),
    ] {
        assert!(line(name, bad).starts_with(&format!("{name} can")), "{name}");
    }
    let same = [
        ("KAFKA_ENABLE_AUTO_COMMIT", "False"),
        ("KAFKA_ISOLATION_LEVEL", "read_committed"),
        ("KAFKA_ACKS", "-1"),
        ("KAFKA_REQUEST_REQUIRED_ACKS", "all"),
        ("KAFKA_RETRIES", "5"),
        ("KAFKA_MAX_IN_FLIGHT", "5"),
        ("KAFKA_ENABLE_IDEMPOTENCE", "true"),
    ];
    assert!(with(&same).unwrap().kafka_properties.is_empty());
}

#[test]
fn secrets_are_never_shown() {
    let s = with(&[
        ("DATABASE_URL", "postgresql://u:hunter2@h/d?sslmode=require&password=hunter2&ssl%70assword=hunter2"),
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
    assert_eq!((value("CACHE_TTL"), value("EXPIRY_INTERVAL"), value("BATCH_MAX_WAIT")), ("24h", "60s", "0s"));
    assert!(!format!("{shown:?} {s:?}").contains("hunter2"));
    let unread = Settings { database_url: "junk hunter2".into(), ..s };
    assert!(!format!("{unread:?}").contains("hunter2"));
}
