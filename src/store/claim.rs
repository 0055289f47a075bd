//! Shared parts of the claims on outbox rows and on dead letters.

use std::time::Duration;

/// How long a claim holds: longer than a round of the publisher takes, so that no other instance publishes the same
/// rows in the meantime. The rows of an instance that dies wait as long for another one.
pub const LEASE: Duration = Duration::from_secs(60);

/// When a row that the broker did not take is retried: after 1 s, then twice as long each time, up to 5 minutes. SQL;
/// `publish_tries` is the number of failures before this one.
pub(super) const RETRY_AT: &str = "now() AT TIME ZONE 'utc'
    + LEAST(power(2, LEAST(publish_tries, 16)), 300) * interval '1 second'";

/// Milliseconds, as a parameter of SQL.
pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
