//! The limit of each query of a report, and the error of one that took longer.

use std::time::{Duration, Instant};

use diesel::QueryResult;

/// Maximum time of one query.
pub(super) const QUERY_LIMIT: Duration = Duration::from_secs(120);

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Unreported {
    /// A query took longer than [`QUERY_LIMIT`].
    #[error(
        "a query took longer than {} s: run `ANALYZE` as the owner of the tables, as PostgreSQL plans badly without \
         statistics, or ask for less time with --since and --until",
        QUERY_LIMIT.as_secs()
    )]
    TooSlow,
    /// The database's error.
    #[error(transparent)]
    Failed(#[from] diesel::result::Error),
}

/// The result of a query that was limited to `limit`. The server's words depend on its language; the time does not.
fn in_time<T>(result: QueryResult<T>, took: Duration, limit: Duration) -> Result<T, Unreported> {
    result.map_err(|error| match error {
        diesel::result::Error::DatabaseError(..) if took >= limit => Unreported::TooSlow,
        error => Unreported::Failed(error),
    })
}

/// Waits for a query, and tells whether the limit ended it.
pub(super) async fn timed<T>(query: impl Future<Output = QueryResult<T>>) -> Result<T, Unreported> {
    let start = Instant::now();
    let result = query.await;
    in_time(result, start.elapsed(), QUERY_LIMIT)
}

#[cfg(test)]
mod tests {
    use diesel::result::{DatabaseErrorKind, Error};

    use super::*;

    #[test]
    fn a_query_that_the_limit_ended_says_what_to_do_and_another_error_stays() {
        let limit = Duration::from_secs(2);
        let ended =
            || Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new("storniere Anfrage".to_owned()));
        let slow = in_time::<()>(Err(ended()), limit, limit).map_err(|error| error.to_string());
        assert!(slow.is_err_and(|text| text.contains("run `ANALYZE`") && text.contains("--since")));
        let other = in_time::<()>(Err(ended()), Duration::ZERO, limit).map_err(|error| error.to_string());
        assert_eq!(other, Err("storniere Anfrage".to_owned()));
        assert!(in_time(Ok(7), limit, limit).is_ok());
    }
}
