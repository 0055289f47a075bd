//! The commands beside `run`, as a person or a program calls them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Finished, run_command, run_command_with_input};
use crate::support::left_out::real_kafka;
use crate::support::scene::Scene;
use crate::support::wait::SOON;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(120);

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[test]
fn publish_sends_what_the_daemon_can_use_and_names_the_line_and_reason_of_what_it_cannot() {
    let scene = Scene::new(real_kafka!(), 1);
    let input = concat!(
        r#"{"greeting_call_id":"g","agent_call_id":"a","cloned_voice_id":"v"}"#,
        "\n\nno json\n",
        r#"{"greeting_call_id":"g","agent_call_id":"b"}"#,
        "\n"
    );
    let finished = run_command_with_input(
        &["publish", "--topic", "clone.transfer", "--json"],
        &scene.variables(&[]),
        input.as_bytes(),
        SOON,
    );
    assert_eq!(finished.code, 1, "{finished:?}");
    let report = json(&finished);
    assert_eq!(report["sent"], 1);
    let refused: Vec<_> =
        report["refused"].as_array().unwrap().iter().map(|line| (&line["line"], &line["reason"])).collect();
    assert_eq!(
        format!("{refused:?}"),
        r#"[(Number(3), String("invalid_json")), (Number(4), String("missing_field"))]"#
    );
    assert_eq!(scene.kafka.read_all(&scene.topic("clone.transfer")).len(), 1);
}

#[test]
fn check_fails_while_the_schema_is_behind_and_passes_once_it_is_migrated() {
    let scene = Scene::new(real_kafka!(), 1);
    scene.compact_mappings();
    let variables = scene.variables(&[("HTTP_ADDR", "")]);
    let behind = run_command(&["check"], &variables, MINUTES);
    assert_eq!(behind.code, 1, "{behind:?}");
    assert!(behind.stdout.contains("migrate up"), "{behind:?}");
    assert_eq!(run_command(&["migrate", "up"], &variables, MINUTES).code, 0);
    let current = run_command(&["check"], &variables, MINUTES);
    assert_eq!(current.code, 0, "{current:?}");
}

#[test]
fn completions_manual_pages_and_help_come_from_the_program_itself() {
    let run = |words: &[&str]| run_command(words, &[], SOON);
    for shell in ["bash", "zsh", "fish"] {
        let completions = run(&["completions", shell]);
        assert_eq!(completions.code, 0, "{completions:?}");
        assert!(completions.stdout.contains("dead-letters"), "{shell}: {completions:?}");
    }
    for (words, title) in [
        (&["man"][..], "voiceclone-events"),
        (&["man", "replay"], "voiceclone-events-replay"),
        (&["man", "dead-letters", "retry"], "voiceclone-events-dead-letters-retry"),
    ] {
        let page = run(words);
        assert_eq!(page.code, 0, "{page:?}");
        assert!(page.stdout.contains(&format!(".TH {title} 1")), "{}", page.stdout);
    }
    let unknown = run(&["man", "replai"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    let help = run(&["help", "replay"]);
    assert_eq!(help.code, 0, "{help:?}");
    assert!(help.stdout.contains("--dry-run"), "{help:?}");
}
