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
