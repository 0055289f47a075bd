//! `demo`: everything at once, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::daemon::{Daemon, run_command};
use crate::support::processes::{Signal, folder};
use crate::support::wait::{SOON, eventually};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// A folder for temporary files that PostgreSQL gets through to.
fn temporary() -> (PathBuf, String) {
    let folder = folder("demo");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o1777)).unwrap();
    let path = folder.to_str().unwrap().to_owned();
    (folder, path)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn path() -> String {
    std::env::var("PATH").unwrap()
}

#[test]
fn it_shows_the_tables_ends_by_itself_and_leaves_nothing_behind() {
    let (folder, tmpdir) = temporary();
    let arguments = ["demo", "--calls", "30", "--disorder"];
    let shown = run_command(&arguments, &[("PATH", &path()), ("TMPDIR", &tmpdir)], MINUTES);
    assert_eq!(shown.code, 0, "{shown:?}");
    for text in ["caller_voice_mapping", "call_log", "ingest.dead_letters", "of them expired", "--keep"] {
        assert!(shown.stdout.contains(text), "{text}: {shown:?}");
    }
    assert!(shown.stderr.trim_end().ends_with("nothing is left behind."), "{shown:?}");
    assert!(!shown.stderr.contains("ERROR"), "{shown:?}");
    assert_eq!(files(&folder), [] as [PathBuf; 0]);
}

/// Ctrl-C on a terminal: to the whole process group, PostgreSQL included.
fn interrupt_group(daemon: &Daemon) {
    let kill = format!("kill -s INT -- -{}", daemon.process_id());
    assert!(std::process::Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
}

fn ctrl_c_once(ready: impl Fn(&Daemon, &Path) -> bool, arguments: &[&str]) {
    let (folder, tmpdir) = temporary();
    let arguments = [&["demo"], arguments].concat();
    let mut demo = Daemon::start(&arguments, &[("PATH", &path()), ("TMPDIR", &tmpdir)]);
    eventually(MINUTES, "the moment to interrupt", || {
        if ready(&demo, &folder) { Ok(()) } else { Err(demo.logs()) }
    });
    interrupt_group(&demo);
    assert_eq!(demo.wait_exit(SOON), 0);
    let logs = demo.logs();
    assert_eq!(logs.iter().filter(|line| *line == "Interrupted.").count(), 1, "{logs:#?}");
    assert_eq!(files(&folder), [] as [PathBuf; 0]);
}

#[test]
fn ctrl_c_while_postgresql_starts_ends_it_at_once_with_nothing_left_behind() {
    let server_starts = |_: &Daemon, folder: &Path| {
        files(folder).iter().any(|temporary| temporary.join("pg_data_dir/postmaster.pid").exists())
    };
    ctrl_c_once(server_starts, &["--calls", "100000"]);
}

#[test]
fn ctrl_c_in_the_middle_ends_it_at_once_with_nothing_left_behind() {
    let sends = |demo: &Daemon, _: &Path| demo.logs().iter().any(|line| line.contains("records sent"));
    ctrl_c_once(sends, &["--calls", "100000"]);
}

#[test]
fn keep_serves_the_page_until_ctrl_c_and_says_where() {
    let (_, tmpdir) = temporary();
    let mut demo =
        Daemon::start(&["demo", "--calls", "30", "--keep"], &[("PATH", &path()), ("TMPDIR", &tmpdir)]);
    let url = eventually(MINUTES, "the end of the show", || {
        let logs = demo.logs();
        let ended = logs.iter().any(|line| line == "Ctrl-C ends them.");
        let line = logs.iter().find(|line| ended && line.starts_with("Its page: ")).cloned();
        line.map(|line| line.replace("Its page: ", "")).ok_or(logs)
    });
    let page = eventually(SOON, "the page", || {
        let answer = ureq::get(&url).call().map_err(|error| error.to_string());
        let page = answer?.body_mut().read_to_string().map_err(|error| error.to_string())?;
        if page.contains("<h1 class=\"verdict good\">OK: ") { Ok(page) } else { Err(page) }
    });
    assert!(page.contains("clone.ready/0"), "{page}");
    demo.signal(Signal::Term);
    assert_eq!(demo.wait_exit(SOON), 0);
}
