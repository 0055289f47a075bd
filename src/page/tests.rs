//! Tests of the page, with hand-made facts. `tests/it/page.rs` tests it in a browser.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::Sample;
use super::*;
use crate::status::facts::{Facts, Unanswered};
use crate::status::judge;

fn away(what: &str) -> Document {
    let unanswered = |what: &str| Unanswered { what: what.into(), fix: "start it".into() };
    judge(&Facts {
        checked_at: 1_800_000_000_000,
        group: "g".into(),
        topic_prefix: String::new(),
        dead_letter_limit: 100,
        expiry_interval: Duration::from_secs(60),
        between: Duration::from_secs(2),
        database: Err(unanswered(what)),
        brokers: Err(unanswered("refused")),
    })
}

fn page(document: Document, history: &History) -> String {
    render(Some(&Computed { result: Arc::new(document), at: Instant::now() }), history).unwrap()
}

#[test]
fn the_verdict_and_the_problems_come_first_then_the_plots() {
    let page = page(away("refused"), &History::default());
    let place = |part: &str| page.find(part).unwrap_or_else(|| panic!("no {part}: {page}"));
    assert!(page.starts_with("<!DOCTYPE html>"));
    let order = [
        place("<h1 class=\"verdict critical\">DOWN: "),
        place("database_away"),
        place("Fix: start it"),
        place("Records a second"),
        place("Backlogs and servers"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert!(
        page.contains(
            "<title>DOWN: nothing is consumed, or the state is unknown - voiceclone-events</title>"
        )
    );
}

#[test]
fn what_servers_say_is_text_and_never_markup() {
    let page = page(away("<script>alert(1)</script> & \"more\""), &History::default());
    assert!(!page.contains("<script>alert"), "{page}");
    assert!(page.contains("&#60;script&#62;alert(1)"), "{page}");
}

#[test]
fn a_page_without_a_document_has_its_plots_and_says_what_is_missing() {
    let history = History::default();
    let start = Instant::now();
    for (seconds, records) in [(0, 0.0), (5, 50.0)] {
        let at = start + Duration::from_secs(seconds);
        history.push(Sample { at, records, dead_letters: 0.0, lag_seconds: None });
    }
    let page = render(None, &history).unwrap();
    assert!(page.contains("NOT KNOWN YET") && page.contains("<strong>10.0</strong>"), "{page}");
}

#[test]
fn only_a_remedy_that_is_a_command_and_nothing_else_is_one_to_paste() {
    let accept = "voiceclone-events dead-letters accept --topic clone.ready --partition 3";
    for command in [accept, "voiceclone-events check"] {
        assert!(is_command(command), "{command}");
    }
    for sentence in [
        "start PostgreSQL, or correct host and port in DATABASE_URL",
        "kafka-topics.sh --create --topic clone.ready, or correct TOPIC_PREFIX",
        "voiceclone-events check names a missing right; where none is missing: voiceclone-events skip",
    ] {
        assert!(!is_command(sentence), "{sentence}");
    }
}
