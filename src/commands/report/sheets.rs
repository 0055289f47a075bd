//! The contents of the report's tables, for a terminal and for the page. No I/O.

use super::{kind, moment, number, percent, steps};
use crate::store::analytics::{CallReport, Period};

/// A table of the report.
#[derive(Debug, PartialEq)]
pub struct Sheet {
    /// The title.
    pub title: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells; the first of a row is text, the others are numbers.
    pub rows: Vec<Vec<String>>,
    /// The share of each row in percent, for tables with bars.
    pub shares: Vec<f64>,
    /// A note below the table.
    pub note: Option<String>,
}

impl Sheet {
    fn new(title: &str, header: &[&str], rows: Vec<Vec<String>>) -> Sheet {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Sheet { title: title.to_owned(), header, rows, shares: Vec::new(), note: None }
    }
}

/// The table of hours or days, one per row.
pub fn periods(report: &CallReport) -> Sheet {
    let row = |period: &Period| {
        vec![
            moment(&period.at, report.step),
            period.clones.to_string(),
            percent(period.clones - period.clones_failed, period.clones),
            number(period.p50_ms, 0),
            number(period.p95_ms, 0),
            period.handovers.to_string(),
            period.from_cache.to_string(),
            period.calls.to_string(),
            period.calls_failed.to_string(),
            number(Some(period.call_seconds as f64 / 60.0), 0),
        ]
    };
    let header = [
        report.step,
        "clones",
        "success",
        "p50 ms",
        "p95 ms",
        "hand-overs",
        "from cache",
        "calls",
        "failed",
        "minutes",
    ];
    let title = format!("Clones and calls by {}", report.step);
    Sheet::new(&title, &header, report.periods.iter().map(row).collect())
}

/// The other tables.
pub fn sheets(report: &CallReport) -> [Sheet; 4] {
    [funnel(report), cache(report), failures(report), calls(report)]
}

fn share(part: i64, whole: i64) -> f64 {
    if whole > 0 { 100.0 * part as f64 / whole as f64 } else { 0.0 }
}

fn funnel(report: &CallReport) -> Sheet {
    let (steps, all, waited) = (steps(&report.funnel), report.funnel.greetings, &report.handovers);
    let row = |(name, count): &(&str, i64)| vec![(*name).to_owned(), count.to_string(), percent(*count, all)];
    let rows = steps.iter().map(row).collect();
    Sheet {
        shares: steps.iter().map(|(_, count)| share(*count, all)).collect(),
        note: Some(format!(
            "Seconds from the start of the greeting to the hand-over: p50 {}, p95 {}",
            number(waited.p50_seconds, 1),
            number(waited.p95_seconds, 1)
        )),
        ..Sheet::new("From the greeting to the agent", &["step", "greetings", "share"], rows)
    }
}

fn cache(report: &CallReport) -> Sheet {
    let (handovers, voices) = (&report.handovers, &report.voices);
    let rows = [
        ("hand-overs", handovers.handovers, None),
        ("with a voice from the cache", handovers.from_cache, Some(handovers.handovers)),
        ("voices in the cache", voices.voices, None),
        ("never used", voices.unused, Some(voices.voices)),
        ("used more than once", voices.reused, Some(voices.voices)),
        ("uses of the voice that was used most", voices.most_uses, None),
        ("live now", voices.live, None),
        ("of these expire within the hour", voices.expiring, Some(voices.live)),
    ];
    let row = |(name, count, whole): (&str, i64, Option<i64>)| {
        let share = whole.map_or_else(String::new, |whole| percent(count, whole));
        vec![name.to_owned(), count.to_string(), share]
    };
    Sheet::new("Voice cache", &["what", "count", "share"], rows.into_iter().map(row).collect())
}

fn failures(report: &CallReport) -> Sheet {
    let all = report.failures.iter().map(|failure| failure.count).sum();
    let rows = report.failures.iter().map(|failure| {
        let (count, share) = (failure.count.to_string(), percent(failure.count, all));
        vec![failure.error.clone(), count, share, moment(&failure.latest_at, "hour")]
    });
    Sheet {
        shares: report.failures.iter().map(|failure| share(failure.count, all)).collect(),
        ..Sheet::new(
            "Failed clones by error",
            &["error (# is a number)", "count", "share", "latest"],
            rows.collect(),
        )
    }
}

fn calls(report: &CallReport) -> Sheet {
    let rows = report.calls.iter().map(|calls| {
        vec![
            kind(calls.kind.as_deref()).to_owned(),
            calls.calls.to_string(),
            calls.completed.to_string(),
            calls.failed.to_string(),
            number(calls.average_seconds, 0),
            number(calls.p95_seconds, 0),
            number(calls.longest_seconds, 0),
        ]
    });
    let header = ["kind", "calls", "completed", "failed", "average s", "p95 s", "longest s"];
    let callers = &report.callers;
    Sheet {
        note: Some(format!("{} callers, {} of them more than once", callers.callers, callers.returned)),
        ..Sheet::new("Calls", &header, rows.collect())
    }
}
