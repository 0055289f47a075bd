//! The flags of settings, which every command takes.

use clap::Args;

/// The settings that are flags as well as environment variables, unchecked. `config` checks them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingFlags {
    /// Prefix of every topic's name, read or written [default: nothing]
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
    /// Maximum number of records in one transaction [default: 3000]
    #[arg(long, global = true, env = "BATCH_MAX_RECORDS", hide_env_values = true, value_name = "N")]
    pub batch_max_records: Option<String>,
    /// Time that an idle lane waits for more records before it writes; a number with ms or s [default: 0]
    #[arg(long, global = true, env = "BATCH_MAX_WAIT", hide_env_values = true, value_name = "TIME")]
    pub batch_max_wait: Option<String>,
    /// A larger record goes to the dead letters undecoded [default: 8 MiB]
    #[arg(long, global = true, env = "RECORD_MAX_BYTES", hide_env_values = true, value_name = "SIZE")]
    pub record_max_bytes: Option<String>,
    /// Stop after this many unusable records in a row of one partition [default: 10000]
    #[arg(long, global = true, env = "DEAD_LETTER_LIMIT", hide_env_values = true, value_name = "N")]
    pub dead_letter_limit: Option<String>,
    /// Delete dead letters that are resolved, published and older than this [default: keep them]
    #[arg(long, global = true, env = "DEAD_LETTER_RETENTION", hide_env_values = true, value_name = "TIME")]
    pub dead_letter_retention: Option<String>,
    /// Number of database connections kept open [default: 5]
    #[arg(long, global = true, env = "DB_POOL_SIZE", hide_env_values = true, value_name = "N")]
    pub db_pool_size: Option<String>,
    /// Maximum number of additional database connections under load [default: 10]
    #[arg(long, global = true, env = "DB_MAX_OVERFLOW", hide_env_values = true, value_name = "N")]
    pub db_max_overflow: Option<String>,
    /// Address of /healthz, /readyz and /metrics; empty turns them off [default: 127.0.0.1:8080]
    #[arg(long, global = true, env = "HTTP_ADDR", hide_env_values = true, value_name = "IP:PORT")]
    pub http_addr: Option<String>,
    /// text or json [default: text on a terminal, else json; text for every command but `run`]
    #[arg(long, global = true, env = "LOG_FORMAT", hide_env_values = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Filter of the log, such as debug or info,voiceclone_events=debug [default: info for `run`, else warn]
    #[arg(long, global = true, env = "RUST_LOG", hide_env_values = true, value_name = "FILTER")]
    pub rust_log: Option<String>,
}
