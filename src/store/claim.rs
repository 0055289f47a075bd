//! What the claims of outbox and dead letters have in common.

use std::time::Duration;

/// How long a claim holds. It is longer than a round of the publisher takes, so that no other instance publishes the
/// same rows meanwhile; the rows of an instance that dies wait as long for another one.
pub const LEASE: Duration = Duration::from_secs(60);

/// When a row that the broker did not take is tried again: after 1 s, then twice as long each time, up to 5 minutes. SQL;
/// `publish_tries` is the count of failures before this one.
pub(super) const RETRY_AT: &str = "now() AT TIME ZONE 'utc'
    + LEAST(power(2, LEAST(publish_tries, 16)), 300) * interval '1 second'";

/// For SQL.
pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
