//! The layout of `--help`, the same for every command: what it does, its own options, the settings that it uses, and the
//! environment that it reads. A setting that a command does not use is accepted and not shown.

use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

/// Columns that no line exceeds.
const WIDTH: usize = 100;
/// Columns before and after the options' names.
const MARGINS: usize = 10;
const TEMPLATE: &str = "\n\n{usage-heading} {usage}\n\n{all-args}{after-help}";

const LOG: &[&str] = &["log_format", "rust_log"];
const POOL: &[&str] = &["db_pool_size", "db_max_overflow"];
const TOPICS: &[&str] = &["topic_prefix"];
/// The settings of decoding.
const DECODING: &[&str] = &["cache_ttl", "record_max_bytes"];
/// The settings of the daemon, but for the address and the interval, which `demo` sets by itself.
const DAEMON: &[&str] = &[
    "expired_event_max_age",
    "batch_max_records",
    "batch_max_wait",
    "dead_letter_limit",
    "dead_letter_retention",
];

/// The servers that a command asks, as their settings are variables only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Servers {
    All,
    Database,
    DatabaseAndGroup,
    DatabaseAndBroker,
    Broker,
    BrokerAndGroup,
    None,
    OwnPostgres,
}

/// The settings and servers that a command uses.
struct Uses {
    settings: &'static [&'static [&'static str]],
    servers: Servers,
    json: bool,
}

/// The command line's definition, with the help of each command.
pub fn definition() -> Command {
    let program = Cli::command();
    let globals: Vec<Arg> = program.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let after = format!(
        "{}\n\nExit status: 0 done, 1 failed, 2 wrong usage or a wrong setting.",
        environment(Servers::All)
    );
    with_uses(program.after_help(after), &[], &globals)
}

/// Gives every command its own copy of the global options, hidden where they are not used.
fn with_uses(command: Command, path: &[String], globals: &[Arg]) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(&name, |sub| {
            let path: Vec<String> = path.iter().chain([&name]).cloned().collect();
            let uses = uses(&path.join(" "));
            let used = |arg: &Arg| match arg.get_id().as_str() {
                "json" => uses.json,
                id => uses.settings.iter().any(|group| group.contains(&id)),
            };
            let sub = globals.iter().fold(sub, |sub, arg| sub.arg(arg.clone().hide(!used(arg))));
            let text = match sub.get_after_help() {
                Some(examples) => format!("{examples}\n\n{}", environment(uses.servers)),
                None => environment(uses.servers),
            };
            with_uses(sub.after_help(text), &path, globals)
        })
    })
}

/// The settings and servers that the command at `path` uses.
fn uses(path: &str) -> Uses {
    use Servers::{All, Broker, BrokerAndGroup, Database, DatabaseAndBroker, DatabaseAndGroup};
    let (servers, settings, json): (_, &[&[&str]], _) = match path {
        "run" => (All, &[TOPICS, DECODING, DAEMON, &["expiry_interval", "http_addr"], POOL, LOG], false),
        "check" => (All, &[TOPICS, DECODING, DAEMON, &["expiry_interval", "http_addr"], POOL, LOG], true),
        "status" => {
            (All, &[TOPICS, &["expiry_interval", "record_max_bytes", "dead_letter_limit"], LOG], true)
        }
        "replay" => (All, &[TOPICS, DECODING, &["batch_max_records"], POOL, LOG], true),
        "skip" => (All, &[TOPICS, POOL, LOG], true),
        "pause" | "resume" => (DatabaseAndGroup, &[POOL, LOG], true),
        "dead-letters" | "dead-letters summary" => {
            (DatabaseAndGroup, &[TOPICS, &["dead_letter_limit"], POOL, LOG], true)
        }
        "dead-letters accept" => (DatabaseAndGroup, &[TOPICS, POOL, LOG], true),
        "dead-letters show" => (Database, &[POOL, LOG], true),
        "dead-letters export" => (Database, &[TOPICS, POOL, LOG], false),
        "dead-letters list" | "dead-letters discard" | "dead-letters purge" => {
            (Database, &[TOPICS, POOL, LOG], true)
        }
        "dead-letters retry" => (Database, &[TOPICS, DECODING, POOL, LOG], true),
        "dead-letters fix" => (DatabaseAndBroker, &[TOPICS, DECODING, POOL, LOG], true),
        "tap" => (BrokerAndGroup, &[TOPICS, DECODING, POOL, LOG], true),
        "publish" => (Broker, &[TOPICS, DECODING, LOG], true),
        "simulate" => (Broker, &[TOPICS, LOG], true),
        "where-is" => (Database, &[POOL, LOG], true),
        // these connect once, without the pool
        "migrate" | "migrate up" | "migrate down" | "migrate status" | "report" => (Database, &[LOG], true),
        "demo" => (Servers::OwnPostgres, &[TOPICS, DECODING, DAEMON, POOL, LOG], false),
        _ => (Servers::None, &[], false),
    };
    Uses { settings, servers, json }
}

/// The variables that are no flags, as a paragraph.
fn environment(servers: Servers) -> String {
    const URL: (&str, &str) =
        ("DATABASE_URL", "postgresql://user:password@host/database, with sslmode and sslrootcert");
    const URL_OR_NOT: (&str, &str) = ("DATABASE_URL", "optional: adds what the database knows");
    const BROKERS: (&str, &str) = ("KAFKA_BOOTSTRAP_SERVERS", "host:port,host:port");
    const GROUP: (&str, &str) = ("KAFKA_GROUP_ID", "consumer group [default: voiceclone-events]");
    const PROPERTY: (&str, &str) = ("KAFKA_X_Y", "librdkafka's property x.y, such as KAFKA_SASL_MECHANISM");
    let variables: &[(&str, &str)] = match servers {
        Servers::All => &[URL, BROKERS, GROUP, PROPERTY],
        Servers::Database => &[URL],
        Servers::DatabaseAndGroup => &[URL, GROUP],
        Servers::DatabaseAndBroker => &[URL, BROKERS, PROPERTY],
        Servers::Broker => &[BROKERS, PROPERTY],
        Servers::BrokerAndGroup => &[URL_OR_NOT, BROKERS, GROUP, PROPERTY],
        Servers::None => return "Environment:\n  DATABASE_URL and KAFKA_* are not read.".to_owned(),
        Servers::OwnPostgres => {
            return "Environment:\n  DATABASE_URL and KAFKA_* are not read. The programs of PostgreSQL (initdb, \
                    postgres) are needed."
                .to_owned();
        }
    };
    let widest = variables.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = variables.iter().map(|(name, text)| format!("\n  {name:widest$}  {text}"));
    format!("Environment, for what can hold a secret:{}", lines.collect::<String>())
}

/// The definition laid out for a terminal: a line an option, none beyond [`WIDTH`] columns, and `-h` is `--help`.
pub(super) fn laid_out(command: Command) -> Command {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let paragraphs = about.split("\n\n").map(|text| wrapped(text, WIDTH).join("\n"));
    let template = format!("{}{TEMPLATE}", paragraphs.collect::<Vec<_>>().join("\n\n"));
    // only a built command knows how its options are written
    let mut built = command.clone();
    built.build();
    let keys: Vec<Key> = built.get_arguments().filter(|arg| !arg.is_hide_set()).map(key).collect();
    let command = command.long_about(None).help_template(template).mut_args(|arg| {
        let heading = arg.get_help_heading().map(str::to_owned);
        let names = keys.iter().filter(|key| key.heading == heading).map(|key| key.width).max();
        option(arg, WIDTH.saturating_sub(names.unwrap_or_default() + MARGINS))
    });
    let names = command.get_subcommands().map(|sub| sub.get_name().len()).max().unwrap_or_default();
    command.mut_subcommands(|sub| {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        laid_out(sub).about(wrapped(&about, WIDTH.saturating_sub(names + MARGINS)).join("\n"))
    })
}

/// The part of an option that its column's width depends on.
struct Key {
    heading: Option<String>,
    width: usize,
}

fn key(arg: &Arg) -> Key {
    Key { heading: arg.get_help_heading().map(str::to_owned), width: arg.to_string().chars().count() }
}

/// The option with its whole help, its variable and its values, in lines of at most `width` columns.
fn option(arg: Arg, width: usize) -> Arg {
    let mut text = match (arg.get_long_help(), arg.get_help()) {
        (Some(long), _) => long.to_string().replace("\n\n", ". "),
        (None, Some(short)) => short.to_string(),
        (None, None) => return arg,
    };
    let values = arg.get_possible_values();
    let takes_values = arg.get_action().takes_values();
    if takes_values && !values.is_empty() {
        let names: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        text = format!("{text} [values: {}]", names.join(", "));
    }
    if let [default] = arg.get_default_values()
        && takes_values
    {
        text = format!("{text} [default: {}]", default.to_string_lossy());
    }
    if let Some(variable) = arg.get_env() {
        text = format!("{text} [env: {}]", variable.to_string_lossy());
    }
    let arg = arg.help(wrapped(&text, width).join("\n")).long_help(None);
    if takes_values { arg.hide_env(true).hide_possible_values(true).hide_default_value(true) } else { arg }
}

/// The text in lines of at most `width` columns, broken at spaces only, but not within brackets that fit into a line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words(text, width) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// The words; `[env: NAME]` is one.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(open) if open.starts_with('[') && !open.contains(']') && open.len() + word.len() < width => {
                open.push(' ');
                open.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}
