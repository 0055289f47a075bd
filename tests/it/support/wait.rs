//! Waiting: a condition is polled until it holds or its deadline has passed.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long to wait for what should take a moment, on a machine that may be busy with other things.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `look` gives `Ok`, and returns what is in it. `Err` holds what was seen instead.
///
/// # Panics
/// Once `deadline` has passed: it names `what` was waited for, and what was seen last.
pub fn eventually<T, E: Debug>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) => give_up_after(start, deadline, what, &seen),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Polls until `look` gives `expected`.
///
/// # Panics
/// As [`eventually`] does.
pub fn eventually_eq<T: Debug + PartialEq>(
    deadline: Duration,
    what: &str,
    expected: T,
    mut look: impl FnMut() -> T,
) {
    eventually(deadline, &format!("{what} to be {expected:?}"), || match look() {
        seen if seen == expected => Ok(()),
        seen => Err(seen),
    });
}

/// As [`eventually`], for an async condition: what else runs on the runtime goes on meanwhile.
///
/// # Panics
/// As [`eventually`] does.
pub async fn eventually_async<T, E: Debug, F>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let start = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(seen) => give_up_after(start, deadline, what, &seen),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Polls for as long as `during`: `look` must give `Ok` each time. For what must not happen.
///
/// # Panics
/// At the first `Err`: it names `what` was to hold, and what was seen.
pub fn holds<E: Debug>(during: Duration, what: &str, mut look: impl FnMut() -> Result<(), E>) {
    let start = Instant::now();
    while start.elapsed() < during {
        if let Err(seen) = look() {
            panic!("{what}: no longer after {:.1?}, but {seen:?}", start.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
}

fn give_up_after(start: Instant, deadline: Duration, what: &str, seen: &dyn Debug) {
    assert!(start.elapsed() < deadline, "waited {deadline:.1?} in vain for {what}; seen last: {seen:?}");
}
