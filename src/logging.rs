//! Logs go to standard error, as text for a person or as one JSON object a line. Panics are logged, too.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::SettingError;

/// Starts logging. `format` is `LOG_FORMAT`, `filter` is `RUST_LOG`. `daemon` selects the defaults: for the daemon
/// JSON unless on a terminal, and level info; for a command that a person runs, text and level warn. Returns the
/// errors in the two settings; the defaults then apply, so that there is a log for these errors.
pub fn init(format: Option<&str>, filter: Option<&str>, daemon: bool) -> Vec<SettingError> {
    let mut errors = Vec::new();
    let terminal = std::io::stderr().is_terminal();
    let json = json(format, daemon, terminal).unwrap_or_else(|error| {
        errors.push(error);
        daemon && !terminal
    });
    let filter = self::filter(filter, daemon).unwrap_or_else(|error| {
        errors.push(error);
        EnvFilter::new(default_level(daemon))
    });
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal && !json);
    let all = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_shown));
    // Fails only if a logger exists already, as in a test: that one stays.
    let _ =
        if json { all.with(layer.json().flatten_event(true)).try_init() } else { all.with(layer).try_init() };
    std::panic::set_hook(Box::new(log_panic));
    errors
}

fn default_level(daemon: bool) -> &'static str {
    if daemon { "info" } else { "warn" }
}

/// Whatever the filter says, the libraries' own lines are logged only from warnings up, as lower levels show the data
/// that passes through them. The database driver logs the values of its statements at `debug`, and the server's
/// notices, which may quote rows, at `info`. librdkafka logs no record, and none of its secrets.
fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    let part = metadata.target().split("::").next().unwrap_or_default();
    match part {
        "voiceclone_events" => true,
        "rdkafka" | "librdkafka" => *metadata.level() <= Level::DEBUG,
        _ => *metadata.level() <= Level::WARN,
    }
}

fn json(format: Option<&str>, daemon: bool, terminal: bool) -> Result<bool, SettingError> {
    match format.map(str::trim).unwrap_or_default() {
        "" => Ok(daemon && !terminal),
        "text" => Ok(false),
        "json" => Ok(true),
        other => Err(SettingError::new("LOG_FORMAT", format!("is {other:?}"), "give text or json")),
    }
}

fn filter(filter: Option<&str>, daemon: bool) -> Result<EnvFilter, SettingError> {
    let text = match filter.map(str::trim).unwrap_or_default() {
        "" => default_level(daemon),
        given => given,
    };
    EnvFilter::try_new(text).map_err(|_| {
        let remedy = "give error, warn, info, debug or trace, or parts like info,voiceclone_events=debug";
        SettingError::new("RUST_LOG", format!("is {text:?}"), remedy)
    })
}

/// Replaces the standard hook, whose lines would not be JSON. The panic's message is left out: it may quote the data
/// at hand, as the message about a text cut in the middle of a character does.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(place, thread, %backtrace, "this is a bug: the program panicked");
    } else {
        tracing::error!(place, thread, "this is a bug: the program panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_logs_json_unless_on_a_terminal_and_other_commands_text() {
        assert!(json(None, true, false).unwrap());
        assert!(!json(None, true, true).unwrap());
        assert!(!json(None, false, false).unwrap());
        assert!(!json(Some("text"), true, false).unwrap());
        assert!(json(Some("json"), false, true).unwrap());
        assert!(json(Some(""), true, false).unwrap());
    }

    #[test]
    fn a_bad_format_or_filter_is_named_with_what_to_do() {
        let error = json(Some("xml"), true, true).unwrap_err();
        assert_eq!(error.to_string(), r#"LOG_FORMAT is "xml": give text or json"#);
        let error = filter(Some("a=b=c"), true).unwrap_err();
        assert!(error.to_string().starts_with(r#"RUST_LOG is "a=b=c": give error, warn"#), "{error}");
        assert_eq!(filter(None, true).unwrap().to_string(), "info");
        assert_eq!(filter(Some(""), false).unwrap().to_string(), "warn");
    }
}
