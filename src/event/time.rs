//! Points in time in microseconds, UTC, from 1970 to the end of the year 9999 (contract, section 2).

use std::fmt;

use chrono::format::ParseErrorKind;
use chrono::{DateTime, SecondsFormat, Utc};

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// The reason why a text or a number is not a valid time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidTime {
    /// It does not match the contract's grammar.
    BadlyWritten,
    /// It is a text of digits, such as Unix time in quotes.
    DigitsAsText,
    /// It matches the grammar, but the day or the time of day does not exist.
    Impossible,
    /// It is before 1970 or after 9999.
    OutOfRange,
}

impl InvalidTime {
    /// Describes the problem, to be read after the field's name.
    pub fn explain(self) -> &'static str {
        match self {
            InvalidTime::BadlyWritten => {
                "is not written as a time: write it like \"2026-01-15T10:00:12.5Z\", or as a number, Unix time in \
                 seconds or milliseconds"
            }
            InvalidTime::DigitsAsText => {
                "is a text of digits: write Unix time as a number, without quotes, or a time like \
                 \"2026-01-15T10:00:12.5Z\""
            }
            InvalidTime::Impossible => {
                "is written as a time, but there is no such day or no such time of day"
            }
            InvalidTime::OutOfRange => {
                "is a time outside of the years 1970 to 9999; a number counts seconds, from 100000000000 up \
                 milliseconds"
            }
        }
    }
}

impl Time {
    /// The last microsecond of the year 9999.
    pub const MAX: Time = Time(253_402_300_799_999_999);

    /// Earlier than every event. Marks values that another tool wrote (contract, section 1). It is
    /// 0001-01-01T00:00:00Z.
    pub const OLDER_THAN_ALL: Time = Time(-62_135_596_800_000_000);

    /// Creates a time from microseconds since 1970 that the caller has checked.
    pub fn from_micros(micros: i64) -> Time {
        Time(micros)
    }

    /// Returns the microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Converts a record's timestamp, in milliseconds since 1970; `None` outside the years 1970 to 9999.
    pub fn from_record(millis: i64) -> Option<Time> {
        Time::checked(millis.checked_mul(1000)?)
    }

    /// Adds seconds; `None` if the result is after the year 9999.
    pub fn plus_seconds(self, seconds: i64) -> Option<Time> {
        Time::checked(seconds.checked_mul(1_000_000)?.checked_add(self.0)?)
    }

    /// Parses a text in the contract's grammar.
    pub fn parse(text: &str) -> Result<Time, InvalidTime> {
        // chrono's RFC 3339 parser implements the contract's grammar with two differences: the offset is optional here,
        // and chrono also accepts U+2212 as a minus and any Unicode space between date and time.
        if !text.is_ascii() {
            return Err(InvalidTime::BadlyWritten);
        }
        let parsed = match DateTime::parse_from_rfc3339(text) {
            Ok(parsed) => parsed,
            Err(error) => DateTime::parse_from_rfc3339(&format!("{text}Z")).map_err(|utc| {
                // The first error is the relevant one if the text has an offset, else the second.
                let kinds = [error.kind(), utc.kind()];
                if kinds
                    .iter()
                    .any(|kind| matches!(kind, ParseErrorKind::OutOfRange | ParseErrorKind::Impossible))
                {
                    InvalidTime::Impossible
                } else if text.parse::<f64>().is_ok()
                    && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
                {
                    InvalidTime::DigitsAsText
                } else {
                    InvalidTime::BadlyWritten
                }
            })?,
        };
        // chrono represents second 60 as second 59 with more than a billion nanoseconds.
        let micros = i64::from(parsed.timestamp_subsec_nanos() / 1000);
        let seconds = parsed.timestamp().checked_mul(1_000_000);
        seconds.and_then(|seconds| Time::checked(seconds.checked_add(micros)?)).ok_or(InvalidTime::OutOfRange)
    }

    /// Converts an integer Unix time: milliseconds from 100,000,000,000 up, seconds below.
    pub fn from_unix_integer(number: i64) -> Option<Time> {
        Time::checked(number.checked_mul(if number >= MILLIS_FROM { 1000 } else { 1_000_000 })?)
    }

    /// Converts a Unix time given as a double, rounded to the microsecond, half away from zero.
    pub fn from_unix_double(number: f64) -> Option<Time> {
        #[allow(clippy::cast_precision_loss, reason = "the limit is exact as a double")]
        let scale = if number >= MILLIS_FROM as f64 { 1000 } else { 1_000_000 };
        Time::checked(scaled(number, scale)?)
    }

    fn checked(micros: i64) -> Option<Time> {
        (0..=Time::MAX.0).contains(&micros).then_some(Time(micros))
    }
}

/// Unix times from this value up are in milliseconds, below it in seconds.
const MILLIS_FROM: i64 = 100_000_000_000;

/// Computes `number * scale` from the double's exact value, rounded half away from zero. A product of two doubles would
/// be rounded twice.
fn scaled(number: f64, scale: i128) -> Option<i64> {
    if !number.is_finite() || number.abs() >= 1e18 {
        return None;
    }
    let bits = number.to_bits();
    let exponent = i32::try_from((bits >> 52) & 0x7ff).ok()?;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    // number = mantissa * 2^shift
    let (mantissa, shift) =
        if exponent == 0 { (fraction, -1074) } else { (fraction | (1 << 52), exponent - 1075) };
    let product = mantissa * scale;
    let magnitude = match u32::try_from(-shift) {
        Err(_) => product.checked_shl(u32::try_from(shift).ok()?)?,
        Ok(down) if down >= 100 => 0,
        Ok(0) => product,
        Ok(down) => (product + (1 << (down - 1))) >> down,
    };
    i64::try_from(if number < 0.0 { -magnitude } else { magnitude }).ok()
}

impl fmt::Display for Time {
    /// RFC 3339 with `Z`, and with microseconds unless they are zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = if self.0 % 1_000_000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(precision, true)),
            None => write!(f, "{} microseconds since 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(input: &str) -> Option<String> {
        Time::parse(input).ok().map(|time| time.to_string())
    }

    #[test]
    fn malformed_impossible_and_out_of_range_times_are_distinguished() {
        for (input, fault) in [
            ("", InvalidTime::BadlyWritten),
            ("soon", InvalidTime::BadlyWritten),
            (".", InvalidTime::BadlyWritten),
            ("2026-01-15", InvalidTime::BadlyWritten),
            ("15.01.2026 10:00:12", InvalidTime::BadlyWritten),
            ("01/15/2026 10:00", InvalidTime::BadlyWritten),
            ("2026-01-15T10:00Z", InvalidTime::BadlyWritten),
            ("2026-01-15T10:00:12+0100", InvalidTime::BadlyWritten),
            ("2026-01-15T10:00:12 UTC", InvalidTime::BadlyWritten),
            ("Thu, 15 Jan 2026 10:00:12 GMT", InvalidTime::BadlyWritten),
            ("2026-01-15T10:00:12\u{2212}02:00", InvalidTime::BadlyWritten),
            ("1768471212", InvalidTime::DigitsAsText),
            ("1768471212.25", InvalidTime::DigitsAsText),
            ("2026-02-30T10:00:12Z", InvalidTime::Impossible),
            ("2026-02-30T10:00:12", InvalidTime::Impossible),
            ("2026-13-01T10:00:12Z", InvalidTime::Impossible),
            ("2026-01-15T24:00:00Z", InvalidTime::Impossible),
            ("2026-01-15T10:00:61+01:00", InvalidTime::Impossible),
            ("1969-12-31T23:59:59Z", InvalidTime::OutOfRange),
            ("1970-01-01T00:00:00+01:00", InvalidTime::OutOfRange),
            ("0000-01-01T00:00:00Z", InvalidTime::OutOfRange),
            ("9999-12-31T23:59:60Z", InvalidTime::OutOfRange),
        ] {
            assert_eq!(Time::parse(input), Err(fault), "{input}");
        }
    }

    #[test]
    fn each_form_of_a_time_as_text_is_read() {
        for (input, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02t03:04:05z", "2026-01-02T03:04:05Z"),
            ("2026-01-02 03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.100000Z"),
            ("2026-01-02T03:04:05.123456999999999999999Z", "2026-01-02T03:04:05.123456Z"),
            ("2026-01-02T03:04:05.9999999", "2026-01-02T03:04:05.999999Z"),
            ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05-23:59", "2026-01-03T03:03:05Z"),
            ("2026-12-31T23:59:60Z", "2027-01-01T00:00:00Z"),
            ("2026-12-31T23:59:60.5Z", "2027-01-01T00:00:00.500000Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(text(input).as_deref(), Some(expected), "{input}");
        }
    }

    #[test]
    fn texts_that_are_almost_a_time_are_refused() {
        for input in [
            "2026-01-02",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05,5Z",
            "2026-01-02T03:04:05+0200",
            "2026-01-02T03:04:05+02",
            "2026-01-02T03:04:05 +02:00",
            "2026-01-02T03:04:05 Z",
            "2026-01-02T03:04:05\u{2212}02:00",
            "2026-01-02T03:04:05ZZ",
            "2026-01-02_03:04:05Z",
            "2026-01-02  03:04:05Z",
            "2026-01-02T24:00:00Z",
            "2026-01-02T03:60:05Z",
            "2026-01-02T03:04:61Z",
            "2026-02-29T00:00:00Z",
            "2026-1-2T03:04:05Z",
            "+2026-01-02T03:04:05Z",
            "12026-01-02T03:04:05Z",
            " 2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z ",
            "2026-01-02T03:04:05+24:00",
            "2026-01-02T03:04:05+02:60",
            "1969-12-31T23:59:59.999999Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:60Z",
            "9999-12-31T23:59:59-00:01",
            "1700000000",
            "",
        ] {
            assert_eq!(text(input), None, "{input}");
        }
    }

    #[test]
    fn unix_times_are_milliseconds_from_a_hundred_billion_up_and_seconds_below() {
        assert_eq!(Time::from_unix_integer(0), Some(Time(0)));
        assert_eq!(Time::from_unix_integer(99_999_999_999), Some(Time(99_999_999_999_000_000)));
        assert_eq!(Time::from_unix_integer(100_000_000_000), Some(Time(100_000_000_000_000)));
        assert_eq!(Time::from_unix_integer(253_402_300_799_999), Some(Time(253_402_300_799_999_000)));
        assert_eq!(Time::from_unix_integer(253_402_300_800_000), None);
        assert_eq!(Time::from_unix_integer(-1), None);
        assert_eq!(Time::from_unix_integer(i64::MAX), None);
        assert_eq!(Time::from_unix_double(99_999_999_999.5), Some(Time(99_999_999_999_500_000)));
        assert_eq!(Time::from_unix_double(100_000_000_000.5), Some(Time(100_000_000_000_500)));
    }

    #[test]
    fn doubles_are_rounded_half_away_from_zero_from_their_exact_value() {
        // 2^-21 s = 0.476837158203125 us. 0.5 us has no exact double; 1.5 * 2^-20 s has.
        assert_eq!(Time::from_unix_double(0.000_000_476_837_158_203_125), Some(Time(0)));
        assert_eq!(Time::from_unix_double(0.0078125), Some(Time(7813)));
        assert_eq!(Time::from_unix_double(1.0078125), Some(Time(1_007_813)));
        assert_eq!(Time::from_unix_double(1_700_000_000.123_456), Some(Time(1_700_000_000_123_456)));
        assert_eq!(Time::from_unix_double(-0.0), Some(Time(0)));
        assert_eq!(Time::from_unix_double(-0.000_001), None);
        assert_eq!(Time::from_unix_double(253_402_300_799_999.97), Some(Time(253_402_300_799_999_969)));
        assert_eq!(Time::from_unix_double(1e300), None);
    }

    #[test]
    fn a_record_timestamp_outside_of_1970_to_9999_is_none() {
        assert_eq!(Time::from_record(0), Some(Time(0)));
        assert_eq!(Time::from_record(-1), None);
        assert_eq!(Time::from_record(253_402_300_799_999), Some(Time(253_402_300_799_999_000)));
        assert_eq!(Time::from_record(253_402_300_800_000), None);
        assert_eq!(Time::from_record(i64::MAX), None);
    }
}
