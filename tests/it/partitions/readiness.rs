//! `/readyz` (contract, section 7): ready means progress.

use std::time::Duration;

use super::*;
use crate::support::left_out::real_kafka;
use crate::support::wait::SOON;

/// The conditions of `/readyz`.
const CONDITIONS: [&str; 5] = ["schema", "database", "broker", "member", "progress"];

fn readyz(daemon: &Daemon) -> (u16, Value) {
    let (status, body) = daemon.http_get("/readyz");
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// Waits until `/readyz` says that all conditions hold but this one, and gives its body.
fn wait_for_false(daemon: &Daemon, condition: &str, deadline: Duration) -> Value {
    rarely(deadline, &format!("/readyz to say that `{condition}` is false"), || {
        let (status, body) = readyz(daemon);
        let as_expected = CONDITIONS.iter().all(|name| body[name].as_bool() == Some(*name != condition));
        if status == 503 && as_expected { Ok(body) } else { Err((status, body)) }
    })
}

#[test]
fn readyz_is_a_json_object_of_its_conditions() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&MEMBER);
    daemon.wait_ready(SOON);
    let (status, body) = readyz(&daemon);
    assert_eq!(status, 200);
    for condition in CONDITIONS {
        assert_eq!(body[condition], json!(true), "{condition} in {body}");
    }
}

#[test]
fn a_locked_table_holds_up_its_own_topic_alone_and_after_a_minute_readyz_names_the_partition() {
    let scene = Scene::new(real_kafka!(), 2);
    let place = ("call.lifecycle", 1);
    let mut daemon = scene.daemon(&MEMBER);
    assert_takes(&scene, &every_place(2), SOON);
    daemon.wait_ready(SOON);
    let lock = Lock::of(&scene.database, "public.call_log");
    scene.kafka.send_all((0..10).map(|n| good(&scene, place, &format!("held-{n}"))));
    let others: Vec<Place> =
        every_place(2).into_iter().filter(|(topic, _)| *topic != "call.lifecycle").collect();
    assert_takes(&scene, &others, SOON);
    assert_eq!(readyz(&daemon).0, 200, "a minute has not passed");
    let body = wait_for_false(&daemon, "progress", Duration::from_secs(90));
    let text = body.to_string();
    assert!(text.contains(&scene.topic(place.0)) && text.contains('1'), "{body}");
    assert_takes(&scene, &others, SOON);
    drop(lock);
    wait_for_rows(&scene, place.0, "held-", 10, SOON * 2);
    daemon.wait_ready(SOON);
    assert_takes(&scene, &every_place(2), SOON);
}

#[test]
fn a_database_that_takes_no_writes_is_not_ready() {
    let scene = Scene::new(real_kafka!(), 1);
    let mut daemon = scene.daemon(&MEMBER);
    daemon.wait_ready(SOON);
    let name = scene.database.value("SELECT current_database()");
    let read_only = |on: &str| {
        scene.database.run(&format!(
            "BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {on}; COMMIT;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        ));
    };
    read_only("on");
    scene.kafka.send(good(&scene, ("clone.failed", 0), "held"));
    wait_for_false(&daemon, "database", SOON);
    read_only("off");
    wait_for_rows(&scene, "clone.failed", "held", 1, SOON * 2);
    daemon.wait_ready(SOON);
}
