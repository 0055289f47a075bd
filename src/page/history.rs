//! The last 15 minutes of this instance, as samples in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two samples.
pub const EVERY: Duration = Duration::from_secs(5);

/// Time that the plots span.
pub const SPAN: Duration = Duration::from_secs(900);

/// A sample of this instance's counters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The time of the sample.
    pub at: Instant,
    /// Records that have landed since the start.
    pub records: f64,
    /// Dead letters since the start.
    pub dead_letters: f64,
    /// Age of the oldest waiting record, in seconds; `None` where it is not known.
    pub lag_seconds: Option<f64>,
}

impl Sample {
    /// Reads a sample from the text of `/metrics`.
    pub fn read(at: Instant, metrics: &str) -> Sample {
        let sum = |name| values(metrics, name).sum();
        Sample {
            at,
            records: sum("voiceclone_records_total"),
            dead_letters: sum("voiceclone_dead_letters_total"),
            lag_seconds: values(metrics, "voiceclone_consumer_lag_seconds").reduce(f64::max),
        }
    }
}

/// The values of all time series of a metric.
fn values<'m>(metrics: &'m str, name: &'m str) -> impl Iterator<Item = f64> + 'm {
    let lines = metrics.lines().filter_map(move |line| line.strip_prefix(name));
    let of_metric = lines.filter(|rest| rest.starts_with(['{', ' ']));
    of_metric.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
}

/// The samples, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

impl History {
    fn ring(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample and drops those that are too old.
    pub fn push(&self, sample: Sample) {
        let mut ring = self.ring();
        ring.retain(|before| sample.at.saturating_duration_since(before.at) <= SPAN);
        ring.push_back(sample);
    }

    /// All samples.
    pub fn samples(&self) -> Vec<Sample> {
        self.ring().iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_sums_counters_over_their_labels_and_takes_the_worst_lag() {
        let text = "# HELP voiceclone_records_total x\n\
                    voiceclone_records_total{topic=\"clone.ready\",outcome=\"used\"} 40\n\
                    voiceclone_records_total{topic=\"clone.failed\",outcome=\"used\"} 2\n\
                    voiceclone_records_total_of_others 7\n\
                    voiceclone_dead_letters_total 3\n\
                    voiceclone_consumer_lag_seconds{topic=\"a\"} 0.5\n\
                    voiceclone_consumer_lag_seconds{topic=\"b\"} 12.25\n";
        let at = Instant::now();
        let expected = Sample { at, records: 42.0, dead_letters: 3.0, lag_seconds: Some(12.25) };
        assert_eq!(Sample::read(at, text), expected);
        assert_eq!(Sample::read(at, "").lag_seconds, None);
    }

    #[test]
    fn the_ring_holds_a_quarter_of_an_hour() {
        let (history, start) = (History::default(), Instant::now());
        for number in 0..1000 {
            history.push(Sample::read(start + EVERY * number, ""));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), 181);
        assert_eq!(samples[0].at, start + EVERY * 819);
    }
}
