//! The helpers of all tests: a real broker, a real PostgreSQL, the compiled daemon, and functions to wait and compare.
//!
//! - [`kafka`]: an Apache Kafka broker for the whole run, or one of its own that a test may stop and kill;
//! - [`cluster`]: several brokers in one cluster; [`protocol`]: quotas and access rights;
//! - [`postgres`]: the same for PostgreSQL, with a fresh database for every test;
//! - [`pgbouncer`]: a connection pooler before it;
//! - [`certificates`]: authorities and signed certificates;
//! - [`browser`]: a real Chromium that opens the page;
//! - [`collector`]: a collector of traces;
//! - [`prometheus`]: a server that scrapes a daemon, and `promtool`;
//! - [`proxy`]: a proxy between two of them that cuts connections, delays and loses bytes;
//! - [`daemon`]: the compiled program as a child process;
//! - [`tables`]: the rows of a database as plain maps, for comparing with what a test expects;
//! - [`wait`]: polling with a deadline. Nothing else in the tests sleeps;
//! - [`processes`]: child processes and folders that go away with the test process, however it ends;
//! - [`tools`]: packages of npm and PyPI;
//! - [`left_out`]: tests that cannot run on this machine, named and counted.
//!
//! Every function here blocks and needs no async runtime around it, but may be called within one, except for the few
//! `async` ones. An async test needs more than one thread of tokio, or its other tasks stop during the call.

// An integration test is all test code, but Clippy's exceptions for tests do not reach functions without `#[test]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// A helper may wait for the test that needs it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod kafka;
pub mod left_out;
pub mod pgbouncer;
pub mod postgres;
pub mod processes;
pub mod prometheus;
pub mod protocol;
pub mod proxy;
pub mod scene;
pub mod tables;
pub mod tools;
pub mod wait;

use std::sync::atomic::{AtomicU64, Ordering};

/// A name that no other call returns, in this run or another: for groups, topic prefixes, transactional ids. It has only
/// `a-z`, `0-9` and `_`, so that it is valid everywhere.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    format!("{what}_{now:x}_{:x}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a future to its end on a thread of its own, so that it works within an async runtime and without one.
pub fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(output) => output,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
