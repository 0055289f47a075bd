//! Parsers of flag values. Each error says what to give.

use std::time::Duration;

use crate::duration::duration;
use crate::record::Topic;

pub(super) fn topic(text: &str) -> Result<Topic, String> {
    Topic::from_name(text).ok_or_else(|| {
        let names = Topic::ALL.map(Topic::name).join(", ");
        format!("give one of {names}, without TOPIC_PREFIX")
    })
}

pub(super) fn whole(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "give a whole number, 0 or above")
}

pub(super) fn positive(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|n| *n > 0).ok_or("give a whole number above 0")
}

pub(super) fn partition(text: &str) -> Result<i32, &'static str> {
    text.parse().ok().filter(|n| *n >= 0).ok_or("give a partition's number, 0 or above")
}

pub(super) fn offset(text: &str) -> Result<i64, &'static str> {
    text.parse().ok().filter(|n| *n >= 0).ok_or("give an offset, 0 or above")
}

pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    let time = duration(text).filter(|time| !time.is_zero());
    time.ok_or("give seconds, or a number with s, m, h or d, like 30m")
}

pub(super) fn rate(text: &str) -> Result<f64, &'static str> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("give a number above 0, like 50 or 0.5"),
    }
}
