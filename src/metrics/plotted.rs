//! The values that the page plots. The crate `metrics` gives no value back, so these are kept beside the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

static LANDED: AtomicU64 = AtomicU64::new(0);
static DEAD_LETTERS: AtomicU64 = AtomicU64::new(0);
/// The bits of a number of seconds.
static OLDEST_SECONDS: AtomicU64 = AtomicU64::new(0);

/// The values at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plotted {
    /// Records that have landed since the start.
    pub landed: u64,
    /// Those of them that became dead letters.
    pub dead_letters: u64,
    /// Age of the oldest record that was received and has not landed; 0 if there is none.
    pub oldest_seconds: f64,
}

/// The values now.
pub fn plotted() -> Plotted {
    Plotted {
        landed: LANDED.load(Ordering::Relaxed),
        dead_letters: DEAD_LETTERS.load(Ordering::Relaxed),
        oldest_seconds: f64::from_bits(OLDEST_SECONDS.load(Ordering::Relaxed)),
    }
}

/// Counts records that have landed.
pub(crate) fn landed(records: u64, dead_letters: u64) {
    LANDED.fetch_add(records, Ordering::Relaxed);
    DEAD_LETTERS.fetch_add(dead_letters, Ordering::Relaxed);
}

/// Sets the age of the oldest record that waits.
pub(crate) fn oldest(seconds: f64) {
    OLDEST_SECONDS.store(seconds.to_bits(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landed_records_add_up_and_the_latest_age_counts() {
        let before = plotted();
        landed(40, 1);
        landed(2, 2);
        oldest(12.25);
        let now = plotted();
        assert!(now.landed >= before.landed + 42 && now.dead_letters >= before.dead_letters + 3);
        oldest(0.5);
        assert!((plotted().oldest_seconds - 0.5).abs() < f64::EPSILON);
    }
}
