//! Parsing of command lines, usage errors, and the help.

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
    help::laid_out(definition()).debug_assert();
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
        (&["run", "--database-url", "x"], "--database-url is not known here: leave it out, or see --help"),
        (&["replay"], "--topic <TOPIC> is missing: give it, or see --help"),
        (&["replay", "--topic"], "--topic <TOPIC> has no value: give one, or see --help"),
        (&["simulate", "--rate", "0"], "--rate <R> cannot be \"0\": give a number above 0, like 50 or 0.5"),
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

/// Every command but the program itself, with its path.
fn commands(command: &clap::Command, path: &str) -> Vec<(String, String)> {
    command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .flat_map(|sub| {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            let words = std::iter::once(PROGRAM).chain(path.split(' ')).chain(["--help"]);
            let help = parse_from(words).unwrap_err().to_string();
            let inner = commands(sub, &path);
            std::iter::once((path, help)).chain(inner)
        })
        .collect()
}

#[test]
fn every_help_has_its_own_options_then_the_settings_that_it_uses_then_the_environment() {
    let all = commands(&Cli::command(), "");
    assert!(all.len() > 25, "{}", all.len());
    for (path, help) in &all {
        let place = |text: &str| help.find(text).unwrap_or_else(|| panic!("{path} has no {text}: {help}"));
        assert!(place("Usage: ") < place("\nOptions:\n"), "{help}");
        assert!(place("\nOptions:\n") < place("\nEnvironment"), "{help}");
        if matches!(path.as_str(), "schema" | "man" | "completions") {
            assert!(!help.contains("Settings:") && !help.contains("--json"), "{help}");
            continue;
        }
        assert!(place("\nOptions:\n") < place("\nSettings:\n"), "{help}");
        assert!(place("\nSettings:\n") < place("--rust-log"), "{help}");
        assert!(place("--rust-log") < place("\nEnvironment"), "{help}");
        for variable in ["DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"] {
            let unread = path.starts_with("migrate") && variable.starts_with("KAFKA");
            assert!(!unread || !help.contains(variable), "{help}");
        }
    }
    let settings = |wanted: &str| {
        let (_, help) = all.iter().find(|(path, _)| path == wanted).unwrap();
        let names = help.split("\nSettings:\n").nth(1).unwrap().split_whitespace();
        names.filter(|word| word.starts_with("--")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(settings("run").len(), 14);
    assert_eq!(settings("migrate up"), ["--log-format", "--rust-log"]);
    assert_eq!(settings("pause"), ["--db-pool-size", "--db-max-overflow", "--log-format", "--rust-log"]);
    assert!(settings("publish").contains(&"--record-max-bytes".to_owned()));
    assert!(!settings("tap").contains(&"--expiry-interval".to_owned()));
}

#[test]
fn every_help_has_one_layout_within_100_columns() {
    for (path, help) in commands(&Cli::command(), "") {
        let widest = help.lines().max_by_key(|line| line.chars().count()).unwrap();
        assert!(widest.chars().count() <= 100, "{path}: {widest}");
        let options = help.split("\nOptions:\n").nth(1).unwrap().split("\nEnvironment").next().unwrap();
        for line in options.lines().filter(|line| line.trim_start().starts_with('-')) {
            assert!(line.trim().contains("  "), "the help stands beside the option: {path}: {line:?}");
        }
        let words: Vec<&str> = path.split(' ').chain(["-h"]).collect();
        let short = parse_from(std::iter::once(PROGRAM).chain(words)).unwrap_err().to_string();
        assert_eq!(short, help);
    }
}

#[test]
fn a_setting_that_a_command_does_not_use_is_hidden_and_still_accepted() {
    let (_, help) = commands(&Cli::command(), "").into_iter().find(|(path, _)| path == "schema").unwrap();
    assert!(!help.contains("--cache-ttl"), "{help}");
    assert_eq!(parsed(&["schema", "--cache-ttl", "1h"]).settings.cache_ttl.as_deref(), Some("1h"));
}
