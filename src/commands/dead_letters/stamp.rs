//! The timestamp of a corrected record. A topic that rejects old timestamps, or overwrites them with the time of arrival,
//! would change the time of an event that takes it from the timestamp. No I/O, no clock.

use std::collections::BTreeMap;

/// The timestamp of a corrected record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The original timestamp of the record.
    Own,
    /// The time of sending; no field of the event depends on it.
    Now,
}

/// Chooses the timestamp that a topic with these settings accepts for a record of `millis` at `now`, both in milliseconds
/// since 1970. The error says why the record cannot be published.
pub fn stamp(
    config: &Result<BTreeMap<String, String>, String>,
    (millis, now): (i64, i64),
    states_every_time: bool,
) -> Result<Stamp, String> {
    let Some(obstacle) = obstacle(config, millis, now) else { return Ok(Stamp::Own) };
    if states_every_time {
        return Ok(Stamp::Now);
    }
    Err(format!(
        "{obstacle}, and the event takes its time from the record's timestamp: state the event's time in the value \
         with --set{}",
        if obstacle.starts_with("the topic takes") { ", or give another --timestamp" } else { "" }
    ))
}

/// The reason why the topic does not keep the record's timestamp.
fn obstacle(config: &Result<BTreeMap<String, String>, String>, millis: i64, now: i64) -> Option<String> {
    let config = match config {
        Ok(config) => config,
        Err(reason) => {
            return Some(format!(
                "the topic's settings may not be read (DescribeConfigs on the topic: {reason}), so that it may write \
                 another timestamp"
            ));
        }
    };
    if config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
        return Some(
            "the topic writes the time of arrival (message.timestamp.type is LogAppendTime)".to_owned(),
        );
    }
    // brokers before 3.6 have one limit for both directions
    let limit = |names: [&'static str; 2]| {
        let limits =
            names.into_iter().filter_map(|name| Some((name, config.get(name)?.parse::<i64>().ok()?)));
        limits.min_by_key(|(_, limit)| *limit)
    };
    let either = "message.timestamp.difference.max.ms";
    let (direction, distance, limit) = if millis <= now {
        ("older", now.saturating_sub(millis), limit(["message.timestamp.before.max.ms", either]))
    } else {
        ("later", millis.saturating_sub(now), limit(["message.timestamp.after.max.ms", either]))
    };
    let (name, most) = limit?;
    (distance > most).then(|| {
        format!("the topic takes no record that is {direction} than now by more than {most} ms ({name})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(config: &[(&str, &str)], at: (i64, i64), states_every_time: bool) -> Result<Stamp, String> {
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        stamp(&Ok(config), at, states_every_time)
    }

    #[test]
    fn a_topic_that_keeps_timestamps_gets_the_records_own() {
        let defaults = [
            ("message.timestamp.type", "CreateTime"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
            ("message.timestamp.after.max.ms", "3600000"),
        ];
        for at in [(0, i64::MAX), (5000, 5000), (3_605_000, 5000)] {
            assert_eq!(decided(&defaults, at, false), Ok(Stamp::Own), "{at:?}");
        }
        assert_eq!(decided(&[], (0, 5000), false), Ok(Stamp::Own));
    }

    #[test]
    fn where_the_timestamp_would_change_the_event_must_state_every_time() {
        let append: &[(&str, &str)] = &[("message.timestamp.type", "LogAppendTime")];
        let before: &[(&str, &str)] = &[("message.timestamp.before.max.ms", "1000")];
        let after: &[(&str, &str)] = &[("message.timestamp.after.max.ms", "1000")];
        let difference: &[(&str, &str)] = &[("message.timestamp.difference.max.ms", "1000")];
        for (config, at, name) in [
            (append, (5000, 5000), "LogAppendTime"),
            (before, (3999, 5000), "before.max.ms"),
            (after, (6001, 5000), "after.max.ms"),
            (difference, (3999, 5000), "difference.max.ms"),
            (difference, (6001, 5000), "difference.max.ms"),
        ] {
            let refused = decided(config, at, false).unwrap_err();
            assert!(refused.contains(name) && refused.contains("--set"), "{refused}");
            assert_eq!(decided(config, at, true), Ok(Stamp::Now), "{config:?}");
        }
        assert_eq!(decided(before, (4000, 5000), false), Ok(Stamp::Own));
        assert_eq!(decided(after, (0, 5000), false), Ok(Stamp::Own));
    }

    #[test]
    fn settings_that_may_not_be_read_are_taken_for_the_worst() {
        let unknown = Err("denied".to_owned());
        assert!(stamp(&unknown, (0, 0), false).unwrap_err().contains("DescribeConfigs"));
        assert_eq!(stamp(&unknown, (0, 0), true), Ok(Stamp::Now));
    }
}
