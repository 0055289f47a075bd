//! Plots as inline SVG stretched to the width of the page, with their text beside them. No I/O.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::moment;
use crate::store::analytics::{CallReport, Period};

/// The width of a plot, in its own coordinates.
pub const WIDTH: f64 = 720.0;
/// The height of a plot, in its own coordinates.
pub const HEIGHT: f64 = 120.0;
/// Maximum number of periods in a plot; the latest are shown.
const MAX_PERIODS: usize = 3660;

/// A plot.
#[derive(Debug, PartialEq)]
pub struct Plot {
    /// The plotted quantity with its unit.
    pub title: &'static str,
    /// The text for screen readers.
    pub label: String,
    /// The largest value in the plot.
    pub most: String,
    /// The CSS class and name of each series.
    pub legend: [(&'static str, &'static str); 2],
    /// The bars of a bar plot.
    pub bars: Vec<Bar>,
    /// The lines of a line plot: CSS class and path.
    pub lines: Vec<(&'static str, String)>,
    /// A tooltip for each period, with its values from the tables.
    pub fields: Vec<Field>,
}

/// A segment of a bar.
#[derive(Debug, PartialEq)]
pub struct Bar {
    /// The CSS class of the segment's series.
    pub class: &'static str,
    /// Left edge.
    pub x: String,
    /// Upper edge.
    pub y: String,
    /// Width.
    pub width: String,
    /// Height.
    pub height: String,
}

/// The area of a period, over the whole height of the plot.
#[derive(Debug, PartialEq)]
pub struct Field {
    /// Left edge.
    pub x: String,
    /// Width.
    pub width: String,
    /// The text of the tooltip.
    pub title: String,
}

/// All periods from the first with an event to the last, including empty ones between them.
pub fn slots(report: &CallReport) -> Vec<(String, Period)> {
    let seconds = if report.step == "day" { 86_400 } else { 3600 };
    let at = |period: &Period| period.at.parse::<DateTime<Utc>>().ok().map(|at| at.timestamp());
    let mut slots: Vec<(String, Period)> = Vec::new();
    let mut next = None;
    // from the end, so that the latest periods are kept
    for period in report.periods.iter().rev() {
        let Some(at) = at(period) else { continue };
        while let Some(missing) = next.filter(|next| *next > at)
            && slots.len() < MAX_PERIODS
        {
            let start = DateTime::from_timestamp(missing, 0).unwrap_or_default().to_rfc3339();
            slots.push((moment(&start, report.step), Period::default()));
            next = Some(missing - seconds);
        }
        if slots.len() < MAX_PERIODS {
            slots.push((moment(&period.at, report.step), period.clone()));
        }
        next = Some(at - seconds);
    }
    slots.reverse();
    slots
}

/// The plots of the report.
pub fn plots(slots: &[(String, Period)]) -> Vec<Plot> {
    vec![
        bars("Clones", [("good", "successful"), ("bad", "failed")], slots, |period| {
            [period.clones - period.clones_failed, period.clones_failed]
        }),
        lines(
            "Latency of successful clones, ms",
            [("good", "median"), ("other", "95th percentile")],
            slots,
            |period| [period.p50_ms, period.p95_ms],
        ),
        bars(
            "Hand-overs",
            [("good", "voice from the cache"), ("other", "voice just cloned")],
            slots,
            |period| [period.from_cache, period.handovers - period.from_cache],
        ),
        bars("Calls", [("good", "not failed"), ("bad", "failed")], slots, |period| {
            [period.calls - period.calls_failed, period.calls_failed]
        }),
    ]
}

fn bars(
    title: &'static str,
    legend: [(&'static str, &'static str); 2],
    slots: &[(String, Period)],
    values: impl Fn(&Period) -> [i64; 2],
) -> Plot {
    let sum = |(_, period): &(String, Period)| values(period).iter().sum::<i64>();
    let most = slots.iter().map(sum).max().unwrap_or_default();
    let width = WIDTH / slots.len().max(1) as f64;
    // a gap between bars that are wide enough
    let seen = if width > 4.0 { width - 1.0 } else { width };
    let mut bars = Vec::new();
    for (place, (_, period)) in slots.iter().enumerate() {
        let mut below = 0;
        for ((class, _), value) in legend.into_iter().zip(values(period)) {
            if value > 0 {
                let height = height(value as f64, most as f64);
                let y = HEIGHT - height - self::height(below as f64, most as f64);
                let (x, y) = (coordinate(place as f64 * width), coordinate(y));
                bars.push(Bar { class, x, y, width: coordinate(seen), height: coordinate(height) });
                below += value;
            }
        }
    }
    let said = |period: &Period| {
        let values = values(period);
        legend.iter().zip(values).map(|((_, name), value)| format!("{value} {name}")).collect::<Vec<_>>()
    };
    let label = format!("{title}: at most {most} at a time");
    Plot {
        title,
        label,
        most: most.to_string(),
        legend,
        bars,
        lines: Vec::new(),
        fields: fields(slots, said),
    }
}

fn lines(
    title: &'static str,
    legend: [(&'static str, &'static str); 2],
    slots: &[(String, Period)],
    values: impl Fn(&Period) -> [Option<f64>; 2],
) -> Plot {
    let all = slots.iter().flat_map(|(_, period)| values(period)).flatten();
    let most = all.reduce(f64::max);
    let width = WIDTH / slots.len().max(1) as f64;
    let line = |series: usize| {
        let (mut path, mut before) = (String::new(), false);
        for (place, (_, period)) in slots.iter().enumerate() {
            let Some(value) = values(period).get(series).copied().flatten() else {
                before = false;
                continue;
            };
            let x = coordinate((place as f64 + 0.5) * width);
            let y = coordinate(HEIGHT - height(value, most.unwrap_or_default()));
            // an isolated value is a dot: a line of length 0
            let _ = if before { write!(path, "L{x} {y}") } else { write!(path, "M{x} {y}L{x} {y}") };
            before = true;
        }
        path
    };
    let said = |period: &Period| {
        let values = values(period);
        let value = |value: Option<f64>| super::number(value, 0);
        legend.iter().zip(values).map(|((_, name), at)| format!("{} {name}", value(at))).collect::<Vec<_>>()
    };
    let most = super::number(most, 0);
    let label = format!("{title}: at most {most}");
    let lines = legend.iter().enumerate().map(|(series, (class, _))| (*class, line(series))).collect();
    Plot { title, label, most, legend, bars: Vec::new(), lines, fields: fields(slots, said) }
}

fn fields(slots: &[(String, Period)], said: impl Fn(&Period) -> Vec<String>) -> Vec<Field> {
    let width = WIDTH / slots.len().max(1) as f64;
    let field = |(place, (at, period)): (usize, &(String, Period))| Field {
        x: coordinate(place as f64 * width),
        width: coordinate(width),
        title: format!("{at}: {}", said(period).join(", ")),
    };
    slots.iter().enumerate().map(field).collect()
}

/// Scales a value. The largest is a little below the upper edge, so that its line is not cut.
fn height(value: f64, most: f64) -> f64 {
    if most > 0.0 { value / most * (HEIGHT - 2.0) } else { 0.0 }
}

fn coordinate(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn report(at: &[(&str, i64, i64, Option<f64>)]) -> CallReport {
        let period = |(at, clones, clones_failed, p50_ms): &(&str, i64, i64, Option<f64>)| Period {
            at: format!("2026-01-05T{at}:00:00Z"),
            clones: *clones,
            clones_failed: *clones_failed,
            p50_ms: *p50_ms,
            ..Period::default()
        };
        CallReport { step: "hour", periods: at.iter().map(period).collect(), ..CallReport::default() }
    }

    #[test]
    fn hours_in_which_nothing_happened_have_their_place_too() {
        let slots = slots(&report(&[("09", 4, 1, Some(2000.0)), ("12", 2, 0, None)]));
        let times: Vec<&str> = slots.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(times, ["2026-01-05 09:00", "2026-01-05 10:00", "2026-01-05 11:00", "2026-01-05 12:00"]);
        assert_eq!((slots[1].1.clones, slots[3].1.clones), (0, 2));
    }

    #[test]
    fn segments_of_a_bar_are_stacked_and_the_largest_bar_reaches_the_upper_edge() {
        let plots = plots(&slots(&report(&[("09", 4, 1, Some(2000.0)), ("10", 2, 0, Some(1000.0))])));
        let bar = |at: usize| {
            let bar = &plots[0].bars[at];
            (bar.class, bar.x.as_str(), bar.y.as_str(), bar.height.as_str())
        };
        assert_eq!(bar(0), ("good", "0.00", "31.50", "88.50"));
        assert_eq!(bar(1), ("bad", "0.00", "2.00", "29.50"));
        assert_eq!(bar(2), ("good", "360.00", "61.00", "59.00"));
        assert_eq!(plots[0].fields[0].title, "2026-01-05 09:00: 3 successful, 1 failed");
        assert_eq!(plots[1].lines[0], ("good", "M180.00 2.00L180.00 2.00L540.00 61.00".to_owned()));
        assert_eq!((plots[1].most.as_str(), plots[1].lines[1].1.as_str()), ("2000", ""));
    }

    #[test]
    fn nothing_is_an_empty_plot() {
        let plots = plots(&slots(&report(&[])));
        assert!(plots.iter().all(|plot| plot.bars.is_empty() && plot.fields.is_empty()));
        assert_eq!((plots[0].most.as_str(), plots[1].most.as_str()), ("0", "-"));
    }

    #[test]
    fn a_time_far_away_does_not_make_the_page_endless() {
        let mut report = report(&[("09", 1, 0, None), ("10", 1, 0, None)]);
        report.periods[0].at = "1970-01-01T00:00:00Z".to_owned();
        assert_eq!(slots(&report).len(), MAX_PERIODS);
    }
}
