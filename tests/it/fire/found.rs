//! What the harness found, each as a test of its own that needs no luck.

use crate::support::left_out::real_kafka;
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually};

#[test]
fn a_connection_lost_while_migrating_is_waited_out() {
    let scene = Scene::new(real_kafka!(), 1);
    let end_of_sessions = |which: &str, what: &str| {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND {which}"
        );
        eventually(SOON, what, || match scene.database.value(&sql).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        });
    };
    std::thread::scope(|scope| {
        // The lock that whoever migrates holds.
        let hold = "SELECT pg_advisory_lock(x'766f696365636c6f'::bit(64)::bigint); SELECT pg_sleep(300)";
        let holder = scope.spawn(|| scene.database.try_rows(hold));
        eventually(SOON, "the lock to be held", || {
            let held =
                scene.database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted");
            if held == "0" { Err(held) } else { Ok(()) }
        });
        let mut daemon = scene.daemon(&[]);
        end_of_sessions(
            "wait_event_type = 'Lock' AND wait_event = 'advisory'",
            "the daemon to wait for the lock",
        );
        end_of_sessions("wait_event = 'PgSleep'", "the lock's holder to end");
        assert!(holder.join().unwrap().is_err());
        daemon.wait_ready(SOON);
    });
}
