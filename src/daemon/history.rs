//! The task that samples this instance's counters for the plots of the page.

use std::time::Instant;

use tokio::time::MissedTickBehavior;

use crate::metrics::plotted::plotted;
use crate::page::history::{EVERY, History, Sample};
use crate::shared::Shared;
use crate::status::Document;

/// Takes samples until it is dropped.
pub(super) async fn sample(status: Shared<Document>, history: History) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = Sample::of(Instant::now(), plotted());
        let lag_seconds = sample.lag_seconds.into_iter().chain(group_lag(&status)).reduce(f64::max);
        history.push(Sample { lag_seconds, ..sample });
    }
}

/// The group's lag, if somebody has asked for it. Unlike this instance's lag, it includes records that this instance
/// has not received.
fn group_lag(status: &Shared<Document>) -> Option<f64> {
    let made = status.latest().filter(|made| made.at.elapsed() < EVERY * 2)?;
    made.result.topics.iter().filter_map(|topic| topic.lag_seconds).reduce(f64::max)
}
