//! Three plots as paths of inline SVG.

use std::fmt::Write as _;
use std::time::Duration;

use super::history::{EVERY, SPAN, Sample};
use crate::status::judge::ago;

/// The width of a plot, in its own coordinates.
pub const WIDTH: f64 = 300.0;
/// The height of a plot, in its own coordinates.
pub const HEIGHT: f64 = 80.0;

/// Time between two samples from which on the line has a gap.
const GAP: Duration = Duration::from_secs(EVERY.as_secs() * 3);

/// A plot.
#[derive(Debug, PartialEq)]
pub struct HistoryPlot {
    /// The plotted quantity with its unit.
    pub title: &'static str,
    /// The latest value; a dash where there is none.
    pub now: String,
    /// The largest value; a dash where there is none.
    pub most: String,
    /// The SVG path of the line.
    pub line: String,
    /// The SVG path of the area below the line.
    pub plane: String,
}

/// A time, in seconds before the latest sample, and a value.
type Point = (f64, Option<f64>);

/// The plots of these samples.
pub fn plots(samples: &[Sample]) -> [HistoryPlot; 3] {
    let rate = |count: f64, seconds: f64| if seconds > 0.0 { (count / seconds).max(0.0) } else { 0.0 };
    let lag = |_: &Sample, sample: &Sample, _: f64| sample.lag_seconds;
    [
        plot("Records a second", per_second, samples, |before, sample, seconds| {
            Some(rate(sample.records - before.records, seconds))
        }),
        plot("Lag of the oldest record", ago, samples, lag),
        plot("Dead letters a minute", per_second, samples, |before, sample, seconds| {
            Some(rate(sample.dead_letters - before.dead_letters, seconds) * 60.0)
        }),
    ]
}

/// A rate as text.
fn per_second(value: f64) -> String {
    if value == 0.0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn plot(
    title: &'static str,
    written: impl Fn(f64) -> String,
    samples: &[Sample],
    value: impl Fn(&Sample, &Sample, f64) -> Option<f64>,
) -> HistoryPlot {
    let latest = samples.last().map(|sample| sample.at);
    let point = |pair: &[Sample]| -> Option<Point> {
        let [before, sample] = pair else { return None };
        let between = sample.at.saturating_duration_since(before.at);
        let value = value(before, sample, between.as_secs_f64()).filter(|_| between <= GAP);
        Some((latest?.saturating_duration_since(sample.at).as_secs_f64(), value))
    };
    let points: Vec<Point> = samples.windows(2).filter_map(point).collect();
    let most = points.iter().filter_map(|(_, value)| *value).reduce(f64::max);
    let now = points.last().and_then(|(_, value)| *value);
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), &written);
    let (line, plane) = paths(&points, most.unwrap_or_default());
    HistoryPlot { title, now: or_dash(now), most: or_dash(most), line, plane }
}

/// The paths of a line through the points, broken where a value is missing, and of the area below it.
fn paths(points: &[Point], most: f64) -> (String, String) {
    let (mut line, mut plane) = (String::new(), String::new());
    for run in points.split(|(_, value)| value.is_none()).filter(|run| !run.is_empty()) {
        let placed = run.iter().filter_map(|(age, value)| Some((x(*age), y((*value)?, most))));
        let (mut first, mut last) = (None, 0.0);
        for (x, y) in placed {
            let command = if first.is_none() { 'M' } else { 'L' };
            let _ = write!(line, "{command}{x:.1} {y:.1}");
            let _ = match first {
                None => write!(plane, "M{x:.1} {HEIGHT}L{x:.1} {y:.1}"),
                Some(_) => write!(plane, "L{x:.1} {y:.1}"),
            };
            first.get_or_insert(x);
            last = x;
        }
        let _ = write!(plane, "L{last:.1} {HEIGHT}Z");
    }
    (line, plane)
}

fn x(age: f64) -> f64 {
    WIDTH * (1.0 - age / SPAN.as_secs_f64()).clamp(0.0, 1.0)
}

/// Scales a value. The largest is a little below the upper edge, so that its line is not cut.
fn y(value: f64, most: f64) -> f64 {
    if most > 0.0 { HEIGHT - value / most * (HEIGHT - 2.0) } else { HEIGHT }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn samples(of: &[(u64, f64, Option<f64>)]) -> Vec<Sample> {
        let start = Instant::now();
        let sample = |(seconds, records, lag_seconds): &(u64, f64, Option<f64>)| Sample {
            at: start + Duration::from_secs(*seconds),
            records: *records,
            dead_letters: records / 100.0,
            lag_seconds: *lag_seconds,
        };
        of.iter().map(sample).collect()
    }

    #[test]
    fn counters_become_rates_with_the_latest_and_the_largest() {
        let of = [(0, 0.0, None), (5, 500.0, Some(90.0)), (10, 600.0, Some(0.0))];
        let [records, lag, letters] = plots(&samples(&of));
        assert_eq!((records.now.as_str(), records.most.as_str()), ("20.0", "100"));
        assert_eq!((lag.now.as_str(), lag.most.as_str()), ("0 s", "90 s"));
        assert_eq!((letters.now.as_str(), letters.most.as_str()), ("12.0", "60.0"));
        assert_eq!(records.line, "M298.3 2.0L300.0 64.4");
        assert_eq!(records.plane, "M298.3 80L298.3 2.0L300.0 64.4L300.0 80Z");
    }

    #[test]
    fn a_value_that_is_missing_and_a_pause_of_the_machine_break_the_line() {
        let of = [
            (0, 0.0, Some(1.0)),
            (5, 0.0, Some(1.0)),
            (10, 0.0, None),
            (15, 0.0, Some(1.0)),
            (400, 0.0, Some(1.0)),
            (405, 0.0, Some(1.0)),
        ];
        let [_, lag, _] = plots(&samples(&of));
        assert_eq!(lag.line.matches('M').count(), 3, "{lag:?}");
    }

    #[test]
    fn nothing_sampled_and_nothing_done_are_no_line_and_a_flat_one() {
        let [records, lag, _] = plots(&[]);
        assert_eq!((records.now.as_str(), records.line.as_str(), lag.most.as_str()), ("-", "", "-"));
        let [records, _, _] = plots(&samples(&[(0, 7.0, None), (5, 7.0, None), (10, 7.0, None)]));
        assert_eq!((records.now.as_str(), records.line.as_str()), ("0", "M298.3 80.0L300.0 80.0"));
    }
}
