//! The report as CSV, one value per line: section, time, name, value. No I/O.

use super::{kind, steps};
use crate::commands::dead_letters::export::cell;
use crate::store::analytics::CallReport;

/// The whole report; a missing value has no line.
pub fn csv(report: &CallReport) -> String {
    let mut lines = vec!["section,time,name,value".to_owned()];
    let mut add = |section: &str, time: &str, name: &str, value: Option<f64>| {
        if let Some(value) = value {
            lines.push(format!("{section},{time},{},{value}", cell(name)));
        }
    };
    let count = |count: i64| Some(count as f64);
    for period in &report.periods {
        for (name, value) in [
            ("clones", count(period.clones)),
            ("clones failed", count(period.clones_failed)),
            ("p50 ms", period.p50_ms),
            ("p95 ms", period.p95_ms),
            ("hand-overs", count(period.handovers)),
            ("from cache", count(period.from_cache)),
            ("calls", count(period.calls)),
            ("calls failed", count(period.calls_failed)),
            ("call seconds", count(period.call_seconds)),
        ] {
            add(report.step, &period.at, name, value);
        }
    }
    for (name, value) in steps(&report.funnel) {
        add("funnel", "", name, count(value));
    }
    let (handovers, voices, callers) = (&report.handovers, &report.voices, &report.callers);
    add("hand-overs", "", "all", count(handovers.handovers));
    add("hand-overs", "", "from cache", count(handovers.from_cache));
    add("hand-overs", "", "p50 seconds", handovers.p50_seconds);
    add("hand-overs", "", "p95 seconds", handovers.p95_seconds);
    for (name, value) in [
        ("all", voices.voices),
        ("never used", voices.unused),
        ("used more than once", voices.reused),
        ("most uses", voices.most_uses),
        ("live now", voices.live),
        ("expire within the hour", voices.expiring),
    ] {
        add("voices", "", name, count(value));
    }
    for failure in &report.failures {
        add("failed clones", &failure.latest_at, &failure.error, count(failure.count));
    }
    for calls in &report.calls {
        let kind = kind(calls.kind.as_deref());
        for (name, value) in [
            ("calls", count(calls.calls)),
            ("completed", count(calls.completed)),
            ("failed", count(calls.failed)),
            ("average seconds", calls.average_seconds),
            ("p95 seconds", calls.p95_seconds),
            ("longest seconds", calls.longest_seconds),
        ] {
            add("calls", "", &format!("{kind}: {name}"), value);
        }
    }
    add("callers", "", "all", count(callers.callers));
    add("callers", "", "more than one call", count(callers.returned));
    lines.join("\r\n")
}
