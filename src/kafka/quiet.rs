//! Reports librdkafka's messages about an unreachable broker as one outage, not as a line per attempt and client.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::metrics;
use crate::outage;

/// The name of the outage.
const SUBJECT: &str = "Kafka";

/// When a client last failed.
static FAILED: Mutex<Option<Instant>> = Mutex::new(None);

/// Records that a client failed, with its own text.
pub fn failed(reason: &str) {
    *FAILED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    outage::failed(SUBJECT, reason);
}

/// Counts an error by its cause.
pub(super) fn count(code: Option<RDKafkaErrorCode>, reason: &str) {
    let kind = match code {
        Some(RDKafkaErrorCode::AllBrokersDown) => "all_brokers_down",
        Some(code) => super::reason::reason(code, reason).kind.metric(),
        None => "other",
    };
    metrics::KAFKA_ERRORS.add(&[kind], 1);
}

/// Counts and reports an error. "All brokers are down" is only counted, as the messages about each broker include the
/// reason.
pub fn client_failed(code: Option<RDKafkaErrorCode>, reason: &str) {
    count(code, reason);
    if code != Some(RDKafkaErrorCode::AllBrokersDown) {
        failed(reason);
    }
}

/// Ends the outage if no client failed for `period`, as one of several brokers may be away.
pub fn recovered_after(period: Duration) {
    let failed = *FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none_or(|failed| failed.elapsed() >= period) {
        outage::recovered(SUBJECT);
    }
}

/// Whether a warning of librdkafka is of no interest: properties go to all clients although some are only for consumers
/// or producers, and a producer's id is requested again by itself.
pub(super) fn is_noise(facility: &str) -> bool {
    matches!(facility, "CONFWARN" | "GETPID")
}

/// The context of clients that ask questions or send records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error, Warning};
        if !matches!(level, Emerg | Alert | Critical | Error | Warning) || is_noise(facility) {
            tracing::debug!(target: "librdkafka", facility, "{text}");
        } else {
            failed(&format!("{text} ({facility})"));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client_failed(error.rdkafka_error_code(), &format!("{reason} ({error})"));
    }
}

impl ConsumerContext for Quiet {}
