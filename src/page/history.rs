//! The last 15 minutes of this instance, as samples in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::plotted::Plotted;

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
    /// A sample with these values.
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 records")]
    pub fn of(at: Instant, values: Plotted) -> Sample {
        Sample {
            at,
            records: values.landed as f64,
            dead_letters: values.dead_letters as f64,
            lag_seconds: Some(values.oldest_seconds),
        }
    }
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
    fn the_ring_holds_a_quarter_of_an_hour() {
        let (history, start) = (History::default(), Instant::now());
        for number in 0..1000 {
            let values = Plotted { landed: 1, dead_letters: 0, oldest_seconds: 0.0 };
            history.push(Sample::of(start + EVERY * number, values));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), 181);
        assert_eq!(samples[0].at, start + EVERY * 819);
    }
}
