//! Durations as they are written in settings: `24h`, `60s`, `20ms`.

use std::time::Duration;

/// The longest duration accepted: from now it ends before the year 9999, the last of RFC 3339.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(7_000 * 365 * 86_400);
/// The longest batch wait accepted: a longer one would look like a member that hangs.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The remedy for a duration that cannot be read.
pub(crate) const TIME: &str = "give seconds, or a number with s, m, h or d, like 24h";
/// The remedy for a short duration that cannot be read.
pub(crate) const SHORT_TIME: &str = "give a number with its unit, ms or s, at most 60s, like 20ms";

/// Reads a whole number with a unit; without a unit it is in seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// Reads a whole number with a unit. A number without one is refused, as 20 may mean milliseconds or seconds; only 0
/// is the same in both.
pub(crate) fn short_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "" if number == 0 => Some(Duration::ZERO),
        _ => None,
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// A duration as it is written in a setting.
pub(crate) fn format_duration(time: Duration) -> String {
    if time.subsec_millis() > 0 {
        return format!("{}ms", time.as_millis());
    }
    let seconds = time.as_secs();
    // 24h and 60s rather than 1d and 1m
    for (unit, length, least) in [("d", 86_400, 2), ("h", 3_600, 1), ("m", 60, 2)] {
        if seconds.is_multiple_of(length) && seconds / length >= least {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}
