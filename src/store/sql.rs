//! SQL functions that Diesel does not declare.

use diesel::dsl::{SqlTypeOf, now};
use diesel::expression::Expression;
use diesel::sql_types::{Nullable, SingleValue, SqlType, Text, Timestamp, Timestamptz};

#[diesel::declare_sql_function]
extern "SQL" {
    /// `time AT TIME ZONE zone`
    fn timezone(zone: Text, time: Timestamptz) -> Timestamp;

    fn coalesce(first: Nullable<Timestamp>, second: Nullable<Timestamp>) -> Nullable<Timestamp>;

    /// Both texts with the separator between them, or the one that is not null.
    fn concat_ws(separator: Text, first: Nullable<Text>, second: Text) -> Text;

    /// NULL for an infinite time.
    fn to_char<T: SqlType + SingleValue>(time: T, format: Text) -> Nullable<Text>;
}

/// The current time as the tables store it: in UTC, without a time zone.
pub(super) fn now_utc() -> timezone<&'static str, now> {
    timezone("utc", now)
}

#[allow(
    non_camel_case_types,
    reason = "Diesel infers the type of an expression from the name of its function"
)]
pub(super) type rfc3339<Time> = to_char<SqlTypeOf<Time>, Time, &'static str>;

/// A time as RFC 3339 with milliseconds. PostgreSQL shows infinite times and years beyond 9999 in another form.
pub(super) fn rfc3339<Time>(time: Time) -> rfc3339<Time>
where
    Time: Expression,
    Time::SqlType: SingleValue,
{
    to_char(time, "YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"")
}

#[allow(non_camel_case_types, reason = "as for rfc3339")]
pub(super) type rfc3339_micros<Time> = rfc3339<Time>;

/// As [`rfc3339()`], with microseconds.
pub(super) fn rfc3339_micros<Time>(time: Time) -> rfc3339_micros<Time>
where
    Time: Expression,
    Time::SqlType: SingleValue,
{
    to_char(time, "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"")
}
