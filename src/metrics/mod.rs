//! The metrics of `/metrics`. [`table`] declares them; this module counts, and renders them for Prometheus.
//! `docs/metrics.md` says what each one means, and a test holds it against a running daemon.
//!
//! Every series exists from the start, with 0, so that the first failure is an increase. A gauge whose value is not
//! known is left out: an old value would look like a new one.

pub mod plotted;
mod table;

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use table::*;

use crate::record::Topic;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// A whole number that only grows.
    Counter,
    /// Seconds that only grow. Counters of the crate `metrics` are whole numbers, so this is a gauge there.
    Seconds,
    /// A value that is known from the start.
    Gauge,
    /// A polled value, left out while there is no answer.
    Polled,
    /// A histogram with these buckets.
    Histogram(&'static [f64]),
}

/// A label with all its values; none if the values come from the settings.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// The name.
    pub name: &'static str,
    values: fn() -> Vec<&'static str>,
}

/// A metric: declared in [`table`], and counted where things happen.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The metric's name.
    pub name: &'static str,
    kind: MetricKind,
    help: &'static str,
    /// The labels, in the order in which the methods take their values.
    pub labels: &'static [Label],
}

impl Metric {
    fn labels(&self, values: &[&'static str]) -> Vec<metrics::Label> {
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(label, value)| metrics::Label::from_static_parts(label.name, value)).collect()
    }

    /// Adds `by` to a counter.
    pub fn add(&self, values: &[&'static str], by: u64) {
        metrics::counter!(self.name, self.labels(values)).increment(by);
    }

    /// Sets a counter that is counted elsewhere.
    pub fn count_is(&self, values: &[&'static str], count: u64) {
        metrics::counter!(self.name, self.labels(values)).absolute(count);
    }

    /// Sets a gauge, or seconds that grow.
    pub fn set(&self, values: &[&'static str], value: f64) {
        metrics::gauge!(self.name, self.labels(values)).set(value);
    }

    /// Sets a gauge to a count.
    #[allow(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
    pub fn set_count(&self, values: &[&'static str], count: i64) {
        self.set(values, count as f64);
    }

    /// Leaves the series out until its value is set again.
    pub fn unknown(&self, values: &[&'static str]) {
        self.set(values, f64::NAN);
    }

    /// Leaves out every series of the metric until its value is set again.
    pub fn all_unknown(&self) {
        self.each(|values| self.unknown(values));
    }

    /// Adds a value to a histogram.
    pub fn observe(&self, values: &[&'static str], value: f64) {
        metrics::histogram!(self.name, self.labels(values)).record(value);
    }

    /// Calls `take` with every combination of label values.
    fn each(&self, mut take: impl FnMut(&[&'static str])) {
        let mut all: Vec<Vec<&'static str>> = vec![Vec::new()];
        for label in self.labels {
            let longer = |head: &Vec<&'static str>| -> Vec<Vec<&'static str>> {
                (label.values)().into_iter().map(|value| [head.as_slice(), &[value]].concat()).collect()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all.iter().for_each(|values| take(values));
    }

    fn begin(&self) {
        match self.kind {
            MetricKind::Counter => metrics::describe_counter!(self.name, self.help),
            MetricKind::Seconds | MetricKind::Gauge | MetricKind::Polled => {
                metrics::describe_gauge!(self.name, self.help)
            }
            MetricKind::Histogram(_) => metrics::describe_histogram!(self.name, self.help),
        }
        self.each(|values| match self.kind {
            MetricKind::Counter => self.add(values, 0),
            MetricKind::Seconds | MetricKind::Gauge => self.set(values, 0.0),
            MetricKind::Polled => self.unknown(values),
            MetricKind::Histogram(_) => drop(metrics::histogram!(self.name, self.labels(values))),
        });
    }
}

/// Makes this process gather metrics; to be called once. Before that, and in other commands, nothing is counted.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL {
        if let MetricKind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder().context("the metrics cannot be set up")?;
    ALL.iter().for_each(|metric| metric.begin());
    Ok(handle)
}

/// The text for Prometheus, without gauges that are not known, and with growing seconds as counters.
pub fn render(handle: &PrometheusHandle) -> String {
    let text = handle.render();
    let mut shown = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.ends_with(" NaN")) {
        match line.strip_suffix("_total gauge") {
            Some(begin) => shown.extend([begin, "_total counter"]),
            None => shown.push_str(line),
        }
        shown.push('\n');
    }
    shown
}

/// Sets the metric about the build and the group.
pub fn built(group: &str, topic_prefix: &str) {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("revision", option_env!("SOURCE_REVISION").unwrap_or_default().to_owned()),
        ("group", group.to_owned()),
        ("topic_prefix", topic_prefix.to_owned()),
    ];
    metrics::gauge!(BUILD_INFO.name, &labels).set(1.0);
}

/// Notes that a record with this timestamp has landed. Both times are milliseconds since 1970. The newest record
/// counts, regardless of the order in which partitions are read. A timestamp in the future counts as now.
pub fn newest_landed(topic: Topic, timestamp: i64, now: i64) {
    static NEWEST: [AtomicI64; 5] = [const { AtomicI64::new(0) }; 5];
    let Some(newest) = NEWEST.get(topic as usize) else { return };
    let timestamp = timestamp.min(now);
    let newest = newest.fetch_max(timestamp, Ordering::Relaxed).max(timestamp);
    LAST_RECORD.set(&[topic.name()], seconds(newest));
}

/// Converts milliseconds to seconds.
#[allow(clippy::cast_precision_loss, reason = "exact for times, and for ages far beyond any")]
pub fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

/// The time in milliseconds since 1970.
pub fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Samples CPU time, memory, file descriptors and threads of this process.
#[allow(clippy::cast_precision_loss, reason = "bytes and counts of one process")]
pub fn process() {
    let seen = metrics_process::collector::collect();
    if let Some(seconds) = seen.cpu_seconds_total {
        PROCESS_CPU.set(&[], seconds);
    }
    for (metric, value) in [
        (&PROCESS_OPEN_FDS, seen.open_fds),
        (&PROCESS_MAX_FDS, seen.max_fds),
        (&PROCESS_VIRTUAL_MEMORY, seen.virtual_memory_bytes),
        (&PROCESS_MEMORY, seen.resident_memory_bytes),
        (&PROCESS_START, seen.start_time_seconds),
        (&PROCESS_THREADS, seen.threads),
    ] {
        match value {
            Some(value) => metric.set(&[], value as f64),
            None => metric.unknown(&[]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rendered(count: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(BATCH_RECORDS.name.to_owned()), &[1.0, 10.0])
            .unwrap()
            .build_recorder();
        metrics::with_local_recorder(&recorder, count);
        render(&recorder.handle())
    }

    #[test]
    fn every_series_is_there_from_the_start_with_0_and_its_help() {
        let text = rendered(|| [&OUTCOMES, &BATCH_RECORDS].iter().for_each(|metric| metric.begin()));
        assert!(text.contains("# HELP voiceclone_records_total "), "{text}");
        assert!(text.contains(r#"voiceclone_records_total{topic="clone.ready",outcome="used"} 0"#), "{text}");
        assert_eq!(text.matches("voiceclone_records_total{").count(), 10, "{text}");
        assert!(text.contains(r#"voiceclone_batch_records_bucket{le="+Inf"} 0"#), "{text}");
    }

    #[test]
    fn a_value_that_is_not_known_is_left_out_until_it_is() {
        let text = rendered(|| EXPIRY_OVERDUE_ROWS.begin());
        assert!(!text.lines().any(|line| line.starts_with("voiceclone_")), "{text}");
        let text = rendered(|| {
            EXPIRY_OVERDUE_ROWS.begin();
            EXPIRY_OVERDUE_ROWS.set_count(&[], 3);
        });
        assert!(text.contains("\nvoiceclone_expiry_overdue_rows 3\n"), "{text}");
    }

    #[test]
    fn seconds_that_only_grow_are_a_counter_to_prometheus() {
        let text = rendered(|| POOL_WAIT.set(&[], 0.25));
        assert!(text.contains("# TYPE voiceclone_db_pool_wait_seconds_total counter\n"), "{text}");
        assert!(text.contains("voiceclone_db_pool_wait_seconds_total 0.25\n"), "{text}");
    }

    #[test]
    fn the_newest_record_counts_and_none_is_newer_than_now() {
        let text = rendered(|| {
            newest_landed(Topic::CloneFailed, 5000, 9000);
            newest_landed(Topic::CloneFailed, 4000, 9000);
        });
        assert!(text.contains(r#"{topic="clone.failed"} 5"#), "{text}");
        let text = rendered(|| newest_landed(Topic::CloneFailed, 99_000, 9000));
        assert!(text.contains(r#"{topic="clone.failed"} 9"#), "{text}");
    }

    #[test]
    fn names_are_unique_and_follow_the_rules_of_prometheus() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let is_total = metric.name.ends_with("_total");
            assert_eq!(
                is_total,
                matches!(metric.kind, MetricKind::Counter | MetricKind::Seconds),
                "{}",
                metric.name
            );
            assert!(!metric.help.is_empty() && metric.help.is_ascii(), "{}", metric.name);
            assert!(metric.name.starts_with("voiceclone_") || metric.name.starts_with("process_"));
        }
    }
}
