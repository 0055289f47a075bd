//! One statement over columns of values: `INSERT ... SELECT ... FROM (SELECT unnest($1), unnest($2), ...)`. It is a
//! query fragment of its own, as Diesel's `do_update()` cannot be cached and multi-row `VALUES` is half as fast.
//!
//! The columns are equally long. `FROM unnest($1, $2, ...)` gives the same rows, but PostgreSQL materializes each of
//! its columns first, which takes more than twice as long.

use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::pg::data_types::PgTimestamp;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamp, Uuid as SqlUuid};
use uuid::Uuid;

use crate::event::Time;

/// The text of a statement around its values.
pub(super) trait Statement {
    /// The text before the rows.
    const HEAD: &'static str = "";
    /// The text from the rows' alias on.
    const TAIL: &'static str = "";
    /// The type of a result row.
    type Row;

    /// Both texts: these constants, unless a statement is made from a list of columns.
    fn texts() -> (&'static str, &'static str) {
        (Self::HEAD, Self::TAIL)
    }
}

/// The values of one column.
pub(super) enum Column<'a> {
    Uuids(Vec<Uuid>),
    Texts(Vec<Option<&'a str>>),
    Strings(Vec<Option<String>>),
    Integers(Vec<Option<i32>>),
    BigInts(Vec<i64>),
    Booleans(Vec<bool>),
    Times(Vec<Option<PgTimestamp>>),
    Bytes(Vec<Option<&'a [u8]>>),
}

impl<'a> Column<'a> {
    pub fn texts<T: AsRef<str> + ?Sized + 'a>(values: impl Iterator<Item = &'a T>) -> Column<'a> {
        Column::Texts(values.map(|value| Some(value.as_ref())).collect())
    }

    pub fn times(values: impl Iterator<Item = Time>) -> Column<'a> {
        Column::Times(values.map(|time| Some(timestamp(time))).collect())
    }

    pub fn optional_times(values: impl Iterator<Item = Option<Time>>) -> Column<'a> {
        Column::Times(values.map(|time| time.map(timestamp)).collect())
    }
}

/// Microseconds between Unix time's epoch, 1970, and PostgreSQL's, 2000.
const EPOCH_DIFFERENCE: i64 = 946_684_800_000_000;

pub(super) fn timestamp(time: Time) -> PgTimestamp {
    match time.micros() {
        i64::MAX => PgTimestamp(i64::MAX),
        micros => PgTimestamp(micros.saturating_sub(EPOCH_DIFFERENCE)),
    }
}

/// `infinity`, which only another tool's rows may hold, becomes the greatest time, and is written back as it was.
pub(super) fn from_timestamp(timestamp: PgTimestamp) -> Time {
    Time::from_micros(timestamp.0.saturating_add(EPOCH_DIFFERENCE))
}

/// A statement with its values.
pub(super) struct Unnest<'a, S> {
    columns: Vec<Column<'a>>,
    statement: PhantomData<S>,
}

impl<'a, S: Statement> Unnest<'a, S> {
    pub fn new(columns: Vec<Column<'a>>) -> Self {
        Unnest { columns, statement: PhantomData }
    }
}

impl<S: Statement + 'static> QueryId for Unnest<'_, S> {
    type QueryId = Unnest<'static, S>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Statement> Query for Unnest<'_, S> {
    type SqlType = S::Row;
}

impl<S: Statement> QueryFragment<Pg> for Unnest<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (head, tail) = S::texts();
        out.push_sql(head);
        out.push_sql("(SELECT ");
        for (position, column) in self.columns.iter().enumerate() {
            out.push_sql(if position == 0 { "unnest(" } else { ", unnest(" });
            bind(column, &mut out)?;
            out.push_sql(")");
        }
        out.push_sql(")");
        out.push_sql(tail);
        Ok(())
    }
}

/// An upsert of this table of schema `public` that returns the ids of the inserted rows, of the updated rows, and of
/// rows of which it is not known.
pub(super) struct ReturningIds<'a, S>(pub &'static str, pub Unnest<'a, S>);

impl<S: Statement + 'static> QueryId for ReturningIds<'_, S> {
    type QueryId = ReturningIds<'static, S>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Statement> Query for ReturningIds<'_, S> {
    type SqlType = (Array<SqlUuid>, Array<SqlUuid>, Array<SqlUuid>);
}

impl<S: Statement> QueryFragment<Pg> for ReturningIds<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH written AS (");
        self.1.walk_ast(out.reborrow())?;
        push_returning_made(self.0, &mut out);
        out.push_sql(
            ", id)
             SELECT COALESCE(array_agg(id) FILTER (WHERE made), '{}'),
                    COALESCE(array_agg(id) FILTER (WHERE NOT made), '{}'),
                    COALESCE(array_agg(id) FILTER (WHERE made IS NULL), '{}') FROM written",
        );
        Ok(())
    }
}

/// An upsert of this table of schema `public` that returns the numbers of inserted and of updated rows. Rows of which
/// it is not known count as inserted.
pub(super) struct ReturningCounts<'a, S>(pub &'static str, pub Unnest<'a, S>);

impl<S: Statement + 'static> QueryId for ReturningCounts<'_, S> {
    type QueryId = ReturningCounts<'static, S>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Statement> Query for ReturningCounts<'_, S> {
    type SqlType = (BigInt, BigInt);
}

impl<S: Statement> QueryFragment<Pg> for ReturningCounts<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH written AS (");
        self.1.walk_ast(out.reborrow())?;
        push_returning_made(self.0, &mut out);
        out.push_sql(
            ")
             SELECT count(*) FILTER (WHERE made IS NOT FALSE), count(*) FILTER (WHERE NOT made) FROM written",
        );
        Ok(())
    }
}

/// Adds whether the upsert inserted the row; an updated one was locked before. In a partitioned table, where
/// PostgreSQL refuses system columns in RETURNING, it is NULL.
fn push_returning_made(table: &'static str, out: &mut AstPass<'_, '_, Pg>) {
    out.push_sql(" RETURNING CASE WHEN (SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = 'public.");
    out.push_sql(table);
    out.push_sql("'::pg_catalog.regclass) THEN NULL ELSE xmax = 0 END AS made");
}

fn bind<'b>(column: &'b Column<'_>, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
    match column {
        Column::Uuids(values) => out.push_bind_param::<Array<SqlUuid>, _>(values),
        Column::Texts(values) => out.push_bind_param::<Array<Nullable<Text>>, _>(values),
        Column::Strings(values) => out.push_bind_param::<Array<Nullable<Text>>, _>(values),
        Column::Integers(values) => out.push_bind_param::<Array<Nullable<Integer>>, _>(values),
        Column::BigInts(values) => out.push_bind_param::<Array<BigInt>, _>(values),
        Column::Booleans(values) => out.push_bind_param::<Array<Bool>, _>(values),
        Column::Times(values) => out.push_bind_param::<Array<Nullable<Timestamp>>, _>(values),
        Column::Bytes(values) => out.push_bind_param::<Array<Nullable<Binary>>, _>(values),
    }
}
