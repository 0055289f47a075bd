//! Waiting: a condition is polled until it holds or its deadline has passed.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Maximum time for something that should take a moment, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Polls until `look` returns `Ok`, and returns its value. `Err` is what was seen instead.
///
/// # Panics
/// Once `deadline` has passed, with `what` was waited for and what was seen last.
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

/// Polls until `look` returns `expected`.
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

/// As [`eventually`], for an async condition: other tasks of the runtime keep running.
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

/// Polls for `during`: `look` must return `Ok` each time. For things that must not happen.
///
/// # Panics
/// At the first `Err`, with `what` was to hold and what was seen.
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
