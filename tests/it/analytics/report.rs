//! `report`, in each of its formats and with each role that may use it.

use serde_json::{Value, json};
use voiceclone_events::store::migrate;

use super::{MINUTES, few_calls, migrated};
use crate::histories::{ingest, write};
use crate::page::assert_no_complaint;
use crate::support::browser::Browser;
use crate::support::daemon::{Finished, run_command};
use crate::support::left_out::or_left_out;
use crate::support::postgres::Database;
use crate::support::processes::folder;
use crate::support::unique;

const NEW_YEAR: [&str; 4] = ["--since", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"];

fn run(url: &str, words: &[&str]) -> Finished {
    run_command(&[&["report"], words].concat(), &[("DATABASE_URL", url)], MINUTES)
}

async fn with_few_calls() -> Database {
    let database = migrated().await;
    write(&ingest(&database), &few_calls()).await;
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_what_happened_in_its_time() {
    let database = with_few_calls().await;
    let done = run(database.url(), &[&NEW_YEAR[..], &["--json"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let period = |at: &str, clones: [i64; 2], ms: Value, rest: [i64; 5]| {
        json!({"at": format!("2026-01-01T{at}:00:00Z"), "clones": clones[0], "clones_failed": clones[1],
               "p50_ms": ms, "p95_ms": ms, "handovers": rest[0], "from_cache": rest[1], "calls": rest[2],
               "calls_failed": rest[3], "call_seconds": rest[4]})
    };
    let calls = |kind: Value, counts: [i64; 3], seconds: [Value; 3]| {
        let [average, p95, longest] = seconds;
        json!({"kind": kind, "calls": counts[0], "completed": counts[1], "failed": counts[2],
               "average_seconds": average, "p95_seconds": p95, "longest_seconds": longest})
    };
    let none = || [Value::Null, Value::Null, Value::Null];
    assert_eq!(
        report,
        json!({
            "since": NEW_YEAR[1], "until": NEW_YEAR[3], "step": "hour",
            "periods": [
                period("00", [1, 0], json!(2300.0), [1, 0, 2, 0, 60]),
                period("01", [0, 0], Value::Null, [1, 1, 2, 1, 10]),
                period("02", [2, 1], json!(3100.0), [0, 0, 1, 0, 0]),
                period("04", [0, 0], Value::Null, [1, 1, 1, 0, 0]),
            ],
            "funnel": {"greetings": 3, "with_voice": 3, "handed_over": 2, "agent_calls": 2, "completed": 1},
            "handovers": {"handovers": 3, "from_cache": 2, "p50_seconds": 7.0, "p95_seconds": 9.7},
            "voices": {"voices": 2, "unused": 1, "reused": 1, "most_uses": 2, "live": 0, "expiring": 0},
            "failures": [{"error": "HTTP # after # s", "count": 1, "latest_at": "2026-01-01T02:00:03Z"}],
            "calls": [
                calls(json!("greeting"), [3, 0, 0], none()),
                calls(json!("agent"), [2, 1, 1], [json!(35.0), json!(57.5), json!(60.0)]),
                calls(Value::Null, [1, 0, 0], none()),
            ],
            "callers": {"callers": 1, "returned": 1},
        })
    );

    let later = run(
        database.url(),
        &["--since", "2026-01-01T01:00:00Z", "--until", "2026-01-01T02:00:00Z", "--json"],
    );
    let later: Value = serde_json::from_str(&later.stdout).unwrap();
    assert_eq!(later["periods"], json!([period("01", [0, 0], Value::Null, [1, 1, 2, 1, 10])]));
    assert_eq!((&later["handovers"]["handovers"], &later["failures"]), (&json!(1), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_gets_tables_a_spreadsheet_csv_and_a_browser_a_page_of_its_own() {
    let database = with_few_calls().await;
    let tables = run(database.url(), &NEW_YEAR);
    assert_eq!(tables.code, 0, "{tables:?}");
    for part in [
        "From 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z",
        "Clones and calls by hour",
        "2026-01-01 02:00",
        "50.0 %",
        "HTTP # after # s",
        "not known",
        "hand-over: p50 7.0, p95 9.7",
        "1 callers, 1 of them more than once",
    ] {
        assert!(tables.stdout.contains(part), "{part}: {}", tables.stdout);
    }
    assert!(!tables.stdout.contains("2025550143"), "{}", tables.stdout);
    let days = run(database.url(), &["--since", "2025-12-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"]);
    assert!(days.stdout.contains("Clones and calls by day"), "{}", days.stdout);

    let csv = run(database.url(), &[&NEW_YEAR[..], &["--csv"]].concat());
    let lines: Vec<&str> = csv.stdout.lines().map(str::trim_end).collect();
    assert_eq!((csv.code, lines[0]), (0, "section,time,name,value"));
    for line in [
        "hour,2026-01-01T02:00:00Z,clones,2",
        "hour,2026-01-01T00:00:00Z,p95 ms,2300",
        "funnel,,handed over to the agent,2",
        "hand-overs,,p95 seconds,9.7",
        "failed clones,2026-01-01T02:00:03Z,HTTP # after # s,1",
        "calls,,agent: average seconds,35",
    ] {
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    assert!(lines.iter().all(|line| line.split(',').count() == 4), "{lines:#?}");

    let page = folder("report").join("week.html");
    let written = run(database.url(), &[&NEW_YEAR[..], &["--html", page.to_str().unwrap()]].concat());
    assert_eq!(written.code, 0, "{written:?}");
    assert!(written.stdout.contains("week.html is written"), "{written:?}");
    let page = std::fs::read_to_string(page).unwrap();
    for part in
        ["<!DOCTYPE html>", "2026-01-01 02:00: 1 successful, 1 failed", "HTTP # after # s", "7.0, p95 9.7"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    for outside in ["http:", "https:", "src=", "<link", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "the page asks for {outside}");
    }
    let nowhere = run(database.url(), &["--html", "/nowhere/week.html"]);
    assert!(
        nowhere.code == 1 && nowhere.stderr.contains("/nowhere/week.html could not be written"),
        "{nowhere:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_of_the_report_without_complaint() {
    let browser = or_left_out!(Browser::find());
    let full = with_few_calls().await;
    let empty = migrated().await;
    for (name, database) in [("week.html", full), ("empty.html", empty)] {
        let page = folder("report").join(name);
        let words = [&NEW_YEAR[..], &["--html", page.to_str().unwrap()]].concat();
        assert_eq!(run(database.url(), &words).code, 0);
        let own = format!("file://{}", page.display());
        let found = browser.look(&own, None);
        assert_no_complaint(&found, &own);
        for look in found["looks"].as_array().unwrap() {
            assert_eq!(look["heading"], "Calls and voices", "{look:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_read_the_views_is_enough_and_one_that_may_not_is_told_what_it_lacks() {
    let database = with_few_calls().await;
    let role = unique("reader");
    database.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'word' CONNECTION LIMIT 1"));
    database.run(&format!("ALTER ROLE {role} SET default_transaction_read_only = on"));
    let url = database.url_as(&role, "word");
    let refused = run(&url, &NEW_YEAR);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("analytics.clones") && refused.stderr.contains("roles.sql"),
        "{refused:?}"
    );

    database.run(&format!(
        "GRANT USAGE ON SCHEMA analytics TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO {role}"
    ));
    let done = run(&url, &NEW_YEAR);
    assert!(done.code == 0 && done.stdout.contains("2026-01-01 02:00"), "{done:?}");
    database.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_on_nothing_says_so_and_what_is_wrong_names_the_remedy() {
    let database = Database::new();
    let behind = run(database.url(), &[]);
    assert!(behind.code == 1 && behind.stderr.contains("voiceclone-events migrate up"), "{behind:?}");
    migrate::up(database.url(), None).await.unwrap();
    let empty = run(database.url(), &[]);
    assert!(empty.code == 0 && empty.stdout.contains("Nothing happened in this time"), "{empty:?}");
    let json = run(database.url(), &["--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["periods"], json!([]));
    let page = folder("report").join("empty.html");
    assert_eq!(run(database.url(), &["--html", page.to_str().unwrap()]).code, 0);

    for wrong in [
        &["--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"][..],
        &["--since", "yesterday"],
        &["--csv", "--json"],
        &["--csv", "--html", "x.html"],
    ] {
        let ended = run(database.url(), wrong);
        assert_eq!(ended.code, 2, "{wrong:?}: {ended:?}");
    }
    let away = run("postgresql://u:p@127.0.0.1:1/x", &[]);
    assert!(away.code == 1 && away.stderr.contains("PostgreSQL cannot be used"), "{away:?}");
}
