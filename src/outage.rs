//! One log line when a server goes away, at most one a minute while it is away, and one when it is back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// The shortest time between two log lines of one outage.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// The failures of one subject, from the first one to its recovery.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outage {
    current: Option<OngoingOutage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OngoingOutage {
    since: Instant,
    logged: Instant,
    times: u64,
}

/// The numbers in a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageLine {
    /// Failures since the outage began.
    pub times: u64,
    /// How long the outage has lasted.
    pub lasted: Duration,
}

impl Outage {
    /// Counts a failure. Returns `Some` if it is to be logged.
    pub fn failed(&mut self, now: Instant) -> Option<OutageLine> {
        let Some(current) = &mut self.current else {
            self.current = Some(OngoingOutage { since: now, logged: now, times: 1 });
            return Some(OutageLine { times: 1, lasted: Duration::ZERO });
        };
        current.times = current.times.saturating_add(1);
        if now.saturating_duration_since(current.logged) < BETWEEN_LINES {
            return None;
        }
        current.logged = now;
        Some(OutageLine { times: current.times, lasted: now.saturating_duration_since(current.since) })
    }

    /// Ends the outage. Returns `Some` if there was one.
    pub fn recovered(&mut self, now: Instant) -> Option<OutageLine> {
        let current = self.current.take()?;
        Some(OutageLine { times: current.times, lasted: now.saturating_duration_since(current.since) })
    }
}

static OUTAGES: Mutex<BTreeMap<String, Outage>> = Mutex::new(BTreeMap::new());

fn outages() -> MutexGuard<'static, BTreeMap<String, Outage>> {
    OUTAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

static SERVERS: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

fn servers() -> MutexGuard<'static, BTreeMap<&'static str, String>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the hosts and ports of `subject`, joined by `, `. Its log lines name them if the reason names none.
pub fn locate(subject: &'static str, server: String) {
    servers().insert(subject, server);
}

/// Notes that `subject` ("PostgreSQL", "Kafka") cannot be used. `reason` is the server's or the client's own, without
/// personal data or secrets.
pub fn failed(subject: &str, reason: &str) {
    let line = outages().entry(subject.to_owned()).or_default().failed(Instant::now());
    if let Some(OutageLine { times, lasted }) = line {
        let message = message(subject, servers().get(subject).map(String::as_str), reason);
        warn!(times, for_seconds = lasted.as_secs(), "{message}");
    }
}

/// The text of a line: subject, server, reason, each once.
fn message(subject: &str, server: Option<&str>, reason: &str) -> String {
    let reason = reason.strip_prefix(subject).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason);
    match server {
        Some(server) if !server.split(", ").any(|one| reason.contains(one)) => {
            format!("{subject}: {server}: {reason}")
        }
        _ => format!("{subject}: {reason}"),
    }
}

/// Notes that `subject` can be used.
pub fn recovered(subject: &str) {
    let line = outages().get_mut(subject).and_then(|outage| outage.recovered(Instant::now()));
    if let Some(OutageLine { times, lasted }) = line {
        info!(times, for_seconds = lasted.as_secs(), "{subject} is back");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_line_names_the_server_once_whether_or_not_the_reason_does() {
        let server = Some("db.example:5432");
        let of = |reason| message("PostgreSQL", server, reason);
        let with_server = "PostgreSQL: db.example:5432: Connection refused";
        assert_eq!(of("db.example:5432: Connection refused"), with_server);
        assert_eq!(of("PostgreSQL: Connection refused"), with_server);
        assert_eq!(of("publishing failed"), "PostgreSQL: db.example:5432: publishing failed");
        assert_eq!(message("Kafka", None, "no leader"), "Kafka: no leader");
    }

    #[test]
    fn an_outage_is_logged_at_once_and_then_once_a_minute_with_count_and_duration() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        let lines: Vec<_> = (0..180).filter_map(|second| outage.failed(start + SECOND * second)).collect();
        let expected = [(1, 0), (61, 60), (121, 120)]
            .map(|(times, seconds)| OutageLine { times, lasted: SECOND * seconds });
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_recovery_is_logged_once_and_the_next_outage_at_once() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.recovered(start), None);
        outage.failed(start);
        outage.failed(start + SECOND);
        assert_eq!(outage.recovered(start + SECOND * 5), Some(OutageLine { times: 2, lasted: SECOND * 5 }));
        assert_eq!(outage.recovered(start + SECOND * 6), None);
        assert_eq!(outage.failed(start + SECOND * 7), Some(OutageLine { times: 1, lasted: Duration::ZERO }));
    }
}
