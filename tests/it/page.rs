//! The page at `/` and `/status.json`: their contents, who may read them, and how a browser shows the page.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::daemon::{Daemon, run_command};
use crate::support::kafka::Send;
use crate::support::left_out::{or_left_out, private_kafka, real_kafka};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::scene::{Scene, TOPICS};
use crate::support::unique;
use crate::support::wait::{SOON, eventually, holds};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(120);

const CALLER: &str = "2025550143";
const TRANSCRIPT: &str = "my account number is eleven";

fn failed_clone(scene: &Scene, id: &str) -> Send {
    let value = json!({"caller_id": format!("+1{CALLER}"), "greeting_call_id": id, "error_message": "e"});
    Send::to(&scene.topic("clone.failed")).partition(0).value(value.to_string())
}

/// An unusable record with personal data, which nobody may see.
fn bad_call(scene: &Scene) -> Send {
    let value =
        json!({"call_id": "c", "status": 7, "caller_id": format!("+1{CALLER}"), "transcript": TRANSCRIPT});
    Send::to(&scene.topic("call.lifecycle")).partition(0).key(format!("+1{CALLER}")).value(value.to_string())
}

fn json_of(daemon: &Daemon) -> Value {
    eventually(MINUTES, "/status.json", || match daemon.try_http_get("/status.json") {
        Ok((200, body)) => Ok(serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))),
        other => Err(other),
    })
}

/// `/status.json` once this holds.
fn json_when(daemon: &Daemon, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(MINUTES, what, || match json_of(daemon) {
        document if holds(&document) => Ok(document),
        document => Err(document.to_string()),
    })
}

/// The page once it says this.
fn page_with(daemon: &Daemon, part: &str) -> String {
    eventually(MINUTES, &format!("{part:?} on the page"), || match daemon.try_http_get("/") {
        Ok((200, page)) if page.contains(part) => Ok(page),
        other => Err(other),
    })
}

fn problem<'a>(document: &'a Value, code: &str) -> Option<&'a Value> {
    document["problems"].as_array().unwrap().iter().find(|problem| problem["code"] == code)
}

#[test]
fn status_json_is_the_document_of_the_command() {
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    let served = json_when(&daemon, "the verdict ok", |document| document["verdict"] == "ok");
    let shown = run_command(&["status", "--json"], &scene.variables(&[]), MINUTES);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let fields = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&served), fields(&shown));
    for same in ["version", "group", "topic_prefix", "verdict", "problems", "broker"] {
        assert_eq!(served[same], shown[same], "{same}");
    }
    let places = |document: &Value| -> Vec<[Value; 5]> {
        let fields = ["topic", "partition", "next_offset", "state", "member"];
        let partitions = document["partitions"].as_array().unwrap().iter();
        partitions.map(|partition| fields.map(|field| partition[field].clone())).collect()
    };
    assert_eq!(places(&served), places(&shown), "what is committed moves on between the two");
    assert_eq!(served["members"][0]["id"], shown["members"][0]["id"]);
    assert_eq!(served["members"][0]["partitions"].as_array().unwrap().len(), 10);
}

#[test]
fn a_topic_whose_table_drifted_is_shown_with_the_reason_and_no_longer_once_it_is_fixed() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    scene.database.run("ALTER TABLE clone_failed_events ADD COLUMN tenant integer NOT NULL");
    scene.kafka.send_all((0..3).map(|n| failed_clone(&scene, &format!("g-{n}"))));
    let is_drift = |document: &Value| problem(document, "drift").is_some();
    let served = json_when(&daemon, "the drift in /status.json", is_drift);
    let shown = eventually(MINUTES, "the drift in status", || {
        let shown = run_command(&["status", "--json"], &scene.variables(&[]), MINUTES).stdout;
        let document: Value = serde_json::from_str(&shown).unwrap();
        if is_drift(&document) { Ok(document) } else { Err(shown) }
    });
    for document in [&served, &shown] {
        let drift = problem(document, "drift").unwrap();
        let what = drift["what"].as_str().unwrap();
        assert!(what.starts_with(&format!("{} partition 0 waits: ", scene.topic("clone.failed"))), "{what}");
        assert!(what.contains("tenant"), "the column is named: {what}");
        assert_eq!(
            (&drift["severity"], &drift["fix"]),
            (&json!("critical"), &json!("voiceclone-events check"))
        );
        assert_eq!(document["verdict"], "degraded");
        let partitions = document["partitions"].as_array().unwrap();
        let failed = scene.topic("clone.failed");
        let partition = partitions.iter().find(|partition| partition["topic"] == failed.as_str()).unwrap();
        assert_eq!((&partition["state"], &partition["waits_for"]), (&json!("drift"), &json!("drift")));
        assert!(partition["reason"].as_str().unwrap().contains("tenant"), "{partition}");
    }
    scene.database.run("ALTER TABLE clone_failed_events DROP COLUMN tenant");
    json_when(&daemon, "the verdict ok", |document| document["verdict"] == "ok");
}

#[test]
fn an_instance_of_the_version_before_goes_on_beside_the_new_schema() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    scene.database.run(&format!(
        "INSERT INTO ingest.instances (id, group_id, host, version)
         VALUES (gen_random_uuid(), '{}', 'before', '0.0.1')",
        scene.group
    ));
    let found = json_when(&daemon, "both instances", |document| {
        document["instances"].as_array().is_some_and(|instances| instances.len() == 2)
    });
    assert_eq!(found["problems"], json!([]));
}

#[test]
fn the_page_has_strict_headers_and_no_personal_data() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&[("DEAD_LETTER_LIMIT", "3")]);
    daemon.wait_ready(SOON);
    scene.kafka.send_all((0..2).map(|n| failed_clone(&scene, &format!("g-{n}"))));
    scene.kafka.send_all((0..3).map(|_| bad_call(&scene)));
    let page = page_with(&daemon, "<h1 class=\"verdict critical\">STOPPED: ");
    let accept =
        "<pre><code>voiceclone-events dead-letters accept --topic call.lifecycle --partition 0</code></pre>";
    assert!(page.contains(accept), "the command to paste: {page}");
    let order = [accept, "Records a second", "Lag", "Dead letters a minute", "<h2 id=\"partitions-name\">"];
    let places = order.map(|part| page.find(part).unwrap_or_else(|| panic!("no {part}: {page}")));
    assert!(places.is_sorted(), "{places:?}");
    assert!(page.contains(&format!("{}/0", scene.topic("call.lifecycle"))), "{page}");
    for nothing in ["<button", "<form", "<input", "style=", "onclick", "http://", "https://"] {
        assert!(!page.contains(nothing), "{nothing}: {page}");
    }
    for path in ["/", "/status.json", "/page.js", "/page.css", "/readyz"] {
        let (status, body) = daemon.http_get(path);
        assert_eq!(status, 200, "{path}");
        assert!(!body.contains(CALLER) && !body.contains(TRANSCRIPT), "{path}: {body}");
        let headers = daemon.http_headers(path);
        let header = |name: &str| headers.get(name).map_or("", String::as_str);
        let policy = header("content-security-policy");
        for directive in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.split("; ").any(|given| given == directive), "{path}: {directive} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
    }
    assert_eq!(daemon.http_headers("/")["content-type"], "text/html; charset=utf-8");
    assert_eq!(daemon.http_headers("/status.json")["content-type"], "application/json");
}

#[test]
fn the_page_and_the_document_are_there_while_postgresql_is_away() {
    let mut server = PrivateServer::start(&[]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    scene.kafka.send_all((0..20).map(|n| failed_clone(&scene, &format!("g-{n}"))));
    scene.wait_until_consumed(SOON);
    server.stop_immediately();
    let page = page_with(&daemon, "DOWN: ");
    assert!(page.contains("database_away") && page.contains("start PostgreSQL"), "{page}");
    let document = json_when(&daemon, "the verdict down", |document| document["verdict"] == "down");
    assert!(problem(&document, "database_away").is_some(), "{document:#}");
    // the counts of this instance are in its memory
    eventually(SOON, "the 20 records in the plot", || match daemon.http_get("/").1 {
        page if page.contains("class=\"line\" d=\"M") => Ok(()),
        page => Err(page),
    });
    server.start_again();
    json_when(&daemon, "the verdict ok", |document| document["verdict"] == "ok");
}

#[test]
fn many_who_ask_for_the_document_hold_up_no_probe_and_cost_one_connection() {
    let server = PrivateServer::start(&[("log_connections", "on")]);
    let scene = Scene::on(real_kafka!(), Database::on(&server), 1);
    let mut daemon = scene.daemon(&[]);
    daemon.wait_ready(SOON);
    json_of(&daemon);
    // its own answers are young for some seconds; the daemon's connections stay open
    let connections = || server.log().matches("connection authorized").count();
    let before = connections();
    std::thread::scope(|scope| {
        let ask = || {
            for path in ["/status.json", "/", "/status.json"] {
                assert!(matches!(daemon.http_get(path).0, 200 | 503), "{path}");
            }
        };
        let asking: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(daemon.http_get(path).0, 200, "{path}");
        }
        asking.into_iter().for_each(|asked| asked.join().unwrap());
    });
    let more = connections() - before;
    assert!(more <= 10, "{more} connections for 120 questions");
}

#[test]
fn a_browser_shows_the_page_without_complaint() {
    let browser = or_left_out!(Browser::find());
    let scene = Scene::new(real_kafka!(), 2);
    let mut daemon = scene.daemon(&[("DEAD_LETTER_LIMIT", "3")]);
    daemon.wait_ready(SOON);
    scene.kafka.send_all((0..3).map(|_| bad_call(&scene)));
    page_with(&daemon, "STOPPED: ");
    let own = format!("http://{}/", daemon.address());
    let found = browser.look(&own, None);
    for look in found["looks"].as_array().unwrap() {
        let what = &look["what"];
        assert!(look["heading"].as_str().unwrap().starts_with("STOPPED: "), "{what}: {look:#}");
        let with_javascript = !what.as_str().unwrap().contains("without");
        assert_eq!(look["hint"], !with_javascript, "{what}: the hint to reload");
    }
    assert_no_complaint(&found, &own);
    assert_eq!(found["refreshed"], json!({"changed": true, "kept": true, "complaints": []}));
}

/// Asserts that the browser has nothing against the page at `own`: no complaint, no finding of axe, no address outside of
/// it, no width beyond the window, and a dark ground where dark is wished.
pub(crate) fn assert_no_complaint(found: &Value, own: &str) {
    let looks = found["looks"].as_array().unwrap();
    assert_eq!(looks.len(), 8, "{found:#}");
    for look in looks {
        let what = &look["what"];
        assert_eq!(look["complaints"], json!([]), "{what}");
        assert_eq!(look["overflow"], 0, "{what}: wider than the window");
        let asked = look["asked"].as_array().unwrap();
        assert!(asked.iter().all(|url| url.as_str().unwrap().starts_with(own)), "{what}: {asked:?}");
        if !what.as_str().unwrap().contains("without") {
            assert_eq!(look["findings"], json!([]), "{what}");
        }
    }
    let ground = |scheme: &str| {
        let is_it = |look: &&Value| look["what"].as_str().unwrap().starts_with(scheme);
        looks.iter().find(is_it).unwrap()["ground"].clone()
    };
    assert_ne!(ground("light"), ground("dark"));
}

/// `make screenshot`: a partition that its limit stopped.
#[test]
#[ignore = "writes docs/page.png"]
fn screenshot() {
    let browser = Browser::find().unwrap();
    let broker = private_kafka!();
    let mut scene = Scene::new(&broker, 1);
    scene.prefix = String::new();
    scene.group = "voiceclone-events".to_owned();
    for topic in TOPICS.into_iter().chain(["clone.expired", "voiceclone.dead-letters"]) {
        broker.create_topic(topic, 1, &[]);
    }
    let mut daemon = scene.daemon(&[("DEAD_LETTER_LIMIT", "50"), ("HOSTNAME", "voiceclone-events-0")]);
    daemon.wait_ready(SOON);
    for round in 0..30 {
        let id = unique("g");
        scene.kafka.send_all((0..40 * (1 + round % 5)).map(|n| failed_clone(&scene, &format!("{id}-{n}"))));
        if round >= 20 {
            scene.kafka.send_all((0..10).map(|_| bad_call(&scene)));
        }
        holds(
            Duration::from_secs(3),
            "the daemon runs",
            || if daemon.is_running() { Ok(()) } else { Err(()) },
        );
        page_with(&daemon, "</html>");
    }
    page_with(&daemon, "STOPPED: ");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/page.png");
    browser.look(&format!("http://{}/", daemon.address()), Some(&file));
    assert!(std::fs::metadata(&file).unwrap().len() < 150_000);
}
